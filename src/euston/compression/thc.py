"""THC: codes that add up, so that a switch or a parameter server never decompresses.

Li, Ben Basat, Vargaftik, Lao, Xu, Mitzenmacher & Yu, "THC: Accelerating Distributed Deep Learning Using
Tensor Homomorphic Compression", NSDI 2024. All workers share one rotation and one range (the largest norm,
agreed on beforehand). A worker rounds each coordinate stochastically to one of 2^b points of an integer
grid and sends the point's number; the aggregator looks up its integer and adds. The sum is decoded once.

The range is cut where a coordinate falls with a chosen probability; cutting is biased, so workers keep what
was cut (`euston.compression.error_feedback`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.compression._codec import BLOCK, MTU_PAYLOAD, RotatedCodec, check_finite
from euston.compression._hash import hash32, keys
from euston.compression.base import (
    OverflowRisk,
    PacketsLost,
    Payload,
    SizeMismatch,
    StepKey,
    as_vector,
    rescaled_vnmse,
    signature,
)  # fmt: skip
from euston.compression.bits import look_up, pack_groups, unpack_groups
from euston.compression.layout import GROUP, Layout, grouped
from euston.compression.thc_table import best_table, clamp_error, rounding_error, second_moment, truncation
from euston.errors import ConfigError

__all__ = ["CodeSum", "Thc"]

# Coordinates that are rounded together, in cache.
_CHUNK = 512

_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


@_kernel
def _code(y, factor, reach, grid, point, low, gap, key0, key1, start, first, last, codes):  # type: ignore[no-untyped-def]
    """Round ``factor[p - first] * y`` stochastically to the table's points.

    ``point``, ``low``, ``gap``: for each integer place of the grid, the number of the point below it, that
    point, and how far it is to the next one. Each loop does one thing, so that it becomes vector code.
    """
    place, drawn = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    ratio, middle, width = grid / (np.float32(2) * reach), reach, np.float32(2.0**-24)
    for p in range(first, last):
        scale, begin = factor[p - first], start[p] - start[first]
        for at in range(begin, start[p + 1] - start[first], _CHUNK):
            n = min(_CHUNK, start[p + 1] - start[first] - at)
            part, code, counter = y[at : at + n], codes[at : at + n], np.uint32(start[first] + at)
            for j in range(n):
                drawn[j] = np.float32(hash32(counter + np.uint32(j), key0, key1) >> np.uint32(8)) * width
            for j in range(n):
                z = min(max(part[j] * scale, -reach), reach)
                place[j] = min((z + middle) * ratio, grid)
            for j in range(n):
                k = np.uint64(np.uint32(place[j]))  # unsigned: no check for negative indices
                code[j] = point[k] + np.uint8(drawn[j] * gap[k] < place[j] - low[k])


@_kernel
def _add(codes, table, fresh, total, count):  # type: ignore[no-untyped-def]
    """Add the integers that the codes of groups with a set mask stand for, and count contributions."""
    for g in range(fresh.size):
        if fresh[g] == 0:
            continue
        part = total[g * GROUP : min(total.size, (g + 1) * GROUP)]
        code = codes[g * GROUP : min(total.size, (g + 1) * GROUP)]
        for j in range(part.size):
            part[j] += table[code[j]]
        count[g] += np.uint32(1)


@_kernel
def _mean(total, count, step, offset, scale, start, first, last, values):  # type: ignore[no-untyped-def]
    """Mean contribution in the rotated domain, zero where nobody contributed."""
    for p in range(first, last):
        for g in range(start[p] // GROUP, (start[p + 1] + GROUP - 1) // GROUP):
            lo, hi = g * GROUP, min(start[p + 1], (g + 1) * GROUP)
            out = values[lo - start[first] : hi - start[first]]
            if count[g] == 0:
                out[:] = np.float32(0)
                continue
            part, share = total[lo:hi], step / np.float32(count[g])
            for j in range(hi - lo):
                out[j] = (np.float32(part[j]) * share - offset) * scale[p]


@dataclass(frozen=True)
class Thc(RotatedCodec):
    """THC, the uniform (granularity = 2^bits - 1) and the table-driven form.

    Parameters
    ----------
    bits : int
        Bits per coordinate on the way up, 1 to 8.
    granularity : int
        g: integers from 0 to g stand for the range. 0: uniform, 2^bits - 1.
    overflow : float
        Probability that a coordinate of the worker with the largest norm lies outside the range.
    workers : int
        How many are summed at most.
    sum_bits : int
        8 or 16: bits per coordinate of the sums.
    block, packet : int
        As for EDEN.

    Raises
    ------
    OverflowRisk
        ``workers * granularity`` exceeds what `sum_bits` can hold: a sum could wrap around.
    ConfigError
        A parameter out of range.
    """

    bits: int = 4
    granularity: int = 30
    overflow: float = 1 / 32
    workers: int = 8
    sum_bits: int = 8
    block: int = BLOCK
    packet: int = MTU_PAYLOAD
    name: str = "thc"
    shared: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.granularity == 0:
            object.__setattr__(self, "granularity", (1 << self.bits) - 1)
        if self.sum_bits not in (8, 16):
            raise ConfigError(f"`{self.name}.sum_bits`: {self.sum_bits}; switches add 8 or 16 bits")
        if self.workers < 1:
            raise ConfigError(f"`{self.name}.workers`: {self.workers}; at least 1")
        most = (1 << self.sum_bits) - 1
        if self.workers * self.granularity > most:
            fits = most // self.granularity
            raise OverflowRisk(
                f"`{self.name}.workers`: {self.workers} workers x granularity {self.granularity} exceeds the "
                f"{most} that {self.sum_bits}-bit sums hold; at most {fits} workers, a granularity of "
                f"{most // self.workers} or 16-bit sums fit"
            )
        self._check_block(self.name)
        self.table  # noqa: B018  raises what is wrong with bits, granularity and overflow

    @property
    def unbiased(self) -> bool:
        """Never: what lies outside the range is cut."""
        return False

    @property
    def summable(self) -> bool:
        """Codes add up."""
        return True

    @property
    def table(self) -> tuple[int, ...]:
        """The integers that codes stand for."""
        return best_table(self.bits, self.granularity, self.overflow)

    @property
    def reach(self) -> float:
        """t: the range is [-t, t] standard deviations."""
        return truncation(self.overflow)

    def _plan(self, d: int) -> Layout:
        return grouped(d, self._start(d), self.bits, self.packet, header=4)

    def sum_layout(self, d: int) -> Layout:
        """Packets of the sums on the way down: every group of 256 carries its count of contributions."""
        return grouped(d, self._start(d), self.sum_bits, self.packet, header=4, extra=4)

    def norms(self, x: Any, key: StepKey = StepKey()) -> NDArray[np.float32]:  # noqa: B008
        """||x|| of each block, float32[pieces]: senders agree on their maximum before they encode."""
        x = as_vector(x, key.label)
        start = np.minimum(self.layout(x.size).start, x.size)
        norms = np.array([np.linalg.norm(x[lo:hi]) for lo, hi in pairwise(start.tolist())])
        if not np.isfinite(norms).all() or (norms < 1e-12).any():
            check_finite(x, key)
            wide = (x[lo:hi].astype(np.float64) for lo, hi in pairwise(start.tolist()))
            norms = np.array([np.linalg.norm(part) for part in wide])
        # Rounded up: no sender's norm may exceed what was agreed on.
        return np.nextafter(norms.astype(np.float32), np.float32(np.inf)) * (norms > 0)

    def encode(
        self,
        x: Any,
        key: StepKey = StepKey(),  # noqa: B008
        *,
        norms: NDArray[np.float32] | None = None,
    ) -> Payload:
        """Encode float32[d]; see `Codec.encode`. `norms`: what the senders agreed on, else one's own."""
        x = as_vector(x, key.label)
        layout = self.layout(x.size)
        if norms is None:
            norms = self.norms(x, key)
        if norms.shape != (layout.pieces,):
            raise SizeMismatch(f"`{key.label}`: {norms.shape} norms for {layout.pieces} blocks")
        table = np.array(self.table, np.float32)
        point = np.searchsorted(table, np.arange(self.granularity + 1), "right") - 1
        point = np.minimum(point, table.size - 2)
        low, gap = table[point], table[point + 1] - table[point]
        draw = keys(key.seed("rounding", shared=False))
        data = np.empty(layout.bytes // 4, np.uint32)
        codes = np.empty(layout.largest_batch(BLOCK), np.uint8)
        agreed = norms.astype(np.float64)
        for first, last, y, _, gain in self._rotations(x, key, layout, agreed):
            largest = agreed[first:last]
            factor = np.divide(gain, largest, out=np.zeros_like(largest), where=largest > 0)
            _code(
                y, factor.astype(np.float32), np.float32(self.reach), np.float32(self.granularity),
                point.astype(np.uint8), low, gap, *draw, layout.start, first, last, codes,
            )  # fmt: skip
            groups = int(layout.start[first]) // GROUP, -(-int(layout.start[last]) // GROUP)
            pack_groups(codes[: y.size], *groups, layout.width, layout.word, 0, data)
        data[layout.ptr[:-1] // 4] = norms.astype(np.float32)[layout.piece].view(np.uint32)
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def sum(self, d: int, key: StepKey, norms: NDArray[np.float32]) -> CodeSum:
        """An empty sum of `d` coordinates for the step and bucket of `key`."""
        return CodeSum(self, d, key, norms)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        layout, words = payload.layout, payload.words
        groups = int(layout.start[first]) // GROUP, -(-int(layout.start[last]) // GROUP)
        codes = np.empty(values.size, np.uint8)
        unpack_groups(words, *groups, layout.width, layout.word, 0, codes)
        points = 2.0 * self.reach / self.granularity * np.array(self.table) - self.reach
        packets = slice(int(layout.packet_start[first]), int(layout.packet_start[last]))
        size = np.diff(layout.start)[layout.piece[packets]]
        norm = words[layout.ptr[:-1][packets] // 4].view(np.float32) / np.sqrt(size)
        spread = np.diff(layout.group_start)[packets]
        scale = np.repeat(np.where(mask[packets] > 0, norm, 0.0), spread).astype(np.float32)
        look_up(codes, points.astype(np.float32), scale, values)

    def mean_values(
        self, layout: Layout, total: NDArray[Any], count: NDArray[np.uint32], norms: NDArray[np.float32],
        first: int, last: int, values: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """The rotated mean of sums of codes, pieces ``first <= p < last``."""
        step = np.float32(2.0 * self.reach / self.granularity)
        scale = norms / np.sqrt(np.maximum(np.diff(layout.start), 1)).astype(np.float32)
        _mean(total, count, step, np.float32(self.reach), scale, layout.start, first, last, values)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """One worker's error in its own range: rounding within it, cutting beyond it; large d."""
        rounding = rounding_error(self.table, self.overflow)
        vnmse = rounding + clamp_error(self.overflow)
        return rescaled_vnmse(vnmse, rounding + second_moment(self.overflow), loss)


class CodeSum:
    """A sum of THC codes: what a switch or a shard's owner holds for one bucket.

    Parameters
    ----------
    codec : Thc
    d : int
    key : StepKey
        Whose step and bucket count; its sender does not.
    norms : float32[pieces]
        The ranges that all agreed on.

    Attributes
    ----------
    total : uint8[coded] or uint16[coded]
    count : uint32[groups]
        Contributions to each group of 256 coordinates.
    """

    def __init__(self, codec: Thc, d: int, key: StepKey, norms: NDArray[np.float32]) -> None:
        self.codec, self.key, self.layout = codec, key, codec.layout(d)
        if norms.shape != (self.layout.pieces,):
            raise SizeMismatch(f"`{key.label}`: {norms.shape} norms for {self.layout.pieces} blocks")
        self.norms = norms.astype(np.float32)
        self.total = np.zeros(self.layout.coded, np.uint8 if codec.sum_bits == 8 else np.uint16)
        self.count = np.zeros(self.layout.width.size, np.uint32)
        self._table = np.array(codec.table, self.total.dtype)
        self._seen: dict[int, NDArray[np.bool_]] = {}

    def add(self, payload: Payload, mask: NDArray[np.bool_] | None = None) -> None:
        """Add the packets of one sender that arrived; packets that it already contributed change nothing.

        Raises
        ------
        SizeMismatch
            Another codec, size, step, bucket or range.
        OverflowRisk
            One sender more than the codec was configured for.
        """
        came = self.codec._mask(payload, mask).view(np.bool_)
        mine, theirs = self.key, payload.key
        if payload.d != self.layout.d or (mine.job, mine.step, mine.bucket) != (
            theirs.job, theirs.step, theirs.bucket
        ):  # fmt: skip
            raise SizeMismatch(
                f"`{mine.label}`: {theirs} with {payload.d} coordinates cannot be added to {mine}"
            )
        ranges = payload.words[self.layout.ptr[:-1] // 4].view(np.float32)
        if (came & (ranges != self.norms[self.layout.piece])).any():
            raise SizeMismatch(f"`{mine.label}`: sender {theirs.sender} encoded with another range")
        seen = self._seen.get(theirs.sender)
        if seen is None:
            if len(self._seen) >= self.codec.workers:
                raise OverflowRisk(
                    f"`{mine.label}`: sender {theirs.sender} is one more than the "
                    f"{self.codec.workers} workers that the sums have room for"
                )
            seen = self._seen[theirs.sender] = np.zeros(len(payload), np.bool_)
        fresh = came & ~seen
        seen |= came
        layout = payload.layout
        codes = np.empty(layout.coded, np.uint8)
        unpack_groups(payload.words, 0, layout.word.size, layout.width, layout.word, 0, codes)
        groups = np.repeat(fresh, np.diff(layout.group_start))
        _add(codes, self._table, groups.view(np.uint8), self.total, self.count)

    def encode(self) -> Payload:
        """The sums and counts as packets."""
        layout = self.codec.sum_layout(self.layout.d)
        data = np.zeros(layout.bytes // 4, np.uint32)
        data[layout.ptr[:-1] // 4] = self.norms[layout.piece].view(np.uint32)
        data[layout.word] = self.count
        for at, part in self._groups(layout, data):
            part[:] = self.total[at : at + part.size]
        return Payload(f"sum of {signature(self.codec)}", self.key, data.view(np.uint8), layout)

    def _groups(self, layout: Layout, data: NDArray[np.uint32]) -> Any:
        """(first coordinate, its bytes in `data` as integers) of runs of groups that are alike."""
        view = data.view(self.total.dtype)
        per_word = 4 // self.total.itemsize
        for g, word in enumerate(layout.word.tolist()):
            n = min(GROUP, layout.coded - g * GROUP)
            yield g * GROUP, view[(word + 1) * per_word : (word + 1) * per_word + n]

    def receive(self, payload: Payload, mask: NDArray[np.bool_] | None = None) -> CodeSum:
        """The sum that `encode` sent, as far as its packets arrived.

        Raises
        ------
        SizeMismatch
            Not a sum of this codec.
        """
        if payload.codec != f"sum of {signature(self.codec)}" or payload.d != self.layout.d:
            raise SizeMismatch(
                f"`{self.key.label}`: {payload.codec} of {payload.d} coordinates is not this sum"
            )
        got = CodeSum(self.codec, self.layout.d, self.key, self.norms)
        came = np.ones(len(payload), np.bool_) if mask is None else mask
        here = np.repeat(came, np.diff(payload.layout.group_start))
        got.count[here] = payload.words[payload.layout.word[here]]
        for at, part in self._groups(payload.layout, payload.words):
            if here[at // GROUP]:
                got.total[at : at + part.size] = part
        return got

    def mean(self, *, lost: str = "raise", out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The mean of what was contributed, float32[d]: by group, the sum over the number of contributions.

        Groups without any are made up for by scaling the rest of their block, as `Codec.decode` does.

        Raises
        ------
        PacketsLost
            Nobody contributed to a block and `lost` is "raise".
        """
        layout, codec = self.layout, self.codec
        size = np.minimum(GROUP, layout.coded - np.arange(self.count.size) * GROUP)
        piece = np.searchsorted(layout.start, np.arange(self.count.size) * GROUP, "right") - 1
        share = np.bincount(piece, size * (self.count > 0), layout.pieces) / np.diff(layout.start)
        if lost == "raise" and not share.all():
            raise PacketsLost(f"`{self.key.label}`: nobody's packets of a block arrived; ask for them again")
        gain = np.divide(1.0, share, out=np.zeros_like(share), where=share > 0)
        x = codec._out(out, layout.d, self.key)
        values = np.empty(layout.coded, np.float32)
        codec.mean_values(layout, self.total, self.count, self.norms, 0, layout.pieces, values)
        codec._unrotate(values, x, self.key, layout.start, 0, layout.pieces, gain)
        return x
