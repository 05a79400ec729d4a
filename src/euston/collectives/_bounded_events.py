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
from euston.collectives.loss import LossModel, LossProcess
from euston.collectives.tail import Tail
from euston.compression import Fec

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
    model : LossModel, optional
        How packets are lost between two ranks, one process each; independently unless said.
    fec : Fec, optional
        Parity packets that go behind the packets, and what they restore.
    """

    packets: int
    seconds: float
    overhead: float
    tail: Tail
    loss: float
    model: LossModel | None = None
    fec: Fec | None = None

    @property
    def parity(self) -> int:
        """Parity packets."""
        return 0 if self.fec is None else self.fec.parity_packets(self.packets)


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
    between: bool = True
    """Done with an exchange and not in the next one: what comes is too late, or early."""
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
    began, ends : float64[steps, n]
        When each rank began each exchange, and was done with it.
    seconds : float64[steps, 2, n]
        Of each stage at each rank.
    received : float64[steps, 2, n, n]
        ``[step, stage, receiver, sender]``.
    resent : int64[steps]
        Packets that were sent again.

    Parameters
    ----------
    absent : bool[steps, n]
        Ranks whose parts are left out of an exchange: nobody waits for them. They own shards all the same.
    gaps : float64[steps]
        Seconds before each exchange.
    """

    def __init__(
        self, bounded: Bounded, ranks: int, steps: int, link: Link, *, together: bool, seed: int,
        absent: NDArray[np.bool_] | None = None, gaps: NDArray[np.float64] | None = None,
    ) -> None:  # fmt: skip
        self.gaps = np.zeros(steps) if gaps is None else gaps
        self.began = np.zeros((steps, ranks))
        self.absent = np.zeros((steps, ranks), bool) if absent is None else absent
        self.resent = np.zeros(steps, np.int64)
        self._seed = seed
        self._losses: dict[tuple[int, int], LossProcess] = {}
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
            self._at(float(self.gaps[0]), ENTER, r)
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
        stages = self.ranks[r].stages
        if (step, stage) not in stages:
            made = stages[step, stage] = _Stage.of(self.n, r)
            if stage == 0 and step < self.steps:
                for flag in (made.begun, made.ended, made.tail):
                    flag |= self.absent[step]
        return stages[step, stage]

    # ---- a rank goes on ------------------------------------------------------------------------------------

    def _enter(self, r: int, now: float) -> None:
        """An exchange begins at a rank; what came early is there."""
        self.ranks[r].step += 1
        self.ranks[r].between = False
        self.began[self.ranks[r].step, r] = now
        self._begin(r, 0, now, self.link.overhead)

    def _begin(self, r: int, stage: int, now: float, work: float = 0.0) -> None:
        me = self.ranks[r]
        me.stage, me.began, me.news, me.asked = stage, now, now, False
        me.early = set()
        for k in range(self.n - 1):
            to = (r + 1 + (k + me.step) % (self.n - 1)) % self.n
            if stage == 1 or not self.absent[me.step, r]:
                self._send(r, to, me.step, stage, self.link.packets, now + work)
        self._at(now + (self.bounded.t_b or math.inf), LOOK, r, -me.step * 2 - stage - 1)
        self._decide(r, now)

    def _send(
        self, source: int, to: int, step: int, stage: int, packets: int, now: float, *, again: bool = False
    ) -> None:
        """A transfer gets its turn on the receiver's link."""
        link, got = self.link, self._stage(to, step, stage)
        sent = packets if again else packets + link.parity
        took = link.seconds * sent / link.packets * float(link.tail.sample(self._rng, 1, 1)[0, 0])
        start = max(now, self._free[to])
        self._free[to] = start + took
        lost, tail = self._lose(source, to, packets, again=again)
        if again:
            self.resent[step] += packets
        else:
            got.tail[source] = tail
            got.start[source], got.end[source] = start, start + took
        got.begun[source], got.ended[source] = True, False
        got.missing[source] = lost
        self._at(start + took, ENDED, to, source, step, stage)

    def _lose(self, source: int, to: int, packets: int, *, again: bool) -> tuple[int, bool]:
        """Packets that are missing after a transfer, and whether one of its last has come."""
        link, last = self.link, self.link.packets // 100 + 1
        if link.model is None and link.fec is None:
            lost = int(self._rng.binomial(packets, link.loss))
            return lost, again or not lost or bool(self._rng.random() >= link.loss**last)
        sent = packets if again else packets + link.parity
        if link.model is None:
            gone = self._rng.random(sent) < link.loss
        else:
            pair = (source, to)
            if pair not in self._losses:
                words = np.random.SeedSequence((self._seed, *pair)).generate_state(1, np.uint64)
                self._losses[pair] = link.model.start(int(words[0]))
            gone = self._losses[pair].lost(sent)
        have, tail = ~gone[:packets], not gone[-last:].all()
        if link.fec is not None and not again:
            have = link.fec.survive(have, ~gone[packets:])
        return int((~have).sum()), tail

    def _ended(self, r: int, now: float, source: int, step: int, stage: int) -> None:
        me, got = self.ranks[r], self._stage(r, step, stage)
        got.ended[source] = True
        if me.step != step or me.between:
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
                self._send(source, r, me.step, 1, int(got.missing[source]), now, again=True)

    # ---- a receiver decides --------------------------------------------------------------------------------

    def _decide(self, r: int, now: float) -> None:
        """End the stage, ask again, or look again later."""
        me = self.ranks[r]
        if me.between:
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
                self._send(source, r, me.step, 1, int(got.missing[source]), now, again=True)
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
        asked = np.arange(self.n) != r
        if me.stage == 0:
            asked &= ~self.absent[me.step]
        me.limits.stage(taken, float(share[asked].mean()) if asked.any() else 1.0, told)
        me.look += 1
        if me.stage == 0:
            self._begin(r, 1, now)
            return
        self.ends[me.step, r] = now
        me.between = True
        me.stages = {key: kept for key, kept in me.stages.items() if key[0] > me.step}
        if me.step + 1 >= self.steps:
            return
        begin = now + self.gaps[me.step + 1]
        if not self.together:
            self._at(begin, ENTER, r)
        elif self.ends[me.step].all():
            for k in range(self.n):
                self._at(begin, ENTER, k)
