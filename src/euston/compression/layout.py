"""Which bytes of an encoded vector are which packet, and which coordinates a packet holds.

The coded domain is cut into *pieces*, each rotated on its own (one piece where nothing is rotated), pieces
into *packets*, packets of bit-packed codecs into *groups* of 256 coordinates that take whole 32-bit words.
A layout depends on the codec and the size only, never on the data: sender and receiver compute it apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from euston.compression._hash import chain
from euston.errors import ConfigError

__all__ = ["GROUP", "Layout", "grouped", "pieces", "raw"]

GROUP = 256
"""Coordinates per group."""

# The smallest piece, and the size up to which a rest is padded to the next power of two whatever that costs.
_LEAST, _SMALL = 64, 1024


@dataclass(frozen=True, eq=False)
class Layout:
    """Packets of a vector.

    Attributes
    ----------
    d : int
        Coordinates of the vector.
    start : int64[pieces + 1]
        Coded coordinates at which pieces start; those from `d` on are padding.
    ptr : int64[packets + 1]
        Bytes at which packets start.
    coordinate : int64[packets + 1]
        Coded coordinates at which packets start.
    piece : int32[packets]
        The piece that a packet belongs to.
    packet_start : int64[pieces + 1]
        Packets at which pieces start.
    group_start : int64[packets + 1]
        Groups at which packets start; empty for codecs that do not pack bits.
    word : int64[groups]
        32-bit word at which a group starts.
    width : uint8[groups]
        Bits per coordinate of a group; 0 for groups that are not sent.
    """

    d: int
    start: NDArray[np.int64]
    ptr: NDArray[np.int64]
    coordinate: NDArray[np.int64]
    piece: NDArray[np.int32]
    packet_start: NDArray[np.int64]
    group_start: NDArray[np.int64]
    word: NDArray[np.int64]
    width: NDArray[np.uint8]

    @property
    def coded(self) -> int:
        """Coordinates of the coded domain, padding included."""
        return int(self.start[-1])

    @property
    def pieces(self) -> int:
        """Number of pieces."""
        return self.start.size - 1

    @property
    def packets(self) -> int:
        """Number of packets."""
        return self.ptr.size - 1

    @property
    def bytes(self) -> int:
        """Bytes of all packets, their headers included."""
        return int(self.ptr[-1])

    def received(self, mask: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        """Share of each piece's coordinates that arrived, float64[pieces]."""
        if mask is None:
            return np.ones(self.pieces)
        came = np.bincount(self.piece, np.diff(self.coordinate) * mask, self.pieces)
        return came / np.diff(self.start)

    def batches(self, most: int) -> list[tuple[int, int]]:
        """Runs of pieces ``first <= p < last`` of at most `most` coordinates (at least one piece) each."""
        cuts, first = [], 0
        for p in range(self.pieces):
            if p > first and self.start[p + 1] - self.start[first] > most:
                cuts.append((first, p))
                first = p
        if self.pieces:
            cuts.append((first, self.pieces))
        return cuts

    def largest_batch(self, most: int) -> int:
        """Coordinates of the largest of `batches`."""
        return max(
            (int(self.start[last] - self.start[first]) for first, last in self.batches(most)), default=0
        )


def pieces(d: int, block: int) -> NDArray[np.int64]:
    """Starts of the pieces of `d` coordinates: powers of two, none larger than `block`, in falling order.

    Whole blocks first. A rest is padded to a power of two when that adds at most an eighth or it is small;
    else the largest power of two in it is cut off and the rest of the rest looked at again. At most an
    eighth of a rest, or 511 coordinates, is padding. Each piece starts at a multiple of its size, and
    only the last one may be shorter than a group.
    """
    whole, rest = divmod(d, block)
    sizes = [block] * whole
    while rest > 0:
        above = max(_LEAST, 1 << (rest - 1).bit_length())
        if rest <= _SMALL or 8 * (above - rest) <= rest:
            sizes.append(above)
            break
        sizes.append(above // 2)
        rest -= above // 2
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64)


