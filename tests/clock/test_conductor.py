"""The conductor and processes against closed forms: exact order, ties, messages, the words of a process."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pytest

from euston.clock.conductor import Conductor, Message
from euston.clock.executor import Executor
from euston.clock.process import Compute, Join, Processes, Receive, Send, Wait
from euston.clock.program import ProgramBuilder, TransferTable
from euston.errors import ConfigError, SimulationError
from euston.network.columns import ColumnsBuilder

Body = Generator[Any, Any, None]


class Echo:
    """Answers each message ``delay`` seconds later, and keeps a diary."""

    def __init__(self, name: str, to: str, delay: float, times: int, first: float | None = None) -> None:
        self.name, self.to, self.delay, self.times = name, to, delay, times
        self.due = [] if first is None else [first]
        self.diary: list[tuple[str, float]] = []
        self.limits: list[float] = []

    def next_time(self) -> float:
        return min(self.due, default=float("inf"))

    def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
        self.limits.append(until)
        for m in inbox:
            self.diary.append((m.sender, m.time))
            self.due.append(m.time + self.delay)
        out: list[Message] = []
        while self.due and min(self.due) <= until and not out:
            now = min(self.due)
            self.due.remove(now)
            if self.times:
                self.times -= 1
                out.append(Message(now, self.to, "ping"))
        return out


def network(sizes: list[float], capacity: float = 1.0, latency: float = 0.0) -> TransferTable:
    columns, n = ColumnsBuilder(1), len(sizes)
    column = np.array([columns.add({0: 1.0}) for _ in sizes], np.int32)
    return TransferTable(
        ptr=np.arange(n + 1), column=column, size=np.array(sizes), weight=np.ones(n),
        rate_cap=np.full(n, np.inf), latency=np.full(n, latency), slow_share=np.zeros(n),
        columns=columns.build(),
    )  # fmt: skip


# ---- the conductor -----------------------------------------------------------------------------------------


def test_ping_pong_against_a_closed_form() -> None:
    """a answers after 2 s, b after 3 s: message k of a leaves at 5k, of b at 5k + 3."""
    a, b = Echo("a", "b", 2.0, 100, first=0.0), Echo("b", "a", 3.0, 100)
    conductor = Conductor([a, b])
    conductor.run()
    assert b.diary == [("a", 5.0 * k) for k in range(100)]
    assert a.diary == [("b", 5.0 * k + 3) for k in range(100)]
    assert conductor.alternations == 201  # a message is taken in and answered in one go


def test_nobody_runs_past_the_second_earliest() -> None:
    a, b = Echo("a", "b", 1.0, 9, first=0.0), Echo("b", "a", 10.0, 9, first=4.5)
    a.due += [3.0, 7.0]
    Conductor([a, b]).run(until=5.0)
    assert all(limit <= 4.5 for limit in a.limits[:2])
    assert max(a.limits + b.limits) <= 5.0
    assert a.diary == [("b", 4.5)]


def test_ties_go_to_the_earlier_component_and_messages_keep_their_order() -> None:
    order: list[str] = []

    class Loud(Echo):
        def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
            order.append(self.name)
            return super().advance(until, inbox)

    for names in (("x", "y", "z"), ("z", "x", "y")):
        order.clear()
        Conductor([Loud(n, "x", 1.0, 0, first=1.0) for n in names]).run()
        assert tuple(order) == names
    box = Echo("box", "box", 1.0, 0)

    class Burst(Echo):
        def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
            self.due = []
            return [Message(t, "box", t) for t in (2.0, 1.0, 2.0, 1.0)]

    Conductor([Burst("burst", "box", 0.0, 1, first=1.0), box]).run()
    assert [t for _, t in box.diary] == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("message", "words"), [(Message(0.5, "a", 1), "before now"), (Message(9.0, "nobody", 1), "'nobody'")]
)
def test_a_message_into_the_past_or_to_nobody(message: Message, words: str) -> None:
    class Wrong(Echo):
        def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
            return [message]

    with pytest.raises(SimulationError, match=words):
        Conductor([Echo("a", "w", 1.0, 9, first=2.0), Wrong("w", "a", 1.0, 1, first=1.0)]).run()


def test_components_need_different_names() -> None:
    with pytest.raises(ConfigError, match="a, a"):
        Conductor([Echo("a", "a", 1.0, 0), Echo("a", "a", 1.0, 0)])


def test_running_in_pieces_is_running_at_once() -> None:
    def pair() -> tuple[Echo, Echo]:
        return Echo("a", "b", 0.7, 20, first=0.0), Echo("b", "a", 1.1, 20)

    whole, pieces = pair(), pair()
    Conductor(list(whole)).run()
    conductor = Conductor(list(pieces))
    for until in np.arange(0, 60, 0.4):
        conductor.run(until=float(until))
        assert conductor.now <= until
    assert pieces[0].diary == whole[0].diary
    assert pieces[1].diary == whole[1].diary


# ---- two executors -----------------------------------------------------------------------------------------


def test_two_executors_hand_work_to_each_other() -> None:
    """Each holds operation k until the other's has ended: 1 s + 2 s per round, by a relay of generators."""
    rounds = 5

    def executor(name: str, seconds: float) -> Executor:
        b = ProgramBuilder()
        gpu = b.stream("gpu")
        for _ in range(rounds):
            b.compute(gpu, seconds, label="work", notify=True)
        e = Executor(
            b.build(), network([1.0]), [1.0], held=range(rounds),
            listener="relay", listener_process=f"from {name}",
        )  # fmt: skip
        e.name = name
        return e

    left, right = executor("left", 1.0), executor("right", 2.0)

    def relay(source: str, to: str, start: bool) -> Body:
        if start:
            yield Send("left", 0)
        while True:
            op = yield Receive()
            op = op if source == "left" else op + 1
            if op == rounds:
                return
            yield Send(to, op)

    processes = Processes("relay")
    processes.add("from left", relay("left", "right", True))
    processes.add("from right", relay("right", "left", False))
    Conductor([left, processes, right]).run()
    assert left.result().end.tolist() == [3.0 * k + 1 for k in range(rounds)]
    assert right.result().end.tolist() == [3.0 * k + 3 for k in range(rounds)]
    assert processes.ended("from right")


