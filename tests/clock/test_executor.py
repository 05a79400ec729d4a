"""What the executor promises, one thing at a time: closed forms, deadlocks, messages, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from euston.clock.conductor import Message
from euston.clock.events import CapacityEvent, SpeedEvent
from euston.clock.executor import Executor, execute
from euston.clock.program import Program, ProgramBuilder, TransferTable
from euston.errors import ConfigError, SimulationError
from euston.network.columns import ColumnsBuilder


def simple(
    capacity: list[float], uses: list[dict[int, float]], sizes: list[float], **more: list[float]
) -> TransferTable:
    """One flow per transfer."""
    columns, n = ColumnsBuilder(len(capacity)), len(uses)
    column = np.array([columns.add(u) for u in uses], np.int32)
    return TransferTable(
        ptr=np.arange(n + 1),
        column=column,
        size=np.array(sizes, float),
        weight=np.array(more.get("weight", [1.0] * n)),
        rate_cap=np.array(more.get("rate_cap", [np.inf] * n)),
        latency=np.array(more.get("latency", [0.0] * n)),
        slow_share=np.array(more.get("slow_share", [0.0] * n)),
        columns=columns.build(),
        names=tuple(f"move {i}" for i in range(n)),
    )


NOTHING = simple([1.0], [{0: 1.0}], [1.0])


# ---- one promise at a time ---------------------------------------------------------------------------------


def test_streams_run_in_order_and_joins_wait_for_all() -> None:
    b = ProgramBuilder()
    one, two = b.stream("one"), b.stream("two")
    first = b.compute(one, 2.0, label="first")
    b.compute(one, 1.0, label="second")
    pause = b.wait(0.5, label="pause", stream=two, after=[first])
    both = b.join([1, pause])
    b.compute(two, 1.0, label="last", after=[both])
    result = execute(b.build(), NOTHING, [1.0])
    assert result.start.tolist() == [0.0, 2.0, 2.0, 3.0, 3.0]
    assert result.end.tolist() == [2.0, 3.0, 2.5, 3.0, 4.0]
    assert result.blocker.tolist() == [-1, 0, 0, 1, 3]


def test_a_compute_without_a_stream_is_a_delay_and_an_empty_program_is_done() -> None:
    b = ProgramBuilder()
    b.compute(-1, 2.0, label="anywhere")
    b.compute(-1, 2.0, label="anywhere")
    assert execute(b.build(), NOTHING, [1.0]).end.tolist() == [2.0, 2.0]
    assert execute(ProgramBuilder().build(), NOTHING, [1.0]).makespan == 0.0


def test_two_flows_share_then_one_has_all() -> None:
    """Closed form: 10 and 30 bytes on a row of 2: 10 s at 1 each, then 20 bytes at 2."""
    b = ProgramBuilder()
    b.send(0, label="x")
    b.send(1, label="y")
    result = execute(b.build(), simple([2.0], [{0: 1.0}] * 2, [10.0, 30.0]), [2.0])
    assert result.end.tolist() == [10.0, 20.0]
    assert result.row_bytes.tolist() == [40.0]


def test_the_same_column_many_times_at_once() -> None:
    b = ProgramBuilder()
    for _ in range(5):
        b.send(0, label="x")
    assert execute(b.build(), simple([1.0], [{0: 1.0}], [2.0]), [1.0]).end.tolist() == [10.0] * 5


def test_zero_bytes_take_the_latency_only() -> None:
    b = ProgramBuilder()
    b.send(0, label="x")
    b.send(1, label="y", repeats=0.0)
    b.send(2, label="z")
    table = simple([1.0], [{0: 1.0}] * 3, [0.0, 5.0, 1.0], latency=[0.25, 3.0, 0.0])
    assert execute(b.build(), table, [1.0]).end.tolist() == [0.25, 0.0, 1.0]


def test_zero_bytes_over_a_dead_link_and_zero_work_at_speed_zero_still_end() -> None:
    b = ProgramBuilder()
    s = b.stream("s")
    b.send(0, label="x")
    b.compute(s, 0.0, label="nothing")
    assert execute(b.build(), simple([0.0], [{0: 1.0}], [0.0]), [0.0], speed=[0.0]).end.tolist() == [0.0, 0.0]


def test_a_flow_without_rows_runs_at_its_cap() -> None:
    """Also beside flows that use rows, which end first or last."""
    columns = ColumnsBuilder(1)
    free, shared = columns.add({}), columns.add({0: 1.0})
    table = TransferTable(
        ptr=np.array([0, 1, 3, 5]),
        column=np.array([free, free, shared, shared, free], np.int32),
        size=np.array([10.0, 10.0, 1.0, 50.0, 10.0]),
        weight=np.ones(5),
        rate_cap=np.array([2.0, 4.0, np.inf, np.inf, 100.0]),
        latency=np.full(3, 0.5),
        slow_share=np.zeros(3),
        columns=columns.build(),
    )
    b = ProgramBuilder()
    one = b.send(0, label="x")
    two = b.send(1, label="x", after=[one])
    b.send(2, label="x", after=[two])
    assert execute(b.build(), table, [1.0]).end.tolist() == [5.5, 8.5, 59.0]


def test_repeats_cost_bytes_and_latency_each() -> None:
    b = ProgramBuilder()
    b.send(0, label="x", repeats=2.5)
    result = execute(b.build(), simple([2.0], [{0: 1.0}], [4.0], latency=[0.5]), [2.0])
    assert result.end.tolist() == [6.25]
    assert result.row_bytes.tolist() == [10.0]


def test_capacity_to_zero_and_back() -> None:
    """6 bytes at 2, dead from 1 s to 5 s, then at 4: 1 + 4 + 1."""
    b = ProgramBuilder()
    b.send(0, label="x")
    events = [CapacityEvent(1.0, 0, 0.0), CapacityEvent(5.0, 0, 4.0)]
    result = execute(b.build(), simple([2.0], [{0: 1.0}], [6.0]), [2.0], events=events)
    assert result.end.tolist() == [6.0]


def test_events_may_be_given_in_any_order_and_after_the_end() -> None:
    b = ProgramBuilder()
    b.send(0, label="x")
    events = [CapacityEvent(5.0, 0, 4.0), CapacityEvent(900.0, 0, 0.0), CapacityEvent(1.0, 0, 0.0)]
    executor = Executor(b.build(), simple([2.0], [{0: 1.0}], [6.0]), [2.0], events=events)
    executor.advance(np.inf)
    assert executor.result().end.tolist() == [6.0]


def test_what_ends_when_its_link_dies_or_its_stream_stops_has_ended() -> None:
    """0.1 + 0.2 is a hair after 0.3 in floats, yet the same moment."""
    b = ProgramBuilder()
    gpu, nic = b.stream("gpu"), b.stream("nic")
    for i, amount in enumerate((0.1, 0.2)):
        b.compute(gpu, amount, label="work")
        b.send(i, label="x", stream=nic)
    events = [CapacityEvent(0.3, 0, 0.0), SpeedEvent(0.3, gpu, 0.0)]
    result = execute(b.build(), simple([1.0], [{0: 1.0}] * 2, [0.1, 0.2]), [1.0], events=events)
    assert result.end == pytest.approx([0.1, 0.1, 0.3, 0.3])


def test_speed_changes_and_shares_of_speed() -> None:
    """4 s of work; half speed from 1 s; a transfer from 2 s to 4 s takes a quarter: 2.25 done by 4 s."""
    b = ProgramBuilder()
    s = b.stream("gpu")
    b.compute(s, 4.0, label="work")
    pause = b.wait(2.0, label="pause")
    b.send(0, label="x", after=[pause], slows=s)
    table = simple([1.0], [{0: 1.0}], [1.5], latency=[0.5], slow_share=[0.25])
    result = execute(b.build(), table, [1.0], events=[SpeedEvent(1.0, s, 0.5)])
    assert result.end[0] == pytest.approx(4.0 + 1.75 / 0.5)


def test_a_shared_transfer_slows_every_copy() -> None:
    """Two copies of 4 s of work meet in 2 s that take a half of it: they end at 5 s, a third at 4 s."""
    b = ProgramBuilder()
    gpu, nic = b.stream("gpu"), b.stream("nic")
    b.compute(gpu, 4.0, label="work")
    shared = b.send(0, label="x", stream=nic, slows=gpu)
    one = b.build()
    mask = np.zeros(len(one), bool)
    mask[shared] = True
    two, index = one.replicate(
        2, shared=mask, shared_stream=np.array([False, True]), transfer_of=np.zeros((2, 1), np.int32),
        count=np.ones(2, np.int64), prefix=("a ", "b "),
    )  # fmt: skip
    alone = ProgramBuilder()
    alone.compute(alone.stream("other"), 4.0, label="work")
    both, first = two.concatenate([alone.build(), two])
    result = execute(both, simple([1.0], [{0: 1.0}], [2.0], slow_share=[0.5]), [1.0])
    work = [0, *(first[1] + index[:, 0])]
    assert result.end[work].tolist() == pytest.approx([4.0, 5.0, 5.0])


def test_bytes_so_far_count_what_has_moved() -> None:
    b = ProgramBuilder()
    one = b.send(0, label="x")
    b.send(1, label="y", after=[one])
    executor = Executor(b.build(), simple([2.0], [{0: 1.0}] * 2, [6.0, 8.0]), [2.0])
    for until, moved in ((0.0, 0.0), (1.0, 2.0), (3.0, 6.0), (4.5, 9.0), (50.0, 14.0)):
        executor.advance(until)
        assert executor.result().row_bytes.tolist() == pytest.approx([moved])


def test_a_hundred_thousand_simultaneous_starts() -> None:
    """Closed form: equal flows on 1,000 rows, 100 on each, end together."""
    n, rows = 100_000, 1000
    b = ProgramBuilder()
    for i in range(n):
        b.send(i, label="x")
    b.join(range(n))
    result = execute(
        b.build(), simple([4.0] * rows, [{i % rows: 1.0} for i in range(n)], [2.0] * n), [4.0] * rows
    )
    assert (result.end == 50.0).all()
    assert result.solves <= 3
    b = ProgramBuilder()
    gpu = b.stream("gpu")
    b.compute(gpu, 1.0, label="work")
    for _ in range(20_000):
        b.send(0, label="x", slows=gpu)
    table = simple([1.0], [{0: 1.0}], [0.0], latency=[1.0], slow_share=[1e-5])
    assert execute(b.build(), table, [1.0]).end[0] == pytest.approx(1.2)


@pytest.mark.nojit
def test_many_short_flows_against_one_long_one_keep_the_heap_small() -> None:
    """Closed form: 3,000 in a row beside a long one, both at half rate; stale events are swept."""
    n = 3000
    b = ProgramBuilder()
    s = b.stream("s")
    b.send(1, label="long")
    for _ in range(n):
        b.send(0, label="short", stream=s)
    result = execute(b.build(), simple([2.0], [{0: 1.0}] * 2, [1.0, 2.0 * n]), [2.0])
    np.testing.assert_allclose(result.end[1:], np.arange(1, n + 1), rtol=1e-9)
    assert result.end[0] == pytest.approx(1.5 * n)


# ---- what can not end --------------------------------------------------------------------------------------


def test_a_partition_names_the_transfer_and_its_operation() -> None:
    b = ProgramBuilder()
    s = b.stream("nccl")
    b.send(0, label="all-reduce", stream=s)
    b.send(1, label="fine")
    b.compute(s, 1.0, label="after", after=[0])
    events = [CapacityEvent(1.0, 1, 0.0)]
    with pytest.raises(
        SimulationError, match=r"2 of 3 .*move 0 \(operation 0 \(all-reduce on nccl\)\).*dead"
    ):
        execute(
            b.build(), simple([1.0] * 2, [{0: 1.0, 1: 0.5}, {0: 1.0}], [9.0, 1.0]), [1.0] * 2, events=events
        )


def test_a_stopped_stream_is_named() -> None:
    b = ProgramBuilder()
    b.compute(b.stream("gpu 7"), 1.0, label="forward")
    with pytest.raises(SimulationError, match=r"forward on gpu 7.* speed 0"):
        execute(b.build(), NOTHING, [1.0], events=[SpeedEvent(0.5, 0, 0.0)])


def test_a_held_operation_that_nobody_releases_is_named() -> None:
    b = ProgramBuilder()
    b.join([], label="start signal")
    executor = Executor(b.build(), NOTHING, [1.0], held=[0])
    with pytest.raises(SimulationError, match="start signal"):
        executor.result()


# ---- messages ----------------------------------------------------------------------------------------------


@pytest.mark.nojit
def test_held_operations_go_when_told_and_notify_when_done() -> None:
    b = ProgramBuilder()
    s = b.stream("gpu")
    work = b.compute(s, 1.0, label="work", notify=True)
    held = b.compute(s, 2.0, label="held", after=[work], notify=True)
    early = b.wait(0.25, label="early")
    executor = Executor(
        b.build(), NOTHING, [1.0], held=[held, early], listener="ear", listener_process="left"
    )
    assert executor.next_time() == 0.0
    assert executor.advance(0.5, [Message(0.5, "programs", early)]) == []
    assert executor.advance(10.0) == [Message(1.0, "ear", ("left", work))]
    assert executor.advance(3.0) == []
    assert executor.next_time() == np.inf
    assert executor.advance(3.0, [Message(3.0, "programs", held)]) == []
    assert executor.next_time() == 5.0
    assert executor.advance(np.inf) == [Message(5.0, "ear", ("left", held))]
    assert executor.done
    assert executor.result().start.tolist() == [0.0, 3.0, 0.5]
    assert executor.result().end.tolist() == [1.0, 5.0, 0.75]


def test_simultaneous_ends_are_told_together_in_order() -> None:
    b = ProgramBuilder()
    for i in (3.0, 1.0, 1.0):
        b.compute(b.stream("s"), i, label="work", notify=True)
    executor = Executor(b.build(), NOTHING, [1.0])
    assert [m.payload[1] for m in executor.advance(9.0)] == [1, 2]
    assert [m.payload[1] for m in executor.advance(9.0)] == [0]


@pytest.mark.parametrize(("op", "times"), [(1, 1), (0, 2), (7, 1), (-1, 1)])
def test_releasing_what_is_not_held_is_an_error(op: int, times: int) -> None:
    b = ProgramBuilder()
    b.join([], label="held")
    b.join([], label="free")
    executor = Executor(b.build(), NOTHING, [1.0], held=[0])
    with pytest.raises(SimulationError, match=f"operation {op}"):
        executor.advance(1.0, [Message(0.0, "programs", op)] * times)


# ---- bad input ---------------------------------------------------------------------------------------------


def one_compute() -> Program:
    b = ProgramBuilder()
    b.compute(b.stream("gpu"), 1.0, label="x")
    return b.build()


@pytest.mark.parametrize(
    "bad",
    [
        {"capacity": [1.0, 1.0]},
        {"capacity": [-1.0]},
        {"capacity": [np.nan]},
        {"speed": [1.0, 1.0]},
        {"speed": [-1.0]},
        {"speed": [np.nan]},
        {"speed": [np.inf]},
        {"held": [5]},
        {"events": [CapacityEvent(-1.0, 0, 1.0)]},
        {"events": [CapacityEvent(1.0, 1, 1.0)]},
        {"events": [CapacityEvent(np.nan, 0, 1.0)]},
        {"events": [SpeedEvent(1.0, 0, np.inf)]},
        {"events": [SpeedEvent(1.0, 3, 1.0)]},
    ],
)
def test_bad_input_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Executor(one_compute(), NOTHING, **{"capacity": [1.0], **bad})  # type: ignore[arg-type]


def test_transfers_that_can_not_be_are_refused() -> None:
    b = ProgramBuilder()
    b.send(3, label="x")
    with pytest.raises(ConfigError, match="transfer 3"):
        execute(b.build(), NOTHING, [1.0])
    with pytest.raises(ConfigError, match=r"move 0 .*infinite"):
        execute(one_compute(), simple([1.0], [{}], [1.0]), [1.0])
    for more in ({"weight": [0.0]}, {"weight": [np.inf]}, {"rate_cap": [np.nan]}, {"latency": [-1.0]}):
        with pytest.raises(ConfigError):
            execute(one_compute(), simple([1.0], [{0: 1.0}], [1.0], **more), [1.0])
    for size in (-1.0, np.nan, np.inf):
        with pytest.raises(ConfigError):
            execute(one_compute(), simple([1.0], [{0: 1.0}], [size]), [1.0])


def test_the_builder_refuses_nonsense() -> None:
    b = ProgramBuilder()
    s = b.stream("gpu")
    for seconds in (-1.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match="'x'"):
            b.compute(s, seconds, label="x")
    with pytest.raises(ConfigError, match="stream 4"):
        b.compute(4, 1.0, label="x")
    with pytest.raises(ConfigError, match="operation 0"):
        b.compute(s, 1.0, label="x", after=[0])
    with pytest.raises(ConfigError, match="stream 9"):
        b.send(0, label="x", slows=9)
    assert len(b.build()) == 0  # nothing half-written is left behind
