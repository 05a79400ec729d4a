"""What a job's passes exchange beside tensor parallelism: context-parallel and expert-parallel collectives.

Counts and bytes only; who waits for what emerges when the program runs. Inside a scale-up domain a collective
is priced by the device's measured tables, between domains it is a transfer on the fluid engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING, NamedTuple

from euston.catalog import Accelerator
from euston.collectives.network_rates import P2P_LATENCY, SCALE_OUT_STEP_LATENCY
from euston.devices import exchange
from euston.devices.exchange import HOST, WIRE
from euston.devices.interconnect import scale_up_collective, wire_bytes
from euston.models import LayerKind
from euston.training.stages import Stages

if TYPE_CHECKING:
    from euston.training.job import TrainingJob

__all__ = [
    "ChunkTraffic",
    "Communication",
    "Exchange",
    "Volume",
    "communication",
    "distinct_groups",
]

ELEMENT = 2.0  # bytes; activations cross the wire in 16 bit

# FP8 on the wire: one byte, and an FP32 scale for every 128 elements (DeepSeek-V3, arXiv:2412.19437).
FP8_ELEMENT = 1.0 + 4.0 / 128.0

# Of an expert layer's dispatch: an FP32 probability per row, a 64-bit number of rows per expert and rank.
PROBABILITY, COUNT = 4.0, 8.0
EXPERT_USES = 4  # of its all-to-all: dispatch and combine, forward and backward

Seconds = Callable[[int, int, str, tuple[str, ...]], float]
"""Of a (stage, chunk): seconds that its operators of a kind take in some phases."""


class Volume(NamedTuple):
    """Bytes that a rank sends in one use of a collective: out of its scale-up domain, and inside it."""

    between: float
    inside: float


@dataclass(frozen=True)
class Exchange:
    """One kind of collective of a job, averaged over the uses that a pass mixes.

    Attributes
    ----------
    bytes : float
        Bytes each rank sends in one use if nobody passes anything on.
    rate : float
        Bytes/s that the measured library reaches inside a scale-up domain.
    latency : float
        Seconds of one use inside a scale-up domain.
    step_latency : float
        Seconds that a use takes longer where a group spans scale-up domains.
    each_domain : bool
        It takes so much longer for every domain but the first.
    provenance : str
        Of the rate.
    two_hops : bool
        Expert all-to-all: every destination domain gets each token once and passes it on.
    top_k, experts, node_limit : int
        Expert all-to-all: experts per token, experts, most domains that a token's experts sit in (0: no
        limit).
    measured, measured_domains : float, int
        Seconds of one use alone by a library's own tables, and the scale-up domains that the tables' groups
        span; 0 where there are none. Transfers are slowed down to that, so that others' load adds to it.
    """

    bytes: float
    rate: float
    latency: float
    step_latency: float
    provenance: str
    two_hops: bool = False
    top_k: int = 0
    experts: int = 0
    node_limit: int = 0
    each_domain: bool = False
    measured: float = 0.0
    measured_domains: int = 0

    def seconds_over(self, domains: int) -> float:
        """Seconds of one use alone where a library's own time of it is known, else 0."""
        return self.measured if domains == self.measured_domains else 0.0

    def latency_over(self, domains: int) -> float:
        """Seconds of one use by groups that span so many domains."""
        more = domains - 1 if self.each_domain else int(domains > 1)
        return self.latency + more * self.step_latency

    def volume(self, ranks: int, domains: int) -> Volume:
        """Bytes per use of a group of ``ranks`` that spans ``domains`` scale-up domains evenly."""
        if not self.top_k:
            return Volume(self.bytes, 0.0)
        if domains == 1:
            return Volume(0.0, self.bytes * (ranks - 1) / ranks)
        local = ranks // domains
        copies = self.top_k * (domains - 1) / domains
        if self.two_hops:
            limit = self.node_limit or domains
            copies = distinct_groups(self.experts, domains, self.top_k, limit) * (domains - 1) / domains
        # Of all copies those for the rank where they arrive need no second hop.
        return Volume(self.bytes * copies / self.top_k, self.bytes * (local - 1) / local)