def test_a_generator_drives_the_held_operations_of_an_executor() -> None:
    """Admit a transfer each second; each tells when it is done: closed form on a shared row of 1 B/s.

    Sizes 1.5, 1.5 from t = 0 and 1: alone until 1 (0.5 left), shared until 2, then alone: ends 2 and 3.
    """
    b = ProgramBuilder()
    for i in range(2):
        b.send(i, label="kv", notify=True)
    executor = Executor(b.build(), network([1.5, 1.5]), [1.0], held=[0, 1])
    seen: list[tuple[float, int]] = []
    processes = Processes()

    def admit() -> Body:
        for op in range(2):
            yield Send("programs", op)
            yield Wait(1.0)

    def watch() -> Body:
        for _ in range(2):
            op = yield Receive()
            seen.append((processes.now, op))

    processes.add("admit", admit())
    processes.add("main", watch())
    Conductor([executor, processes]).run()
    assert seen == [(2.0, 0), (3.0, 1)]
    assert executor.result().start.tolist() == [0.0, 1.0]


def test_a_closed_loop_of_many_transfers() -> None:
    """One token, 200 transfers of 1 s and 0.25 s latency with 0.5 s of thought between: 1.75 s a round."""
    n = 200
    b = ProgramBuilder()
    for i in range(n):
        b.send(i, label="kv", notify=True)
    executor = Executor(b.build(), network([1.0] * n, latency=0.25), [1.0], held=range(n))

    def loop() -> Body:
        for op in range(n):
            yield Send("programs", op)
            assert (yield Receive()) == op
            yield Compute(0.5)

    processes = Processes()
    processes.add("main", loop())
    Conductor([processes, executor]).run()
    np.testing.assert_allclose(executor.result().start, 1.75 * np.arange(n), rtol=1e-12)


# ---- processes ---------------------------------------------------------------------------------------------


def alone(processes: Processes) -> None:
    Conductor([processes]).run()


def test_wait_compute_and_join() -> None:
    processes, times = Processes(), {}

    def worker(name: str, seconds: float) -> Body:
        yield Compute(seconds)
        times[name] = processes.now

    def boss() -> Body:
        yield Wait(0.5)
        yield Join(["a", "b"])
        times["boss"] = processes.now
        yield Join(["a"])  # ended long ago: no time passes
        yield Join([])
        times["end"] = processes.now

    processes.add("boss", boss())
    processes.add("a", worker("a", 1.0))
    processes.add("b", worker("b", 2.0), at=0.25)
    alone(processes)
    assert times == {"a": 1.0, "b": 2.25, "boss": 2.25, "end": 2.25}
    assert all(processes.ended(n) for n in ("boss", "a", "b"))


