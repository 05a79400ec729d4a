"""The arithmetic of a step in closed form, compiled: a step's formulas over the passes of p x v chunks.

What a job is, is one row of numbers (`N_*`); what its data-parallel collectives cost per parameter, two
small tables. See ``euston.training.analytic`` for the formulas in words.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from euston.training.schedule import SCHEDULES

__all__ = ["DATA", "NUMBERS", "PASSES", "optimizer_seconds", "step_in_closed_form"]

LINE = np.arange(18)
(
    N_MICRO_BATCHES, N_WORK, N_SEND, N_P2P_BESIDE, N_SCHEDULE, N_PAIRED, N_DATA_BESIDE, N_EACH_PASS, N_BUCKET,
    N_SHARE, N_TIED, N_NORM, N_APART, N_RANKS,
) = LINE[:14]  # fmt: skip
NUMBERS = 14
"""Numbers of a job: micro-batches, work of one relative to the priced, seconds of a send, whether sends run
beside compute, number of the schedule, whether forward and backward run at once, whether collectives run
beside compute, whether each pass gathers, parameters of a bucket (0: one piece), share of SMs, seconds of the
tied matrix and of the norm, whether experts are apart, data-parallel ranks."""

FORWARD, BACKWARD, INTO, WEIGHTS, PAIR, COMPUTING = LINE[:6]
PASSES = 6
"""Lines of the passes: forward, backward, input and weight gradient, both at once, computing of both."""

GATHER, GATHER_EXPERTS, REDUCE, REDUCE_EXPERTS, COPY = LINE[:5]
DATA = 5
"""Lines of the data-parallel collectives, each seconds per parameter and seconds per piece."""

GPIPE, ZB_H1, ZB_H2, DUALPIPE = (SCHEDULES.index(name) for name in ("gpipe", "zb-h1", "zb-h2", "dualpipe"))

bare = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@bare
def _period(stage, forward, backward, send, beside):  # type: ignore[no-untyped-def]
    """Seconds between micro-batches of 1F1B: a stage's, or a loop's over the passes under way in it."""
    p = stage.size
    longest = stage.max()
    if beside or send > 0.0:
        behind = 0.0
        for s in range(p - 1, -1, -1):
            behind += forward[s, 0] + backward[s, 0]
            longest = max(longest, (behind + 2.0 * send * (p - 1 - s)) / (p - s))
    return longest


@bare
def _pipeline(number, forward, backward, into, weights, pair):  # type: ignore[no-untyped-def]
    """From the first forward to the last backward."""
    p, v = forward.shape
    m, send = number[N_MICRO_BATCHES], number[N_SEND]
    schedule, beside = number[N_SCHEDULE], number[N_P2P_BESIDE] > 0.0
    if schedule == DUALPIPE:
        # a rank's two chunks get half of the micro-batches each
        f = b = w = both = 0.0
        for s in range(p):
            f = max(f, forward[s].sum() / v)
            b = max(b, backward[s].sum() / v)
            w = max(w, weights[s].sum() / v)
            both = max(both, pair[s].sum() / v)
        steady = max(0.0, m - p) * both + min(m, p) * (f + b)
        return steady + (p / 2 - 1) * max(0.0, both + b - 3.0 * w) + 2 * (p - 1) * send
    one_way = (forward.sum() + backward.sum()) / v + 2 * (p - 1) * send
    stage = np.empty(p)
    for s in range(p):
        stage[s] = pair[s].sum() if number[N_PAIRED] > 0.0 else forward[s].sum() + backward[s].sum()
        if not beside and p > 1:  # sends stand in the way of the next pass, one in each direction
            at_end = s == 0 or s == p - 1
            ways = (2.0 * v - 1.0 if v > 1 else 1.0) if at_end else 2.0 * v
            stage[s] += ways * send
    if p == 1:
        return m * stage[0]
    if schedule == GPIPE:
        return one_way + (m - 1) * (forward.max() + backward.max() + (0.0 if beside else 2.0 * send))
    if v > 1:
        slow = stage.argmax()
        others = (forward.sum() + backward.sum() - forward[slow].sum() - backward[slow].sum()) / v
        missing = (p - m % p) % p  # a ragged group's forwards go round as slowly as a whole one's
        # a chunk's group of p micro-batches goes round in p passes and p sends: at the beginning and at the
        # end, where nothing goes the other way, all stages wait for the sends
        rounds = 2 * (v - 1) * p * send if beside else 0.0
        return m * stage[slow] + missing * forward[slow].sum() + others + 2 * (p - 1) * send + rounds
    if schedule in (ZB_H1, ZB_H2):
        times = 1.0 if schedule == ZB_H1 else 2.0
        rest = most = critical = slowest = 0.0
        for s in range(p):
            one = max(0.0, forward[s, 0] + into[s, 0] - times * weights[s, 0])
            rest, most = rest + one, max(most, one)
            critical += forward[s, 0] + into[s, 0]
            slowest = max(slowest, forward[s, 0] + into[s, 0])
        usual = m * stage.max() + rest - most
        # too few micro-batches to fill the pipeline: the first one's way, and the others behind it
        few = critical + (m - 1) * slowest + weights[0, 0]
        return max(usual, few) + 2 * (p - 1) * send
    return one_way + (m - 1) * _period(stage, forward, backward, send, beside)


@bare
def _exposed(number, forward, backward, behind, gather, reduce, pieces):  # type: ignore[no-untyped-def]
    """Seconds that gathers delay the first passes, and reductions the end, beyond the pipeline itself."""
    p, v = forward.shape
    m, share = number[N_MICRO_BATCHES], number[N_SHARE]
    group = min(p, m)
    begin = tail = 0.0
    ahead = drain = 0.0  # when a stage's first forward could begin; how much earlier its last one ends
    for s in range(p):
        gathered, reduced = gather[s].sum(), reduce[s].sum()
        if number[N_DATA_BESIDE] > 0.0:
            until = delay = before = 0.0
            for c in range(v):
                needed = ahead + group * before
                first = until + gather[s, c] / pieces[s, c]
                until += gather[s, c]
                last = until - needed - forward[s, c] * (1.0 - 1.0 / pieces[s, c])
                delay = max(delay, first - needed, last)
                before += forward[s, c]
            # what hides behind compute slows it
            begin = max(begin, delay + share * max(0.0, until - delay))
            free, later = -np.inf, backward[s].sum()
            for c in range(v - 1, -1, -1):
                n = pieces[s, c]
                later -= backward[s, c]
                ends = -group * later  # of the chunk's last backward, 0 being the stage's own end
                wire = reduce[s, c] / n
                ready = ends - behind[s, c] + behind[s, c] / n
                free = max(max(free, ready) + n * wire, ends + wire)
            hidden = max(0.0, reduced - max(0.0, free))
            free = max(free, reduce[s, 0] / pieces[s, 0] + share * hidden)
            tail = max(tail, free - drain)
        else:
            begin = max(begin, gathered - ahead)
            tail = max(tail, reduced - drain)
        ahead += forward[s, 0]
        drain += backward[s, 0]
    return begin, tail


@bare
def _beside(compute, wire, share):  # type: ignore[no-untyped-def]
    """Seconds of compute that loses a share of its speed while something crosses the wire, and of that."""
    return max(compute + share * min(wire, compute / (1.0 - share)), wire)


@njit(cache=True, no_cfunc_wrapper=True)
def step_in_closed_form(number, passes, parameters, experts, optimizer, layers, data):  # type: ignore[no-untyped-def]
    """Seconds of a step, and of it: compute, communication on the path, data, optimiser, bubble.

    Parameters
    ----------
    number : float64[NUMBERS]
    passes : float64[PASSES, p, v]
        Seconds.
    parameters, experts : float64[p, v]
        Of one rank, experts among them.
    optimizer : float64[p]
        Seconds.
    layers : int64[p, v]
    data : float64[DATA, 2]
    """
    p, v = parameters.shape
    work, m = number[N_WORK], number[N_MICRO_BATCHES]
    schedule = number[N_SCHEDULE]
    forward, backward = work * passes[FORWARD], work * passes[BACKWARD]
    into, weights, pair = work * passes[INTO], work * passes[WEIGHTS], work * passes[PAIR]
    each_pass, share = number[N_EACH_PASS] > 0.0, number[N_SHARE]
    gather, reduce, pieces = np.zeros((p, v)), np.zeros((p, v)), np.ones((p, v))
    tail = 0.0
    if number[N_RANKS] > 1.0:
        for s in range(p):
            for c in range(v):
                held = max(1.0, layers[s, c])
                apart = experts[s, c] if number[N_APART] > 0.0 else 0.0
                dense = parameters[s, c] - apart
                if each_pass:
                    pieces[s, c] = held
                elif number[N_BUCKET] > 0.0:
                    pieces[s, c] = min(held, max(1.0, np.round(parameters[s, c] / number[N_BUCKET])))
                n = pieces[s, c]
                if dense > 0.0:
                    gather[s, c] += dense * data[GATHER, 0] + n * data[GATHER, 1]
                    reduce[s, c] += dense * data[REDUCE, 0] + n * data[REDUCE, 1]
                    reduce[s, c] += dense * data[COPY, 0] + n * data[COPY, 1]
                if apart > 0.0:
                    gather[s, c] += apart * data[GATHER_EXPERTS, 0] + n * data[GATHER_EXPERTS, 1]
                    reduce[s, c] += apart * data[REDUCE_EXPERTS, 0] + n * data[REDUCE_EXPERTS, 1]
    if each_pass:  # beside compute where the next piece's is issued ahead
        for s in range(p):
            for c in range(v):
                if number[N_DATA_BESIDE] > 0.0:
                    forward[s, c] = _beside(forward[s, c], gather[s, c], share)
                    backward[s, c] = _beside(backward[s, c], gather[s, c] + reduce[s, c], share)
                else:
                    forward[s, c] += gather[s, c]
                    backward[s, c] += gather[s, c] + reduce[s, c]
                pair[s, c] = forward[s, c] + backward[s, c]
            tail = max(tail, reduce[s, 0] / pieces[s, 0])
    span = _pipeline(number, forward, backward, into, weights, pair)
    begin = 0.0
    if not each_pass:
        split = schedule in (ZB_H1, ZB_H2, DUALPIPE)
        behind = weights if split else backward  # what reductions can hide behind
        begin, tail = _exposed(number, forward, backward, behind, gather, reduce, pieces)
    exposed = begin + tail + number[N_TIED] + number[N_NORM]
    step = exposed + span + optimizer.max()
    both = p * (2.0 if schedule == DUALPIPE else 1.0)
    compute = m * work * passes[COMPUTING].sum() / both
    on_path = max(0.0, m * work * (passes[FORWARD].sum() + passes[BACKWARD].sum()) / both - compute)
    mean = optimizer.sum() / p
    bubble = max(0.0, step - compute - on_path - exposed - mean)
    return step, compute, on_path, exposed, mean, bubble


@njit(cache=True, no_cfunc_wrapper=True)
def optimizer_seconds(parameters, experts, dense_shards, expert_shards, sizes, spent):  # type: ignore[no-untyped-def]
    """Seconds of every stage's optimiser, float64[p].

    Parameters
    ----------
    parameters, experts : float64[p, v]
        Of one rank.
    dense_shards, expert_shards : float
        Ranks that share out the passes; casts go into the whole copy.
    sizes, spent : float64[N], float64[2, N]
        Logarithms of numbers of parameters at equal distances, and of the seconds of passes and of casts.
    """
    p = parameters.shape[0]
    seconds = np.zeros(p)
    width = sizes[1] - sizes[0]
    last = sizes.size - 1
    for s in range(p):
        of_experts = experts[s].sum()
        for part in range(2):
            held = of_experts if part == 1 else parameters[s].sum() - of_experts
            if held <= 0.0:
                continue
            for curve in range(2):
                shards = 1.0 if curve == 1 else (expert_shards if part == 1 else dense_shards)
                at = (np.log(max(held / shards, 1.0)) - sizes[0]) / width
                i = min(max(int(np.floor(at)), 0), last - 1)
                x = min(max(at - i, 0.0), 1.0)
                seconds[s] += np.exp(spent[curve, i] * (1.0 - x) + spent[curve, i + 1] * x)
    return seconds
