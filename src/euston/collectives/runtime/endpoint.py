"""One rank's socket: sends, and takes in what comes: data, requests for more, news of others.

During an exchange the caller's thread does both, between exchanges a thread of our own listens.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.collectives.loss import LossModel, LossProcess
from euston.collectives.runtime import calls, wire
from euston.collectives.runtime.exchange import Exchange, words
from euston.collectives.runtime.udp_socket import UdpSocket

__all__ = ["Endpoint"]

STASH = 256 << 20
"""Bytes of packets of later exchanges that are kept until we get there; the oldest go first."""
RECENT = 4
"""Exchanges whose results are kept for those who ask again."""


class Endpoint:
    """Sends and receives for one rank; who holds ``lock`` has the socket and everything here.

    Parameters
    ----------
    socket : UdpSocket
    rank, ranks : int
    token : int
    loss : LossModel, optional
        Losses injected on arrival, per packet.
    seed : int
    """

    def __init__(
        self, socket: UdpSocket, rank: int, ranks: int, token: int, loss: LossModel | None, seed: int
    ) -> None:
        self.socket, self.rank, self.ranks, self.token = socket, rank, ranks, token
        self.addresses: list[Any] = [None] * ranks
        self._targets = [np.zeros(0, np.uint8)] * ranks
        self.lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self.current: Exchange | None = None
        self.recent: deque[Exchange] = deque(maxlen=RECENT)
        self.newest = np.zeros(ranks, np.int64)
        """Highest exchange that each rank has been heard of."""
        self.heard = np.zeros(ranks, np.int64)
        """Buffers received from each rank since the present exchange began."""
        self.skips: set[int] = set()
        self.told = np.zeros((2, ranks), np.int64)
        self.stats = np.zeros(wire.STATS, np.int64)
        self.injected = self.resent = 0
        self.mismatch: int | None = None
        self.incast, self.micro = 1, 0
        self._stash: deque[tuple[int, NDArray[np.uint8], int]] = deque()
        self._stashed = 0
        self._losses: LossProcess | None = loss.start(seed) if loss is not None and loss.rate > 0 else None
        self._stop = np.zeros(8, np.int64)
        self._out = np.empty(socket.batch * socket.segment, np.uint8)
        self._again = np.empty(socket.batch * socket.segment, np.uint8)
        self._small = np.empty(socket.segment, np.uint8)
        # compiled code sends and receives where no loss is injected in process
        self._compiled = calls.AVAILABLE and self._losses is None
        self._buffers = calls.Buffers.of(socket.data, socket.data32, socket.batch, socket.segment)
        self._taking: tuple[Any, ...] = ()
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name=f"udp-rank-{rank}", daemon=True)

    def start(self) -> None:
        """Begin to listen between exchanges."""
        self._thread.start()

    def close(self) -> None:
        """Stop and close the socket."""
        self._closing = True
        self._idle.set()
        self._thread.join(timeout=2.0)
        self.socket.close()

    def reach(self, rank: int, address: tuple[Any, ...]) -> None:
        """Where another rank can be reached."""
        self.addresses[rank] = address
        if self._compiled:
            self._targets[rank] = calls.address_bytes(address)

    # ---- out -----------------------------------------------------------------------------------------------

    def send(
        self, e: Exchange, stage: int, to: int, data: NDArray[np.uint8], ptr: NDArray[np.int64],
        which: NDArray[np.int64], first: int, *, again: bool = False,
    ) -> int:  # fmt: skip
        """Send packets of a shard from ``which[first]`` on, as many as one call takes; how many."""
        count = min(self.socket.batch, which.size - first)
        out = self._again if again else self._out
        used = wire.fill(
            out, out.view(np.float32), self.socket.segment, data, words(data), ptr,
            which, first, count, stage, self.token, self.rank, e.bucket,
            e.seq, e.x.size, 0 if e.codec is None else 1, self.incast, self.micro,
        )  # fmt: skip
        self._out_to(out[:used].data, to)
        return count

    def tell(
        self, kind: int, e: Exchange, stage: int, to: int, runs: NDArray[np.int64] | None = None
    ) -> None:
        """Send a control packet: which packets are missing, or that this exchange is skipped."""
        runs = np.zeros((0, 2), np.int64) if runs is None else runs
        most = (self.socket.segment - wire.HEADER) // 8
        for start in range(0, max(len(runs), 1), most):
            part = runs[start : start + most]
            used = wire.control(
                self._small, kind, stage, self.token, self.rank, e.bucket, e.seq, e.x.size, part, len(part)
            )
            self._out_to(self._small[:used].data, to)

    def _out_to(self, data: memoryview, to: int) -> None:
        """Send a buffer as soon as there is room."""
        while not self.socket.send(data, self.addresses[to]):
            self.socket.wait(0.01, room=True)

    def push(
        self, e: Exchange, stage: int, to: int, data: NDArray[np.uint8], ptr: NDArray[np.int64],
        first: int, last: int,
    ) -> int:  # fmt: skip
        """Send packets of a shard, taking in what comes meanwhile; the first that is not sent yet."""
        ended = calls.BLOCKED
        if self._compiled:
            self._stop[7] = -1
            ended, first = calls.push(
                self.socket.socket.fileno(), self._buffers, self._targets[to], self.socket.batch,
                self.socket.segment, data, words(data), ptr, first, last, stage, self.rank, e.bucket,
                self.incast, self.micro, *self._taking,
            )  # fmt: skip
            if ended == calls.OTHER:
                self._rest()
            self._noted()
        if ended == calls.BLOCKED and first < last:
            first += self.send(e, stage, to, data, ptr, np.arange(first, last), 0)
            self.pump()
        return int(first)

    # ---- in ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Between exchanges: answer those who miss results, keep what comes early."""
        while not self._closing:
            self._idle.wait()
            self.socket.wait(0.05)
            if self._idle.is_set() and not self._closing:
                with self.lock:
                    self._drain()

    def pump(self, seconds: float = 0.0) -> bool:
        """Take in what has come, waiting for it at most so long; whether there was something."""
        if self._drain():
            return True
        if seconds <= 0:
            return False
        self.socket.wait(seconds)
        return self._drain()

    def _drain(self) -> bool:
        some = False
        if self._compiled and self.current is not None:
            self._buffers.state[calls.SOME] = 0
            while True:
                self._stop[7] = -1
                if calls.drain(self.socket.socket.fileno(), self._buffers, *self._taking) == calls.EMPTY:
                    break
                self._rest()
            self._noted()
            return bool(self._buffers.state[calls.SOME])
        # an exchange that wants to begin goes before what the listener would take in for it
        while self.current is not None or self._idle.is_set():
            length, segment = self.socket.receive()
            if length == 0:
                break
            some = True
            if length >= wire.HEADER:
                keep = self._keep(length, segment)
                self._digest(self.socket.data, self.socket.data32, length, segment, keep)
        return some

    def _rest(self) -> None:
        """Deal with a buffer from where compiled code left it."""
        b = self._buffers
        if self._stop[7] >= 0:
            self.mismatch = int(self._stop[7])
        length, segment, at = (int(b.state[k]) for k in (calls.LENGTH, calls.SEGMENT, calls.AT))
        if at + wire.HEADER <= length:
            at = self._other(b.data, length, segment, at, b.keep)
            self._digest(b.data, b.data32, length, segment, b.keep, at)

    def _noted(self) -> None:
        """What compiled code has noted of what came."""
        state = self._buffers.state
        if state[calls.DROPPED]:
            self.socket.dropped = int(state[calls.DROPPED])
        if state[calls.FRESH] and self.current is not None:
            state[calls.FRESH] = 0
            self.current.news = time.monotonic()

    def _keep(self, length: int, segment: int) -> NDArray[np.bool_]:
        packets = -(-length // segment)
        if self._losses is None:
            return np.ones(packets, np.bool_)
        lost = self._losses.lost(packets)
        self.injected += int(lost.sum())
        return ~lost

    def _digest(
        self, data: NDArray[np.uint8], data32: NDArray[np.float32], length: int, segment: int,
        keep: NDArray[np.bool_], at: int = 0,
    ) -> None:  # fmt: skip
        """Take in a buffer, from ``at`` on."""
        stop, e = self._stop, self.current
        if e is None:
            at = self._between(data, length, segment, keep)
        else:
            before = self.stats[wire.FRESH]
            while at + wire.HEADER <= length:
                stop[7] = -1
                at = wire.take(
                    data, data32, length, segment, at, e.seq, e.x.size, 0 if e.codec is None else 1,
                    self.token, keep, e.open, e.got, e.have, e.tail, e.ptr, e.base, e.staged, e.staged32,
                    e.total, e.count, e.mine, e.scale, self.told, self.stats, stop,
                )  # fmt: skip
                if stop[7] >= 0:
                    self.mismatch = int(stop[7])
                if at + wire.HEADER <= length:
                    at = self._other(data, length, segment, at, keep)
            if self.stats[wire.FRESH] > before:
                e.news = time.monotonic()
                src = _source(data)
                if src < self.ranks:  # the first packet of a buffer may be a forged one
                    self.heard[src] += 1
                    self.newest[src] = max(self.newest[src], e.seq)

    def _between(self, data: NDArray[np.uint8], length: int, segment: int, keep: NDArray[np.bool_]) -> int:
        """Between exchanges: everything is for later, or asks for what was."""
        at = 0
        while at + wire.HEADER <= length:
            if not keep[at // segment]:
                at += segment
                continue
            if not self._ours(data, at):
                self.stats[wire.BAD] += 1
                at += segment
                continue
            for k, (offset, width) in enumerate(
                ((wire.KIND, 1), (wire.STAGE, 1), (wire.SRC, 2), (wire.SEQ, 4), (wire.BYTES, 2), (wire.D, 4))
            ):
                self._stop[k] = int.from_bytes(data[at + offset : at + offset + width].tobytes(), "little")
            if self._stop[2] >= self.ranks or self._stop[1] > 1:
                self.stats[wire.BAD] += 1
                at += segment
                continue
            at = self._other(data, length, segment, at, keep)
        return at

    def _ours(self, data: NDArray[np.uint8], at: int) -> bool:
        first = data[at : at + 8].tobytes()
        return (
            int.from_bytes(first[:2], "little") == wire.MAGIC
            and int.from_bytes(first[4:8], "little") == self.token
        )

    def _other(
        self, data: NDArray[np.uint8], length: int, segment: int, at: int, keep: NDArray[np.bool_]
    ) -> int:  # fmt: skip
        """A packet that is no data of the present exchange; `_stop` says (kind, stage, src, seq, size, d)."""
        kind, stage, src, seq, size = (int(v) for v in self._stop[:5])
        self.heard[src] += 1
        self.newest[src] = max(self.newest[src], seq)
        now = -1 if self.current is None else self.current.seq
        if kind == wire.DATA:
            end = int(wire.same(data, length, segment, at, seq, keep))
            if seq <= max(now, self.recent[-1].seq if self.recent else -1):
                self.stats[wire.LATE] += -(-(end - at) // segment)
            else:
                self._keep_for_later(seq, data[at:end], segment)
            return end
        body = data[at + wire.HEADER : at + wire.HEADER + size].tobytes()
        if kind == wire.NACK:
            self._answer(src, seq, stage, np.frombuffer(body, "<u4").reshape(-1, 2).astype(np.int64))
        elif kind == wire.SKIP:
            self.skips.add(seq)
            if self.current is not None and seq == now:
                self.current.skip = True
        return at + segment

    def _keep_for_later(self, seq: int, data: NDArray[np.uint8], segment: int) -> None:
        room = np.empty(-(-data.size // 4) * 4, np.uint8)[: data.size]
        room[:] = data
        self._stash.append((seq, room, segment))
        self._stashed += data.size
        while self._stashed > STASH:
            self._stashed -= self._stash.popleft()[1].size

    def _answer(self, to: int, seq: int, stage: int, runs: NDArray[np.int64]) -> None:
        """Send again what somebody misses, as far as we have it."""
        known = [*self.recent] + ([self.current] if self.current is not None else [])
        e = next((one for one in known if one.seq == seq), None)
        if e is None or not runs.size:
            return
        shard = e.shard_of(to) if stage == 0 else e.own
        data = e.sent.get(shard) if stage == 0 else e.answer
        if data is None:
            return
        packets = int(e.shards.packets[shard])
        runs = runs[(runs[:, 0] < packets) & (runs[:, 1] > 0)]
        if not len(runs):
            return
        which = np.concatenate([np.arange(a, min(a + n, packets)) for a, n in runs.tolist()])
        first = 0
        while first < which.size:
            first += self.send(e, stage, to, data, e.shards.ptr[shard], which, first, again=True)
        self.resent += int(which.size)

    # ---- exchanges -----------------------------------------------------------------------------------------

    def begin(self, e: Exchange) -> None:
        """Take the socket for an exchange, and take in what has come for it already."""
        self._idle.clear()
        self.lock.acquire()
        self.current = e
        self._taking = (
            e.seq, e.x.size, 0 if e.codec is None else 1, self.token, e.open, e.got, e.have, e.tail, e.ptr,
            e.base, e.staged, e.staged32, e.total, e.count, e.mine, e.scale, self.told, self.stats,
            self._stop, self.heard, self.newest,
        )  # fmt: skip
        self.heard[:] = 0
        self.mismatch = None
        e.skip = e.seq in self.skips
        self.skips = {seq for seq in self.skips if seq > e.seq}
        later: deque[tuple[int, NDArray[np.uint8], int]] = deque()
        for seq, content, segment in self._stash:
            if seq > e.seq:
                later.append((seq, content, segment))
                continue
            self._stashed -= content.size
            if seq == e.seq:
                keep = np.ones(-(-content.size // segment), np.bool_)
                self._digest(content, words(content), content.size, segment, keep)
        self._stash = later

    def end(self) -> None:
        """The exchange is over; its results stay for those who ask, and the listener has the socket again."""
        if self.current is not None:
            self.current.open[:] = False
            self.recent.append(self.current)
        self.current = None
        self._taking = ()
        self.lock.release()
        self._idle.set()


def _source(data: NDArray[np.uint8]) -> int:
    return int(data[wire.SRC]) | int(data[wire.SRC + 1]) << 8