def test_the_speed_of_a_compute_changes_under_way() -> None:
    """4 s of work: 1 s at 1, 2 s at 0.5, 3 s stopped, the last 2 at 2: ends at 7."""
    processes, times = Processes(), []

    def worker() -> Body:
        yield Compute(4.0)
        times.append(processes.now)
        yield Compute(1.0)
        times.append(processes.now)
        yield Wait(1.0)  # a wait knows no speed
        times.append(processes.now)

    def throttle() -> Body:
        for seconds, speed in ((1.0, 0.5), (2.0, 0.0), (3.0, 2.0)):
            yield Wait(seconds)
            processes.set_speed("worker", speed)

    processes.add("worker", worker())
    processes.add("throttle", throttle())
    alone(processes)
    assert times == [7.0, 7.5, 8.5]


def test_a_compute_that_begins_stopped_starts_when_speed_returns() -> None:
    processes, times = Processes(), []

    def worker() -> Body:
        yield Compute(1.0)
        times.append(processes.now)

    def help_it() -> Body:
        yield Wait(5.0)
        processes.set_speed("worker", 1.0)

    processes.add("worker", worker())
    processes.set_speed("worker", 0.0)
    processes.add("help", help_it())
    alone(processes)
    assert times == [6.0]


def test_mail_waits_for_its_reader_and_comes_in_order() -> None:
    """Also two readings in a row, mail that came before, and mail that comes in the middle of a wait."""
    processes, got = Processes(), []

    def reader() -> Body:
        yield Wait(1.5)
        for _ in range(4):
            value = yield Receive()
            got.append((processes.now, value))

    def writer() -> Body:
        for value in "abcd":
            yield Send("processes", ("reader", value))
            yield Wait(1.0)

    processes.add("reader", reader())
    processes.add("writer", writer())
    alone(processes)
    assert got == [(1.5, "a"), (1.5, "b"), (2.0, "c"), (3.0, "d")]


def test_other_words_bring_no_mail() -> None:
    """A `yield Wait` returns nothing even when mail has come."""
    processes, got = Processes(), []

    def reader() -> Body:
        got.append((yield Wait(2.0)))
        got.append((yield Compute(1.0)))
        got.append((yield Join([])))
        got.append((yield Receive()))

    def writer() -> Body:
        got.append((yield Send("processes", ("reader", "mail"))))

    processes.add("reader", reader())
    processes.add("writer", writer())
    alone(processes)
    assert got == [None, None, None, None, "mail"]


def test_simultaneous_steps_run_in_the_order_they_were_asked_for() -> None:
    processes, order = Processes(), []

    def body(name: str) -> Body:
        for _ in range(3):
            order.append(name)
            yield Wait(1.0)

    for name in "cab":
        processes.add(name, body(name))
    alone(processes)
    assert "".join(order) == "cabcabcab"


@pytest.mark.parametrize(
    ("word", "words"),
    [
        (Wait(-1.0), "-1.0 seconds"),
        (Compute(float("nan")), "nan seconds"),
        (Wait(float("inf")), "inf seconds"),
        (Join(["ghost"]), "'ghost'"),
        (Send("processes", ("ghost", 1)), "'ghost'"),
        (Send("processes", "no pair"), "no pair"),
        (3, "yielded 3"),
    ],
)
def test_nonsense_is_named(word: Any, words: str) -> None:
    def body() -> Body:
        yield word

    processes = Processes()
    processes.add("p", body())
    with pytest.raises(SimulationError, match=words):
        alone(processes)


def test_processes_are_added_once_and_not_in_the_past() -> None:
    def body() -> Body:
        yield Wait(1.0)

    processes = Processes()
    processes.add("p", body())
    with pytest.raises(ConfigError, match="'p'"):
        processes.add("p", body())
    alone(processes)
    with pytest.raises(ConfigError, match="before now"):
        processes.add("q", body(), at=0.5)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="'p'"):
            processes.set_speed("p", bad)
    with pytest.raises(ConfigError, match="'ghost'"):
        processes.set_speed("ghost", 1.0)
