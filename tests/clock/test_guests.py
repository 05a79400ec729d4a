"""Transfers posted to a running executor, and operations that run again.

Oracle: one program written out beforehand, in which every guest is a wait until its time and then a transfer,
and every repetition stands behind the end of the one before.
"""

from __future__ import annotations

import numpy as np
import pytest

from euston.clock import Executor, ProgramBuilder, TransferTable, execute
from euston.errors import SimulationError
from euston.network.columns import Columns

ROWS, COLUMNS = 4, 6


def columns(rng: np.random.Generator) -> Columns:
    entries = [(c, r) for c in range(COLUMNS) for r in range(ROWS) if rng.random() < 0.5 or r == c % ROWS]
    column, row = np.array(entries).T
    return Columns.from_entries(
        column.astype(np.int64), row.astype(np.int32), rng.uniform(0.5, 2, len(entries)), columns=COLUMNS,
        rows=ROWS,
    )  # fmt: skip


def step(
    b: ProgramBuilder, stream: int, seconds: list[float], sizes: list[float], after: list[int]
) -> list[int]:
    """Compute on a stream, and a transfer behind every piece of it."""
    made: list[int] = []
    for i, (work, size) in enumerate(zip(seconds, sizes, strict=True)):
        c = b.compute(stream, work, label="work", after=after if not made else ())
        made += [c, b.send(i % COLUMNS, label="move", after=[c], repeats=size)]
    return made


@pytest.mark.parametrize("seed", range(12))
def test_guests_and_repetitions_equal_one_program_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = TransferTable.units(columns(rng))
    capacity = rng.uniform(1, 3, ROWS)
    n, rounds, guests = 5, 4, 15
    seconds, sizes = rng.uniform(0.1, 1, n).tolist(), rng.uniform(0.2, 2, n).tolist()
    posts = [
        (float(t), int(rng.integers(COLUMNS)), float(rng.uniform(0.1, 3)))
        for t in np.sort(rng.uniform(0, 12, guests))
    ]

    b = ProgramBuilder()
    made = step(b, b.stream("gpu"), seconds, sizes, [])
    executor = Executor(b.build().with_end(), table, capacity, guests=guests)
    steps: list[float] = []
    ends: dict[int, float] = {}
    waiting, of_op = list(enumerate(posts)), {}
    while True:
        time = min(executor.next_time(), waiting[0][1][0] if waiting else np.inf)
        if time == np.inf:
            break
        while waiting and waiting[0][1][0] <= time:
            number, (at, transfer, repeats) = waiting.pop(0)
            of_op[executor.post(at, transfer, repeats)] = number
        for then, op in executor.run(waiting[0][1][0] if waiting else np.inf):
            if op in of_op:
                ends[of_op.pop(op)] = then
            else:
                assert op == len(made)
                steps.append(then)
                if len(steps) < rounds:
                    executor.again(0, len(made) + 1)
    assert executor.done and len(steps) == rounds and len(ends) == guests

    b = ProgramBuilder()
    gpu, after, joins = b.stream("gpu"), [], []
    for _ in range(rounds):
        after = [b.join(step(b, gpu, seconds, sizes, after))]
        joins += after
    sent = []
    for at, transfer, repeats in posts:
        sent.append(b.send(transfer, label="guest", after=[b.wait(at, label="until")], repeats=repeats))
    oracle = execute(b.build(), table, capacity)
    assert steps == pytest.approx(oracle.end[joins].tolist(), rel=1e-9)
    assert [ends[k] for k in range(guests)] == pytest.approx(oracle.end[sent].tolist(), rel=1e-9)
    # everything that was asked for went over the rows, once per repetition
    assert executor.result().row_bytes == pytest.approx(oracle.row_bytes, rel=1e-9)


def test_more_guests_than_there_is_room_for_are_refused() -> None:
    executor = Executor(
        ProgramBuilder().build(), TransferTable.units(columns(np.random.default_rng(1))), [1.0] * 4, guests=2
    )
    executor.post(0.0, 0)
    executor.post(0.0, 1)
    with pytest.raises(SimulationError, match="more than 2 transfers"):
        executor.post(0.0, 2)
    while executor.next_time() < np.inf:
        executor.run(np.inf)
    executor.post(executor.now, 2)  # the first two are over


def test_what_has_not_ended_can_not_run_again() -> None:
    b = ProgramBuilder()
    b.compute(b.stream("gpu"), 1.0, label="work")
    executor = Executor(
        b.build().with_end(), TransferTable.units(columns(np.random.default_rng(1))), [1.0] * 4
    )
    executor.run(0.5)
    with pytest.raises(SimulationError, match="have not all ended"):
        executor.again(0, 2)