def _widths(groups: int, bits: float, piece: int) -> NDArray[np.uint8]:
    """Widths of a piece's groups: the fraction of `bits` of them is wider, at scrambled places."""
    low = int(bits)
    width = np.full(groups, low, np.uint8)
    wider = round((bits - low) * groups)
    if low == 0:
        wider = max(wider, 1)  # something of every piece must be sent
    if wider:
        order = np.argsort([chain(piece, group) for group in range(groups)])
        width[order[:wider]] += 1
    return width


def grouped(
    d: int, start: NDArray[np.int64], bits: float, packet: int, *, header: int, extra: int = 0
) -> Layout:
    """Layout of bit-packed codecs.

    Parameters
    ----------
    d
        Coordinates of the vector.
    start
        Pieces; all but the last must be multiples of 256, the last one a multiple of 32.
    bits
        Mean bits per coordinate, 0 < bits <= 8.
    packet
        Bytes a packet may have; 0 puts every piece into one packet.
    header
        Bytes at the front of each packet, a multiple of 4.
    extra
        Bytes at the front of each group that is sent, a multiple of 4.
    """
    ptr, coordinate, piece, first, group_start = [0], [0], [], [0], [0]
    words, widths, at, groups = [], [], 0, 0
    room = (packet - header) // 4 if packet else 1 << 60
    for p, (lo, hi) in enumerate(pairwise(start.tolist())):
        here = -(-(hi - lo) // GROUP)
        width = _widths(here, bits, p)
        lanes = np.full(here, GROUP // 32)
        lanes[-1] = (hi - lo - GROUP * (here - 1)) // 32
        size = np.where(width > 0, lanes * width + extra // 4, 0)
        if size.max() > room:
            need = int(size.max()) * 4 + header
            raise ConfigError(
                f"`packet`: {packet} bytes; at {bits:g} bits a group of 256 coordinates needs {need}"
            )
        ends = np.concatenate(([0], np.cumsum(size)))
        g = 0
        while g < here:
            stop = min(here, int(np.searchsorted(ends, ends[g] + room, "right")) - 1)
            words.append(at + header // 4 + ends[g:stop] - ends[g])
            at += header // 4 + int(ends[stop] - ends[g])
            ptr.append(4 * at)
            coordinate.append(min(lo + GROUP * stop, hi))
            group_start.append(groups + stop)
            piece.append(p)
            g = stop
        widths.append(width)
        groups += here
        first.append(len(piece))
    return Layout(
        d,
        start,
        np.array(ptr, np.int64),
        np.array(coordinate, np.int64),
        np.array(piece, np.int32),
        np.array(first, np.int64),
        np.array(group_start, np.int64),
        np.concatenate([*words, np.zeros(0)]).astype(np.int64),
        np.concatenate([*widths, np.zeros(0)]).astype(np.uint8),
    )


def raw(d: int, coded: int, item: int, packet: int, *, header: int, least: int = 1) -> Layout:
    """Layout of codecs that send `coded` items of `item` bytes each, in one piece.

    ``least``: packets hold multiples of that many items, the last one excepted.
    """
    fits = (packet - header) // item // least * least if packet else max(coded, 1)
    if fits < 1:
        raise ConfigError(f"`packet`: {packet} bytes; {header + item * least} are needed for anything at all")
    coordinate = np.append(np.arange(0, coded, fits), coded).astype(np.int64)
    n = coordinate.size - 1
    ptr = np.arange(n + 1) * header + coordinate * item
    ptr = np.concatenate(([0], np.cumsum(np.diff(ptr) + -np.diff(ptr) % 4)))  # packets are whole words
    empty = np.zeros(0, np.int64)
    start = np.array([0, coded] if coded else [0], np.int64)
    return Layout(
        d, start, ptr.astype(np.int64), coordinate, np.zeros(n, np.int32), np.array([0, n][: start.size]),
        empty, empty, np.zeros(0, np.uint8),
    )  # fmt: skip
