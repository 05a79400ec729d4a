"""One iteration in closed form: how long a step takes when nobody contends, without executing it.

The same prices and passes as the executed program (`costs`, `passes`), and formulas in place of the clock:

- a pass lasts as long as its compute and what lies on its path; a collective beside compute slows it by the
  share of SMs it takes and adds what it outlasts it;
- 1F1B, GPipe, interleaved: (m - 1) periods behind one micro-batch's way through all stages. The period is the
  slowest stage's work, or a loop of stages divided by the micro-batches that are under way in it, where
  sending takes part in the loop. A ragged group of an interleaved schedule goes forward as slowly as a whole;
- ZB-H1, ZB-H2, DualPipe: their papers' bubbles, (p - 1)(F + Bx - W), (p - 1) max(0, F + Bx - 2 W) and
  (p / 2 - 1)(FB + B - 3 W);
- data-parallel collectives: what their pieces, one behind the other, take longer than the passes that they
  run beside.

Exact where stages are equal and every transfer is hidden or on the path; elsewhere an estimate, which the
tests hold against the executed program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from euston.cluster import Site
from euston.collectives import ring_bytes, ring_steps
from euston.collectives.network_rates import (
    P2P_LATENCY,
    SCALE_OUT_EFFICIENCY,
    SCALE_OUT_STEP_LATENCY,
    SM_SHARE,
)
from euston.devices.interconnect import RING_EFFICIENCY
from euston.training._closed_form import DATA, step_in_closed_form
from euston.training.communication import ChunkTraffic, Exchange
from euston.training.costs import ChunkCost, Costs, TensorCollective, costs
from euston.training.passes import Step, merged, steps
from euston.training.schedule import SCHEDULES
from euston.training.schedule_split import BACKWARD, FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from euston.training.skew import SPEED_SPREAD
from euston.training.stages import Stages
from euston.training.write import BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK

if TYPE_CHECKING:
    from euston.devices import GPU
    from euston.training.job import TrainingJob

__all__ = ["Analysis", "Estimate", "Links", "Uses", "analyse", "estimate", "numbers", "pass_table", "uses"]

Floats = NDArray[np.float64]

_GRADIENT = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}


@dataclass(frozen=True)
class Links:
    """What one accelerator reaches alone.

    Attributes
    ----------
    domain : int
        Accelerators of a scale-up domain.
    scale_up, scale_out : float
        Bytes/s into the scale-up network and through the NIC, as a collective library gets them.
    """

    domain: int
    scale_up: float
    scale_out: float

    @classmethod
    def of(cls, site: Site) -> Links:
        """Those of a site's first accelerator; its hosts are alike."""
        domains = np.asarray(site.fabric.domain)
        return cls(
            int((domains == domains[0]).sum()) if domains.size else 1,
            float(site.accelerator.scale_up_bandwidth or 0.0) * RING_EFFICIENCY,
            float(site.fabric.injection_bandwidth[0]) * SCALE_OUT_EFFICIENCY,
        )


class Span(NamedTuple):
    """How a group lies: its ranks, scale-up domains it reaches over, and its ranks in one of them."""

    ranks: int
    domains: int
    inside: int


class Uses(NamedTuple):
    """Seconds of one use of each collective of a job alone, and of a message to the next stage."""

    tensor: float
    context: float
    expert: float
    pipeline: float
    data: Span
    experts: Span
    slows: dict[str, float]


