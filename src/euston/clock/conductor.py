"""The conductor: things with events of their own, advanced in exact order without look-ahead.

A component is told to run from the earliest next time up to the second earliest, and stops right after the
first event that writes a message. Ties are broken by (time, component, sequence).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from euston.errors import ConfigError, SimulationError

__all__ = ["Component", "Conductor", "Message"]


@dataclass(frozen=True)
class Message:
    """What one component tells another at ``time`` seconds."""

    time: float
    to: str
    payload: Any
    sender: str = ""


class Component(Protocol):
    """Something with events of its own."""

    name: str

    def next_time(self) -> float:
        """Seconds at which its next event happens, inf if none will without a message."""

    def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
        """Take ``inbox`` (in time order), run up to ``until`` or right after the first event that writes."""


@dataclass
class Conductor:
    """Runs components against each other.

    Attributes
    ----------
    components : list of Component
        Their order breaks ties at one moment.
    alternations : int
        How often control went from one component to another: the cost of coupling.
    """

    components: list[Component]
    alternations: int = 0
    now: float = 0.0
    _inbox: dict[str, list[Message]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [c.name for c in self.components]
        if len(set(names)) != len(names):
            raise ConfigError(f"components need different names; got {', '.join(names)}")
        self._inbox = {name: [] for name in names}

    def run(self, until: float = np.inf) -> None:
        """Advance everything to ``until`` seconds, or until nothing happens any more.

        Raises
        ------
        SimulationError
            When a component sends a message into the past or to nobody.
        """
        components = [(c, self._inbox[c.name]) for c in self.components]
        while True:
            first = second = np.inf
            component, box = components[0] if components else (None, [])
            for c, pending in components:
                time = c.next_time()
                if pending and pending[0].time < time:
                    time = pending[0].time
                if time < first:
                    first, second, component, box = time, first, c, pending
                elif time < second:
                    second = time
            if component is None or first == np.inf or first > until:
                return
            limit = min(until, second)
            due: list[Message] = []
            if box:
                due = [m for m in box if m.time <= first]
                del box[: len(due)]
                if box:
                    limit = min(limit, box[0].time)
            self.now = max(self.now, first)
            for message in component.advance(limit, due):
                self._post(component.name, message)
            self.alternations += 1

    def _post(self, sender: str, message: Message) -> None:
        """Into the box of whom it is for, behind all that are not later."""
        box = self._inbox.get(message.to)
        if box is None:
            known = ", ".join(self._inbox)
            raise SimulationError(f"{sender} wrote to {message.to!r}; there are {known}")
        if message.time < self.now:
            raise SimulationError(
                f"{sender} wrote to {message.to!r} at {message.time} s, before now ({self.now} s)"
            )
        if message.sender != sender:
            message = Message(message.time, message.to, message.payload, sender)
        if box and box[-1].time > message.time:
            insort(box, message, key=lambda m: m.time)
        else:
            box.append(message)
