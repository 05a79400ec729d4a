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
from euston.training.communication import ChunkTraffic, Exchange
from euston.training.costs import ChunkCost, Costs, TensorCollective, costs
from euston.training.passes import Step, merged, steps
from euston.training.schedule_split import BACKWARD, FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from euston.training.skew import SPEED_SPREAD
from euston.training.stages import Stages
from euston.training.write import BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK

if TYPE_CHECKING:
    from euston.devices import GPU
    from euston.training.job import TrainingJob

__all__ = ["Analysis", "Estimate", "Links", "Passes", "Uses", "analyse", "estimate", "pass_table", "uses"]

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


class Passes(NamedTuple):
    """Seconds of the passes of every (stage, chunk), float64[p, v] each, and what of them is computing."""

    forward: Floats
    backward: Floats
    input_gradient: Floats
    weight_gradient: Floats
    pair: Floats
    computing: Floats


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
) -> Passes:
    """Passes of every chunk; ``kinds`` are the distinct chunks, ``where`` int[p, v] says which is where."""
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
    table = np.array(rows)[where]
    return Passes(*np.moveaxis(table, -1, 0))


class Estimate(NamedTuple):
    """Seconds of a step and where they go (means over stages; bubble is what is left)."""

    step_time: float
    compute: float
    communication: float
    data: float
    optimizer: float
    bubble: float