def spans(job: TrainingJob, links: Links, dimension: str) -> Span:
    """How the groups of a dimension lie when ranks fill domains in the job's order."""
    p = job.parallel
    order = p.expert_order if dimension in ("expert", "expert_data") else p.dense_order
    stride = 1
    for name in order:
        if name == dimension:
            break
        stride *= p.degree(name)
    ranks = p.degree(dimension)
    if dimension == "data":  # gradients are shared out over context-parallel ranks too
        ranks *= p.context
        stride = (
            min(stride, p.tensor) if p.dense_order.index("context") < p.dense_order.index("data") else stride
        )
    inside = max(1, min(ranks, links.domain // stride if stride < links.domain else 1))
    while ranks % inside:
        inside -= 1
    return Span(ranks, ranks // inside, inside)


def _ring(size: float, span: Span, links: Links, rate: float | None = None) -> float:
    """Seconds in which a rank's ring bytes cross: one ring per rank of a domain goes through its own NIC."""
    if span.ranks == 1:
        return 0.0
    if span.domains == 1:
        return size / (rate or links.scale_up)
    return size / span.inside / links.scale_out


def uses(
    job: TrainingJob,
    links: Links,
    collective: TensorCollective | None,
    context: Exchange | None,
    expert: Exchange | None,
    pipeline_bytes: float,
) -> Uses:
    """Seconds of one use of each of the job's collectives."""
    p = job.parallel
    tensor = 0.0
    if collective is not None:
        span = spans(job, links, "tensor")
        kind = "all_gather" if p.sequence else "all_reduce"
        tensor = (
            collective.latency
            + ring_steps(kind, span.domains) * SCALE_OUT_STEP_LATENCY
            + _ring(collective.wire_bytes, span, links, collective.rate)
        )
    over = 0.0
    if context is not None:
        span = spans(job, links, "context")
        over = context.latency_over(span.domains) + _ring(context.bytes, span, links, context.rate)
    exchange = 0.0
    groups = spans(job, links, "expert")
    if expert is not None:
        volume = expert.volume(groups.ranks, groups.domains)
        exchange = expert.latency_over(groups.domains) + max(
            volume.between / links.scale_out, volume.inside / expert.rate
        )
        exchange = max(exchange, expert.seconds_over(groups.domains))
    stride = p.world // p.pipeline if p.dense_order[-1] == "pipeline" else links.domain
    near = stride * 2 <= links.domain
    onward = P2P_LATENCY + pipeline_bytes / (links.scale_up if near else links.scale_out)
    apart = spans(job, links, "expert_data") if p.experts_apart else Span(1, 1, 1)
    wide = {"tensor": "scale_up", "context": "scale_up", "expert": "scale_up"}
    if context is not None and spans(job, links, "context").domains > 1:
        wide["context"] = "scale_out"
    return Uses(
        tensor, over, exchange, onward, spans(job, links, "data"), apart,
        {kind: SM_SHARE[where] for kind, where in wide.items()},
    )  # fmt: skip


def _lasts(step: Step, one: Uses) -> float:
    """Seconds of one step: compute slowed by what runs beside it, that, and what lies behind both."""
    compute = sum(seconds for _, seconds in step.compute)
    hidden = sum(count * getattr(one, kind) for kind, count in step.beside.items())
    share = max((one.slows[kind] for kind in step.beside), default=0.0)
    on_path = sum(count * getattr(one, kind) for kind, count in step.path.items())
    longest = max((count * getattr(one, kind) for kind, count in step.beside.items()), default=0.0)
    slowed = compute + share * min(hidden, compute / (1.0 - share))
    return max(slowed, longest) + on_path


def pass_table(
    job: TrainingJob, one: Uses, kinds: list[tuple[ChunkCost, ChunkTraffic]], where: NDArray[np.intp]
) -> Floats:
    """Seconds of the passes of every chunk, float64[PASSES, p, v].

    ``kinds`` are the distinct chunks, ``where`` int[p, v] says which is where.
    """
    paired = job.schedule == "dualpipe" or job.passes_overlap
    split = job.schedule in ("zb-h1", "zb-h2", "dualpipe")
    rows = []
    for cost, traffic in kinds:
        of = {k: steps(k, cost, traffic, job) for k in (FORWARD, BACKWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)}
        last = {k: sum(_lasts(step, one) for step in found) for k, found in of.items()}
        pair = last[FORWARD] + last[BACKWARD]
        if paired:
            pair = sum(_lasts(step, one) for step in merged(of[FORWARD], of[BACKWARD]))
        backward = last[INPUT_GRADIENT] + last[WEIGHT_GRADIENT] if split else last[BACKWARD]
        rows.append(
            (last[FORWARD], backward, last[INPUT_GRADIENT], last[WEIGHT_GRADIENT], pair,
             cost.forward + cost.backward)
        )  # fmt: skip
    return np.ascontiguousarray(np.moveaxis(np.array(rows)[where], -1, 0))


class Estimate(NamedTuple):
    """Seconds of a step and where they go (means over stages; bubble is what is left)."""

    step_time: float
    compute: float
    communication: float
    data: float
    optimizer: float
    bubble: float


def numbers(job: TrainingJob, one: Uses, links: Links) -> tuple[Floats, Floats]:
    """What `_closed_form` needs of a job besides its chunks: float64[NUMBERS] and float64[DATA, 2]."""
    p = job.parallel
    software = job.software
    data, ranks, share, each_pass = _data(job, one, links)
    bucket = 0.0
    if software.data_overlap and not each_pass:
        bucket = float(max(BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK * p.data))
    work = 1.0 if job.work is None else float(np.mean(job.work))
    norm = 0.0
    if job.schedule != "zb-h2" and p.world > 1:
        norm = 2 * math.ceil(math.log2(p.world)) * SCALE_OUT_STEP_LATENCY
    return np.array(
        (
            job.micro_batches, work, work * one.pipeline if p.pipeline > 1 else 0.0, job.sends_overlap,
            SCHEDULES.index(job.schedule), job.passes_overlap, software.data_overlap, each_pass, bucket,
            share, _tied(job, links, p.pipeline), norm, p.experts_apart, ranks,
        ),
        np.float64,
    ), data  # fmt: skip


def estimate(
    job: TrainingJob,
    one: Uses,
    passes: Floats,
    parameters: Floats,
    expert_parameters: Floats,
    optimizer: Floats,
    links: Links,
    *,
    layers: NDArray[np.int64] | None = None,
) -> Estimate:
    """The step of a job whose passes are known.

    Parameters
    ----------
    passes : float64[PASSES, p, v]
        See `pass_table`.
    parameters, expert_parameters : float64[p, v]
        Of one rank.
    optimizer : float64[p]
        Seconds of the optimiser.
    layers : int64[p, v], optional
        Layers of every chunk, into which ZeRO-3 and buckets cut the data-parallel collectives.
    """
    number, data = numbers(job, one, links)
    cut = np.ones(parameters.shape, np.int64) if layers is None else layers
    return Estimate(*step_in_closed_form(number, passes, parameters, expert_parameters, optimizer, cut, data))


def _tied(job: TrainingJob, links: Links, p: int) -> float:
    """First and last stage add up a shared matrix's gradients."""
    if not job.model.tied or p == 1 or job.schedule == "dualpipe":
        return 0.0
    size = job.model.vocab * job.model.hidden / job.parallel.tensor * _GRADIENT[job.software.gradient_dtype]
    near = job.parallel.world <= links.domain
    return 2 * SCALE_OUT_STEP_LATENCY + size / (links.scale_up if near else links.scale_out)


@dataclass(frozen=True)
class Analysis:
    """A job's step in closed form, and the prices it comes from."""

    estimate: Estimate
    costs: Costs
    stages: Stages


def analyse(job: TrainingJob, site: Site, device: GPU, *, speed_spread: float = SPEED_SPREAD) -> Analysis:
    """A job's step on a site where it is alone, from the prices that the executed program has."""
    stages = job.place()
    cost = costs(job, stages, device, speed_spread=speed_spread)
    links = Links.of(site)
    found = cost.communication
    one = uses(
        job, links, cost.collective, found.context if found else None, found.expert if found else None,
        cost.pipeline_bytes,
    )  # fmt: skip
    p, v = stages.pipeline, stages.virtual
    kinds = [
        (cost.chunks[s][c], found.chunks[s][c] if found else ChunkTraffic())
        for s in range(p)
        for c in range(v)
    ]
    passes = pass_table(job, one, kinds, np.arange(p * v).reshape(p, v))
    held = np.array([[float(chunk.parameters) for chunk in row] for row in cost.chunks])
    experts = np.array([[float(chunk.expert_parameters) for chunk in row] for row in cost.chunks])
    found_step = estimate(
        job, one, passes, held, experts, np.array(cost.optimizer), links, layers=stages.array()
    )
    return Analysis(found_step, cost, stages)


# ---- data parallelism --------------------------------------------------------------------------------------


def _data(job: TrainingJob, one: Uses, links: Links) -> tuple[Floats, float, float, bool]:
    """Seconds per parameter and per piece of the data-parallel collectives, float64[DATA, 2].

    With them the ranks of a group, the share of SMs that they take, and whether each pass gathers.
    """
    p = job.parallel
    copies = 2 if job.schedule == "dualpipe" else 1
    found = np.zeros((DATA, 2))
    ranks = one.data.ranks * copies
    if ranks == 1:
        return found, 1.0, 0.0, False
    gradient = _GRADIENT[job.software.gradient_dtype]
    reduce = "all_reduce" if p.sharding == "none" else "reduce_scatter"
    shard = one.data
    if copies > 1:  # the stage opposite holds the same layers
        near = p.world <= links.domain
        shard = Span(ranks, 1, ranks) if near else Span(ranks, shard.domains * copies, shard.inside)
    if p.shard and p.shard < shard.ranks:
        inside = min(shard.inside, p.shard)
        shard = Span(p.shard, p.shard // inside, inside)

    def cost(kind: str, element: float, span: Span) -> tuple[float, float]:
        if span.ranks == 1:
            return 0.0, 0.0
        rate = links.scale_up if span.domains == 1 else links.scale_out * span.inside
        return (
            ring_bytes(kind, span.ranks, 1.0) * element / rate,
            ring_steps(kind, span.domains) * SCALE_OUT_STEP_LATENCY,
        )

    found[2], found[3] = cost(reduce, gradient, shard), cost(reduce, gradient, one.experts)
    if p.shard and p.shard < ranks:
        among = ranks // p.shard
        wire, latency = cost("all_reduce", gradient, Span(among, among, 1))
        found[4] = wire / p.shard, latency
    if p.sharding != "none":
        found[0], found[1] = cost("all_gather", 2.0, shard), cost("all_gather", 2.0, one.experts)
    where = "scale_up" if shard.inside > 1 else "scale_out"  # rings through several ranks of a domain
    each_pass = p.sharding == "zero3" and job.reshard_after_forward
    return found, float(ranks), SM_SHARE[where], each_pass
