"""One transpose all-reduce as arrays: who owns which shard, where packets lie, what has come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.compression import Codec, Payload, StepKey

__all__ = ["Exchange", "Rooms", "Shards", "words"]

MOST_KEPT = 256 << 20
"""Bytes of memory that is kept for later exchanges."""


@dataclass(frozen=True, eq=False)
class Shards:
    """How a vector is cut for n ranks and into packets: the same for every exchange of one size.

    Attributes
    ----------
    bounds : int64[n + 1]
        Coordinates at which shards start.
    ptr : int64[n, P + 1]
        Byte offsets of the packets of each shard; the last ones repeat where a shard has fewer.
    packets : int64[n]
    bytes : int64[n]
    """

    bounds: NDArray[np.int64]
    ptr: NDArray[np.int64]
    packets: NDArray[np.int64]
    bytes: NDArray[np.int64]

    @classmethod
    def of(cls, d: int, ranks: int, payload: int, codec: Codec | None) -> Shards:
        """Cut d coordinates; ``payload``: bytes of a full packet, a multiple of 4."""
        words = payload // 4
        whole = -(-d // words)  # packets of the plain vector
        per = np.full(ranks, whole // ranks) + (np.arange(ranks) < whole % ranks)
        bounds = np.minimum(np.concatenate(([0], np.cumsum(per))) * words, d)
        starts = []
        for r in range(ranks):
            size = int(bounds[r + 1] - bounds[r])
            if codec is None:
                starts.append(np.minimum(np.arange(-(-size // words) + 1) * payload, 4 * size))
            else:
                starts.append(codec.layout(size).ptr if size else np.zeros(1, np.int64))
        most = max(s.size for s in starts)
        ptr = np.stack([np.concatenate((s, np.full(most - s.size, s[-1]))) for s in starts]).astype(np.int64)
        packets = np.array([s.size - 1 for s in starts], np.int64)
        return cls(bounds, ptr, packets, ptr[:, -1].copy())

    @classmethod
    def whole(cls, d: int, ranks: int, payload: int, root: int, seq: int) -> Shards:
        """One shard that holds everything and belongs to ``root`` in exchange ``seq``."""
        one = cls.of(d, 1, payload, None)
        shard = (root - seq) % ranks
        bounds = np.where(np.arange(ranks + 1) > shard, d, 0)
        ptr = np.zeros((ranks, one.ptr.shape[1]), np.int64)
        ptr[shard] = one.ptr[0]
        packets, sizes = np.zeros(ranks, np.int64), np.zeros(ranks, np.int64)
        packets[shard], sizes[shard] = one.packets[0], one.bytes[0]
        return cls(bounds, ptr, packets, sizes)


class Rooms:
    """Memory for sums, used again after ``turns`` exchanges of its size: new pages cost faults."""

    def __init__(self, turns: int) -> None:
        self.turns, self.bytes = turns, 0
        self._kept: dict[int, list[NDArray[np.float32]]] = {}

    def take(self, width: int) -> NDArray[np.float32]:
        """Float32[width], nobody's."""
        kept = self._kept.setdefault(width, [])
        if len(kept) >= self.turns:
            kept.append(kept.pop(0))
            return kept[-1]
        room = np.empty(width, np.float32)
        if self.bytes + room.nbytes <= MOST_KEPT:
            self.bytes += room.nbytes
            kept.append(room)
        return room