def estimate(
    job: TrainingJob,
    one: Uses,
    passes: Passes,
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
    parameters, expert_parameters : float64[p, v]
        Of one rank.
    optimizer : float64[p]
        Seconds of the optimiser.
    layers : int[p, v], optional
        Layers of every chunk, into which ZeRO-3 and buckets cut the data-parallel collectives.
    """
    p = passes.forward.shape[0]
    m = job.micro_batches
    work = 1.0 if job.work is None else float(np.mean(job.work))
    forward, backward = work * passes.forward, work * passes.backward
    pair = work * passes.pair
    t = work * one.pipeline if p > 1 else 0.0
    beside = job.software.p2p_overlap
    data = _data(job, one, parameters, expert_parameters, links, layers)
    if data.each_pass:
        forward, backward, pair = _gathered(job, data, forward, backward)
    span = _pipeline(job, forward, backward, pair, work * passes.input_gradient,
                     work * passes.weight_gradient, t, beside, m)  # fmt: skip
    split = job.schedule in ("zb-h1", "zb-h2", "dualpipe")
    behind = work * passes.weight_gradient if split else backward  # what reductions can hide behind
    begin, tail = (0.0, 0.0) if data.each_pass else _exposed(job, data, forward, backward, behind, m)
    if data.each_pass:
        tail = float((data.reduce / data.pieces)[:, 0].max())
    norm = 0.0
    world = job.parallel.world
    if job.schedule != "zb-h2" and world > 1:
        norm = 2 * math.ceil(math.log2(world)) * SCALE_OUT_STEP_LATENCY
    tied = _tied(job, links, p)
    step = begin + span + tail + tied + norm + float(optimizer.max())
    both = 1.0 + (job.schedule == "dualpipe")
    compute = m * work * float(passes.computing.sum(1).mean()) / both
    onpath = m * work * float((passes.forward + passes.backward).sum(1).mean()) / both - compute
    exposed = begin + tail + tied + norm
    rest = step - compute - max(0.0, onpath) - exposed - float(optimizer.mean())
    return Estimate(step, compute, max(0.0, onpath), exposed, float(optimizer.mean()), max(0.0, rest))


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


# ---- pipelines ---------------------------------------------------------------------------------------------


def _pipeline(
    job: TrainingJob, forward: Floats, backward: Floats, pair: Floats, into: Floats, weights: Floats,
    t: float, beside: bool, m: int,
) -> float:  # fmt: skip
    """From the first forward to the last backward."""
    p, v = forward.shape
    if job.schedule == "dualpipe":
        # a rank's two chunks get half of the micro-batches each
        f, b, w, both = (float(x.mean(1).max()) for x in (forward, backward, weights, pair))
        steady = max(0, m - p) * both + min(m, p) * (f + b)
        return steady + (p / 2 - 1) * max(0.0, both + b - 3.0 * w) + 2 * (p - 1) * t
    one_way = float(forward.sum() + backward.sum()) / v + 2 * (p - 1) * t
    stage = pair.sum(1) if job.passes_overlap else (forward + backward).sum(1)
    if not beside and p > 1:  # sends stand in the way of the next pass, one in each direction
        ways = np.full(p, 2.0 * v)
        ways[0] = ways[-1] = 2.0 * v - 1.0 if v > 1 else 1.0
        stage = stage + ways * t
    if p == 1:
        return float(m * stage[0])
    if job.schedule == "gpipe":
        return float(one_way + (m - 1) * (forward.max() + backward.max() + (0.0 if beside else 2.0 * t)))
    if v > 1:
        slow = int(stage.argmax())
        others = float((forward + backward).sum() - (forward + backward)[slow].sum()) / v
        missing = -m % p  # a ragged group's forwards go round as slowly as a whole one's
        ragged = missing * float(forward[slow].sum())
        return float(m * stage[slow]) + ragged + others + 2 * (p - 1) * t
    if job.schedule in ("zb-h1", "zb-h2"):
        spare = weights if job.schedule == "zb-h1" else 2.0 * weights
        rest = np.maximum(0.0, forward + into - spare)[:, 0]
        usual = float(m * stage.max() + rest.sum() - rest.max())
        # too few micro-batches to fill the pipeline: the first one's way, and the others behind it
        critical = (forward + into)[:, 0]
        few = float(critical.sum() + (m - 1) * critical.max() + weights[0, 0])
        return max(usual, few) + 2 * (p - 1) * t
    return float(one_way + (m - 1) * _period(stage, forward + backward, t, beside))


def _period(stage: Floats, work: Floats, t: float, beside: bool) -> float:
    """Seconds between micro-batches of 1F1B: a stage's, or a loop's over the passes under way in it."""
    p = stage.size
    behind = np.cumsum(work[::-1, 0])[::-1]  # from each stage to the last
    hops = 2.0 * t * np.arange(p - 1, -1, -1)
    loops = (behind + hops) / np.arange(p, 0, -1)
    return float(max(stage.max(), loops.max() if beside or t else 0.0))


# ---- data parallelism --------------------------------------------------------------------------------------


class _Data(NamedTuple):
    """Seconds of gathers and reductions of whole chunks, their pieces, whether each pass gathers, and the
    share of compute that they take while they run.
    """

    gather: Floats
    reduce: Floats
    pieces: Floats
    each_pass: bool
    share: float


def _data(
    job: TrainingJob, one: Uses, parameters: Floats, experts: Floats, links: Links,
    layers: NDArray[np.int64] | None,
) -> _Data:  # fmt: skip
    p = job.parallel
    copies = 2 if job.schedule == "dualpipe" else 1
    zero = np.zeros_like(parameters)
    pieces = np.ones_like(parameters)
    ranks = one.data.ranks * copies
    if ranks == 1:
        return _Data(zero, zero, pieces, False, 0.0)
    each_pass = p.sharding == "zero3" and job.reshard_after_forward
    held = np.ones_like(parameters) if layers is None else np.maximum(1, layers).astype(np.float64)
    if each_pass:
        pieces = held
    elif job.software.data_overlap:
        bucket = max(BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK * p.data)
        pieces = np.minimum(held, np.maximum(1.0, np.round(parameters / bucket)))
    gradient = _GRADIENT[job.software.gradient_dtype]
    reduce = "all_reduce" if p.sharding == "none" else "reduce_scatter"
    shard = one.data
    if copies > 1:  # the stage opposite holds the same layers
        near = p.world <= links.domain
        shard = Span(ranks, 1, ranks) if near else Span(ranks, shard.domains * copies, shard.inside)
    if p.shard and p.shard < shard.ranks:
        inside = min(shard.inside, p.shard)
        shard = Span(p.shard, p.shard // inside, inside)
    apart = experts if p.experts_apart else zero

    def seconds(kind: str, element: float, count: Floats, span: Span) -> Floats:
        if span.ranks == 1:
            return np.zeros_like(count)
        wire = ring_bytes(kind, span.ranks, 1.0) * element * count
        rate = links.scale_up if span.domains == 1 else links.scale_out * span.inside
        latency = ring_steps(kind, span.domains) * SCALE_OUT_STEP_LATENCY
        return np.where(count > 0, wire / rate + pieces * latency, 0.0)

    dense = parameters - apart
    reduced = seconds(reduce, gradient, dense, shard) + seconds(reduce, gradient, apart, one.experts)
    if p.shard and p.shard < one.data.ranks * copies:
        among = one.data.ranks * copies // p.shard
        reduced = reduced + seconds("all_reduce", gradient, dense / p.shard, Span(among, among, 1))
    gathered = zero
    if p.sharding != "none":
        gathered = seconds("all_gather", 2.0, dense, shard) + seconds("all_gather", 2.0, apart, one.experts)
    where = "scale_up" if shard.inside > 1 else "scale_out"  # rings through several ranks of a domain
    return _Data(gathered, reduced, pieces, each_pass, SM_SHARE[where])


def _gathered(
    job: TrainingJob, data: _Data, forward: Floats, backward: Floats
) -> tuple[Floats, Floats, Floats]:
    """Passes that gather their parameters: beside compute where the next piece's is issued ahead."""
    if job.software.data_overlap:
        forward = _beside(forward, data.gather, data.share)
        backward = _beside(backward, data.gather + data.reduce, data.share)
    else:
        forward, backward = forward + data.gather, backward + data.gather + data.reduce
    return forward, backward, forward + backward


def _beside(compute: Floats, wire: Floats, share: float) -> Floats:
    """Seconds of compute that loses a share of its speed while something crosses the wire, and of that."""
    return np.maximum(compute + share * np.minimum(wire, compute / (1.0 - share)), wire)


def _exposed(
    job: TrainingJob, data: _Data, forward: Floats, backward: Floats, behind: Floats, m: int
) -> tuple[float, float]:
    """Seconds that gathers delay the first passes, and reductions the end, beyond the pipeline itself."""
    p, v = forward.shape
    ahead = np.concatenate(([0.0], np.cumsum(forward[:, 0])[:-1]))  # when a stage's first forward could begin
    drain = np.concatenate(([0.0], np.cumsum(backward[:, 0])[:-1]))  # how much earlier its last one ends
    if not job.software.data_overlap:
        begin = float(np.maximum(0.0, data.gather.sum(1) - ahead).max())
        return begin, float(np.maximum(0.0, data.reduce.sum(1) - drain).max())
    group = min(p, m)
    until = np.zeros(p)
    delay = np.zeros(p)
    for c in range(v):
        needed = ahead + group * forward[:, :c].sum(1)
        first = until + data.gather[:, c] / data.pieces[:, c]
        until = until + data.gather[:, c]
        last = until - needed - forward[:, c] * (1.0 - 1.0 / data.pieces[:, c])
        delay = np.maximum(delay, np.maximum(first - needed, last))
    # what hides behind compute slows it
    delay = np.maximum(delay, 0.0)
    delay += data.share * np.maximum(0.0, until - delay)
    free = np.full(p, -np.inf)
    for c in range(v - 1, -1, -1):
        n = data.pieces[:, c]
        ends = -group * backward[:, :c].sum(1)  # of the chunk's last backward, 0 being the stage's own end
        begins = ends - behind[:, c]
        compute, wire = behind[:, c] / n, data.reduce[:, c] / n
        ready = begins + compute
        start = np.maximum(free, ready)
        free = np.maximum(start + n * wire, ends + wire)
    hidden = np.maximum(0.0, data.reduce.sum(1) - np.maximum(0.0, free))
    free = np.maximum(free, data.reduce[:, 0] / data.pieces[:, 0] + data.share * hidden)
    return float(np.maximum(0.0, delay).max()), float(np.maximum(0.0, free - drain).max())
