"""Pipeline orders against a plain simulator that executes them, and the published bubble formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.training.schedule import StageOrder, group_size, in_flight, order, stage_order

FORWARD, BACKWARD = 2.0, 3.0

Pass = tuple[bool, int, int]  # (is_backward, chunk, micro_batch)
Seconds = Callable[[bool, int], float]  # (is_backward, virtual stage) -> duration


def simulate(
    orders: list[list[Pass]], virtual: int, seconds: Seconds
) -> tuple[float, dict[tuple[bool, int, int], float]]:
    """The oracle: executes orders under their dependencies, transfers being free.

    F(virtual stage s, micro-batch i) needs F(s - 1, i); B(s, i) needs F(s, i) and B(s + 1, i); each stage
    runs its passes one after the other in the given order. Returns the makespan and the end of every
    (is_backward, virtual stage, micro_batch).

    Raises
    ------
    AssertionError
        On a deadlock.
    """
    pipeline = len(orders)
    last = pipeline * virtual - 1
    end: dict[tuple[bool, int, int], float] = {}
    position = [0] * pipeline
    free = [0.0] * pipeline
    progressed = True
    while progressed:
        progressed = False
        for stage, passes in enumerate(orders):
            while position[stage] < len(passes):
                backward, chunk, micro_batch = passes[position[stage]]
                place = chunk * pipeline + stage
                if not backward:
                    needs = [(False, place - 1, micro_batch)] if place > 0 else []
                else:
                    needs = [(False, place, micro_batch)]
                    needs += [(True, place + 1, micro_batch)] if place < last else []
                if any(need not in end for need in needs):
                    break
                start = max([free[stage], *(end[need] for need in needs)])
                free[stage] = end[(backward, place, micro_batch)] = start + seconds(backward, place)
                position[stage] += 1
                progressed = True
    stuck = [stage for stage, passes in enumerate(orders) if position[stage] < len(passes)]
    assert not stuck, f"deadlock: stages {stuck} wait at {[orders[s][position[s]] for s in stuck]}"
    return max(free), end


def most_in_flight(passes: list[Pass], weight: Callable[[int], float] = lambda chunk: 1.0) -> float:
    """Peak of what a stage holds: each forward adds its chunk's weight, its backward takes it away."""
    held = peak = 0.0
    for backward, chunk, _ in passes:
        held += -weight(chunk) if backward else weight(chunk)
        peak = max(peak, held)
    return peak


def passes_of(stage: StageOrder) -> list[Pass]:
    return [
        (bool(b), int(c), int(m))
        for b, c, m in zip(stage.is_backward, stage.chunk, stage.micro_batch, strict=True)
    ]


def run(schedule: str, pipeline: int, virtual: int, micro_batches: int, group: int | None = None) -> float:
    """Makespan with equal stages whose forward and backward of all chunks take 2 and 3."""
    orders = [passes_of(stage) for stage in order(schedule, pipeline, virtual, micro_batches, group=group)]
    makespan, _ = simulate(orders, virtual, lambda backward, _: (BACKWARD if backward else FORWARD) / virtual)
    return makespan


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("pipeline", "micro_batches"), [(1, 5), (2, 1), (4, 4), (4, 11), (8, 64), (7, 3)])
def test_bubble_of_equal_stages(schedule: str, pipeline: int, micro_batches: int) -> None:
    """(p - 1)(F + B) (Narayanan et al., SC'21, section 2.2.1); also with fewer micro-batches than stages."""
    ideal = micro_batches * (FORWARD + BACKWARD)
    assert run(schedule, pipeline, 1, micro_batches) - ideal == pytest.approx(
        (pipeline - 1) * (FORWARD + BACKWARD)
    )


@pytest.mark.parametrize("virtual", [2, 3, 8])
@pytest.mark.parametrize(("pipeline", "groups"), [(2, 1), (2, 5), (4, 1), (4, 3), (8, 8)])
def test_interleaving_divides_the_bubble(virtual: int, pipeline: int, groups: int) -> None:
    """(p - 1)(F + B) / v (SC'21, section 2.2.2)."""
    micro_batches = groups * pipeline
    bubble = run("interleaved", pipeline, virtual, micro_batches) - micro_batches * (FORWARD + BACKWARD)
    assert bubble == pytest.approx((pipeline - 1) * (FORWARD + BACKWARD) / virtual)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[str, int, int, int, int | None]:
    schedule = draw(st.sampled_from(["gpipe", "1f1b", "interleaved"]))
    pipeline = draw(st.integers(1, 9))
    virtual = draw(st.integers(1, 5)) if schedule == "interleaved" else 1
    micro_batches = draw(st.integers(1, 30))
    group = None
    if schedule == "interleaved" and draw(st.booleans()):
        group = draw(st.integers(min(pipeline, micro_batches), micro_batches))
    return schedule, pipeline, virtual, micro_batches, group


