"""What one pass through a chunk costs: priced operators and the tensor-parallel collectives between them.

A chunk is a multiset of layer kinds, with the embedding on the first, the head and any multi-token-prediction
layers on the last. Each kind is priced once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.collectives import ring_bytes
from euston.devices import GPU, Price
from euston.devices.interconnect import scale_up_collective
from euston.models import LayerKind, Operator, RankShare
from euston.models.operator import Part
from euston.training.communication import ChunkTraffic, Communication, communication
from euston.training.job import TrainingJob
from euston.training.skew import SPEED_SPREAD, slowest
from euston.training.stages import Stages

__all__ = ["ChunkCost", "Costs", "TensorCollective", "UnitCosts", "costs", "unit_costs"]

_ELEMENT = 2  # activations cross the wire in 16 bit, whatever the recipe


@dataclass(frozen=True)
class TensorCollective:
    """One tensor-parallel collective of a layer, averaged over the kinds that a pass mixes.

    Attributes
    ----------
    wire_bytes : float
        Bytes each rank sends.
    rate : float
        Bytes/s that the measured library reaches on the wire.
    latency : float
        Seconds.
    """

    wire_bytes: float
    rate: float
    latency: float
    provenance: str

    @property
    def seconds(self) -> float:
        """Time of one, alone."""
        return self.latency + self.wire_bytes / self.rate


@dataclass(frozen=True)
class ChunkCost:
    """One micro-batch through one chunk of one rank.

    Attributes
    ----------
    forward, backward : float
        Compute seconds; recomputation is part of ``backward``.
    recompute, weight_gradient : float
        The recomputation, and the gradients of weights with their accumulation, inside ``backward``.
    tensor_forward, tensor_backward : float
        Tensor-parallel collectives on the path.
    tensor_hidden : float
        Those that run beside the backward's weight gradients.
    parameters, expert_parameters : int
        Parameters of the chunk on this rank, and how many of them belong to routed experts (which are reduced
        over fewer ranks).
    kinds : tuple of LayerKind
        The kind of every layer, in order.
    """

    layers: int
    forward: float
    backward: float
    recompute: float
    tensor_forward: float
    tensor_backward: float
    tensor_hidden: float
    parameters: int
    weight_gradient: float = 0.0
    expert_parameters: int = 0
    kinds: tuple[LayerKind, ...] = ()


@dataclass(frozen=True)
class Costs:
    """Everything the program of an iteration is written from.

    Attributes
    ----------
    chunks : tuple[stage][chunk] of ChunkCost
    collective : TensorCollective or None
    optimizer : seconds of the optimiser on each stage
    pipeline_bytes : bytes each rank sends to the next stage per micro-batch
    operators : polars.DataFrame
        name, phase, calls and seconds per rank and step (mean over stages), share, provenance.
    energy_per_step, flops_per_step : float
        Joules drawn and FLOPs executed by all ranks while they compute.
    communication : Communication, optional
        Context- and expert-parallel collectives, and what hides them.
    """

    chunks: tuple[tuple[ChunkCost, ...], ...]
    collective: TensorCollective | None
    optimizer: tuple[float, ...]
    pipeline_bytes: float
    operators: pl.DataFrame
    energy_per_step: float
    flops_per_step: float
    communication: Communication | None = None


def _tensor_collective(job: TrainingJob, device: GPU) -> TensorCollective | None:
    t = job.parallel.tensor
    if t == 1:
        return None
    buffer = float(_ELEMENT * job.tokens * job.model.hidden)
    kinds = ("all_gather", "reduce_scatter") if job.parallel.sequence else ("all_reduce",)
    costs = [scale_up_collective(device.accelerator, kind, t, buffer) for kind in kinds]
    wire = sum(ring_bytes(kind, t, buffer) for kind in kinds) / len(kinds)
    latency = sum(c.latency for c in costs) / len(costs)
    seconds = sum(
        c.latency + ring_bytes(kind, t, buffer) / c.wire_rate for kind, c in zip(kinds, costs, strict=True)
    )
    return TensorCollective(wire, wire / (seconds / len(kinds) - latency), latency, costs[0].provenance)


class _Counts(NamedTuple):
    """Tensor-parallel collectives of one block: forward, backward on the path, backward beside wgrad."""

    forward: float
    on_path: float
    beside: float


def _per_block(job: TrainingJob) -> _Counts:
    """Collectives around one block (a mixer, or a feed-forward network)."""
    if job.parallel.tensor == 1:
        return _Counts(0.0, 0.0, 0.0)
    if job.parallel.sequence:
        # Forward: gather before and scatter after. Backward: gather of a row-parallel output's gradient on
        # the path; saved inputs are gathered again beside their gradients.
        forward, on_path, beside = 2.0, 1.0, 1.0
    else:
        forward, on_path, beside = 1.0, 0.0, 0.0
    # An input gradient's collective runs beside the weight gradient where the software does that.
    if job.software.tensor_backward_overlap:
        beside += 1.0
    else:
        on_path += 1.0
    return _Counts(forward, on_path + (forward if job.recompute == "full" else 0.0), beside)


def _blocks(job: TrainingJob, kind: LayerKind) -> int:
    """Blocks of a layer whose weights are split over the tensor-parallel ranks.

    Experts that every rank holds whole work on the rank's own tokens and need no collective; shared experts
    are split like any MLP.
    """
    moe = job.model.moe
    split = kind.ffn == "dense" or (
        kind.ffn == "moe" and moe is not None and (job.expert_tensor > 1 or moe.shared_experts > 0)
    )
    return int(kind.mixer != "none") + int(split)


@dataclass(frozen=True)
class _Priced:
    """Operators of a part or layer kind with their prices, and sums of them by phase."""

    operators: tuple[tuple[Operator, Price], ...]
    pace: float

    def seconds(self, *phases: str, kind: str = "") -> float:
        """Compute time of phases (of one kind of operators); see `_one`."""
        return sum(
            self._one(op, price)
            for op, price in self.operators
            if op.phase in phases and kind in ("", op.kind)
        )

    @property
    def weight_gradient(self) -> float:
        """Time of what only the optimiser waits for."""
        return sum(
            self._one(op, price)
            for op, price in self.operators
            if op.name.endswith("_wgrad") or op.kernel == "accumulate"
        )

    def _one(self, op: Operator, price: Price) -> float:
        """Compute-bound kernels at the pace of the slowest accelerator."""
        return price.seconds * (self.pace if op.kind != "memory" else 1.0)


class _Pricer:
    """Prices of a job's parts and layer kinds, each worked out once, and the books of what was used."""

    def __init__(self, job: TrainingJob, device: GPU, pace: float) -> None:
        self.job, self.device, self.pace = job, device, pace
        self.found: dict[tuple[Part, LayerKind | None], _Priced] = {}
        self.table: dict[tuple[str, str, str], list[float]] = {}
        self.energy = self.executed = 0.0

    def part(self, part: Part, kind: LayerKind | None = None) -> _Priced:
        """One layer of a kind, or the embedding, the head, a prediction layer."""
        key = (part, kind)
        if key not in self.found and part == "encoder":
            job, images = self.job, self.job.images
            assert images is not None
            ops = job.model.encoder_operators(
                job.images_per_micro_batch,
                images.patches,
                precision=job.precision,
                recompute=job.recompute,
                grad_accumulation=job.software.grad_accumulation,
            )
            self.found[key] = _Priced(tuple(zip(ops, self.device.price_many(ops), strict=True)), self.pace)
        elif key not in self.found:
            job = self.job
            ops = job.model.operators(
                job.tokens,
                job.sequence,
                part=part,
                tensor_parallel=job.parallel.tensor,
                sequence_parallel=job.parallel.sequence,
                precision=job.precision,
                attention="unfused" if job.software.attention == "unfused" else "flash",
                recompute=job.recompute if part in ("layer", "prediction") else "none",
                grad_accumulation=job.software.grad_accumulation,
                dropout=job.software.dropout,
                kind=kind,
                expert_parallel=job.parallel.expert,
                expert_tensor=job.expert_tensor,
                balance=job.balance,
                graphs=job.software.cuda_graphs,
                recompute_modules=job.recompute_modules,
                loss=job.software.loss,
                dispatcher=job.software.expert_dispatcher,
                expert_padding=job.software.expert_padding,
                activation_kernel=job.software.activation_kernel,
                rotary_kernel=job.software.rotary_kernel,
                qkv_split=job.software.qkv_split,
            )
            self.found[key] = _Priced(tuple(zip(ops, self.device.price_many(ops), strict=True)), self.pace)
        return self.found[key]

    def share(self, part: Part, kind: LayerKind | None = None) -> RankShare:
        """Parameters of it on this rank."""
        p = self.job.parallel
        return self.job.model.rank_share(
            part, p.tensor, kind=kind, expert_parallel=p.expert, expert_tensor=self.job.expert_tensor
        )

    def book(self, priced: Iterable[tuple[Operator, Price]], times: float) -> None:
        """Count operators that run so many times per step on one rank."""
        for op, price in priced:
            row = self.table.setdefault((op.name, op.phase, price.provenance), [0.0, 0.0])
            row[0] += op.calls * times
            row[1] += price.seconds * times
            self.energy += price.joules * times
            self.executed += op.flops * times

    def operators(self, stages: int) -> pl.DataFrame:
        """Name, phase, calls and seconds per rank and step (mean over stages), share, provenance."""
        total = sum(v[1] for v in self.table.values())
        return pl.DataFrame(
            {
                "name": [k[0] for k in self.table],
                "phase": [k[1] for k in self.table],
                "calls": [v[0] / stages for v in self.table.values()],
                "seconds": [v[1] / stages for v in self.table.values()],
                "share": [v[1] / total for v in self.table.values()],
                "provenance": [k[2] for k in self.table],
            }
        ).sort("seconds", descending=True)


