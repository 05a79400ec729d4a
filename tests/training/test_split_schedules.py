"""Split and two-way schedules: orders against a plain simulator, programs against the orders.

Oracles: the bubble formulas of arXiv:2401.10241 (table 1) and arXiv:2412.19437 (table 2), a pipeline
simulator in plain Python that knows passes and dependencies only, and the in-flight bounds of the papers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.clock import TransferTable, execute
from euston.cluster import Parallel
from euston.collectives.network_rates import SCALE_OUT_STEP_LATENCY
from euston.errors import ConfigError
from euston.models import Transformer
from euston.network import Columns
from euston.training import TrainingJob, in_flight, order
from euston.training.costs import ChunkCost, Costs
from euston.training.iteration import _step_time
from euston.training.schedule_split import BACKWARD, FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from euston.training.write import Slots, write_iteration

SPLIT = ("zb-h1", "zb-h2", "dualpipe")
EVERY = ("gpipe", "1f1b", "interleaved", *SPLIT)


def stage_of(schedule: str, p: int, s: int, chunk: int) -> int:
    """The model's virtual stage that a chunk of rank s is."""
    if schedule == "dualpipe":
        return p - 1 - s if chunk else s
    return chunk * p + s


def simulate(schedule: str, p: int, v: int, m: int, seconds: Any, work: Any = None) -> tuple[float, float]:
    """Makespan, and the longest time any stage is at it, with free transfers.

    ``seconds(kind, virtual stage)``; a pair of passes takes the sum of both and ends together.

    Raises
    ------
    AssertionError
        On a deadlock.
    """
    orders = [
        list(zip(*(column.tolist() for column in stage), strict=True)) for stage in order(schedule, p, v, m)
    ]
    last = p * (1 if schedule == "dualpipe" else v) - 1
    end: dict[tuple[str, int, int], float] = {}
    begin, free, at = [np.inf] * p, [0.0] * p, [0] * p
    moved = True
    while moved:
        moved = False
        for s in range(p):
            while at[s] < len(orders[s]):
                passes = orders[s][at[s] : at[s] + 1 + orders[s][at[s]][3]]
                needs = []
                for kind, c, i, _ in passes:
                    g = stage_of(schedule, p, s, c)
                    if kind == FORWARD:
                        needs += [("F", g - 1, i)] if g else []
                    elif kind == WEIGHT_GRADIENT:
                        needs += [("B", g, i)]
                    else:
                        needs += [("F", g, i)] + ([("B", g + 1, i)] if g < last else [])
                if any(need not in end for need in needs):
                    break
                start = max([free[s], *(end[need] for need in needs)])
                took = sum(
                    seconds(k, stage_of(schedule, p, s, c)) * (1.0 if work is None else work[passes[0][2]])
                    for k, c, _, _ in passes
                )
                begin[s] = min(begin[s], start)
                free[s] = start + took
                for kind, c, i, _ in passes:
                    letter = {FORWARD: "F", WEIGHT_GRADIENT: "W"}.get(kind, "B")
                    end[letter, stage_of(schedule, p, s, c), i] = free[s]
                at[s] += len(passes)
                moved = True
    assert at == [len(stage) for stage in orders], f"{schedule} deadlocks with p {p}, v {v}, m {m}"
    return max(free), max(f - b for f, b in zip(free, begin, strict=True))


def even(f: float, b: float, w: float) -> Any:
    return lambda kind, _: {FORWARD: f, BACKWARD: b + w, INPUT_GRADIENT: b, WEIGHT_GRADIENT: w}[kind]


# ---- published bubbles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("f", "b", "w"), [(1, 1, 1), (2, 3, 2), (1, 2, 1), (5, 6, 4)])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 4), (4, 8), (8, 17), (4, 4)])
def test_zero_bubble_h1(p: int, m: int, f: float, b: float, w: float) -> None:
    """(p - 1)(F + B - W) for W <= B (Qi et al., table 1)."""
    found, _ = simulate("zb-h1", p, 1, m, even(f, b, w))
    assert found - m * (f + b + w) == pytest.approx((p - 1) * (f + b - w))


@pytest.mark.parametrize(("f", "b", "w"), [(1, 1, 1), (2, 3, 2), (1, 2, 1), (5, 6, 4)])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 4), (4, 8), (8, 17)])
def test_zero_bubble_h2(p: int, m: int, f: float, b: float, w: float) -> None:
    """(p - 1)(F + B - 2W) of the time that a stage is at it, from 2p - 1 micro-batches on."""
    _, span = simulate("zb-h2", p, 1, m, even(f, b, w))
    assert span - m * (f + b + w) == pytest.approx((p - 1) * (f + b - 2 * w))


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (4, 12), (6, 14), (8, 32), (16, 40)])
def test_dualpipe(p: int, m: int) -> None:
    """(p/2 - 1)(FB + B - 3W) with F = Bx = W (DeepSeek-V3, table 2); with others it bounds."""
    for f, b, w in ((1, 1, 1), (2, 3, 2), (5, 6, 4)):
        found, _ = simulate("dualpipe", p, 1, m, even(f, b, w))
        bubble = found - m * (f + b + w)
        published = (p / 2 - 1) * ((f + b + w) + (b + w) - 3 * w)
        if f == b == w:
            assert bubble == pytest.approx(published)
        assert bubble <= published + 1e-9


# ---- orders ------------------------------------------------------------------------------------------------


