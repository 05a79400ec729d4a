"""The executor against a slow plain-Python executor in exact fractions, on random programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config
from numpy.typing import ArrayLike

from euston.clock.events import CapacityEvent, SpeedEvent
from euston.clock.execution import Execution
from euston.clock.executor import Executor, execute
from euston.clock.program import Kind, ProgramBuilder, TransferTable
from euston.network.columns import ColumnsBuilder

EXAMPLES = 20 if config.DISABLE_JIT else 200

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

    def transfer(
        self, flows: list[FlowSpec], latency: Fraction = Fraction(0), share: Fraction = Fraction(0)
    ) -> int:
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


def exact_rates(
    flows: list[tuple[dict[int, Fraction], Fraction, Fraction | None]], capacity: list[Fraction]
) -> list[Fraction]:
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
        moving = [
            i
            for i in range(n)
            if start[i] is not None and end[i] is None and program.kind[i] == Kind.TRANSFER
        ]

        def pace(i: int, moving: list[int] = moving) -> Fraction:
            s = program.stream[i]
            taken = sum(
                (case.transfers[program.transfer[j]][2] for j in moving if program.slows[j] == s), Fraction(0)
            )
            return speed[s] * max(Fraction(0), 1 - taken)

        times = [
            now + left / pace(i) if left else now for i, left in work.items() if left == 0 or pace(i) > 0
        ]
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
                    repeats=float(rng.choice([1.0, 1.0, 2.0, 0.5, 0])), slows=int(rng.choice([-1, *streams])),
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


@pytest.mark.nojit
@settings(max_examples=EXAMPLES)
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


@pytest.mark.nojit
@settings(max_examples=EXAMPLES // 5)
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
