"""The arithmetic of an exchange: the mean of what came of a shard, and the others' results put in place.

What never came is never zero: a missing part is no part of the mean, and where a result is missing the
rank's own values stay. Packets of rotated codecs are an exception to "stay": the coordinates of a piece are
mixed, and what came of it gives an unbiased estimate of all of them.
"""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation import AggregationRule, Aggregator, Inclusion
from euston.collectives.runtime import wire
from euston.collectives.runtime.exchange import Exchange
from euston.compression import Codec, PacketsLost, StepKey
from euston.compression.layout import Layout

__all__ = ["Mean", "part_key"]


def part_key(key: StepKey, world: int, shard: int, sender: int) -> StepKey:
    """Of a sender's part of a shard; the owner's result has ``world`` for a sender."""
    return StepKey(step=key.step, bucket=key.bucket * world + shard, sender=sender, name=key.name)


def _alone(codec: Codec, layout: Layout) -> bool:
    """Whether every packet holds coordinates of its own, so that a lost one leaves a hole and no more."""
    return not codec.rotated and int(layout.coordinate[-1]) == layout.d


class Mean:
    """Means by one rule over one codec.

    Parameters
    ----------
    rank, world : int
    payload : int
        Bytes of a full plain packet.
    codec : Codec, optional
    rule : AggregationRule
    inclusion : Inclusion
        With what probability each rank's packets come.
    """

    def __init__(
        self, rank: int, world: int, payload: int, codec: Codec | None, rule: AggregationRule,
        inclusion: Inclusion,
    ) -> None:  # fmt: skip
        self.rank, self.world, self.payload = rank, world, payload
        self.codec, self.rule, self.inclusion = codec, rule, inclusion
        self._previous: dict[tuple[int, int], dict[int, NDArray[np.float32]]] = {}

    def reduce(self, e: Exchange, key: StepKey) -> None:
        """The result of our shard from what has come of it; kept, and put into the vector."""
        first, last = (int(v) for v in e.shards.bounds[e.own : e.own + 2])
        if e.summing:
            stands = (self.world - e.count if self.rule.fill == "own" else 0 * e.count).astype(np.float32)
            factor = (1.0 / self.rule.divisor(e.count, self.world)).astype(np.float32)
            wire.divide(e.total, self.payload // 4, e.count, self.world, stands, factor, e.scale[-2], e.mine)
            e.answer = e.total.view(np.uint8)
            return
        result = self._combine(e, key, last - first)
        if self.codec is None or first == last:
            e.answer = result.view(np.uint8)
        else:
            mine = part_key(key, self.world, e.own, self.world)
            coded = self.codec.encode(result, mine)
            e.answer = coded.data
            result = self.codec.decode(coded)  # what everybody else will have
        e.x[first:last] = result

    def _combine(self, e: Exchange, key: StepKey, width: int) -> NDArray[np.float32]:
        """The rule over parts kept apart: coded ones, or where a sender's last values fill in."""
        if width == 0:
            return np.zeros(0, np.float32)
        slot = key.bucket, e.own
        before = self._previous.get(slot, {})
        alone = self.codec is None or _alone(self.codec, self.codec.layout(width))
        if self.codec is None:
            bounds = np.unique(np.minimum(e.shards.ptr[e.own] // 4, width))
        else:
            bounds = self.codec.layout(width).coordinate if alone else np.array([0, width])
        aggregator = Aggregator(
            self.rule, self.world, bounds, inclusion=self.inclusion.probability, own=e.mine, previous=before
        )
        aggregator.add(self.rank, e.mine)
        last: dict[int, NDArray[np.float32]] = {}
        for src in range(self.world):
            if src == self.rank or not e.have[0, src]:
                continue
            if self.codec is None:
                mask, came = e.got[0, src, : bounds.size - 1].astype(bool), e.plain(0, src)
            else:
                payload, mask = e.payload(0, src, part_key(key, self.world, e.own, src))
                if not alone:
                    try:
                        values = self.codec.decode(payload, None if mask.all() else mask)
                    except PacketsLost:
                        continue
                    aggregator.add(src, values)
                    last[src] = values
                    continue
                came = self.codec.unpack(payload, mask)
            old = before.get(src, np.zeros(1, np.float32))
            values = np.where(np.repeat(mask, np.diff(bounds)), came, old).astype(np.float32)
            aggregator.add(src, values, mask)
            last[src] = values
        if self.rule.fill == "previous":
            self._previous[slot] = {**before, **last}
        return aggregator.result().mean

    def restore(self, e: Exchange, key: StepKey) -> None:
        """Put the others' results into the vector; plain ones are there already."""
        if self.codec is None and e.summing:
            return
        for src in range(self.world):
            shard = e.shard_of(src)
            first, last = (int(v) for v in e.shards.bounds[shard : shard + 2])
            if src == self.rank or first == last or not e.have[1, src]:
                continue
            if self.codec is None:
                mask, came = e.got[1, src, : int(e.shards.packets[shard])].astype(bool), e.plain(1, src)
                sizes = np.diff(e.shards.ptr[shard, : mask.size + 1]) // 4
            else:
                payload, mask = e.payload(1, src, part_key(key, self.world, shard, self.world))
                if not _alone(self.codec, payload.layout):
                    with contextlib.suppress(PacketsLost):
                        e.x[first:last] = self.codec.decode(payload, None if mask.all() else mask)
                    continue
                came, sizes = self.codec.unpack(payload, mask), np.diff(payload.layout.coordinate)
            e.x[first:last] = np.where(np.repeat(mask, sizes), came, e.x[first:last])