@st.composite
def shapes(draw: st.DrawFn, schedules: tuple[str, ...] = EVERY) -> tuple[str, int, int, int]:
    schedule = draw(st.sampled_from(schedules))
    p = draw(st.integers(1, 8))
    if schedule == "dualpipe":
        p = 2 * draw(st.integers(1, 4))
        return schedule, p, 1, 2 * p + 2 * draw(st.integers(0, 8))
    v = draw(st.integers(1, 3)) if schedule == "interleaved" and p > 1 else 1
    return schedule, p, v, draw(st.integers(1, 20))


@given(shapes(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_no_order_deadlocks_and_none_beats_its_busiest_stage(
    shape: tuple[str, int, int, int], seed: int
) -> None:
    schedule, p, v, m = shape
    times = np.random.default_rng(seed).uniform(0.1, 1.0, (4, p * v))
    found, span = simulate(schedule, p, v, m, lambda kind, stage: float(times[kind, stage]))
    busy = [
        sum(
            times[kind, stage_of(schedule, p, s, int(chunk))]
            for kind, chunk in zip(stage.kind, stage.chunk, strict=True)
        )
        for s, stage in enumerate(order(schedule, p, v, m))
    ]
    assert max(busy) <= span * (1 + 1e-12) <= found * (1 + 1e-9)


@given(shapes(SPLIT))
@settings(max_examples=80, deadline=None)
def test_every_gradient_once_after_its_forward_and_within_the_bound(shape: tuple[str, int, int, int]) -> None:
    """Nothing is freed before its last use: F, then B, then W; the bound on what is held is reached."""
    schedule, p, v, m = shape
    for s, stage in enumerate(order(schedule, p, v, m)):
        seen: dict[tuple[int, int], list[int]] = {}
        for kind, chunk, micro_batch in zip(stage.kind, stage.chunk, stage.micro_batch, strict=True):
            seen.setdefault((int(chunk), int(micro_batch)), []).append(int(kind))
        assert all(
            kinds in ([FORWARD, BACKWARD], [FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT])
            for kinds in seen.values()
        )
        assert len(seen) == m
        held = np.cumsum(stage.held)
        assert held[-1] == 0
        assert held.min() >= 0
        bound = in_flight(schedule, p, v, m, s)
        assert held.max() <= bound
        if schedule != "dualpipe" and m >= 2 * p - 1:
            assert held.max() == bound


@given(shapes(("1f1b", "gpipe")))
@settings(max_examples=20, deadline=None)
def test_whole_backwards_are_never_paired(shape: tuple[str, int, int, int]) -> None:
    assert not any(stage.paired.any() for stage in order(*shape))


@pytest.mark.parametrize(
    ("p", "m", "match"), [(3, 12, "odd"), (4, 6, "at least 2 x 4 stages = 8"), (4, 9, "even number")]
)
def test_dualpipe_refuses_what_it_cannot_run(p: int, m: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        order("dualpipe", p, 1, m)


# ---- programs ----------------------------------------------------------------------------------------------


def executed(
    schedule: str, p: int, v: int, m: int, times: np.ndarray, work: tuple[float, ...] | None = None
) -> float:
    """The step of the program with chunks that take ``times`` float64[virtual stages, 3] (F, B, W)."""
    model = Transformer("tiny", layers=p * v, hidden=64, heads=4, vocab=128)
    job = TrainingJob(
        model, Parallel(pipeline=p, virtual=v), global_batch=m, sequence=16,
        schedule=schedule,
        stages=(1,) * (p * v), work=work,
    )  # fmt: skip
    job.check()
    stages = job.place()
    chunks = tuple(
        tuple(
            ChunkCost(1, f, b + w, 0.0, 0.0, 0.0, 0.0, 1, weight_gradient=w)
            for f, b, w in (times[stage_of(schedule, p, s, c)].tolist() for c in range(stages.virtual))
        )
        for s in range(p)
    )
    template = write_iteration(job, stages, Costs(chunks, None, (0.0,) * p, 0.0, pl.DataFrame(), 0.0, 0.0))
    n = Slots(p, stages.virtual).total
    nothing = Columns(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0), 1)
    table = TransferTable(
        np.arange(n + 1), np.zeros(n, np.int32), np.zeros(n), np.ones(n), np.ones(n), np.zeros(n),
        np.zeros(n), nothing,
    )  # fmt: skip
    run = execute(template.program, table, [1.0])
    step = _step_time(run.start, run.end, template, np.arange(len(template.program))[None])
    norm = 2 * int(np.ceil(np.log2(p))) * SCALE_OUT_STEP_LATENCY if p > 1 else 0.0
    return step if schedule == "zb-h2" else step - norm


@given(shapes(), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_programs_are_the_simulated_orders(shape: tuple[str, int, int, int], seed: int, uneven: bool) -> None:
    """Random unequal stages (and micro-batches); a step of ZB-H2 is that of its longest stage."""
    schedule, p, v, m = shape
    rng = np.random.default_rng(seed)
    times = rng.uniform(0.1, 1.0, (p * v, 3))
    # Weight gradients of passes that are run whole count to the backward.
    work = tuple(rng.uniform(0.5, 1.5, m).tolist()) if uneven and schedule != "dualpipe" else None

    def seconds(kind: int, stage: int) -> float:
        f, b, w = times[stage]
        return float({FORWARD: f, BACKWARD: b + w, INPUT_GRADIENT: b, WEIGHT_GRADIENT: w}[kind])

    makespan, span = simulate(schedule, p, v, m, seconds, work)
    expected = span if schedule == "zb-h2" else makespan
    assert executed(schedule, p, v, m, times, work) == pytest.approx(expected, rel=1e-9)
