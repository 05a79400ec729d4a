"""Memory of every pipeline stage, and whether it fits: the peak over the schedule of what a rank holds.

A rank holds its parameters, gradients and optimiser state all the time; activations from a forward pass to
its backward; and, while a pass runs, temporary tensors. The peak is taken over the very order of passes that
the clock executes, so that unequal chunks, the logits of the last stage and every schedule are counted where
they are.

Bytes per parameter are those of `euston.models.state_bytes` with d = data * context ranks. Under ``zero3``
(FSDP) the shards are FP32, 16 / d in all; two units (the layer at work and the next) are gathered in 16 bit,
or all of them when they are not dropped after use, and one unit's gradient is whole before it is scattered
(Zhao et al., arXiv:2304.11277).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.catalog import Accelerator
from euston.errors import DoesNotFit
from euston.models import LayerKind, RankShare, StateBytes, state_bytes
from euston.models.operator import Part

from ._advice import advice
from .job import Recompute, TrainingJob
from .schedule import stage_order
from .stages import Stages

__all__ = [
    "ALLOCATOR_FACTOR",
    "COMMUNICATION_BUFFERS",
    "MEMORY_ASSUMPTIONS",
    "Fit",
    "fits",
    "memory",
    "require_fit",
]

GIB = float(2**30)

#: What a caching allocator holds beyond the live tensors, as a factor on the peak.
ALLOCATOR_FACTOR = 1.05
#: Bytes of the communication library's buffers and the driver's context on a rank that talks to another.
COMMUNICATION_BUFFERS = 1.0 * GIB

#: Inputs of the memory model that nobody measured for the job at hand, for a result's table of assumptions.
MEMORY_ASSUMPTIONS: tuple[dict[str, str | float], ...] = (
    {
        "where": "training.memory.allocator_factor",
        "value": ALLOCATOR_FACTOR,
        "why": "fragmentation of a caching allocator; reported in a column of its own",
        "source": "rule of thumb",
        "kind": "assumed",
    },
    {
        "where": "training.memory.communication_buffers",
        "value": COMMUNICATION_BUFFERS,
        "why": "communicator buffers and driver context take 0.5 to 2 GiB",
        "source": "rule of thumb",
        "kind": "assumed",
    },
)

_GRADIENT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
# Bytes per logit. The vocabulary-parallel loss of Megatron-LM writes the softmax over the FP32 copy and the
# gradient over the softmax: 2 + 4. PyTorch's cross_entropy keeps the FP32 log-softmax and makes its
# gradient and
# the gradient of the logits beside it: 3 * 4. Between forward and backward both keep 4. Transformer Engine's
# kernel writes the gradient over the 16-bit logits: 2, which are also what is kept.
_LOSS_BYTES = {"in-place": 6.0, "pytorch": 12.0, "fused": 2.0}
_LOSS_KEPT = {"in-place": 4.0, "pytorch": 4.0, "fused": 2.0}
_STATE = ("parameters", "gradients", "optimizer")
_PARTS = ("parameters", "gradients", "optimizer", "activations", "temporary", "allocator")


@dataclass(frozen=True)
class Fit:
    """Whether a job fits, and if not by how much, where, why and what would help.

    Attributes
    ----------
    ok : bool
    shortfall_bytes : float
        Bytes missing on the worst stage; 0 when it fits.
    worst_stage : int
        The stage that needs most.
    reason : str
        One sentence for people.
    needed_bytes, capacity_bytes : float
        Peak of the worst stage, allocator included, and what the accelerator has.
    largest : str
        The largest item of the worst stage, a column of the table of `memory`.
    """

    ok: bool
    shortfall_bytes: float
    worst_stage: int
    reason: str
    needed_bytes: float
    capacity_bytes: float
    largest: str


def memory(
    job: TrainingJob,
    accelerator: Accelerator,
    *,
    allocator_factor: float = ALLOCATOR_FACTOR,
    communication_buffers: float = COMMUNICATION_BUFFERS,
) -> pl.DataFrame:
    """Bytes on one rank of every stage at the stage's peak.

    Parameters
    ----------
    job : TrainingJob
        A job that passes `TrainingJob.check`.
    accelerator : Accelerator
        Gives the capacity.
    allocator_factor : float
        What the allocator holds, as a factor on the live bytes (1.0: nothing more).
    communication_buffers : float
        Bytes, counted among the temporary ones of every rank that talks to another.

    Returns
    -------
    polars.DataFrame
        One row per stage: stage, layers, in_flight ((chunk, micro-batch) pairs held at the peak), parameters,
        gradients, optimizer, activations, temporary, peak (their sum), allocator (what the factor adds),
        capacity, fits. All bytes. Logits count as temporary wherever the schedule holds them.
    """
    stages = job.place()
    rows = []
    for stage in range(stages.pipeline):
        row: dict[str, float] = {"stage": stage, "layers": stages.stage_layers(stage)}
        row |= _peak(job, stages, stage, communication_buffers)
        states = row["parameters"] + row["gradients"] + row["optimizer"]
        row["peak"] = states + row["activations"] + row["temporary"]
        row["allocator"] = (allocator_factor - 1.0) * row["peak"]
        row["capacity"] = float(accelerator.memory_bytes)
        row["fits"] = row["peak"] + row["allocator"] <= row["capacity"]
        rows.append(row)
    return pl.DataFrame(rows)


def fits(job: TrainingJob, accelerator: Accelerator, *, advise: bool = True) -> Fit:
    """Whether every stage of the job fits the accelerator's memory; never raises for one that does not.

    `advise` tries single changes (recompute, sharding, micro-batch, ...) and names the one that helps; a
    sweep that only wants the verdict switches it off.
    """
    table = memory(job, accelerator)
    worst = _worst(table)
    needed, capacity = worst["peak"] + worst["allocator"], worst["capacity"]
    stage = int(worst["stage"])
    items = sorted(_PARTS, key=lambda part: -worst[part])
    missing = needed - capacity
    if missing <= 0:
        text = f"fits: needs {_gib(needed)} of {_gib(capacity)} on stage {stage}"
        return Fit(True, 0.0, stage, text, needed, capacity, items[0])
    listed = ", ".join(f"{item} {_gib(worst[item])}" for item in items if worst[item] >= 0.05 * GIB)
    text = (
        f"does not fit: needs {_gib(needed)} of {_gib(capacity)} on stage {stage} ({listed}); "
        f"{_gib(missing)} too much"
    )
    if advise:

        def need(other: TrainingJob) -> float:
            row = _worst(memory(other, accelerator))
            return float(row["peak"] + row["allocator"])

        hint = advice(job, need, needed, capacity)
        text += f"; {hint}" if hint else ""
    return Fit(False, missing, stage, text, needed, capacity, items[0])


def require_fit(job: TrainingJob, accelerator: Accelerator, *, where: str = "jobs[0]") -> Fit:
    """`fits`, for a single run: raises DoesNotFit with the reason where it does not."""
    fit = fits(job, accelerator)
    if not fit.ok:
        raise DoesNotFit(f"`{where}`: {fit.reason}")
    return fit


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _worst(table: pl.DataFrame) -> dict[str, float]:
    return table.row(int((table["peak"] + table["allocator"]).arg_max() or 0), named=True)


# --- what is always there -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Units:
    """Parameters of one rank's units after the tensor- and expert-parallel split, before sharding.

    A unit is what is gathered at once under zero3: a layer, the embedding, the head, a prediction layer, the
    encoder.
    """

    units: tuple[RankShare, ...]

    @property
    def dense(self) -> int:
        """Parameters that every data-parallel rank of the stage has."""
        return sum(unit.dense for unit in self.units)

    @property
    def experts(self) -> int:
        """Parameters of routed experts."""
        return sum(unit.experts for unit in self.units)

    def gathered(self, reshard: bool) -> int:
        """Parameters whole at once under zero3: the two largest units, or all of them."""
        sizes = sorted(unit.total for unit in self.units)
        return sum(sizes[-2:] if reshard else sizes)

    @property
    def largest(self) -> int:
        """Parameters of the largest unit."""
        return max(unit.total for unit in self.units)


def _units(job: TrainingJob, stages: Stages, stage: int) -> _Units:
    model, p = job.model, job.parallel

    def share(part: Part, kind: LayerKind | None = None) -> RankShare:
        return model.rank_share(
            part, p.tensor, kind=kind, expert_parallel=p.expert, expert_tensor=job.expert_tensor
        )

    kinds = [kind for c in range(stages.virtual) for kind in _kinds(job, stages, stage, c)]
    layer = {kind: share("layer", kind) for kind in set(kinds)}
    units = [layer[kind] for kind in kinds]
    first = any(stages.has_embedding(stage, c) for c in range(stages.virtual))
    if first:
        units.append(share("embedding"))
        if model.vision is not None:
            units.append(share("encoder"))
    if stages.has_head(stage):
        head = share("head")
        if first and model.tied:
            # one matrix for both where both are on one stage; what is left is the final norm
            matrix = share("embedding").dense
            learned = model.max_positions * model.hidden if model.positions == "learned" else 0
            head = RankShare(head.dense - matrix + learned, 0)
        units.append(head)
        units += [share("prediction")] * model.prediction_layers
    return _Units(tuple(units))


def _kinds(job: TrainingJob, stages: Stages, stage: int, chunk: int) -> tuple[LayerKind, ...]:
    first = stages.first_layer(stage, chunk)
    return job.model.layer_kinds[first : first + stages.layers[stage][chunk]]


def _states(job: TrainingJob, units: _Units, copies: int) -> StateBytes:
    """Training state: experts shard over their own replicas, the rest over all data-parallel ranks.

    Where every layer is held by `copies` stages (DualPipe), so many times more ranks share each.
    """
    p = job.parallel
    parts = [
        state_bytes(
            count,
            # FSDP's shards are the FP32 master copy
            precision="fp32" if p.sharding == "zero3" else job.precision,
            sharding=p.sharding,
            degree=degree * copies,
            gradient_dtype=job.software.gradient_dtype,
        )
        for count, degree in ((units.dense, p.shard_degree), (units.experts, job.expert_data))
    ]
    return StateBytes(*(sum(getattr(part, key) for part in parts) for key in _STATE))


# --- what the schedule holds --------------------------------------------------------------------------


def layer_bytes(job: TrainingJob, kind: LayerKind, recompute: Recompute) -> float:
    """Saved activations of one layer of a kind and one micro-batch."""
    return float(
        job.model.activation_bytes(
            job.tokens,
            job.sequence,
            tensor_parallel=job.parallel.tensor,
            sequence_parallel=job.parallel.sequence,
            attention=job.software.attention,
            recompute=recompute,
            dropout=job.software.dropout,
            precision=job.precision,
            kind=kind,
            expert_parallel=job.parallel.expert,
            expert_tensor=job.expert_tensor,
            balance=job.balance,
            recompute_modules=job.recompute_modules,
        )
    )


def _peak(job: TrainingJob, stages: Stages, stage: int, buffers: float) -> dict[str, float]:
    """Bytes by item at the moment of the stage's order when it holds most."""
    model, parallel, tokens = job.model, job.parallel, job.tokens
    units = _units(job, stages, stage)
    states = _states(job, units, 1 + stages.both_ways)
    tensor, sequence = parallel.tensor, parallel.sequence

    chunks = [_kinds(job, stages, stage, c) for c in range(stages.virtual)]
    saved = np.array(
        [sum(layer_bytes(job, kind, job.recompute) for kind in kinds) for kinds in chunks], dtype=np.float64
    )
    logits = np.zeros_like(saved)
    for chunk in range(stages.virtual):
        if stages.has_embedding(stage, chunk):
            saved[chunk] += model.embedding_activation_bytes(tokens, tensor, sequence, job.software.dropout)
            if job.images is not None:
                saved[chunk] += model.encoder_activation_bytes(
                    job.images_per_micro_batch, job.images.patches, job.recompute, job.precision
                )
        if stages.has_head(stage, chunk):
            heads = 1 + model.prediction_layers
            saved[chunk] += heads * model.head_activation_bytes(tokens, tensor, sequence)
            # a prediction layer keeps what a layer does, and its two normed inputs side by side
            extra = layer_bytes(job, model.layer_kinds[-1], job.recompute) + 4.0 * tokens * model.hidden
            saved[chunk] += model.prediction_layers * extra
            logits[chunk] = heads * model.logits_bytes(tokens, tensor)

    passes = stage_order(
        job.schedule, parallel.pipeline, parallel.virtual, job.micro_batches, stage, ahead=job.ahead
    )
    sign = passes.held

    def during(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Held while each pass runs, its own bytes included."""
        step = sign * weight[passes.chunk]
        after = np.cumsum(step)
        return np.where(passes.is_backward, after - step, after)

    # a backward pass brings one layer's dropped activations back
    recomputed = max((dropped_bytes(job, kind) for kinds in chunks for kind in set(kinds)), default=0.0)
    work = np.where(passes.is_backward, recomputed, 0.0)
    held = during(saved)
    kept, running = loss_bytes(job, logits)
    of_logits = during(kept) + (running - kept)[passes.chunk]
    at = int(np.argmax(held + of_logits + work))

    temporary = float(of_logits[at] + work[at]) + workspace_bytes(job)
    temporary += _gathered(job, units)
    if parallel.world > 1:
        temporary += buffers
    count = during(np.ones_like(saved))
    return {
        "parameters": states.parameters,
        "gradients": states.gradients,
        "optimizer": states.optimizer,
        "activations": float(held[at]),
        "temporary": temporary,
        "in_flight": int(count[at]),
    }


def _gathered(job: TrainingJob, units: _Units) -> float:
    """Parameters and gradients that ZeRO-3 has whole at once."""
    if job.parallel.sharding != "zero3":
        return 0.0
    whole = _GRADIENT_BYTES[job.software.gradient_dtype] * units.largest
    return 2.0 * units.gathered(job.reshard_after_forward) + whole


def training_states(job: TrainingJob, units: tuple[RankShare, ...], copies: int) -> tuple[StateBytes, float]:
    """Training state of a stage of these units, and what ZeRO-3 has whole at once beside it."""
    found = _Units(units)
    return _states(job, found, copies), _gathered(job, found)


def loss_bytes(
    job: TrainingJob, logits: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bytes of the logits of a micro-batch that waits for its backward, and of the pass at work.

    Only the FP32 softmax, or the gradient, stays of the former.
    """
    unit, loss = logits / _LOSS_BYTES["in-place"], job.software.loss
    return unit * _LOSS_KEPT[loss], unit * _LOSS_BYTES[loss]


def dropped_bytes(job: TrainingJob, kind: LayerKind) -> float:
    """What recomputation does not keep of a layer of a kind while its backward does not run."""
    if job.recompute == "none":
        return 0.0
    kept = 0.0 if job.recompute == "full" else layer_bytes(job, kind, job.recompute)
    return layer_bytes(job, kind, "none") - kept


def workspace_bytes(job: TrainingJob) -> float:
    """Unsaved tensors while a layer runs: two whole ones of full width and the widest."""
    model = job.model
    gated = 2 if model.gated else 1
    widest = (model.heads + 2 * model.kv_heads) * model.head_dim / job.parallel.tensor
    if any(kind.ffn == "dense" for kind in model.kind_counts):
        widest = max(widest, gated * model.ffn / job.parallel.tensor)
    if model.moe is not None:
        rows = model.moe.top_k / job.parallel.tensor  # per token, of experts split or whole
        widest = max(widest, rows * max(gated * model.moe.ffn, model.hidden))
    return 2.0 * job.tokens * (2.0 * model.hidden + widest)
