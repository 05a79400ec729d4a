"""The conductor: things with events of their own, advanced in exact order without look-ahead.

A component is told to run from the earliest next time up to the second earliest, and stops right after the
first event that writes a message. Ties are broken by (time, component, sequence).
"""

from __future__ import annotations

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
        while True:
            times = [
                min(c.next_time(), self._inbox[c.name][0].time if self._inbox[c.name] else np.inf)
                for c in self.components
            ]
            first = int(np.argmin(times))
            if times[first] == np.inf or times[first] > until:
                return
            others = [t for i, t in enumerate(times) if i != first]
            component = self.components[first]
            limit = min([until, *others])
            pending = self._inbox[component.name]
            due = [m for m in pending if m.time <= times[first]]
            self._inbox[component.name] = later = [m for m in pending if m.time > times[first]]
            if later:
                limit = min(limit, later[0].time)
            self.now = max(self.now, times[first])
            for message in component.advance(limit, due):
                if message.to not in self._inbox:
                    known = ", ".join(self._inbox)
                    raise SimulationError(f"{component.name} wrote to {message.to!r}; there are {known}")
                if message.time < self.now:
                    raise SimulationError(
                        f"{component.name} wrote to {message.to!r} at {message.time} s, "
                        f"before now ({self.now} s)"
                    )
                box = self._inbox[message.to]
                box.append(Message(message.time, message.to, message.payload, component.name))
                box.sort(key=lambda m: m.time)
            self.alternations += 1
