"""The events of bounded exchanges: transfers that end, receivers that ask again, and stages that are over.

The rules are those of `euston.collectives.runtime`: a stage is over when all of it has come; when every
sender that misses something has begun its last packets and nothing has come for the idle time; when all have
begun and nothing has come for the silence; or at t_B. Results that are missing are asked for when their
sender's last packet has come, and once more when nothing comes. Who is ready goes on: ranks that end a stage
early send their results early.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from euston.collectives.bounded import Bounded, Timeouts
from euston.collectives.tail import Tail

__all__ = ["Link", "Run"]

ENTER, ENDED, LOOK = 0, 1, 2


@dataclass(frozen=True)
class Link:
    """What one sender's part of a stage is on a receiver's link.

    Parameters
    ----------
    packets : int
    seconds : float
        That it takes alone, without a tail.
    overhead : float
        Seconds that a rank works on an exchange before it sends.
    tail : Tail
    loss : float
        Probability with which a packet is lost.
    """

    packets: int
    seconds: float
    overhead: float
    tail: Tail
    loss: float


@dataclass
class _Stage:
    """What has come of one stage of one exchange at one receiver, by sender."""

    begun: NDArray[np.bool_]
    ended: NDArray[np.bool_]
    missing: NDArray[np.int64]
    tail: NDArray[np.bool_]
    start: NDArray[np.float64]
    end: NDArray[np.float64]

    @classmethod
    def of(cls, ranks: int, rank: int) -> _Stage:
        made = cls(
            np.zeros(ranks, bool), np.zeros(ranks, bool), np.zeros(ranks, np.int64), np.zeros(ranks, bool),
            np.full(ranks, math.inf), np.zeros(ranks),
        )  # fmt: skip
        for flag in (made.begun, made.ended, made.tail):
            flag[rank] = True
        return made

    def complete(self) -> bool:
        return bool(self.ended.all() and not self.missing.any())


@dataclass
class _Rank:
    """Where a rank is."""

    limits: Timeouts
    step: int = -1
    stage: int = 0
    began: float = 0.0
    news: float = 0.0
    asked: bool = False
    early: set[int] = field(default_factory=set)
    look: int = 0
    """Only the look with this number still counts."""
    stages: dict[tuple[int, int], _Stage] = field(default_factory=dict)


class Run:
    """A number of exchanges.

    Attributes
    ----------
    ends : float64[steps, n]
        When each rank was done with each exchange.
    seconds : float64[steps, 2, n]
        Of each stage at each rank.
    received : float64[steps, 2, n, n]
        ``[step, stage, receiver, sender]``.
    """

    def __init__(
        self, bounded: Bounded, ranks: int, steps: int, link: Link, *, together: bool, seed: int
    ) -> None:
        self.bounded, self.n, self.steps, self.link, self.together = bounded, ranks, steps, link, together
        self._rng = np.random.Generator(np.random.Philox(seed))
        self.ranks = [_Rank(Timeouts(bounded)) for _ in range(ranks)]
        self._free = np.zeros(ranks)
        self._heap: list[tuple[float, int, int, int, tuple[int, ...]]] = []
        self._count = 0
        self.ends = np.zeros((steps, ranks))
        self.seconds = np.zeros((steps, 2, ranks))
        self.received = np.ones((steps, 2, ranks, ranks))

    def run(self) -> None:
        """All of it."""
        for r in range(self.n):
            self._at(0.0, ENTER, r)
        while self._heap:
            time, _, kind, r, more = heapq.heappop(self._heap)
            if kind == ENTER:
                self._enter(r, time)
            elif kind == ENDED:
                self._ended(r, time, *more)
            elif (
                more[0] == self.ranks[r].look or more[0] == -self.ranks[r].step * 2 - self.ranks[r].stage - 1
            ):
                self._decide(r, time)

    def _at(self, time: float, kind: int, rank: int, *more: int) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, kind, rank, more))

    def _stage(self, r: int, step: int, stage: int) -> _Stage:
        return self.ranks[r].stages.setdefault((step, stage), _Stage.of(self.n, r))

    # ---- a rank goes on ------------------------------------------------------------------------------------

    def _enter(self, r: int, now: float) -> None:
        """An exchange begins at a rank; what came early is there."""
        self.ranks[r].step += 1
        self._begin(r, 0, now, self.link.overhead)

    def _begin(self, r: int, stage: int, now: float, work: float = 0.0) -> None:
        me = self.ranks[r]
        me.stage, me.began, me.news, me.asked = stage, now, now, False
        me.early = set()
        for k in range(self.n - 1):
            to = (r + 1 + (k + me.step) % (self.n - 1)) % self.n
            self._send(r, to, me.step, stage, self.link.packets, now + work)
        self._at(now + (self.bounded.t_b or math.inf), LOOK, r, -me.step * 2 - stage - 1)
        self._decide(r, now)

    def _send(self, source: int, to: int, step: int, stage: int, packets: int, now: float) -> None:
        """A transfer gets its turn on the receiver's link."""
        link, got = self.link, self._stage(to, step, stage)
        took = link.seconds * packets / link.packets * float(link.tail.sample(self._rng, 1, 1)[0, 0])
        start = max(now, self._free[to])
        self._free[to] = start + took
        lost = int(self._rng.binomial(packets, link.loss))
        last = link.packets // 100 + 1
        if packets == link.packets:
            got.tail[source] = not lost or self._rng.random() >= link.loss**last
            got.start[source], got.end[source] = start, start + took
        got.begun[source], got.ended[source] = True, False
        got.missing[source] = lost
        self._at(start + took, ENDED, to, source, step, stage)

    def _ended(self, r: int, now: float, source: int, step: int, stage: int) -> None:
        me, got = self.ranks[r], self._stage(r, step, stage)
        got.ended[source] = True
        if me.step != step:
            return
        if stage == 1:
            self._stage(r, step, 0).tail[source] = True  # who sends results has sent its parts
        if stage == me.stage:
            me.news = now
        self._decide(r, now)

    def _early(self, r: int, got: _Stage, now: float) -> None:
        """Ask those whose last packet has come for what is missing, once each."""
        me = self.ranks[r]
        for source in np.flatnonzero(got.ended & (got.missing > 0)).tolist():
            if source in me.early:
                continue
            me.early.add(source)
            # the last packet and the request come through
            if (self._rng.random(2) >= self.link.loss).all():
                self._send(source, r, me.step, 1, int(got.missing[source]), now)

    # ---- a receiver decides --------------------------------------------------------------------------------

    def _decide(self, r: int, now: float) -> None:
        """End the stage, ask again, or look again later."""
        me = self.ranks[r]
        if me.step < 0 or me.step >= self.steps:
            return
        got = self._stage(r, me.step, me.stage)
        hard = me.began + (self.bounded.t_b or math.inf)
        if got.complete() or now >= hard:
            self._close(r, now)
            return
        if me.stage == 1 and self.bounded.repair == "nack":
            self._early(r, got, now)
        if (got.begun & ~got.ended).any():  # news until it ends
            return
        waiting = ~got.ended | (got.missing > 0)
        quiet = math.inf
        if got.tail[waiting].all():
            quiet = me.news + me.limits.idle
        if got.begun.all():
            quiet = min(quiet, me.news + me.limits.silence)
        if now < quiet:
            if quiet < hard:
                me.look += 1
                self._at(quiet, LOOK, r, me.look)
        elif me.stage == 1 and not me.asked and self.bounded.repair == "nack":
            self._ask(r, got, now)
        else:
            self._close(r, now)

    def _ask(self, r: int, got: _Stage, now: float) -> None:
        me = self.ranks[r]
        me.asked, me.news = True, now
        for source in np.flatnonzero(got.ended & (got.missing > 0)).tolist():
            if source != r and self._rng.random() >= self.link.loss:  # requests are lost, too
                self._send(source, r, me.step, 1, int(got.missing[source]), now)
        self._decide(r, now)

    def _close(self, r: int, now: float) -> None:
        me, link = self.ranks[r], self.link
        got = self._stage(r, me.step, me.stage)
        elapsed, whole = now - me.began, got.complete()
        # in flight at the deadline: a transfer has delivered the part of it that it had time for
        part = (now - got.start) / np.where(got.begun, np.maximum(got.end - got.start, 1e-15), 1.0)
        share = np.clip(part, 0.0, 1.0) * (1.0 - got.missing / link.packets)
        share[r] = 1.0
        self.seconds[me.step, me.stage, r], self.received[me.step, me.stage, r] = elapsed, share
        told = [other.limits.t_c for k, other in enumerate(self.ranks) if k != r and other.limits.t_c]
        taken = elapsed if whole else max(me.news - me.began, 1e-6)
        me.limits.stage(taken, float(np.delete(share, r).mean()), told)
        me.look += 1
        if me.stage == 0:
            self._begin(r, 1, now)
            return
        self.ends[me.step, r] = now
        me.stages = {key: kept for key, kept in me.stages.items() if key[0] > me.step}
        if me.step + 1 >= self.steps:
            me.step += 1
        elif not self.together:
            self._at(now, ENTER, r)
        elif self.ends[me.step].all():
            for k in range(self.n):
                self._at(now, ENTER, k)
