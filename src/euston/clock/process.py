"""Plain Python generators on the clock, for what decides while it runs and is rare.

A process yields the same four words as a program: ``compute`` (its speed may change), ``send`` (a message
to a component), ``wait`` (seconds) and ``join`` (other processes, or the next message to it).
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from euston.clock.conductor import Message
from euston.errors import ConfigError, SimulationError

__all__ = ["Compute", "Join", "Processes", "Receive", "Send", "Wait"]


@dataclass(frozen=True)
class Wait:
    """A delay in seconds that no speed changes."""

    seconds: float


@dataclass(frozen=True)
class Compute:
    """Seconds of work at speed 1."""

    seconds: float


@dataclass(frozen=True)
class Send:
    """Tell ``to`` something now; the process goes on at once."""

    to: str
    payload: Any


@dataclass(frozen=True)
class Join:
    """Go on when all the named processes have ended."""

    processes: Sequence[str]


@dataclass(frozen=True)
class Receive:
    """Go on with the next message addressed to this process (payload ``(process name, value)``)."""


Command = Wait | Compute | Send | Join | Receive
Body = Generator[Command, Any, None]


@dataclass
class _Entry:
    body: Body
    speed: float = 1.0
    version: int = 0
    left: float = 0.0  # work left of the compute under way
    since: float = 0.0
    computing: bool = False
    receiving: bool = False  # parked until mail arrives
    expects_mail: bool = False  # its next step takes one message
    joining: frozenset[str] = frozenset()
    ended: bool = False


class Processes:
    """A component made of named generators.

    Messages to it carry ``(process, value)``; the value is what the process's ``yield Receive()`` returns.
    """

    def __init__(self, name: str = "processes") -> None:
        self.name = name
        self.now = 0.0
        self._entries: dict[str, _Entry] = {}
        self._mail: dict[str, list[Any]] = {}
        self._heap: list[tuple[float, int, str, int]] = []
        self._sequence = 0

    def add(self, name: str, body: Body, *, at: float = 0.0) -> None:
        """Start ``body`` at ``at`` seconds."""
        if name in self._entries:
            raise ConfigError(f"process {name!r} exists already")
        if at < self.now:
            raise ConfigError(f"process {name!r} starts at {at} s, before now ({self.now} s)")
        self._entries[name] = _Entry(body)
        self._mail[name] = []
        self._push(at, name)

    def ended(self, name: str) -> bool:
        """Whether a process has run to its end."""
        return self._entries[name].ended

    def set_speed(self, name: str, speed: float) -> None:
        """Change the speed of a process's compute from now on (0 stops it)."""
        if not 0 <= speed < np.inf:
            raise ConfigError(f"speed of {name!r} is {speed}; it must be a number >= 0")
        if name not in self._entries:
            raise ConfigError(f"process {name!r} does not exist")
        entry = self._entries[name]
        if entry.computing:
            entry.left -= entry.speed * (self.now - entry.since)
            entry.since = self.now
        entry.speed = speed
        if entry.computing:
            entry.version += 1
            if speed > 0:
                self._push(self.now + entry.left / speed, name)

    def next_time(self) -> float:
        """Time of the next step of any process."""
        while self._heap and self._heap[0][3] != self._entries[self._heap[0][2]].version:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
        """Deliver messages, then step processes up to ``until`` or to the first message written."""
        outbox: list[Message] = []
        for message in inbox:
            self.now = max(self.now, message.time)
            if not isinstance(message.payload, tuple) or len(message.payload) != 2:
                raise SimulationError(
                    f"{message.sender} wrote {message.payload!r} to {self.name!r}; write (process, value)"
                )
            process, value = message.payload
            if process not in self._entries:
                raise SimulationError(f"{message.sender} wrote to process {process!r}, which does not exist")
            self._mail[process].append(value)
            if self._entries[process].receiving:
                self._entries[process].receiving = False
                self._push(self.now, process)
        while not outbox and self.next_time() <= until and self._heap:
            time, _, name, _ = heapq.heappop(self._heap)
            self.now = max(self.now, time)
            self._step(name, outbox)
        return outbox

    def _push(self, time: float, name: str) -> None:
        heapq.heappush(self._heap, (time, self._sequence, name, self._entries[name].version))
        self._sequence += 1

    def _step(self, name: str, outbox: list[Message]) -> None:
        entry = self._entries[name]
        entry.computing = False
        value = self._mail[name].pop(0) if entry.expects_mail else None
        entry.expects_mail = False
        try:
            command = entry.body.send(value)
        except StopIteration:
            entry.ended = True
            for other, waiting in self._entries.items():
                if name in waiting.joining:
                    waiting.joining = waiting.joining - {name}
                    if not waiting.joining:
                        self._push(self.now, other)
            return
        match command:
            case Wait(seconds):
                self._push(self.now + _checked(name, seconds), name)
            case Compute(seconds):
                entry.left, entry.since, entry.computing = _checked(name, seconds), self.now, True
                if entry.speed > 0:
                    self._push(self.now + entry.left / entry.speed, name)
            case Send(to, payload):
                outbox.append(Message(self.now, to, payload, self.name))
                self._push(self.now, name)
            case Join(processes):
                unknown = [p for p in processes if p not in self._entries]
                if unknown:
                    raise SimulationError(f"process {name!r} joins {unknown[0]!r}, which does not exist")
                entry.joining = frozenset(p for p in processes if not self._entries[p].ended)
                if not entry.joining:
                    self._push(self.now, name)
            case Receive():
                entry.expects_mail = True
                if self._mail[name]:
                    self._push(self.now, name)
                else:
                    entry.receiving = True
            case _:
                raise SimulationError(
                    f"process {name!r} yielded {command!r}; yield Wait, Compute, Send, Join or Receive"
                )


def _checked(name: str, seconds: float) -> float:
    if not 0 <= seconds < np.inf:
        raise SimulationError(f"process {name!r} yielded {seconds} seconds; it must be a number >= 0")
    return seconds
