"""Programs of an iteration against plain pipeline simulators: bubbles, unequal stages, sends, ZeRO-3's order.

Oracles: the bubble formulas of SC'21 (arXiv:2104.04473), a recursion over passes in plain Python, timelines
by hand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from euston.clock import Execution, TransferTable, execute
from euston.cluster import Parallel
from euston.collectives.network_rates import SCALE_OUT_STEP_LATENCY
from euston.models import Transformer
from euston.network import Columns
from euston.training import SoftwareProfile, TrainingJob, order
from euston.training.costs import ChunkCost, Costs
from euston.training.write import Slots, Template, write_iteration

Table = NDArray[np.float64]
FORWARD, BACKWARD = 1.0, 2.0


def make_job(
    pipeline: int, virtual: int = 1, micro_batches: int = 4, *, layers: int = 1, data: int = 1,
    sharding: Literal["none", "zero1", "zero2", "zero3"] = "none",
    schedule: Literal["1f1b", "interleaved", "gpipe"] | None = None, **software: Any,
) -> TrainingJob:  # fmt: skip
    count = pipeline * virtual
    model = Transformer("tiny", layers=layers * count, hidden=64, heads=4, vocab=128)
    return TrainingJob(
        model,
        Parallel(pipeline=pipeline, virtual=virtual, data=data, sharding=sharding),
        global_batch=micro_batches * data,
        sequence=16,
        schedule=schedule or ("interleaved" if virtual > 1 else "1f1b"),
        stages=(layers,) * count,
        software=SoftwareProfile(**software),
    )


def made_up(forward: Table, backward: Table, *, layers: int = 1, parameters: int = 1) -> Costs:
    """Costs of chunks that take ``forward`` and ``backward`` seconds, float64[stages, chunks] each."""
    chunks = tuple(
        tuple(
            ChunkCost(layers, float(f), float(b), 0.0, 0.0, 0.0, 0.0, parameters)
            for f, b in zip(fs, bs, strict=True)
        )
        for fs, bs in zip(forward, backward, strict=True)
    )
    return Costs(chunks, None, (0.0,) * len(chunks), 0.0, pl.DataFrame(), 0.0, 0.0)


def play(job: TrainingJob, cost: Costs, seconds: dict[str, float]) -> tuple[Template, Execution]:
    """Execute one replica's program; transfers take the given seconds by kind, 0 where nothing is said."""
    template = write_iteration(job, job.place(), cost)
    slots = Slots(job.parallel.pipeline, job.parallel.virtual)
    latency = np.zeros(slots.total)
    p, v = slots.pipeline, slots.virtual
    latency[p : 3 * p] = seconds.get("pipeline", 0.0)
    latency[slots.own : slots.own + p * v] = seconds.get("gather", 0.0)
    latency[slots.own + p * v :] = seconds.get("reduce", 0.0)
    n = slots.total
    nothing = Columns(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0), 1)
    table = TransferTable(
        np.arange(n + 1), np.zeros(n, np.int32), np.zeros(n), np.ones(n), np.ones(n), latency, np.zeros(n),
        nothing,
    )  # fmt: skip
    return template, execute(template.program, table, [1.0])


def norm_seconds(job: TrainingJob) -> float:
    """The step's end: a reduction of one number over everybody."""
    world = job.parallel.world
    return 2 * int(np.ceil(np.log2(world))) * SCALE_OUT_STEP_LATENCY if world > 1 else 0.0


def makespan(job: TrainingJob, cost: Costs, **seconds: float) -> float:
    return play(job, cost, seconds)[1].makespan - norm_seconds(job)


def even(p: int, v: int = 1) -> Costs:
    return made_up(np.full((p, v), FORWARD / v), np.full((p, v), BACKWARD / v))


# ---- bubbles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 2), (2, 8), (4, 4), (4, 12), (8, 16)])
def test_bubbles_of_equal_stages(p: int, m: int) -> None:
    """Oracle: ideal m(F+B), plus (p-1)(F+B) for 1F1B and GPipe, divided by v when interleaved (SC'21)."""
    whole = FORWARD + BACKWARD
    for schedule in ("1f1b", "gpipe"):
        job = make_job(p, 1, m, schedule=schedule)
        assert makespan(job, even(p)) == pytest.approx((m + p - 1) * whole, rel=1e-12)
    for v in (2, 3):
        if m % p == 0:
            assert makespan(make_job(p, v, m), even(p, v)) == pytest.approx(
                (m + (p - 1) / v) * whole, rel=1e-12
            )


