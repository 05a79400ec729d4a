"""An all-reduce over UDP that ends on time: the mean of what arrived, by the rule that was asked for.

Transpose all-reduce: every rank owns a shard, adds what the others send of it, and sends the result to all.
Each stage is bounded (`euston.collectives.bounded`); results that are missing are asked for when the sender's
last packet is there and once more when nothing comes, and what is missing then keeps the rank's own values,
which `synchronise` evens out.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation import AGGREGATION, AggregationRule, Inclusion
from euston.collectives.bounded import Bounded, Timeouts
from euston.collectives.loss import LossModel
from euston.collectives.runtime import calls, wire
from euston.collectives.runtime.checks import as_array, fitting
from euston.collectives.runtime.endpoint import RECENT, Endpoint
from euston.collectives.runtime.exchange import Exchange, Rooms, Shards
from euston.collectives.runtime.mean import Mean, part_key
from euston.collectives.runtime.report import ReduceReport
from euston.collectives.runtime.store import Store
from euston.collectives.runtime.udp_socket import UdpSocket
from euston.compression import Codec, NonFinite, SizeMismatch, StepKey
from euston.errors import ConfigError, EustonError, unknown

__all__ = ["ReduceReport", "StageLost", "UdpGroup"]

IP_UDP = 28
FIRST_PATIENCE = 30.0
"""Seconds that a stage may take while t_B is being measured."""
IN_TURN = 8
"""Buffers that go to one receiver before it is another's turn."""
AHEAD = 1 << 20
"""Bytes that a rank sends in a stage beyond what it has received of it, before it pauses: what waits in the
others' sockets stays in their caches (64 MB by 4 processes on 2 cores: a third less CPU time)."""
PAUSE = 5e-4
"""Seconds between two bursts that would fill a receiver's buffer."""
ASK_AGAIN = 0.05
"""Seconds without news after which, while t_B is being measured, missing packets are asked for again."""
EVICT = 2
"""Exchanges without a packet from a rank after which nobody waits for it."""


class StageLost(EustonError):
    """Nothing arrived from anybody, several times in a row; or too much was lost for too long."""