class Exchange:
    """The state of one all-reduce at one rank.

    Stage 0: every rank sends its part of each shard to the shard's owner. Stage 1: owners send the results.
    The owner of shard j is rank ``(j + seq) % n``, so that pairs change from exchange to exchange. Plain
    results land in the vector itself, where they belong: what never comes keeps the rank's own values.
    """

    def __init__(
        self, shards: Shards, rank: int, ranks: int, seq: int, bucket: int, x: NDArray[np.float32],
        codec: Codec | None, scale: NDArray[np.float32], *, keep_parts: bool, whole: float = 0.0,
        room: NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        self.shards, self.rank, self.ranks, self.seq, self.bucket = shards, rank, ranks, seq, bucket
        self.x, self.codec = x, codec
        self.scale = np.append(scale, (scale[rank], whole)).astype(np.float32)
        """See `wire.take`; ``whole``: what it multiplies a sum by that everybody is part of."""
        self.own = self.shard_of(rank)
        packets = shards.ptr.shape[1] - 1
        owned = np.array([self.shard_of(r) for r in range(ranks)])
        mine = np.broadcast_to(shards.ptr[self.own], (ranks, packets + 1))
        # stage 0 from every sender: its part of our shard; stage 1: the shard that the sender owns
        self.ptr = np.stack((mine, shards.ptr[owned]))
        self.need = np.stack((np.full(ranks, shards.packets[self.own]), shards.packets[owned]))
        self.need[:, rank] = 0
        self.got = np.zeros((2, ranks, packets), np.uint8)
        self.have = np.zeros((2, ranks), np.int64)
        self.tail = np.zeros((2, ranks), np.bool_)
        self.open = np.ones(2, np.bool_)
        self.summing = codec is None and not keep_parts
        first, last = (int(v) for v in shards.bounds[self.own : self.own + 2])
        self.mine = x[first:last]
        self.total = np.zeros(0, np.float32)
        if self.summing:  # ``room``: memory to add up in
            self.total = np.empty(last - first, np.float32) if room is None else room
        self.count = np.ones(packets, np.int64)
        part = int(shards.bytes[self.own])
        starts = np.concatenate(([0], np.cumsum(shards.bytes)))
        if self.summing:
            self.staged = x.view(np.uint8)
            self.base = np.stack((np.zeros(ranks, np.int64), 4 * shards.bounds[owned]))
        else:
            self.staged = np.empty(part * ranks + int(starts[-1]), np.uint8)
            self.base = np.stack((np.arange(ranks) * part, part * ranks + starts[owned]))
        self.staged32 = words(self.staged)
        self.sent: dict[int, NDArray[np.uint8]] = {}
        """Bytes that went to each owner in stage 0, by shard: for those who ask again."""
        self.answer: NDArray[np.uint8] | None = None
        """Bytes of the result of our shard, once there is one."""
        self.skip = False
        self.absent = np.zeros(ranks, np.bool_)
        self.news = 0.0

    def shard_of(self, rank: int) -> int:
        """The shard that a rank owns."""
        return (rank - self.seq) % self.ranks

    def complete(self, stage: int) -> bool:
        """Whether everything of a stage has come from those that are there."""
        return bool(((self.have[stage] >= self.need[stage]) | self.absent).all())

    def received(self, stage: int) -> float:
        """Share of a stage's packets that came."""
        need = int(self.need[stage].sum())
        return float(self.have[stage].sum()) / need if need else 1.0

    def cut_short(self, stage: int) -> list[int]:
        """Senders whose last packet has come though others are missing."""
        need = self.need[stage]
        last = self.got[stage, np.arange(self.ranks), np.maximum(need - 1, 0)] > 0
        return [int(src) for src in np.flatnonzero(last & (self.have[stage] < need) & ~self.absent)]

    def all_at_tail(self, stage: int) -> bool:
        """Whether every sender that still misses something has begun its last packets."""
        waiting = (self.have[stage] < self.need[stage]) & ~self.absent
        return bool(self.tail[stage][waiting].all())

    def all_begun(self, stage: int) -> bool:
        """Whether something has come from every sender that is waited for."""
        return bool(((self.have[stage] > 0) | (self.need[stage] == 0) | self.absent).all())

    def missing(self, stage: int, src: int) -> NDArray[np.int64]:
        """Runs (start, length) of packets that have not come from a sender, int64[k, 2]."""
        lost = np.flatnonzero(self.got[stage, src, : int(self.need[stage, src])] == 0)
        if not lost.size:
            return np.zeros((0, 2), np.int64)
        breaks = np.flatnonzero(np.diff(lost) > 1)
        first = lost[np.concatenate(([0], breaks + 1))]
        last = lost[np.concatenate((breaks, [lost.size - 1]))]
        return np.stack((first, last - first + 1), axis=1)

    def payload(self, stage: int, src: int, key: StepKey) -> tuple[Payload, NDArray[np.bool_]]:
        """What came from a sender as a payload, and which of its packets (coded exchanges)."""
        assert self.codec is not None
        shard = self.own if stage == 0 else self.shard_of(src)
        made = Payload.empty(self.codec, int(np.diff(self.shards.bounds)[shard]), key)
        start = int(self.base[stage, src])
        made.data[:] = self.staged[start : start + made.data.size]
        return made, self.got[stage, src, : len(made)].astype(bool)

    def plain(self, stage: int, src: int) -> NDArray[np.float32]:
        """What came from a sender, as it is; undefined where packets are missing."""
        shard = self.own if stage == 0 else self.shard_of(src)
        start = int(self.base[stage, src])
        return self.staged[start : start + int(self.shards.bytes[shard])].view(np.float32)


def words(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes as float32, without a rest."""
    return data[: data.size // 4 * 4].view(np.float32)