@pytest.mark.parametrize("p", [2, 4, 8])
def test_sends_on_the_critical_path_of_1f1b(p: int) -> None:
    """A send of L seconds each way, beside compute. With m = 1 the path has 2(p-1) sends."""
    sends = 2 * (p - 1) * 0.1
    assert makespan(make_job(p, 1, 1), even(p), pipeline=0.1) == pytest.approx(3.0 * p + sends)


def plain_pipeline(job: TrainingJob, forward: Table, backward: Table, send: float, overlap: bool) -> float:
    """The slow plain version: passes in each stage's order, sends one after the other per direction."""
    p, v, m = job.parallel.pipeline, job.parallel.virtual, job.micro_batches
    orders = order(job.schedule, p, v, m)
    at, free = [0] * p, [0.0] * p
    line = {(s, way): 0.0 for s in range(p) for way in (False, True)}
    arrived: dict[tuple[bool, int, int, int], float] = {}
    ended: dict[tuple[int, int, int], float] = {}
    left = 2 * p * v * m
    while left:
        for s in range(p):
            while at[s] < len(orders[s].chunk):
                way, c, b = (
                    bool(orders[s].is_backward[at[s]]),
                    int(orders[s].chunk[at[s]]),
                    int(orders[s].micro_batch[at[s]]),
                )
                first = (s, c) == ((p - 1, v - 1) if way else (0, 0))
                if not first and (way, s, c, b) not in arrived:
                    break
                start = max(free[s], 0.0 if first else arrived[way, s, c, b])
                if way:
                    start = max(start, ended[s, c, b])
                end = start + (backward if way else forward)[s, c]
                free[s] = end
                if not way:
                    ended[s, c, b] = end
                to = (s - 1, c) if way else (s + 1, c)
                if to[0] in (-1, p):
                    to = (p - 1, c - 1) if way else (0, c + 1)
                if 0 <= to[1] < v:
                    if p == 1:
                        sent = end
                    elif overlap:
                        sent = line[s, way] = max(line[s, way], end) + send
                    else:
                        sent = free[s] = end + send
                    arrived[way, to[0], to[1], b] = sent
                at[s] += 1
                left -= 1
    return max(free)


