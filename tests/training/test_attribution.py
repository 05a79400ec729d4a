"""Where the time goes: made-up programs with known exposed transfers, and sums that must close."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.clock import Execution, ProgramBuilder, TransferTable, execute
from euston.network import Columns
from euston.training.attribution import CATEGORIES, attribute


def play(write: Callable[[ProgramBuilder], None], *seconds: float) -> Execution:
    """Execute what ``write`` writes; transfer i takes ``seconds[i]``."""
    b = ProgramBuilder()
    write(b)
    n = len(seconds)
    nothing = Columns(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0), 1)
    table = TransferTable(
        np.arange(n + 1), np.zeros(n, np.int32), np.zeros(n), np.ones(n), np.ones(n), np.array(seconds),
        np.zeros(n), nothing,
    )  # fmt: skip
    return execute(b.build(), table, [1.0])


def charged(run: Execution, stream: int, step: float | None = None) -> dict[str, float]:
    row = attribute(run, np.array([stream]), run.makespan if step is None else step)[0]
    return {name: float(value) for name, value in zip(CATEGORIES, row, strict=True) if value > 0}


def test_a_wait_is_the_transfers_as_far_as_it_ran_and_else_the_bubble() -> None:
    """Stage 1 idles 3 s: for 2 s the sender still computes (bubble), then 1 s is the transfer itself."""

    def write(b: ProgramBuilder) -> None:
        one, two = b.stream("stage 0"), b.stream("stage 1")
        first = b.compute(one, 2.0, label="forward")
        sent = b.send(0, label="pipeline", after=[first])
        b.compute(two, 4.0, label="forward", after=[sent])

    run = play(write, 1.0)
    assert charged(run, 1) == {"forward": 4.0, "pipeline": 1.0, "bubble": 2.0}
    assert charged(run, 0) == {"forward": 2.0, "bubble": 5.0}


def test_only_the_exposed_part_of_a_transfer_counts() -> None:
    """A gather of 3 s that starts with 2 s of compute shows 1 s; one that fits shows nothing."""

    def write(b: ProgramBuilder) -> None:
        s, wire = b.stream("stage"), b.stream("wire")
        long = b.send(0, label="parameters", stream=wire)
        b.compute(s, 2.0, label="forward")
        short = b.send(1, label="gradients", stream=wire, after=[long])
        b.compute(s, 2.0, label="backward", after=[long])
        b.compute(s, 1.0, label="optimizer", after=[short])

    assert charged(play(write, 3.0, 1.0), 0) == {
        "forward": 2.0, "data": 1.0, "backward": 2.0, "optimizer": 1.0
    }  # fmt: skip


def test_a_chain_of_transfers_is_charged_link_by_link() -> None:
    """A reduction that queued behind a gather: each has its own seconds; both data; then a pipeline send."""

    def write(b: ProgramBuilder) -> None:
        s, wire = b.stream("stage"), b.stream("wire")
        first = b.send(0, label="pipeline", stream=wire)
        second = b.send(1, label="gradients", stream=wire, after=[first])
        done = b.join([second], label="gradients")
        pause = b.wait(0.25, label="gradient norm", after=[done])
        b.compute(s, 1.0, label="optimizer", after=[pause])

    assert charged(play(write, 0.5, 2.0), 0) == pytest.approx(
        {"pipeline": 0.5, "data": 2.25, "optimizer": 1.0}
    )


def test_a_collective_on_the_compute_stream_is_exposed() -> None:
    def write(b: ProgramBuilder) -> None:
        s = b.stream("stage")
        b.compute(s, 1.0, label="backward")
        b.send(0, label="tensor", stream=s)
        b.compute(s, 1.0, label="backward")

    assert charged(play(write, 0.5), 0, step=4.0) == {"backward": 2.0, "tensor": 0.5, "bubble": 1.5}


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 40))
@settings(max_examples=60)
def test_rows_sum_to_the_step_and_are_never_negative(seed: int, streams: int, operations: int) -> None:
    """Any program: every second of every stream is charged exactly once."""
    rng = np.random.default_rng(seed)
    labels = ["forward", "backward", "tensor", "pipeline", "gradients", "something else"]

    def write(b: ProgramBuilder) -> None:
        mine = [b.stream(f"{i}") for i in range(streams)]
        wire = b.stream("wire")
        for i in range(operations):
            after = rng.choice(i, size=min(i, int(rng.integers(0, 3))), replace=False).tolist() if i else []
            label = str(rng.choice(labels))
            if rng.random() < 0.5:
                b.compute(int(rng.choice(mine)), float(rng.integers(0, 4)), label=label, after=after)
            else:
                stream = int(rng.choice([wire, -1, *mine]))
                b.send(int(rng.integers(3)), label=label, stream=stream, after=after)

    run = play(write, 0.0, 0.7, 2.0)
    step = run.makespan + float(rng.choice([0.0, 1.0]))
    rows = attribute(run, np.arange(streams), step)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=1), step, rtol=1e-9, atol=1e-12)
    busy = np.zeros(streams)
    on = run.program.stream
    for s in range(streams):
        busy[s] = (run.end - run.start)[on == s].sum()
    idle_and_waits = step - busy
    gaps = rows.sum(axis=1) - busy
    np.testing.assert_allclose(gaps, idle_and_waits, atol=1e-9)
