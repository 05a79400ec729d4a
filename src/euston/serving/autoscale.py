"""Autoscaling: a component that looks at the load now and then, and takes replicas up and down.

The rule is Kubernetes' horizontal autoscaler's: as many replicas as bring the mean of a metric to its target,
unless it is within a tolerance already; going down waits for the largest wish of a window. A replica takes
`start` seconds to come (provisioning, loading weights, warming up) and drains when it goes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from euston.clock.conductor import Message
from euston.errors import ConfigError
from euston.serving.engine import Replica, Serving

__all__ = ["Autoscaler", "Scaling"]

Metric = Literal["requests", "queued_tokens", "kv"]
OFF, STARTING, UP, DRAINING = range(4)


@dataclass(frozen=True)
class Scaling:
    """How a pool scales.

    Attributes
    ----------
    metric : "requests" | "queued_tokens" | "kv"
        Requests of a replica, prompt tokens that wait for it, or the share of its KV blocks in use.
    target : float
        What a replica should have of it.
    least, first : int
        Replicas that always run, and at the start.
    interval : float
        Seconds between looks.
    window : float
        Seconds over which the largest wish counts before replicas go.
    start : float
        Seconds until a new replica serves.
    tolerance : float
        Relative distance from the target that changes nothing.
    """

    metric: Metric
    target: float
    least: int = 1
    first: int = 1
    interval: float = 15.0
    window: float = 300.0
    start: float = 60.0
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if not (self.target > 0 and self.interval > 0 and self.window >= 0 and self.start >= 0):
            raise ConfigError("`autoscale`: target and interval must be > 0, window and start >= 0")
        if self.least < 1 or self.first < self.least:
            raise ConfigError(
                f"`autoscale.first`: {self.first} replicas; least is {self.least}, and at least 1"
            )


class Autoscaler:
    """The component ``autoscaler`` beside a `Serving` of one pool's replicas.

    Parameters
    ----------
    engine : Serving
        Whose load it sees; made with the replicas beyond ``scaling.first`` down.
    ranks : int[replicas, ranks of a replica]
        The pool's.
    scaling : Scaling

    Attributes
    ----------
    log : list of (float, int, int, int)
        At every look: seconds, replicas that serve, that start, and that are wished for.
    paid : float64[replicas]
        Seconds from the order of each replica to the look that finds it drained.
    """

    def __init__(
        self, engine: Serving, ranks: NDArray[np.int64], scaling: Scaling, *, name: str = "autoscaler"
    ) -> None:
        self.name, self.engine, self.scaling = name, engine, scaling
        self.ranks = np.asarray(ranks, np.int64)
        n = len(self.ranks)
        if scaling.first > n:
            raise ConfigError(f"`autoscale.first`: {scaling.first} replicas; the pool has at most {n}")
        self.state = np.where(np.arange(n) < scaling.first, UP, OFF)
        self.log: list[tuple[float, int, int, int]] = []
        self.paid = np.zeros(n)
        self._since = np.where(self.state == UP, 0.0, np.nan)
        self._comes = np.full(n, np.inf)
        self._wishes: deque[tuple[float, int]] = deque()
        self._next = scaling.interval

    def next_time(self) -> float:
        """The next look; never again once the service has nothing to do."""
        return self._next if self.engine.next_time() < math.inf else math.inf

    def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
        """Look at the load, and write to the replicas that are to come or to go."""
        del inbox
        out: list[Message] = []
        while not out and self.next_time() <= until:
            now, self._next = self._next, self._next + self.scaling.interval
            out = self._look(now)
        return out

    def _look(self, now: float) -> list[Message]:
        load = self.engine.load()
        here = load["requests"][self.ranks].sum(1)
        self.state[(self.state == STARTING) & (self._comes <= now)] = UP
        gone = (self.state == DRAINING) & (here == 0)
        self.paid[gone] += now - self._since[gone]
        self.state[gone] = OFF
        wish = self._wish(now, load)
        running, starting = int((self.state == UP).sum()), int((self.state == STARTING).sum())
        self.log.append((now, running, starting, wish))
        change = wish - running - starting
        return self._more(now, change) if change > 0 else self._fewer(-change, here)

    def _wish(self, now: float, load: dict[str, NDArray[np.int64]]) -> int:
        s, serving = self.scaling, np.flatnonzero((self.state == UP) | (self.state == STARTING))
        if s.metric == "kv":
            blocks = load["used_blocks"] + load["free_blocks"]
            total = float((load["used_blocks"] / np.maximum(blocks, 1))[self.ranks].mean(1).sum())
        else:
            total = float(load[s.metric][self.ranks].sum())
        mean = total / max(len(serving), 1)
        wish = len(serving)
        if abs(mean / s.target - 1.0) > s.tolerance:
            wish = math.ceil(total / s.target)
        wish = min(max(wish, s.least), len(self.ranks))
        self._wishes.append((now, wish))
        while self._wishes[0][0] < now - s.window:
            self._wishes.popleft()
        return max(wish, min(max(w for _, w in self._wishes), len(serving)))

    def _more(self, now: float, count: int) -> list[Message]:
        """Drained ones that are still there first, then new ones."""
        out = []
        back = np.flatnonzero(self.state == DRAINING)[:count]
        fresh = np.flatnonzero(self.state == OFF)[: count - len(back)]
        for unit in back.tolist():
            self.state[unit] = UP
            out.append(Message(now, self.engine.name, Replica(int(self.ranks[unit, 0]), "up")))
        for unit in fresh.tolist():
            self.state[unit], self._since[unit] = STARTING, now
            self._comes[unit] = now + self.scaling.start
            out.append(Message(self._comes[unit], self.engine.name, Replica(int(self.ranks[unit, 0]), "up")))
        return out

    def _fewer(self, count: int, here: NDArray[np.int64]) -> list[Message]:
        """Those with the fewest requests go."""
        serving = np.flatnonzero(self.state == UP)
        go = serving[np.argsort(here[serving], kind="stable")][:count]
        self.state[go] = DRAINING
        now = self._next - self.scaling.interval
        return [Message(now, self.engine.name, Replica(int(self.ranks[u, 0]), "drain")) for u in go.tolist()]

    def close(self, end: float) -> NDArray[np.float64]:
        """Replica-seconds paid by the end, float64[replicas]."""
        there = self.state != OFF
        return self.paid + np.where(there, end - np.nan_to_num(self._since), 0.0)