def _chunk(job: TrainingJob, stages: Stages, pricer: _Pricer, s: int, c: int) -> ChunkCost:
    """Cost of one micro-batch through one chunk; books its operators for all micro-batches."""
    n, first = stages.layers[s][c], stages.first_layer(s, c)
    kinds = job.model.layer_kinds[first : first + n]
    parts: list[tuple[Part, LayerKind | None, int]] = [
        ("layer", kind, times) for kind, times in Counter(kinds).items()
    ]
    if stages.has_embedding(s, c):
        parts.append(("embedding", None, 1))
        if job.images_per_micro_batch:
            parts.append(("encoder", None, 1))
    if stages.has_head(s, c):
        parts.append(("head", None, 1))
        if job.model.prediction_layers:
            parts.append(("prediction", job.model.layer_kinds[-1], job.model.prediction_layers))
    for part, kind, times in parts:
        # Both ways through the pipeline half of the micro-batches visit each copy of a stage.
        pricer.book(pricer.part(part, kind).operators, times * job.micro_batches // (1 + stages.both_ways))
    return _sum(job, pricer, parts, kinds)


def _sum(
    job: TrainingJob,
    pricer: _Pricer,
    parts: Sequence[tuple[Part, LayerKind | None, int]],
    kinds: tuple[LayerKind, ...],
) -> ChunkCost:
    """Parts, each so many times, as one chunk."""
    sums = dict.fromkeys(("forward", "backward", "recompute", "wgrad", "dense", "experts"), 0.0)
    collectives = [0.0, 0.0, 0.0]
    block = _per_block(job)
    ends = float(job.parallel.tensor > 1)
    for part, kind, times in parts:
        priced, share = pricer.part(part, kind), pricer.share(part, kind)
        again = priced.seconds("recompute")
        sums["forward"] += times * priced.seconds("forward")
        sums["backward"] += times * (priced.seconds("backward") + again)
        sums["recompute"] += times * again
        sums["wgrad"] += times * priced.weight_gradient
        sums["dense"] += times * share.dense
        sums["experts"] += times * share.experts
        around = _blocks(job, kind) if kind is not None else 0
        for i, count in enumerate(block):
            collectives[i] += times * around * count
        if part in ("embedding", "head", "prediction"):  # their own, on the path both ways
            collectives[0] += times * ends
            collectives[1] += times * ends
    return ChunkCost(
        layers=len(kinds),
        forward=sums["forward"],
        backward=sums["backward"],
        recompute=sums["recompute"],
        tensor_forward=collectives[0],
        tensor_backward=collectives[1],
        tensor_hidden=collectives[2],
        parameters=int(sums["dense"] + sums["experts"]),
        weight_gradient=sums["wgrad"],
        expert_parameters=int(sums["experts"]),
        kinds=kinds,
    )


def _optimizer(job: TrainingJob, pricer: _Pricer, chunks: Sequence[ChunkCost], copies: int) -> float:
    """Seconds of one stage's optimiser step; experts and the rest shard over different groups."""
    p = job.parallel
    experts = sum(chunk.expert_parameters for chunk in chunks)
    dense = sum(chunk.parameters for chunk in chunks) - experts
    seconds = 0.0
    for held, ranks in ((dense, p.shard_degree), (experts, job.expert_data)):
        if held:
            shards = ranks * copies if p.sharding != "none" else 1
            step = job.model.optimizer_operators(held, shards, job.precision)
            prices = pricer.device.price_many(step)
            pricer.book(zip(step, prices, strict=True), 1.0)
            seconds += sum(price.seconds for price in prices)
    return seconds


def costs(job: TrainingJob, stages: Stages, device: GPU, *, speed_spread: float = SPEED_SPREAD) -> Costs:
    """Prices of every chunk of every stage, from the operators of its layer kinds, embedding and head.

    Compute-bound operators run at the pace of the slowest of the job's accelerators, see ``training.skew``.
    """
    p = job.parallel
    pricer = _Pricer(job, device, slowest(p.world, speed_spread))
    chunks = tuple(
        tuple(_chunk(job, stages, pricer, s, c) for c in range(stages.virtual))
        for s in range(stages.pipeline)
    )
    optimizer = tuple(_optimizer(job, pricer, row, 1 + stages.both_ways) for row in chunks)

    def seconds(s: int, c: int, kind: str, phases: tuple[str, ...]) -> float:
        found = Counter(chunks[s][c].kinds).items()
        return sum(times * pricer.part("layer", k).seconds(*phases, kind=kind) for k, times in found)

    ranks = p.tensor * p.context * p.data
    return Costs(
        chunks, _tensor_collective(job, device), optimizer,
        float(_ELEMENT * job.tokens * job.model.hidden / p.tensor),
        pricer.operators(stages.pipeline), pricer.energy * ranks, pricer.executed * ranks,
        communication(job, stages, device.accelerator, seconds),
    )  # fmt: skip


@dataclass(frozen=True)
class UnitCosts:
    """Prices of a model's parts, one of each: what chunks of any length are made of.

    Attributes
    ----------
    layers : dict of LayerKind
        (cost, traffic) of one layer of each kind.
    embedding, head : ChunkCost
        The head with its prediction layers.
    joules : dict
        Of one micro-batch through one layer of each kind, and through "embedding" and "head".
    optimizer : tuple of two float64[N]
        Logarithms of numbers of parameters, and of the seconds of an optimiser step over so many: of passes
        over the rank's shard, and of casts into its whole copy, [2, N].
    """

    layers: dict[LayerKind, tuple[ChunkCost, ChunkTraffic]]
    embedding: ChunkCost
    head: ChunkCost
    joules: dict[LayerKind | str, float]
    collective: TensorCollective | None
    communication: Communication
    pipeline_bytes: float
    optimizer: tuple[NDArray[np.float64], NDArray[np.float64]]


def unit_costs(job: TrainingJob, device: GPU, *, speed_spread: float = SPEED_SPREAD) -> UnitCosts:
    """Prices of one layer of each kind, of embedding and head, under a job's layout within a stage.

    Depends on the job's tensor, context and expert degrees, its micro-batch and recomputation, and on nothing
    else of its layout.
    """
    pricer = _Pricer(job, device, slowest(job.parallel.world, speed_spread))
    kinds = tuple(dict.fromkeys(job.model.layer_kinds))
    one = Stages(tuple((1,) for _ in kinds))

    def seconds(s: int, c: int, kind: str, phases: tuple[str, ...]) -> float:
        return pricer.part("layer", kinds[s]).seconds(*phases, kind=kind)

    traffic = communication(job, one, device.accelerator, seconds, kinds)
    layers = {
        kind: (_sum(job, pricer, [("layer", kind, 1)], (kind,)), traffic.chunks[i][0])
        for i, kind in enumerate(kinds)
    }
    ends: dict[str, list[tuple[Part, LayerKind | None, int]]] = {
        "embedding": [("embedding", None, 1)],
        "head": [("head", None, 1)],
    }
    if job.images_per_micro_batch:
        ends["embedding"].append(("encoder", None, 1))
    if job.model.prediction_layers:
        ends["head"].append(("prediction", job.model.layer_kinds[-1], job.model.prediction_layers))

    def joules(parts: Sequence[tuple[Part, LayerKind | None, int]]) -> float:
        return sum(n * sum(price.joules for _, price in pricer.part(p, k).operators) for p, k, n in parts)

    drawn: dict[LayerKind | str, float] = {kind: joules([("layer", kind, 1)]) for kind in kinds}
    drawn |= {name: joules(parts) for name, parts in ends.items()}
    sizes = np.geomspace(1e5, 1e12, 57)
    spent = np.zeros((2, sizes.size))
    for i, n in enumerate(sizes.tolist()):
        step = job.model.optimizer_operators(n, 1, job.precision)
        for op, price in zip(step, device.price_many(step), strict=True):
            spent[int(op.kernel == "cast"), i] += price.seconds
    return UnitCosts(
        layers, _sum(job, pricer, ends["embedding"], ()), _sum(job, pricer, ends["head"], ()),
        drawn,
        _tensor_collective(job, device), traffic,
        float(_ELEMENT * job.tokens * job.model.hidden / job.parallel.tensor),
        (np.log(sizes), np.log(np.maximum(spent, 1e-12))),
    )  # fmt: skip
