"""What one pass through a chunk costs: priced operators and the tensor-parallel collectives between them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from euston.collectives import ring_bytes
from euston.devices import GPU, Price
from euston.devices.interconnect import scale_up_collective
from euston.models import Operator
from euston.models.operator import Part
from euston.training.job import TrainingJob
from euston.training.skew import SPEED_SPREAD, slowest
from euston.training.stages import Stages

__all__ = ["ChunkCost", "Costs", "TensorCollective", "costs"]

PARTS: tuple[Part, ...] = ("layer", "embedding", "head")
_ELEMENT = {"bf16": 2, "fp16": 2, "fp8": 2}  # activations cross the wire in 16 bit


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
    recompute : float
        The recomputation inside ``backward``.
    tensor_forward, tensor_backward : float
        Tensor-parallel collectives on the path.
    tensor_hidden : float
        Those that run beside the backward's weight gradients.
    parameters : int
        Parameters of the chunk on this rank.
    """

    layers: int
    forward: float
    backward: float
    recompute: float
    tensor_forward: float
    tensor_backward: float
    tensor_hidden: float
    parameters: int


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
    """

    chunks: tuple[tuple[ChunkCost, ...], ...]
    collective: TensorCollective | None
    optimizer: tuple[float, ...]
    pipeline_bytes: float
    operators: pl.DataFrame
    energy_per_step: float
    flops_per_step: float


def _tensor_collective(job: TrainingJob, device: GPU) -> TensorCollective | None:
    t = job.parallel.tensor
    if t == 1:
        return None
    buffer = float(_ELEMENT[job.precision] * job.tokens * job.model.hidden)
    kinds = ("all_gather", "reduce_scatter") if job.parallel.sequence else ("all_reduce",)
    costs = [scale_up_collective(device.accelerator, kind, t, buffer) for kind in kinds]
    wire = sum(ring_bytes(kind, t, buffer) for kind in kinds) / len(kinds)
    latency = sum(c.latency for c in costs) / len(costs)
    seconds = sum(
        c.latency + ring_bytes(kind, t, buffer) / c.wire_rate for kind, c in zip(kinds, costs, strict=True)
    )
    return TensorCollective(wire, wire / (seconds / len(kinds) - latency), latency, costs[0].provenance)


def _counts(job: TrainingJob) -> tuple[float, float, float]:
    """Collectives per layer: (forward, backward on the path, backward beside the weight gradients)."""
    if job.parallel.tensor == 1:
        return 0.0, 0.0, 0.0
    # An input gradient's collective runs beside the weight gradient where the software does that.
    scatter = 2.0
    if job.parallel.sequence:
        # Forward: gather before and scatter after each of attention and MLP. Backward: gather of a
        # row-parallel output's gradient on the path; saved inputs are gathered again beside their gradients.
        forward, on_path, beside = 4.0, 2.0, 2.0
    else:
        forward, on_path, beside = 2.0, 0.0, 0.0
    if job.software.tensor_backward_overlap:
        beside += scatter
    else:
        on_path += scatter
    again = forward if job.recompute == "full" else 0.0
    return forward, on_path + again, beside


def costs(job: TrainingJob, stages: Stages, device: GPU, *, speed_spread: float = SPEED_SPREAD) -> Costs:
    """Prices of every chunk of every stage, from one layer's, the embedding's and the head's operators.

    Compute-bound operators run at the pace of the slowest of the job's accelerators, see ``training.skew``.
    """
    p = job.parallel
    model = job.model
    priced: dict[Part, list[tuple[Operator, Price]]] = {}
    for part in PARTS:
        ops = model.operators(
            job.tokens,
            job.sequence,
            part=part,
            tensor_parallel=p.tensor,
            sequence_parallel=p.sequence,
            precision=job.precision,
            attention="unfused" if job.software.attention == "unfused" else "flash",
            recompute=job.recompute if part == "layer" else "none",
            grad_accumulation=job.software.grad_accumulation,
            dropout=job.software.dropout,
        )
        priced[part] = list(zip(ops, device.price_many(ops), strict=True))

    pace = slowest(p.world, speed_spread)

    def seconds(part: Part, *phases: str) -> float:
        return sum(
            price.seconds * (pace if op.kind != "memory" else 1.0)
            for op, price in priced[part]
            if op.phase in phases
        )

    collective = _tensor_collective(job, device)
    forward_count, backward_count, beside_count = _counts(job)
    chunks: list[tuple[ChunkCost, ...]] = []
    optimizer: list[float] = []
    table: dict[tuple[str, str, str], list[float]] = {}
    energy = executed = 0.0
    m = job.micro_batches

    def book(part: Part, times: float) -> None:
        nonlocal energy, executed
        for op, price in priced[part]:
            row = table.setdefault((op.name, op.phase, price.provenance), [0.0, 0.0])
            row[0] += op.calls * times
            row[1] += price.seconds * times
            energy += price.joules * times
            executed += op.flops * times

    for s in range(stages.pipeline):
        row = []
        for c in range(stages.virtual):
            n = stages.layers[s][c]
            first, last = stages.has_embedding(s, c), stages.has_head(s, c)
            here: dict[Part, bool] = {"embedding": first, "head": last}
            ends = [part for part, held in here.items() if held]
            on_end = float(p.tensor > 1) * len(ends)
            parameters = n * model.rank_parameters("layer", p.tensor)
            parameters += sum(model.rank_parameters(end, p.tensor) for end in ends)
            again = n * seconds("layer", "recompute")
            row.append(
                ChunkCost(
                    layers=n,
                    forward=n * seconds("layer", "forward") + sum(seconds(e, "forward") for e in ends),
                    backward=n * seconds("layer", "backward")
                    + again
                    + sum(seconds(e, "backward") for e in ends),
                    recompute=again,
                    tensor_forward=n * forward_count + on_end,
                    tensor_backward=n * backward_count + on_end,
                    tensor_hidden=n * beside_count,
                    parameters=int(parameters),
                )
            )
            book("layer", n * m)
            for e in ends:
                book(e, m)
        chunks.append(tuple(row))
        held = sum(chunk.parameters for chunk in row)
        shard = p.data if p.sharding != "none" else 1
        step = model.optimizer_operators(held, shard)
        prices = device.price_many(step)
        optimizer.append(sum(price.seconds for price in prices))
        for op, price in zip(step, prices, strict=True):
            entry = table.setdefault((op.name, op.phase, price.provenance), [0.0, 0.0])
            entry[0] += op.calls
            entry[1] += price.seconds
            energy += price.joules
    total = sum(v[1] for v in table.values())
    operators = pl.DataFrame(
        {
            "name": [k[0] for k in table],
            "phase": [k[1] for k in table],
            "calls": [v[0] / stages.pipeline for v in table.values()],
            "seconds": [v[1] / stages.pipeline for v in table.values()],
            "share": [v[1] / total for v in table.values()],
            "provenance": [k[2] for k in table],
        }
    ).sort("seconds", descending=True)
    pipeline_bytes = float(_ELEMENT[job.precision] * job.tokens * model.hidden / p.tensor)
    return Costs(
        tuple(chunks), collective, tuple(optimizer), pipeline_bytes, operators,
        energy * p.tensor * p.data, executed * p.tensor * p.data,
    )  # fmt: skip
