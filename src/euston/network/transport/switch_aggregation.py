"""Sums in a switch: a pool of slots in two versions, safe against losses, duplicates and reordering.

The protocol of SwitchML (Sapio et al., NSDI 2021). The vector is cut into chunks of one packet. A worker has
``window`` packets out; the result of a chunk clocks out the chunk ``window`` further on, in the same slot and
the other version. The switch keeps, per slot and version, a bitmap of workers, their count and the sum:

- the first contribution overwrites, further ones add; a worker's second copy is ignored, or answered with the
  result when the slot is complete;
- when all have contributed, the result goes to everybody and the *other* version's bitmap is cleared: whoever
  contributes to this version has received the result of that one, so nobody can still ask for it.

With ``least`` workers and a deadline a slot closes early (bounded loss): the result says who is in it.
`simulate` runs workers and switch over lossy links; `aggregation_time` is the closed form without loss.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, SimulationError

__all__ = ["AggregationSwitch", "Outcome", "SwitchPool", "aggregation_time", "simulate"]

MOST_COPIES, MOST_DOUBLINGS = 500, 6
MOST_WORKERS = 32
"""Bits of a bitmap register of a Tofino (SwitchML's P4 program)."""


@dataclass(frozen=True)
class SwitchPool:
    """What a switch offers a job.

    Parameters
    ----------
    slots : int
        Slots of the pool, each in two versions (8,192 on a Tofino with 16,384 registers).
    elements : int
        Integers per packet.
    element_bytes : int
    header : int
        Wire bytes of a packet beside them.
    """

    slots: int = 8192
    elements: int = 256
    element_bytes: int = 4
    header: int = 66

    def __post_init__(self) -> None:
        for name in ("slots", "elements", "element_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`pool.{name}`: {getattr(self, name)}; at least 1")
        if self.header < 0:
            raise ConfigError(f"`pool.header`: {self.header} bytes")

    @property
    def packet(self) -> int:
        """Wire bytes of a packet."""
        return self.elements * self.element_bytes + self.header

    @property
    def memory(self) -> int:
        """Bytes of switch memory that the sums take."""
        return 2 * self.slots * self.elements * self.element_bytes

    def needed_slots(self, rate: float, rtt: float) -> int:
        """Slots that keep a link of ``rate`` bytes/s busy over a round trip (Little's law)."""
        return max(1, int(np.ceil(rate * rtt / self.packet)))


@dataclass
class AggregationSwitch:
    """The state machine of a switch for one job.

    Parameters
    ----------
    workers : int
        At most 32.
    pool : SwitchPool
    window : int
        Slots in use.
    least : int
        Workers with which `close` may end a slot early; all of them unless said.
    """

    workers: int
    pool: SwitchPool = field(default_factory=SwitchPool)
    window: int = 256
    least: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise ConfigError(f"`workers`: {self.workers}; a switch's bitmap holds 1 to {MOST_WORKERS}")
        if not 1 <= self.window <= self.pool.slots:
            raise ConfigError(f"`window`: {self.window}; the pool has {self.pool.slots} slots")
        self.least = self.least or self.workers
        if not 1 <= self.least <= self.workers:
            raise ConfigError(f"`least`: {self.least} of {self.workers} workers")
        self.bitmap = np.zeros((2, self.window), np.int64)
        self.sum = np.zeros((2, self.window, self.pool.elements), np.int64)
        self.closed = np.zeros((2, self.window), bool)
        self.chunk = np.full((2, self.window), -1, np.int64)

    def receive(
        self, worker: int, chunk: int, values: NDArray[np.int64]
    ) -> tuple[str, NDArray[np.int64] | None]:
        """One packet.

        Returns
        -------
        action : "wait" | "all" | "one" | "ignore"
            Nothing yet; multicast the result; answer this worker only; an old or second copy.
        result : int64[elements] or None
        """
        slot, version = chunk % self.window, chunk // self.window % 2
        bit = 1 << worker
        if self.chunk[version, slot] > chunk:
            return "ignore", None  # a late copy of a chunk that everybody has had
        if self.bitmap[version, slot] & bit:
            if self.closed[version, slot]:
                return "one", self.sum[version, slot].copy()
            return "ignore", None
        if self.closed[version, slot]:  # closed without this worker, and it has not had the result
            self.bitmap[version, slot] |= bit
            return "one", self.sum[version, slot].copy()
        if self.bitmap[version, slot] == 0:
            self.sum[version, slot] = values
            self.chunk[version, slot] = chunk
        else:
            self.sum[version, slot] += values
        self.bitmap[version, slot] |= bit
        if self._count(version, slot) == self.workers:
            return "all", self._finish(version, slot)
        return "wait", None

    def close(self, chunk: int) -> tuple[NDArray[np.int64], int] | None:
        """End a slot early: the sum and the bitmap of who is in it; None when too few have come."""
        slot, version = chunk % self.window, chunk // self.window % 2
        if self.chunk[version, slot] != chunk or self.closed[version, slot]:
            return None
        if self._count(version, slot) < self.least:
            return None
        bitmap = int(self.bitmap[version, slot])
        return self._finish(version, slot), bitmap

    def _count(self, version: int, slot: int) -> int:
        return int(self.bitmap[version, slot]).bit_count()

    def _finish(self, version: int, slot: int) -> NDArray[np.int64]:
        self.closed[version, slot] = True
        self.bitmap[1 - version, slot] = 0
        self.closed[1 - version, slot] = False
        return np.asarray(self.sum[version, slot].copy())


@dataclass(frozen=True, eq=False)
class Outcome:
    """One all-reduce through a switch.

    Attributes
    ----------
    sums : int64[workers, d]
        What each worker holds at the end.
    contributors : int64[chunks]
        Workers in each chunk's sum.
    time : float
        Seconds until the last worker had the last result.
    sent, resent : int
        Packets from workers, and those of them that were copies.
    """

    sums: NDArray[np.int64]
    contributors: NDArray[np.int64]
    time: float
    sent: int
    resent: int


def simulate(
    vectors: NDArray[np.int64],
    *,
    rate: float,
    rtt: float,
    pool: SwitchPool | None = None,
    window: int = 256,
    loss: float = 0.0,
    timeout: float | None = None,
    least: int = 0,
    deadline: float | None = None,
    start: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Outcome:
    """Run the protocol packet by packet.

    Parameters
    ----------
    vectors : int64[workers, d]
    rate : float
        Bytes/s of each worker's link, each direction.
    rtt : float
        Seconds from a packet's last bit sent to its answer's first bit received.
    loss : float
        Probability that a packet is lost, each way.
    timeout : float
        Seconds after which a worker sends a chunk again, doubled up to 64 times that; four round trips with a
        full window unless said.
    least, deadline : int, float
        Slots close with ``least`` workers ``deadline`` seconds after their first packet.
    start : float64[workers]
        When each worker begins, s.

    Raises
    ------
    ConfigError
        Values out of range.
    SimulationError
        Hundreds of copies of one packet: nothing gets through.
    """
    run = _Run(vectors, rate, rtt, pool or SwitchPool(), window, loss, timeout, least, deadline, start, seed)
    return run.outcome()


class _Run:
    """Events of workers and switch, in one heap."""

    def __init__(
        self, vectors: Any, rate: float, rtt: float, pool: SwitchPool, window: int, loss: float,
        timeout: float | None, least: int, deadline: float | None, start: Any, seed: int,
    ) -> None:  # fmt: skip
        x = np.atleast_2d(np.asarray(vectors, np.int64))
        self.n, self.d = x.shape
        if not (rate > 0 and rtt >= 0):
            raise ConfigError(f"`rate`, `rtt`: {rate} B/s and {rtt} s; a rate above 0 and a time are needed")
        if not 0 <= loss < 1:
            raise ConfigError(f"`loss`: {loss} must be a probability below 1")
        if (deadline is None) != (least == 0):
            raise ConfigError("`least` and `deadline` go together")
        self.chunks = -(-self.d // pool.elements)
        self.window = min(window, self.chunks)
        self.switch = AggregationSwitch(self.n, pool, self.window, least)
        self.x = np.zeros((self.n, self.chunks, pool.elements), np.int64)
        self.x.reshape(self.n, -1)[:, : self.d] = x
        self.gap, self.half, self.loss = pool.packet / rate, rtt / 2, loss
        self.timeout = timeout or 4 * (rtt + self.window * self.gap)
        self.deadline = deadline
        self.rng = np.random.Generator(np.random.Philox(seed))
        self.got = np.zeros_like(self.x)
        self.have = np.zeros((self.n, self.chunks), bool)
        self.tries = np.zeros((self.n, self.chunks), np.int64)
        self.members = np.zeros(self.chunks, np.int64)
        self.up_free = np.zeros(self.n) if start is None else np.asarray(start, np.float64).copy()
        self.down_free = np.zeros(self.n)
        self.heap: list[tuple[float, int, str, int, int]] = []
        self.overdue: set[int] = set()
        self.order = self.sent = self.resent = 0
        self.end = 0.0

    def _push(self, time: float, what: str, worker: int, chunk: int) -> None:
        self.order += 1
        heapq.heappush(self.heap, (time, self.order, what, worker, chunk))

    def _send(self, now: float, worker: int, chunk: int) -> None:
        out = max(now, self.up_free[worker]) + self.gap
        self.up_free[worker] = out
        self.sent += 1
        self.resent += int(self.tries[worker, chunk] > 0)
        self.tries[worker, chunk] += 1
        if self.tries[worker, chunk] > MOST_COPIES:
            raise SimulationError(
                f"worker {worker} sent chunk {chunk} {MOST_COPIES} times; nothing gets through"
            )
        if self.rng.random() >= self.loss:
            self._push(out + self.half, "switch", worker, chunk)
        backoff = 2 ** min(int(self.tries[worker, chunk]) - 1, MOST_DOUBLINGS)
        self._push(out + backoff * self.timeout, "timer", worker, chunk)

    def _answer(self, now: float, worker: int, chunk: int) -> None:
        out = max(now, self.down_free[worker]) + self.gap
        self.down_free[worker] = out
        if self.rng.random() >= self.loss:
            self._push(out + self.half, "result", worker, chunk)

    def outcome(self) -> Outcome:
        results: dict[int, NDArray[np.int64]] = {}
        for worker in range(self.n):
            for chunk in range(self.window):
                self._send(self.up_free[worker] if chunk == 0 else 0.0, worker, chunk)
        while self.heap and not self.have.all():
            now, _, what, worker, chunk = heapq.heappop(self.heap)
            if what == "switch":
                action, total = self.switch.receive(worker, chunk, self.x[worker, chunk])
                if total is not None:
                    results[chunk] = total
                if action == "all":
                    self.members[chunk] = self.n
                    for other in range(self.n):
                        self._answer(now, other, chunk)
                elif action == "one":
                    self._answer(now, worker, chunk)
                elif action == "wait" and chunk in self.overdue:
                    self._close(now, chunk, results)
                elif action == "wait" and self.deadline is not None and self._first(chunk):
                    self._push(now + self.deadline, "close", -1, chunk)
            elif what == "close":
                self._close(now, chunk, results)
            elif what == "result" and not self.have[worker, chunk]:
                self.have[worker, chunk] = True
                self.got[worker, chunk] = results[chunk]
                self.end = now
                if chunk + self.window < self.chunks:
                    self._send(now, worker, chunk + self.window)
            elif what == "timer" and not self.have[worker, chunk]:
                self._send(now, worker, chunk)
        sums = self.got.reshape(self.n, -1)[:, : self.d]
        return Outcome(sums, self.members, self.end, self.sent, self.resent)

    def _first(self, chunk: int) -> bool:
        slot, version = chunk % self.window, chunk // self.window % 2
        return int(self.switch.bitmap[version, slot]).bit_count() == 1

    def _close(self, now: float, chunk: int, results: dict[int, NDArray[np.int64]]) -> None:
        done = self.switch.close(chunk)
        self.overdue.discard(chunk)
        slot, version = chunk % self.window, chunk // self.window % 2
        if done is not None:
            results[chunk], bitmap = done
            self.members[chunk] = bitmap.bit_count()
            for other in range(self.n):
                self._answer(now, other, chunk)
        elif self.switch.chunk[version, slot] == chunk and not self.switch.closed[version, slot]:
            self.overdue.add(chunk)  # too few yet: the next contribution closes it


def aggregation_time(d: int, rate: float, rtt: float, pool: SwitchPool, window: int) -> float:
    """Seconds of a lossless all-reduce of d elements: line rate, or a window per round trip.

    Parameters
    ----------
    d : int
        Elements of the vector.
    rate, rtt : float
        As in `simulate`.
    """
    chunks = -(-d // pool.elements)
    window = min(window, chunks)
    gap = pool.packet / rate
    # one packet's loop: sent, up, down and received store-and-forward at the worker's two links
    loop = rtt + 2 * gap
    if window * gap >= loop:
        return chunks * gap + rtt + gap
    rounds, rest = divmod(chunks - 1, window)
    return rounds * loop + rest * gap + loop
