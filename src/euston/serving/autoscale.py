"""Autoscaling: a component that looks at the load now and then, and takes replicas up and down.

The rule is Kubernetes' horizontal autoscaler's: as many replicas as bring the mean of a metric to its target,
unless it is within a tolerance already; going down waits for the largest wish of a window. A replica takes
`start` seconds to come (provisioning, loading weights, warming up) and drains when it goes.

Two kinds of metric are no load of the moment. "rate" is predicted: arrivals per second, smoothed with their
trend (Holt 1957), at the time when a replica ordered now is there. "ttft" and "tpot" follow the SLO: replicas
are multiplied by how late requests are, twice as many at most (Kubernetes' limit per look), and one at a time
goes where they are early, since a latency does not fall in proportion; while replicas are starting the
latency cannot know of them, and nothing more is ordered.
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

Metric = Literal["requests", "queued_tokens", "kv", "rate", "ttft", "tpot"]
LATENCIES = ("ttft", "tpot")
MOST_GROWTH = 2.0
OFF, STARTING, UP, DRAINING = range(4)


@dataclass(frozen=True)
class Scaling:
    """How a pool scales.

    Attributes
    ----------
    metric : "requests" | "queued_tokens" | "kv" | "rate" | "ttft" | "tpot"
        Requests of a replica, prompt tokens that wait for it, the share of its KV blocks in use, or arrivals
        per second of a replica as predicted; or a latency of all requests.
    target : float
        What a replica should have of it; seconds that `quantile` of the requests must keep.
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
    quantile : float
        Of a latency, among the requests since the last look.
    early : float
        Share of a latency's target below which a replica goes.
    smoothing, trend : float
        Of "rate": weight of the newest count in the level, and of the newest rise in the trend; 0 to 1.
    """

    metric: Metric
    target: float
    least: int = 1
    first: int = 1
    interval: float = 15.0
    window: float = 300.0
    start: float = 60.0
    tolerance: float = 0.1
    quantile: float = 0.9
    early: float = 0.5
    smoothing: float = 0.5
    trend: float = 0.2

    def __post_init__(self) -> None:
        if not (self.target > 0 and self.interval > 0 and self.window >= 0 and self.start >= 0):
            raise ConfigError("`autoscale`: target and interval must be > 0, window and start >= 0")
        if not (0 < self.quantile <= 1 and 0 <= self.early < 1):
            raise ConfigError("`autoscale`: quantile must be above 0 to 1, early 0 to below 1")
        if not (0 < self.smoothing <= 1 and 0 <= self.trend <= 1):
            raise ConfigError("`autoscale`: smoothing must be above 0 to 1, trend 0 to 1")
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
        self._holt: tuple[float, float] | None = None

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
        if s.metric in LATENCIES:
            wish = self._for_latency(now, len(serving))
        else:
            total = self._total(now, load)
            wish = len(serving)
            if abs(total / max(len(serving), 1) / s.target - 1.0) > s.tolerance:
                wish = math.ceil(total / s.target)
        wish = min(max(wish, s.least), len(self.ranks))
        self._wishes.append((now, wish))
        while self._wishes[0][0] < now - s.window:
            self._wishes.popleft()
        return max(wish, min(max(w for _, w in self._wishes), len(serving)))

    def _total(self, now: float, load: dict[str, NDArray[np.int64]]) -> float:
        """The metric, all replicas together."""
        s = self.scaling
        if s.metric == "rate":
            return self._predicted(self.engine.arrivals(now - s.interval) / s.interval)
        if s.metric == "kv":
            blocks = load["used_blocks"] + load["free_blocks"]
            return float((load["used_blocks"] / np.maximum(blocks, 1))[self.ranks].mean(1).sum())
        return float(load[s.metric][self.ranks].sum())

    def _predicted(self, seen: float) -> float:
        """Arrivals per second when a replica ordered now has started and served for one look."""
        s = self.scaling
        if self._holt is None:
            self._holt = (seen, 0.0)
        else:
            level, rise = self._holt
            higher = s.smoothing * seen + (1 - s.smoothing) * (level + rise)
            self._holt = (higher, s.trend * (higher - level) + (1 - s.trend) * rise)
        level, rise = self._holt
        return max(level + rise * (s.start / s.interval + 1.0), 0.0)

    def _for_latency(self, now: float, have: int) -> int:
        """Replicas for requests to be in time, from how late those since the last look are."""
        s = self.scaling
        seen = self.engine.seen_latency(s.metric, now - s.interval, now)
        late = float(np.quantile(seen, s.quantile, method="inverted_cdf")) / s.target if len(seen) else 0.0
        if (self.state == STARTING).any():
            return have
        if late > 1.0 + s.tolerance:
            return math.ceil(have * min(late, MOST_GROWTH))
        return have - 1 if late < s.early else have

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
