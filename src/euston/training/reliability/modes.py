"""What can fail in a job: each mode is a population of units, their lifetime, and what a failure does."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from euston.errors import ConfigError, unknown
from euston.seeds import stream
from euston.training.reliability.laws import Exponential, Law
from euston.training.reliability.rates import COMPONENTS

__all__ = ["Effect", "Mode", "Population", "Source", "modes", "population_of_hosts"]


class Effect(StrEnum):
    """What a failure does to the job."""

    CRASH = "crash"  # the job dies and restarts
    DEGRADE = "degrade"  # a NIC keeps half its bandwidth until repaired (dual-ToR)
    SLOW = "slow"  # a host computes slower for a while
    FLAP = "flap"  # the step under way waits
    SILENT = "silent"  # wrong numbers, noticed later


HARDWARE = ("accelerator", "nic", "link", "switch", "host", "silent")
"""Components whose failed host must be repaired before it is used again."""


@dataclass(frozen=True)
class Population:
    """Units of each component in a job at full size.

    Attributes
    ----------
    hosts : int
    per_host : dict of str to int
        Units of a component on one host.
    switches : tuple of tuples of (host, nic)
        What hangs on each top-of-rack switch.
    """

    hosts: int
    per_host: dict[str, int]
    switches: tuple[tuple[tuple[int, int], ...], ...] = ()

    def count(self, component: str) -> int:
        """Units of a component."""
        if component == "switch":
            return len(self.switches)
        return self.hosts * self.per_host.get(component, 1)

    def ports(self, component: str, unit: int) -> tuple[tuple[int, int], ...]:
        """(host, NIC) that a failed unit takes with it."""
        if component == "switch":
            return self.switches[unit]
        each = self.per_host.get(component, 1)
        return ((unit // each, unit % each),)


def population_of_hosts(hosts: int, accelerators_per_host: int = 8) -> Population:
    """A job on whole hosts with a NIC and a link per accelerator, its switches unknown."""
    each = accelerators_per_host
    return Population(hosts, {"accelerator": each, "silent": each, "nic": each, "link": each, "flap": each})


@dataclass(frozen=True)
class Mode:
    """One way to fail.

    Attributes
    ----------
    law : Law
        Lifetime of one unit.
    effect : Effect
    repair : float
        Seconds until a failed host (or a halved NIC) is back.
    duration : float
        Seconds a flap holds the step up, or a straggler stays slow.
    factor : float
        Share of its bandwidth a NIC keeps, or of its speed a straggler.
    noticed : float
        Mean seconds until silent corruption is noticed, exponentially distributed.
    age : float
        Age of all units at the start, seconds.
    """

    component: str
    law: Law
    effect: Effect = Effect.CRASH
    repair: float = 86_400.0
    duration: float = 10.0
    factor: float = 0.5
    noticed: float = 3_600.0
    age: float = 0.0

    def __post_init__(self) -> None:
        if self.component not in COMPONENTS:
            raise ConfigError(f"`component`: {unknown('component', self.component, COMPONENTS)}")
        if not 0 < self.factor <= 1:
            raise ConfigError(f"`factor`: {self.factor} is not above 0 and at most 1")

    @property
    def hardware(self) -> bool:
        """Whether the host is out of service until repaired."""
        return self.component in HARDWARE

    def rate(self, population: Population) -> float:
        """Failures per second of all units in the long run."""
        return population.count(self.component) / self.law.mean


def effect_of(component: str, dual_tor: bool) -> Effect:
    """What a failure of a component does."""
    if component in ("nic", "link", "switch") and dual_tor:
        return Effect.DEGRADE
    named = {"silent": Effect.SILENT, "flap": Effect.FLAP, "straggler": Effect.SLOW}
    return named.get(component, Effect.CRASH)


def modes(laws: Mapping[str, Law], *, dual_tor: bool = False, **values: float) -> tuple[Mode, ...]:
    """Modes of several components with the usual effects; ``values`` as in `Mode`."""
    return tuple(Mode(c, law, effect_of(c, dual_tor), **values) for c, law in laws.items())


class Source:
    """Failures of one mode in order of time; a failed unit is replaced by a new one.

    Units without memory are one process of their summed rate; others are followed one by one.
    """

    def __init__(self, mode: Mode, units: int, seed: int, *purpose: str | int) -> None:
        self.mode = mode
        self._rng = stream(seed, *purpose, mode.component)
        self._units = units
        self._queue: list[tuple[float, int]] = []
        self._memoryless = isinstance(mode.law, Exponential)
        self.time = np.inf
        self.unit = -1
        if units and self._memoryless:
            self.time = 0.0
            self.next()
        elif units:
            left = mode.law.left(self._rng, units, mode.age)
            self._queue = [(float(t), u) for u, t in enumerate(left)]
            heapq.heapify(self._queue)
            self.time, self.unit = self._queue[0]

    def next(self) -> None:
        """Go on to the failure after this one."""
        if self._memoryless:
            self.time += self.mode.law.mean / self._units * float(self._rng.standard_exponential())
            self.unit = int(self._rng.integers(self._units))
            return
        time, unit = self._queue[0]
        heapq.heapreplace(self._queue, (time + float(self.mode.law.left(self._rng, 1)[0]), unit))
        self.time, self.unit = self._queue[0]


def sources(found: Sequence[Mode], population: Population, seed: int, run: int) -> list[Source]:
    """One source per mode, each with random numbers of its own."""
    return [Source(m, population.count(m.component), seed, "failures", run, i) for i, m in enumerate(found)]