def distinct_groups(experts: int, groups: int, top_k: int, limit: int = 0) -> float:
    """Expected number of different groups among a token's experts, under uniform routing.

    G (1 - C(E - E/G, k) / C(E, k)); with a limit of M groups the experts are drawn from those of M groups.
    """
    among = min(limit or groups, groups)
    each = experts // groups
    pool = each * among
    if pool < top_k:
        return float(among)
    return among * (1.0 - comb(pool - each, top_k) / comb(pool, top_k))


@dataclass(frozen=True)
class ChunkTraffic:
    """What one micro-batch through one chunk exchanges.

    Attributes
    ----------
    context_forward, context_backward : float
        Uses of the context-parallel collective; those of a recomputed forward are in the backward's.
    expert_forward, expert_backward : float
        Uses of the all-to-all: dispatch and combine of every layer with experts.
    attention_forward, attention_backward : float
        Compute seconds that hide a ring's steps.
    gemm_forward, gemm_backward : float
        Compute seconds that hide tensor-parallel collectives that are cut into pieces.
    """

    context_forward: float = 0.0
    context_backward: float = 0.0
    expert_forward: float = 0.0
    expert_backward: float = 0.0
    attention_forward: float = 0.0
    attention_backward: float = 0.0
    gemm_forward: float = 0.0
    gemm_backward: float = 0.0


@dataclass(frozen=True)
class Communication:
    """Context- and expert-parallel collectives of a job.

    Attributes
    ----------
    chunks : tuple[stage][chunk] of ChunkTraffic
    context, expert : Exchange or None
    """

    chunks: tuple[tuple[ChunkTraffic, ...], ...]
    context: Exchange | None = None
    expert: Exchange | None = None


def communication(
    job: TrainingJob,
    stages: Stages,
    accelerator: Accelerator,
    seconds: Seconds,
    kinds: Sequence[LayerKind] = (),
) -> Communication:
    """What the job's passes exchange; ``seconds`` prices the compute that hides it.

    ``kinds`` are the layers that `stages` places, the model's unless given.
    """
    kinds = kinds or job.model.layer_kinds
    again = 1.0 if job.recompute == "full" else 0.0
    context = _context(job, accelerator) if job.parallel.context > 1 else None
    expert = _expert(job, accelerator) if job.parallel.expert > 1 else None
    forward, backward = _context_uses(job.software.context)
    rows = []
    for s in range(stages.pipeline):
        row = []
        for c in range(stages.virtual):
            first = stages.first_layer(s, c)
            here = kinds[first : first + stages.layers[s][c]]
            attends = sum(kind.attends for kind in here)
            experts = sum(kind.ffn == "moe" for kind in here)
            found = ChunkTraffic()
            if context is not None:
                found = replace(
                    found,
                    context_forward=attends * forward,
                    context_backward=attends * (backward + again * forward),
                )
                if job.software.context == "ring":
                    found = replace(
                        found,
                        attention_forward=seconds(s, c, "attention", ("forward",)),
                        attention_backward=seconds(s, c, "attention", ("backward", "recompute")),
                    )
            if expert is not None:
                found = replace(
                    found,
                    expert_forward=2.0 * experts,
                    expert_backward=2.0 * experts * (1.0 + again),
                )
            if job.parallel.tensor > 1 and job.software.tensor_overlap:
                found = replace(
                    found,
                    gemm_forward=seconds(s, c, "gemm", ("forward",)),
                    gemm_backward=seconds(s, c, "gemm", ("backward", "recompute")),
                )
            row.append(found)
        rows.append(tuple(row))
    return Communication(tuple(rows), context, expert)


def _context_uses(algorithm: str) -> tuple[float, float]:
    """Uses per attention layer: (forward, backward).

    A ring's backward passes keys and values round again and their gradients with them; gathered keys and
    values are kept, and their gradients scattered; four all-to-alls turn q, k, v and the output (Ulysses,
    arXiv:2309.14509).
    """
    return {"ring": (1.0, 2.0), "all_gather": (1.0, 1.0), "ulysses": (4.0, 4.0)}[algorithm]


