"""The executor against a slow plain-Python executor in exact fractions, and its promises one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from euston.clock.conductor import Message
from euston.clock.executor import CapacityEvent, Execution, Executor, SpeedEvent, execute
from euston.clock.program import Kind, Program, ProgramBuilder, TransferTable
from euston.errors import ConfigError, SimulationError
from euston.network.columns import ColumnsBuilder

# One flow of a transfer: usage of rows, bytes, weight, cap (None: none).
FlowSpec = tuple[dict[int, Fraction], Fraction, Fraction, Fraction | None]


@dataclass
class Case:
    """A program with its network in exact numbers, for the kernel (floats) and the oracle (fractions)."""

    capacity: list[Fraction]
    builder: ProgramBuilder = field(default_factory=ProgramBuilder)
    transfers: list[tuple[list[FlowSpec], Fraction, Fraction]] = field(default_factory=list)
    events: list[tuple[Fraction, str, int, Fraction]] = field(default_factory=list)
    speed: list[Fraction] = field(default_factory=list)

    def transfer(self, flows: list[FlowSpec], latency: Fraction = Fraction(0), share: Fraction = Fraction(0)) -> int:
        self.transfers.append((flows, latency, share))
        return len(self.transfers) - 1

    def table(self) -> TransferTable:
        columns = ColumnsBuilder(len(self.capacity))
        flows = [f for t in self.transfers for f in t[0]]
        column = [columns.add({r: float(a) for r, a in use.items()}) for use, _, _, _ in flows]
        return TransferTable(
            ptr=np.cumsum([0] + [len(t[0]) for t in self.transfers]),
            column=np.array(column, np.int32),
            size=np.array([float(f[1]) for f in flows]),
            weight=np.array([float(f[2]) for f in flows]),
            rate_cap=np.array([np.inf if f[3] is None else float(f[3]) for f in flows]),
            latency=np.array([float(t[1]) for t in self.transfers]),
            slow_share=np.array([float(t[2]) for t in self.transfers]),
            columns=columns.build(),
        )

    def floats(self) -> dict[str, object]:
        kinds = {"capacity": CapacityEvent, "speed": SpeedEvent}
        return {
            "capacity": [float(c) for c in self.capacity],
            "events": [kinds[kind](float(t), place, float(v)) for t, kind, place, v in self.events],
            "speed": [float(s) for s in self.speed] or None,
        }

    def run(self) -> Execution:
        return execute(self.builder.build(), self.table(), **self.floats())  # type: ignore[arg-type]


def exact_rates(flows: list[tuple[dict[int, Fraction], Fraction, Fraction | None]], capacity: list[Fraction]) -> list[Fraction]:
    """Progressive filling by the book."""
    rate: dict[int, Fraction] = {}
    while len(rate) < len(flows):
        live = [f for f in range(len(flows)) if f not in rate]
        stops = [(cap / flows[f][1], {f}) for f in live if (cap := flows[f][2]) is not None]
        for r, c in enumerate(capacity):
            on = {f for f in live if r in flows[f][0]}
            if on:
                used = sum((flows[f][0].get(r, Fraction(0)) * x for f, x in rate.items()), Fraction(0))
                stops.append(((c - used) / sum(flows[f][0][r] * flows[f][1] for f in on), on))
        level = min(s for s, _ in stops)
        for f in set().union(*(who for s, who in stops if s == level)):
            rate[f] = level * flows[f][1]
    return [rate[f] for f in range(len(flows))]


def plain_execution(case: Case) -> tuple[list[Fraction | None], list[Fraction | None]]:
    """Start and end of every operation: at every event, all rates and speeds again from nothing."""
    program = case.builder.build()
    n = len(program)
    capacity, speed = list(case.capacity), list(case.speed) or [Fraction(1)] * len(program.streams)
    needs = [set(program.dep[program.dep_ptr[i] : program.dep_ptr[i + 1]].tolist()) for i in range(n)]
    last: dict[int, int] = {}
    for i, s in enumerate(program.stream.tolist()):
        if s >= 0:
            needs[i] |= {last[s]} if s in last else set()
            last[s] = i
    start: list[Fraction | None] = [None] * n
    end: list[Fraction | None] = [None] * n
    work: dict[int, Fraction] = {}  # computes under way
    flow: dict[tuple[int, int], Fraction] = {}  # (operation, flow of its transfer) -> bytes left
    until: dict[int, Fraction] = {}  # operations that end at a known time
    pending = sorted(case.events, key=lambda e: e[0])
    now = Fraction(0)

    def latency(i: int) -> Fraction:
        return case.transfers[program.transfer[i]][1] * Fraction(program.work[i])

    while True:
        for i in range(n):
            if start[i] is None and all(end[d] is not None for d in needs[i]):
                start[i] = now
                amount = Fraction(program.work[i])
                if program.kind[i] == Kind.COMPUTE and program.stream[i] >= 0:
                    work[i] = amount
                elif program.kind[i] == Kind.TRANSFER:
                    for k, (_, size, _, _) in enumerate(case.transfers[program.transfer[i]][0]):
                        if size * amount > 0:
                            flow[i, k] = size * amount
                    if not any(j == i for j, _ in flow):
                        until[i] = now + latency(i)
                else:
                    until[i] = now + amount
        keys = list(flow)
        specs = [case.transfers[program.transfer[i]][0][k] for i, k in keys]
        rate = dict(zip(keys, exact_rates([(u, w, c) for u, _, w, c in specs], capacity), strict=True))
        moving = [i for i in range(n) if start[i] is not None and end[i] is None and program.kind[i] == Kind.TRANSFER]

        def pace(i: int, moving: list[int] = moving) -> Fraction:
            s = program.stream[i]
            taken = sum((case.transfers[program.transfer[j]][2] for j in moving if program.slows[j] == s), Fraction(0))
            return speed[s] * max(Fraction(0), 1 - taken)

        times = [now + left / pace(i) if left else now for i, left in work.items() if left == 0 or pace(i) > 0]
        times += [now + left / rate[f] for f, left in flow.items() if rate[f] > 0]
        times += list(until.values()) + [e[0] for e in pending[:1]]
        if not times:
            return start, end
        then = min(times)
        for i in work:
            work[i] -= pace(i) * (then - now)
        for f in flow:
            flow[f] -= rate[f] * (then - now)
        now = then
        for i in [i for i, left in work.items() if left == 0]:
            del work[i]
            end[i] = now
        for f in [f for f, left in flow.items() if left == 0]:
            del flow[f]
            if not any(j == f[0] for j, _ in flow):
                until[f[0]] = now + latency(f[0])
        for i in [i for i, t in until.items() if t == now]:
            del until[i]
            end[i] = now
        while pending and pending[0][0] <= now:
            _, kind, place, value = pending.pop(0)
            (capacity if kind == "capacity" else speed)[place] = value


def random_case(seed: int, size: int = 14) -> Case:
    """Everything at once, small: numbers are dyadic so that floats are exact; events off their grid."""
    rng = np.random.default_rng(seed)

    def dyadic(low: int, high: int, unit: int = 4) -> Fraction:
        return Fraction(int(rng.integers(low, high)), unit)

    rows = int(rng.integers(1, 5))
    case = Case([dyadic(1, 16) for _ in range(rows)])
    streams = [case.builder.stream(f"s{i}") for i in range(rng.integers(1, 4))]
    for _ in range(rng.integers(1, 6)):
        flows: list[FlowSpec] = []
        for _ in range(rng.integers(0, 4)):
            used = rng.permutation(rows)[: rng.integers(0, rows + 1)]
            use = {int(r): Fraction(1, int(rng.choice([1, 1, 2, 4]))) for r in used}
            cap = dyadic(1, 12) if not use or rng.random() < 0.3 else None
            flows.append((use, dyadic(0, 20), Fraction(int(rng.choice([1, 1, 2]))), cap))
        if flows and rng.random() < 0.3:
            flows.append(flows[0])  # the same column twice at once
        case.transfer(flows, dyadic(0, 4), Fraction(int(rng.choice([0, 1, 2, 5])), 8))
    for i in range(size):
        after = sorted({int(rng.integers(i)) for _ in range(rng.integers(0, 3))}) if i else []
        stream = int(rng.choice(streams)) if rng.random() < 0.7 else -1
        match int(rng.integers(5)):
            case 0 | 1:
                case.builder.compute(stream, float(dyadic(0, 12)), label="compute", after=after)
            case 2 | 3:
                case.builder.send(
                    int(rng.integers(len(case.transfers))), label="send", after=after, stream=stream,
                    repeats=float(rng.choice([1.0, 1.0, 2.0, 0.5, 0.0])), slows=int(rng.choice([-1, *streams])),
                )  # fmt: skip
            case _:
                if rng.random() < 0.5:
                    case.builder.wait(float(dyadic(0, 6)), label="wait", after=after, stream=stream)
                else:
                    case.builder.join(after)
    if rng.random() < 0.5:
        case.speed = [dyadic(1, 9) for _ in streams]
    for _ in range(rng.integers(0, 4)):
        # Something slows down, perhaps stops, and is well again later.
        kind = str(rng.choice(["capacity", "speed"]))
        place = int(rng.integers(rows if kind == "capacity" else len(streams)))
        at = Fraction(int(rng.integers(0, 60)), 7) + Fraction(1, 1001)
        case.events.append((at, kind, place, dyadic(0, 3)))
        case.events.append((at + Fraction(int(rng.integers(1, 30)), 7), kind, place, dyadic(2, 9)))
    case.events.sort(key=lambda e: e[0])
    return case


def near(a: ArrayLike, b: ArrayLike) -> None:
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-9, atol=1e-12)


def simple(capacity: list[float], uses: list[dict[int, float]], sizes: list[float], **more: list[float]) -> TransferTable:
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


# ---- against the oracle ------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_equals_plain_execution(seed: int) -> None:
    """Oracle: the exact plain executor. Times, bytes, and blockers that make sense."""
    case = random_case(seed)
    result = case.run()
    start, end = plain_execution(case)
    near(result.start, start)
    near(result.end, end)
    assert result.makespan == result.end.max()
    program = result.program
    row_bytes = [Fraction(0)] * len(case.capacity)
    for i in np.flatnonzero(program.kind == Kind.TRANSFER):
        for use, size, _, _ in case.transfers[program.transfer[i]][0]:
            for r, a in use.items():
                row_bytes[r] += a * size * Fraction(program.work[i])
    near(result.row_bytes, row_bytes)
    last: dict[int, int] = {}
    for i in range(len(program)):
        needs = program.dep[program.dep_ptr[i] : program.dep_ptr[i + 1]].tolist()
        s = int(program.stream[i])
        if s in last:
            needs.append(last[s])
        if s >= 0:
            last[s] = i
        assert (result.blocker[i] in needs) if needs else (result.blocker[i] == -1)
        near(result.start[i], max((result.end[d] for d in needs), default=0.0))
        if needs:
            near(result.end[result.blocker[i]], result.start[i])


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_advancing_in_small_pieces_changes_nothing(seed: int) -> None:
    case = random_case(seed)
    whole = case.run()
    executor = Executor(case.builder.build(), case.table(), **case.floats())  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    until = 0.0
    while not executor.done:
        until += rng.choice([1e-9, 0.01, 0.3])
        executor.advance(until)
        assert executor.now == until or executor.next_time() == np.inf
        assert executor.next_time() > until
    near(executor.result().start, whole.start)
    near(executor.result().end, whole.end)
    near(executor.result().row_bytes, whole.row_bytes)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_a_replay_gives_equal_bits(seed: int) -> None:
    a, b = random_case(seed).run(), random_case(seed).run()
    for name in ("start", "end", "blocker", "row_bytes"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert (a.events, a.solves, a.repaired) == (b.events, b.solves, b.repaired)


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


def test_speed_changes_and_shares_of_speed() -> None:
    """4 s of work; half speed from 1 s; a transfer from 2 s to 4 s takes a quarter: 1 + .5 + .75 = 2.25 by 4 s."""
    b = ProgramBuilder()
    s = b.stream("gpu")
    b.compute(s, 4.0, label="work")
    pause = b.wait(2.0, label="pause")
    b.send(0, label="x", after=[pause], slows=s)
    table = simple([1.0], [{0: 1.0}], [1.5], latency=[0.5], slow_share=[0.25])
    result = execute(b.build(), table, [1.0], events=[SpeedEvent(1.0, s, 0.5)])
    assert result.end[0] == pytest.approx(4.0 + 1.75 / 0.5)


def test_bytes_so_far_count_what_has_moved() -> None:
    b = ProgramBuilder()
    one = b.send(0, label="x")
    b.send(1, label="y", after=[one])
    executor = Executor(b.build(), simple([2.0], [{0: 1.0}] * 2, [6.0, 8.0]), [2.0])
    for until, moved in ((0.0, 0.0), (1.0, 2.0), (3.0, 6.0), (4.5, 9.0), (50.0, 14.0)):
        executor.advance(until)
        assert executor.result().row_bytes.tolist() == pytest.approx([moved])


def test_a_hundred_thousand_simultaneous_starts() -> None:
    """Closed form: equal flows on 1,000 rows of 100 each end together; so do the waits and joins beside them."""
    n, rows = 100_000, 1000
    b = ProgramBuilder()
    for i in range(n):
        b.send(i, label="x")
    b.join(range(n))
    result = execute(b.build(), simple([4.0] * rows, [{i % rows: 1.0} for i in range(n)], [2.0] * n), [4.0] * rows)
    assert (result.end == 50.0).all()
    assert result.solves <= 3
    b = ProgramBuilder()
    gpu = b.stream("gpu")
    b.compute(gpu, 1.0, label="work")
    for _ in range(20_000):
        b.send(0, label="x", slows=gpu)
    table = simple([1.0], [{0: 1.0}], [0.0], latency=[1.0], slow_share=[1e-5])
    assert execute(b.build(), table, [1.0]).end[0] == pytest.approx(1.2)


def test_many_short_flows_against_one_long_one_keep_the_heap_small() -> None:
    """Closed form: 3,000 in a row beside a long one, both at half rate; stale events are swept."""
    n = 3000
    b = ProgramBuilder()
    s = b.stream("s")
    b.send(1, label="long")
    for _ in range(n):
        b.send(0, label="short", stream=s)
    result = execute(b.build(), simple([2.0], [{0: 1.0}] * 2, [1.0, 2.0 * n]), [2.0])
    near(result.end[1:], np.arange(1, n + 1))
    assert result.end[0] == pytest.approx(1.5 * n)


# ---- what can not end --------------------------------------------------------------------------------------


def test_a_partition_names_the_transfer_and_its_operation() -> None:
    b = ProgramBuilder()
    s = b.stream("nccl")
    b.send(0, label="all-reduce", stream=s)
    b.send(1, label="fine")
    b.compute(s, 1.0, label="after", after=[0])
    events = [CapacityEvent(1.0, 1, 0.0)]
    with pytest.raises(SimulationError, match=r"2 of 3 .*move 0 \(operation 0 \(all-reduce on nccl\)\).*dead"):
        execute(b.build(), simple([1.0] * 2, [{0: 1.0, 1: 0.5}, {0: 1.0}], [9.0, 1.0]), [1.0] * 2, events=events)


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


def test_held_operations_go_when_told_and_notify_when_done() -> None:
    b = ProgramBuilder()
    s = b.stream("gpu")
    work = b.compute(s, 1.0, label="work", notify=True)
    held = b.compute(s, 2.0, label="held", after=[work], notify=True)
    early = b.wait(0.25, label="early")
    executor = Executor(b.build(), NOTHING, [1.0], held=[held, early], listener="ear", listener_process="left")
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