@given(
    st.sampled_from([(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 3)]),
    st.integers(1, 9),
    st.sampled_from(["1f1b", "gpipe"]),
    st.booleans(),
    st.sampled_from([0.0, 0.05, 1.5]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_unequal_stages_and_sends_against_the_plain_version(
    shape: tuple[int, int], m: int, schedule: Literal["1f1b", "gpipe"], overlap: bool, send: float, seed: int
) -> None:
    p, v = shape
    rng = np.random.default_rng(seed)
    forward, backward = rng.uniform(0.1, 2, (2, p, v))
    job = make_job(p, v, m, schedule=None if v > 1 else schedule, p2p_overlap=overlap)
    expected = plain_pipeline(job, forward, backward, send, overlap)
    assert makespan(job, made_up(forward, backward), pipeline=send) == pytest.approx(expected, rel=1e-9)


# ---- data parallelism --------------------------------------------------------------------------------------


def spans(run: Execution, label: str) -> list[tuple[float, float]]:
    mine = run.program.label == run.program.labels.index(label)
    return sorted(
        (round(float(a), 9), round(float(b), 9)) for a, b in zip(run.start[mine], run.end[mine], strict=True)
    )


def four_layers() -> Costs:
    return made_up(np.array([[4.0]]), np.array([[8.0]]), layers=4, parameters=4 * 40_000_000)


def test_buckets_are_reduced_behind_the_last_backward() -> None:
    """One chunk of 4 layers = 4 buckets, 2 micro-batches. The reduction of a layer runs beside the next
    layer; only the last one is exposed: 2 * (4 + 8) + 1.5."""
    job = make_job(1, 1, 2, layers=4, data=2)
    template, run = play(job, four_layers(), {"reduce": 1.5})
    assert template.pieces == [[4]]
    assert spans(run, "gradients") == [
        (18.0, 19.5), (20.0, 21.5), (22.0, 23.5), (24.0, 25.5), (25.5, 25.5)
    ]  # fmt: skip
    assert run.makespan - norm_seconds(job) == pytest.approx(25.5)
    late = replace(job, software=SoftwareProfile(data_overlap=False))
    template, run = play(late, four_layers(), {"reduce": 4 * 1.5})
    assert template.pieces == [[1]]
    assert spans(run, "gradients") == [(24.0, 30.0), (30.0, 30.0)]


def test_parameters_are_gathered_before_the_first_forward() -> None:
    """ZeRO-1: layer by layer beside the first forward (each layer waits for its own), or all before it."""
    job = make_job(1, 1, 2, layers=4, data=2, sharding="zero1")
    _, run = play(job, four_layers(), {"gather": 1.5})
    assert spans(run, "parameters") == [(0.0, 1.5), (1.5, 3.0), (3.0, 4.5), (4.5, 6.0)]
    assert spans(run, "forward")[:4] == [(1.5, 2.5), (3.0, 4.0), (4.5, 5.5), (6.0, 7.0)]
    late = replace(job, software=SoftwareProfile(data_overlap=False))
    _, run = play(late, four_layers(), {"gather": 6.0})
    assert spans(run, "forward")[0] == (6.0, 10.0)


def test_no_gather_without_sharding() -> None:
    _, run = play(make_job(1, 1, 2, layers=4, data=2), four_layers(), {})
    assert "parameters" not in run.program.labels


def test_zero3_gathers_one_layer_ahead_in_both_directions() -> None:
    """By hand, one micro-batch of 4 layers, gathers of 0.5 s and reductions of 0.25 s on one communicator.

    Forward: only the first gather shows. Backward (2 s a layer): each next gather is issued with the layer
    before it, ahead of that layer's reduction, so that none shows but the last reduction."""
    job = make_job(1, 1, 1, layers=4, data=2, sharding="zero3")
    template, run = play(job, four_layers(), {"gather": 0.5, "reduce": 0.25})
    assert template.pieces == [[4]]
    assert spans(run, "forward") == [(0.5, 1.5), (1.5, 2.5), (2.5, 3.5), (3.5, 4.5)]
    assert spans(run, "backward") == [(4.5, 6.5), (6.5, 8.5), (8.5, 10.5), (10.5, 12.5)]
    assert spans(run, "parameters") == [
        (0.0, 0.5), (0.5, 1.0), (1.5, 2.0), (2.5, 3.0), (3.5, 4.0), (4.5, 5.0), (6.75, 7.25), (8.75, 9.25)
    ]  # fmt: skip
    assert spans(run, "gradients")[:4] == [(6.5, 6.75), (8.5, 8.75), (10.5, 10.75), (12.5, 12.75)]


def test_zero3_without_overlap_shows_every_collective() -> None:
    """8 gathers and 4 reductions between 4 + 8 seconds of compute, one after the other."""
    job = make_job(1, 1, 1, layers=4, data=2, sharding="zero3", data_overlap=False)
    assert makespan(job, four_layers(), gather=0.5, reduce=0.25) == pytest.approx(12 + 8 * 0.5 + 4 * 0.25)


def test_zero3_that_keeps_parameters_gathers_once() -> None:
    job = replace(make_job(1, 1, 3, layers=4, data=2, sharding="zero3"), reshard_after_forward=False)
    _, run = play(job, four_layers(), {"gather": 0.5})
    assert len(spans(run, "parameters")) == 4


def test_large_groups_have_large_buckets() -> None:
    """Megatron-LM: max(40 M, 1 M x data-parallel size) parameters, so 512 replicas take 512 M in one go."""
    template, _ = play(make_job(1, 1, 1, layers=4, data=512), four_layers(), {})
    assert template.pieces == [[1]]
    template, _ = play(make_job(1, 1, 1, layers=4, data=80), four_layers(), {})
    assert template.pieces == [[2]]