class UdpGroup:
    """Ranks that average vectors over UDP.

    Parameters
    ----------
    rank, world : int
    store : Store
        Where ranks find each other; all pass the same.
    host : str
        Address of this rank that the others can reach.
    mtu : int
        Bytes of an IP packet at most.
    bounded : Bounded
    codec : Codec, optional
        None sends float32 as they are.
    rule : str or AggregationRule
        How the mean is taken when packets are missing.
    loss : LossModel, optional
        Losses injected on arrival, in process: deterministic by ``seed`` and rank.
    socket_loss : float
        Losses by a socket filter in the kernel.
    incast : int
        Senders that a rank takes at once, at first; it grows while nothing is lost.
    on_nonfinite : "raise" | "skip_step"
        NaN or Inf in a vector: an error at that rank, or everybody skips the exchange.
    name : str
        Distinguishes groups in one store.
    seed : int

    Raises
    ------
    ConfigError
        Ranks out of range, an unknown rule, an address that is not ours.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        store: Store,
        *,
        host: str = "127.0.0.1",
        mtu: int = 1500,
        bounded: Bounded | None = None,
        codec: Codec | None = None,
        rule: str | AggregationRule = "count",
        loss: LossModel | None = None,
        socket_loss: float = 0.0,
        incast: int = 1,
        on_nonfinite: str = "raise",
        name: str = "group",
        seed: int = 0,
    ) -> None:
        if not (1 <= world < 2**16 and 0 <= rank < world):
            raise ConfigError(f"`rank`: {rank} of {world} ranks")
        if not 576 <= mtu <= 9216:
            raise ConfigError(f"`mtu`: {mtu} bytes; Ethernet carries 576 to 9216")
        if on_nonfinite not in ("raise", "skip_step"):
            raise ConfigError(f"`on_nonfinite`: {unknown('choice', on_nonfinite, ('raise', 'skip_step'))}")
        if not 1 <= incast <= 15:
            raise ConfigError(f"`incast`: {incast}; 1 to 15 senders")
        self.rank, self.world, self.codec, self.on_nonfinite = rank, world, codec, on_nonfinite
        self.rule: AggregationRule = AGGREGATION.get(rule)() if isinstance(rule, str) else rule
        self.timeouts = Timeouts(bounded or Bounded())
        self.inclusion = Inclusion(world)
        segment = (mtu - IP_UDP) // 4 * 4
        self.payload = segment - wire.HEADER
        if codec is not None:
            self.codec, largest = fitting(codec, self.payload)
            segment = wire.HEADER + largest
            self.payload = largest
        self._mean = Mean(rank, world, self.payload, self.codec, self.rule, self.inclusion)
        wire.compile_kernels()
        if calls.AVAILABLE:
            calls.compile_calls()
        socket = UdpSocket(host, segment, loss=socket_loss)
        self.offload, self.receive_buffer = socket.offload, socket.receive_buffer
        self._rendezvous(socket, store, name, loss, seed)
        self.seq = 0
        self._whole = 1.0 / float(self.rule.divisor(np.array([world]), world)[0])
        self.silent = np.zeros(world, np.int64)
        """Exchanges in a row without a packet from each rank."""
        self._store, self._name = store, name
        self._shards: dict[int, Shards] = {}
        self._rooms = Rooms(RECENT + 2)
        self._bad = 0
        self._losses: deque[float] = deque(maxlen=16)
        self._drops = 0
        self._measured: float | None = None

    def _rendezvous(
        self, socket: UdpSocket, store: Store, name: str, loss: LossModel | None, seed: int
    ) -> None:
        if self.rank == 0:
            store.set(f"{name}/token", str(secrets.randbits(32)))
        token = int(store.get(f"{name}/token"))
        child = int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])
        self.endpoint = Endpoint(socket, self.rank, self.world, token, loss, child)
        mine = {
            "address": list(socket.address), "segment": socket.segment, "buffer": socket.receive_buffer,
            "codec": repr(self.codec), "rule": self.rule.name,
        }  # fmt: skip
        store.set(f"{name}/rank/{self.rank}", json.dumps(mine))
        self.room = math.inf
        for other in range(self.world):
            theirs = json.loads(bytes(store.get(f"{name}/rank/{other}")))
            for key in ("segment", "codec", "rule"):
                if theirs[key] != mine[key]:
                    socket.close()
                    raise SizeMismatch(
                        f"rank {self.rank} has {key} {mine[key]}, rank {other} {theirs[key]}; all must agree"
                    )
            self.endpoint.reach(other, tuple(theirs["address"]))
            self.room = min(self.room, float(theirs["buffer"]))
        self.endpoint.start()

    def close(self) -> None:
        """Stop; ranks that still wait for us go on without."""
        self.endpoint.close()

    def __enter__(self) -> UdpGroup:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # ---- the exchange --------------------------------------------------------------------------------------

    def all_reduce(self, x: Any, *, bucket: int = 0, label: str = "") -> ReduceReport:
        """Replace a vector by the mean over ranks, as far as it arrived in time.

        Parameters
        ----------
        x : float32[d] or torch tensor on the CPU
            One-dimensional and contiguous; changed in place.
        bucket : int
            Which of several vectors per step this is: memory of codecs and rules is kept apart.
        label : str
            What errors call it.

        Raises
        ------
        SizeMismatch
            Another type, or ranks that pass vectors of different sizes (both are named).
        NonFinite
            NaN or Inf, unless the group skips such steps.
        StageLost
            Nothing from anybody for several exchanges, or a loss above ``max_loss`` for as many.
        """
        vector = as_array(x, label or f"bucket {bucket}")
        seq, self.seq = self.seq, self.seq + 1
        key = StepKey(step=seq, bucket=bucket, sender=self.rank, name=label)
        finite = bool(wire.finite(vector.view(np.uint32)))
        if not finite and self.on_nonfinite == "raise":
            raise NonFinite(f"`{key.label}`: holds NaN or Inf at rank {self.rank}")
        start = time.monotonic()
        e = self._exchange(vector, seq, bucket)
        ep = self.endpoint
        marks = (*ep.stats.tolist(), ep.injected, ep.resent)
        behind = int(ep.newest.max()) - seq
        if self.world == 1 or behind > 1 or not finite or vector.size == 0:
            if not finite:
                for other in self._others(seq):
                    ep.tell(wire.SKIP, e, 0, other)
            return self._report(e, start, (0.0, 0.0), marks, 0, skipped=not finite, behind=max(behind, 0))
        e.absent = self.silent >= EVICT
        e.absent[self.rank] = True
        e.news = start
        ep.begin(e)
        try:
            sent = self._send_parts(e, key)
            self._wait(e, 0)
            middle = time.monotonic()
            if not e.skip:
                e.open[0] = False
                e.absent |= (ep.heard == 0) & (e.have[0] < e.need[0])  # silent so far: do not wait twice
                self._mean.reduce(e, key)
                sent += self._send_result(e)
                self._wait(e, 1)
            end = time.monotonic()
            e.open[:] = False
            if not e.skip:
                self._mean.restore(e, key)
        finally:
            ep.end()
        self._agree()
        return self._report(e, start, (middle - start, end - middle), marks, sent, skipped=e.skip, behind=0)

    def broadcast(self, x: Any, *, root: int = 0, timeout: float = 30.0) -> float:
        """Give everybody the root's vector, all of it: what is missing is asked for until it is there.

        Parameters
        ----------
        x : float32[d] or torch tensor on the CPU
            Changed in place.
        timeout : float
            Seconds without news after which a rank gives up; the root does not wait for such ranks.

        Returns
        -------
        float
            Seconds; nan for a rank that is too far behind the others to ask for it: the next one reaches it.

        Raises
        ------
        StageLost
            The root does not answer.
        SizeMismatch
            As `all_reduce`.
        """
        vector = as_array(x, "broadcast")
        start, seq = time.monotonic(), self.seq
        self.seq += 1
        if self.world == 1 or vector.size == 0:
            return 0.0
        e = Exchange(
            Shards.whole(vector.size, self.world, self.payload, root, seq), self.rank, self.world, seq, 0,
            vector, None, np.ones(self.world, np.float32), keep_parts=False,
        )  # fmt: skip
        ep = self.endpoint
        if int(ep.newest.max()) - seq > RECENT:
            return math.nan
        e.need[0] = 0
        e.open[0] = False
        e.news = start
        if self.rank == root:
            e.answer = vector.view(np.uint8).copy()
        ep.begin(e)
        try:
            if self.rank == root:
                self._send_result(e)
            while not e.complete(1):
                ep.pump(ASK_AGAIN)
                quiet = time.monotonic() - e.news
                if quiet > timeout:
                    raise StageLost(f"rank {self.rank}: rank {root} has not answered for {timeout:g} s")
                if quiet >= ASK_AGAIN and not e.complete(1):
                    self._ask(e, 1)
        finally:
            ep.end()
        return time.monotonic() - start

    def _exchange(self, x: NDArray[np.float32], seq: int, bucket: int) -> Exchange:
        if x.size not in self._shards:
            self._shards[x.size] = Shards.of(x.size, self.world, self.payload, self.codec)
        shards = self._shards[x.size]
        width = int(np.diff(shards.bounds)[(self.rank - seq) % self.world])
        return Exchange(
            shards, self.rank, self.world, seq, bucket, x, self.codec,
            self.rule.scale(self.inclusion.probability).astype(np.float32),
            keep_parts=self.rule.fill == "previous", whole=self._whole, room=self._rooms.take(width),
        )  # fmt: skip

    def _others(self, seq: int) -> list[int]:
        """The other ranks, beginning with another one in every exchange."""
        n = self.world
        return [(self.rank + 1 + (k + seq) % (n - 1)) % n for k in range(n - 1)]

    def _send_parts(self, e: Exchange, key: StepKey) -> int:
        """Stage 0: our part of every shard to its owner."""
        raw = e.x.view(np.uint8)
        jobs = []
        for to in self._others(e.seq):
            shard = e.shard_of(to)
            first, last = (int(v) for v in e.shards.bounds[shard : shard + 2])
            if first == last:
                continue
            if self.codec is None:
                data = raw[4 * first : 4 * last]
            else:
                part = part_key(key, self.world, shard, self.rank)
                data = self.codec.encode(e.x[first:last], part).data
            e.sent[shard] = data
            jobs.append((to, data, e.shards.ptr[shard], int(e.shards.packets[shard])))
        return self._send_all(e, 0, jobs)

    def _send_result(self, e: Exchange) -> int:
        """Stage 1: the result of our shard to everybody."""
        assert e.answer is not None
        packets = int(e.shards.packets[e.own])
        if not packets:
            return 0
        ptr = e.shards.ptr[e.own]
        return self._send_all(e, 1, [(to, e.answer, ptr, packets) for to in self._others(e.seq)])

    def _send_all(self, e: Exchange, stage: int, jobs: list[Any]) -> int:
        """Send shards, as many at a time as the receivers take, at a rate that their buffers can hold."""
        ep, sent = self.endpoint, 0
        width = max(1, min([ep.incast, *(int(v) for v in ep.told[0] if v)]))
        # what may be under way to one receiver: half its buffer, of which bookkeeping takes as much as data
        window = max(self.room / 4 / width, ep.socket.segment)
        burst = 0.0
        for start in range(0, len(jobs), width):
            lanes = [[*job, 0] for job in jobs[start : start + width]]
            while lanes:
                for lane in lanes:
                    to, data, ptr, packets, first = lane
                    ahead = min(packets, first + IN_TURN * ep.socket.batch)
                    lane[4] = ep.push(e, stage, to, data, ptr, first, ahead)
                    done = int(ptr[lane[4]] - ptr[first])
                    sent, burst = sent + done, burst + done
                    if sent - int(e.have[stage].sum()) * self.payload > AHEAD:
                        ep.pump(PAUSE)
                lanes = [lane for lane in lanes if lane[4] < lane[3]]
                if burst > window * len(jobs):
                    ep.pump(PAUSE)
                    burst = 0.0
        return sent

    def _wait(self, e: Exchange, stage: int) -> None:
        """Until a stage is complete, or over."""
        ep, start = self.endpoint, time.monotonic()
        measuring = self.timeouts.t_b is None
        hard = start + (FIRST_PATIENCE if measuring else self.timeouts.t_b or 0.0)
        asked, news, came = False, start, -1
        early: set[int] = set()
        repairs = stage == 1 and not measuring and self.timeouts.settings.repair == "nack"
        while True:
            if ep.mismatch is not None:
                src = ep.mismatch
                raise SizeMismatch(
                    f"rank {self.rank} reduces {e.x.size} coordinates, rank {src} another size or codec"
                )
            if e.skip or e.complete(stage):
                break
            now = time.monotonic()
            if now >= hard:
                break
            # packets of the other stage are no news: waiting for them would add up from rank to rank
            if (have := int(e.have[stage].sum())) != came:
                news, came = max(news, e.news), have
            for src in e.cut_short(stage) if repairs else ():
                if src not in early:  # its last packet is here: what is missing now was lost
                    early.add(src)
                    ep.tell(wire.NACK, e, stage, src, e.missing(stage, src))
            quiet = math.inf
            if measuring:
                quiet = news + ASK_AGAIN
            else:
                if e.all_at_tail(stage):
                    quiet = news + self.timeouts.idle
                if e.all_begun(stage):
                    quiet = min(quiet, news + self.timeouts.silence)
            if now >= quiet:
                if measuring or (repairs and not asked):
                    self._ask(e, stage)
                    asked, news = True, now
                    continue
                break
            ep.pump(min(hard, quiet) - now)
        elapsed = time.monotonic() - start
        if measuring:
            if e.complete(stage) and not e.skip:
                self._measure(elapsed)
        else:
            told = [float(v) / 1e6 for v in ep.told[1] if v]
            # waiting for what did not come is no part of what a stage takes
            taken = elapsed if e.complete(stage) else max(news - start, 1e-6)
            self.timeouts.stage(taken, e.received(stage), told)
        ep.micro = min(int(self.timeouts.t_c * 1e6), 2**32 - 1)

    def _ask(self, e: Exchange, stage: int) -> None:
        for src in np.flatnonzero((e.have[stage] < e.need[stage]) & ~e.absent):
            self.endpoint.tell(wire.NACK, e, stage, int(src), e.missing(stage, int(src)))

    def _measure(self, elapsed: float) -> None:
        """Measure t_B; `_agree` ends it."""
        mine = self.timeouts.warm(elapsed)
        if mine is not None and self._measured is None:
            self._measured = mine
            self._store.set(f"{self._name}/t_b/{self.rank}", repr(mine))

    def _agree(self) -> None:
        """All ranks take the largest percentile; between exchanges, where others still get answers."""
        if self._measured is not None and self.timeouts.t_b is None:
            others = [float(self._store.get(f"{self._name}/t_b/{r}")) for r in range(self.world)]
            self.timeouts.t_b = max(others)
            self.timeouts.t_c = float(np.median(self.timeouts.whole))

    # ---- afterwards ----------------------------------------------------------------------------------------

    def _report(
        self, e: Exchange, start: float, stages: tuple[float, float], marks: tuple[int, ...], sent: int,
        *, skipped: bool, behind: int,
    ) -> ReduceReport:  # fmt: skip
        ep, due = self.endpoint, np.maximum(e.need, 1)
        received = np.where(e.need > 0, e.have / due, 1.0)
        lost = int((e.need[1] - e.have[1]).clip(0)[~e.absent].sum()) + int(e.need[1][e.absent].sum())
        exchanged = stages != (0.0, 0.0) and not skipped
        ignored = (wire.DUPLICATE, wire.LATE, wire.BAD)
        duplicates, late, bad = (int(ep.stats[k]) - marks[k] for k in ignored)
        if exchanged:
            self.silent = np.where(ep.heard > 0, 0, self.silent + 1)
            self.silent[self.rank] = 0
            self.inclusion.update(received[0])
            self._adapt(float(1 - received.mean()))
        return ReduceReport(
            e.seq, time.monotonic() - start, stages, received,
            float(e.count[: max(int(e.shards.packets[e.own]), 1)].mean()) if e.summing
            else 1.0 + float((e.have[0] > 0).sum()),
            sent, lost if exchanged else 0, ep.socket.dropped, ep.injected - marks[-2],
            duplicates, late, bad, ep.resent - marks[-1],
            tuple(int(r) for r in np.flatnonzero(e.absent) if r != self.rank), skipped, behind,
            math.nan if self.timeouts.t_b is None else self.timeouts.t_b, self.timeouts.t_c,
        )  # fmt: skip

    def _adapt(self, loss: float) -> None:
        """Incast grows while nothing is lost, halves when the kernel dropped; too much loss is an error."""
        ep = self.endpoint
        self._losses.append(loss)
        if ep.socket.dropped > self._drops:
            self._drops, ep.incast = ep.socket.dropped, max(1, ep.incast // 2)
            self._losses.clear()
        elif len(self._losses) == 16 and not any(self._losses):
            ep.incast = min(ep.incast + 1, self.world - 1, 15)
            self._losses.clear()
        alone = self.world - 1 - int((self.silent >= EVICT).sum()) == 0
        self._bad = self._bad + 1 if loss > self.timeouts.settings.max_loss or alone else 0
        if self._bad >= self.timeouts.settings.patience:
            what = "nothing arrived from anybody" if alone else f"{loss:.0%} of the packets were lost"
            raise StageLost(
                f"rank {self.rank}: {what}, {self._bad} exchanges in a row; use a reliable transport here"
            )