def _context(job: TrainingJob, accelerator: Accelerator) -> Exchange:
    model, p = job.model, job.parallel
    c, t = p.context, p.tensor
    if model.mla is not None:
        mla = model.mla
        queries = outputs = model.heads * float(mla.nope_dim + mla.rope_dim)
        keys, values = queries, model.heads * float(mla.value_dim)
        outputs = values
    else:
        queries = outputs = model.heads * float(model.head_dim)
        keys = values = max(model.kv_heads, t) * float(model.head_dim)
    both = ELEMENT * job.tokens * (keys + values) / t
    if job.software.context == "ulysses":
        each = ELEMENT * job.tokens * (queries + keys + values + outputs) / t / 4.0
        cost = scale_up_collective(accelerator, "all_to_all", c, each)
        return Exchange(
            each * (c - 1) / c, cost.wire_rate, cost.latency, SCALE_OUT_STEP_LATENCY, cost.provenance
        )
    if job.software.context == "all_gather":
        cost = scale_up_collective(accelerator, "all_gather", c, c * both)
        return Exchange(
            (c - 1) * both, cost.wire_rate, cost.latency, SCALE_OUT_STEP_LATENCY, cost.provenance,
            each_domain=True,
        )  # fmt: skip
    cost = scale_up_collective(accelerator, "send", 2, both)
    return Exchange(
        (c - 1) * both, cost.wire_rate, (c - 1) * cost.latency,
        (c - 1) * max(0.0, P2P_LATENCY - cost.latency), cost.provenance,
    )  # fmt: skip


def _expert(job: TrainingJob, accelerator: Accelerator) -> Exchange:
    """Dispatch and combine of one layer, averaged: every rank sends its tokens to the experts they visit.

    Megatron-Core's all-to-all dispatcher sends their probabilities behind the tokens, and their gradients
    back, by collectives of their own, and gathers before how many each rank has for each expert, unless
    experts are filled to their capacity (`MoEAlltoAllTokenDispatcher.preprocess` and `token_dispatch`). A use
    gets its share of these.
    """
    model, p, moe = job.model, job.parallel, job.model.moe
    assert moe is not None
    tokens = job.tokens / (p.tensor if p.sequence else 1)
    dispatch = FP8_ELEMENT if job.software.expert_dispatch == "fp8" else ELEMENT
    size = tokens * moe.top_k * model.hidden * (dispatch + ELEMENT) / 2.0
    cost = scale_up_collective(accelerator, "all_to_all", p.expert, size)
    alone = _library(job, accelerator, tokens, dispatch)
    small, more = 0.0, 0.0
    if job.software.expert_dispatcher == "alltoall":
        known = job.balance.capacity_factor > 0
        parts = [("all_to_all", PROBABILITY * tokens * moe.top_k)] * 2
        parts += [] if known else [("all_gather", COUNT * moe.experts * p.expert)]
        for name, nbytes in parts:
            one = scale_up_collective(accelerator, name, p.expert, nbytes)
            small += (one.latency + wire_bytes(name, p.expert, nbytes) / one.wire_rate) / EXPERT_USES
        more = len(parts) / EXPERT_USES
    return Exchange(
        size, cost.wire_rate, cost.latency + small, (1.0 + more) * SCALE_OUT_STEP_LATENCY, cost.provenance,
        two_hops=job.software.expert_all_to_all == "two_hops", top_k=moe.top_k, experts=moe.experts,
        node_limit=job.software.expert_node_limit,
        measured=alone, measured_domains=-(-p.expert // HOST) if alone else 0,
    )  # fmt: skip


def _library(job: TrainingJob, accelerator: Accelerator, tokens: float, dispatch: float) -> float:
    """Seconds of one use of DeepEP, dispatch and combine averaged; 0 where it is not used or not measured.

    Its tables dispatch in FP8: a token in 16 bit is as many bytes as two of theirs, less the scales. HybridEP
    has no table on hosts of eight; DeepEP's stands for it.
    """
    moe, ranks = job.model.moe, job.parallel.expert
    assert moe is not None
    if job.software.expert_dispatcher == "alltoall" or (ranks > HOST and ranks % HOST):
        return 0.0
    seconds = 0.0
    for step, element in (("dispatch", dispatch), ("combine", ELEMENT)):
        wide = tokens * element / WIRE[step]
        one = exchange(accelerator, step, "normal", ranks, wide, job.model.hidden, moe.top_k)  # type: ignore[arg-type]
        if one.provenance == "roofline":
            return 0.0
        seconds += one.seconds / 2.0
    return seconds