@given(shapes(), st.lists(st.floats(0.1, 5.0), min_size=4, max_size=4))
@settings(max_examples=150, deadline=None)
def test_every_pass_once_and_never_a_deadlock(
    shape: tuple[str, int, int, int, int | None], durations: list[float]
) -> None:
    schedule, pipeline, virtual, micro_batches, group = shape
    orders = [passes_of(s) for s in order(schedule, pipeline, virtual, micro_batches, group=group)]
    everything = sorted(
        (b, c, m) for b in (False, True) for c in range(virtual) for m in range(micro_batches)
    )
    assert len(orders) == pipeline
    for passes in orders:
        assert sorted(passes) == everything
    # unequal stages: the order must not depend on durations
    makespan, _ = simulate(orders, virtual, lambda backward, place: durations[(2 * place + backward) % 4])
    assert makespan > 0


@given(shapes())
@settings(max_examples=150, deadline=None)
def test_in_flight_is_the_peak_of_the_order(shape: tuple[str, int, int, int, int | None]) -> None:
    schedule, pipeline, virtual, micro_batches, group = shape
    for stage in range(pipeline):
        passes = passes_of(stage_order(schedule, pipeline, virtual, micro_batches, stage, group))
        bound = in_flight(schedule, pipeline, virtual, micro_batches, stage, group)
        if virtual == 1 or micro_batches % group_size(pipeline, micro_batches, group) == 0:
            assert most_in_flight(passes) == bound
        else:
            assert most_in_flight(passes) <= bound


def test_no_deadlock_in_every_small_shape() -> None:
    """Exhaustive over small p, v, m and every allowed group, where remainders make the awkward cases."""
    for pipeline in range(1, 6):
        for virtual in range(1, 4):
            for micro_batches in range(1, 12):
                least = group_size(pipeline, micro_batches)
                for group in (None, *range(least, micro_batches + 1)):
                    run("interleaved", pipeline, virtual, micro_batches, group)


def test_published_in_flight_counts() -> None:
    """GPipe m; 1F1B min(m, p - r); interleaved L (1 + (p - 1) / (p v)) layers' worth (arXiv:2205.05198)."""
    assert in_flight("gpipe", 4, 1, 10, 2) == 10
    assert [in_flight("1f1b", 4, 1, 10, r) for r in range(4)] == [4, 3, 2, 1]
    assert [in_flight("1f1b", 4, 1, 2, r) for r in range(4)] == [2, 2, 2, 1]
    layers_per_chunk = 96 // 24  # GPT-3 175B on 8 stages x 3 chunks
    assert in_flight("interleaved", 8, 3, 64, 0) * layers_per_chunk == 96 * (1 + 7 / 24)


def test_megatron_interleaved_order_by_hand() -> None:
    """p = 2, v = 2, m = 4, stage 1: warm-up 2, then alternating (SC'21, Figure 4)."""
    stage = stage_order("interleaved", 2, 2, 4, 1)
    text = " ".join(f"{'B' if b else 'F'}{c}{m}" for b, c, m in passes_of(stage))
    assert text == ("F00 F01 F10 B10 F11 B11 F02 B00 F03 B01 F12 B12 F13 B13 B02 B03")


def test_warm_up_rules() -> None:
    def warm_up(schedule: str, virtual: int, micro_batches: int, stage: int) -> int:
        return int(stage_order(schedule, 4, virtual, micro_batches, stage).is_backward.argmax())

    assert warm_up("interleaved", 2, 4, 3) == 8  # as many micro-batches as stages: all forwards first
    assert warm_up("interleaved", 2, 8, 3) == 4 + 1  # the first alternation starts with a forward
    assert warm_up("interleaved", 1, 8, 1) == warm_up("1f1b", 1, 8, 1) == 2 + 1


@given(st.integers(2, 6), st.integers(2, 4), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_remainder_is_never_slower_than_the_next_multiple(
    pipeline: int, virtual: int, micro_batches: int
) -> None:
    whole = -(-micro_batches // pipeline) * pipeline
    assert (
        run("interleaved", pipeline, virtual, micro_batches)
        <= run("interleaved", pipeline, virtual, whole) + 1e-9
    )


def test_arrays_are_compact() -> None:
    stage = stage_order("interleaved", 16, 8, 16, 0)
    assert stage.is_backward.dtype == bool
    assert stage.chunk.dtype == stage.micro_batch.dtype == "int32"
    assert len(stage.chunk) == 2 * 16 * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1f1b", 4, 2, 8), "`virtual`: 2 chunks per stage need the interleaved schedule"),
        (("1f1", 4, 1, 8), "did you mean '1f1b'"),
        (("1f1b", 0, 1, 8), "`pipeline`: 0 must be at least 1"),
    ],
)
def test_refusals(arguments: tuple[str, int, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        order(*arguments)


def test_group_outside_its_range() -> None:
    with pytest.raises(ConfigError, match="must be from 4 to 8"):
        order("interleaved", 4, 2, 8, group=3)
