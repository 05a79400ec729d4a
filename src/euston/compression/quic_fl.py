"""QUIC-FL: unbiased codes that all senders make in one rotation, so that the receiver rotates back once.

Ben Basat, Vargaftik, Portnoy, Einziger, Ben-Itzhak & Mitzenmacher, ICML 2024. Coordinates within t standard
deviations are coded with randomness shared between sender and receiver
(`euston.compression.quic_fl_table`); the few beyond are sent as they are, index and value.

Packets keep one size, so the values apart have a fixed number of places. When a packet has more of them
than places, a random choice of them carries the excess of all, which keeps the estimate unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import bdtrc

from euston.compression._codec import BLOCK, MTU_PAYLOAD, RotatedCodec
from euston.compression._hash import hash32, keys
from euston.compression.base import Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.bits import pack_groups, unpack_groups
from euston.compression.layout import GROUP, Layout, grouped
from euston.compression.quic_fl_table import QuicTable, quic_table
from euston.errors import ConfigError

__all__ = ["QuicFl"]

# Cells of the table that finds the switch of a coordinate; a few more steps lead to the exact one.
_CELLS = 1024
# Coordinates that are coded together, in cache.
_CHUNK = 512
# How often a packet may have more values apart than places.
_CROWDED = 1e-3

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


@_helper
def _drawn(counter, key0, key1):  # type: ignore[no-untyped-def]
    """A number in [0, 1) of 24 random bits."""
    return np.float32(hash32(counter, key0, key1) >> np.uint32(8)) * np.float32(2.0**-24)


@_kernel
def _code(  # type: ignore[no-untyped-def]
    y, factor, reach, mean, row, table, cell, shared0, shared1, own0, own1,
    start, ptr, coordinate, piece, places, first, last, codes, out, floats,
):  # fmt: skip
    """Code the packets ``first <= k < last``; `y` starts at the first one's piece."""
    rows, levels = np.uint32(table.shape[1] - 1), np.uint64(table.shape[1])
    flat, top = table.ravel(), np.uint64(row.size - 1)
    fine, base = np.float32(_CELLS) / (2 * reach), start[piece[first]]
    z, drawn, at_row = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.uint32)
    for k in range(first, last):
        scale, head = factor[piece[k]], ptr[k] // 4
        lo, hi = coordinate[k], coordinate[k + 1]
        part = y[lo - base : hi - base]
        beyond = 0
        for j in range(part.size):
            beyond += abs(part[j] * scale) > reach
        stretch = max(np.float32(1), np.float32(beyond) / np.float32(places))
        left, sent = beyond, 0
        for begin in range(lo, hi, _CHUNK):
            n = min(_CHUNK, hi - begin)
            part, code = y[begin - base : begin - base + n], codes[begin - base : begin - base + n]
            for j in range(n):
                z[j] = part[j] * scale
                drawn[j] = _drawn(np.uint32(begin) + np.uint32(j), own0, own1)
                at_row[j] = hash32(np.uint32(begin) + np.uint32(j), shared0, shared1) & rows
            for j in range(n if left > 0 else 0):
                if abs(z[j]) <= reach:
                    continue
                i = begin + j
                if np.float32(left) * _drawn(i, own1, own0) < np.float32(places - sent):
                    far = np.float32(abs(z[j]) - reach) * stretch + reach
                    floats[head + 2 + sent] = far if z[j] > 0 else -far
                    noise = hash32(i, own0, own0) & np.uint32(0xFFFF)
                    rounded = out[head + 2 + sent] + noise  # stochastic rounding to bfloat16
                    out[head + 2 + sent] = (rounded & np.uint32(0xFFFF0000)) | np.uint32(i - lo)
                    sent += 1
                left -= 1
                z[j] = reach if z[j] > 0 else -reach
            for j in range(n):
                # unsigned: no check for negative indices; one step from a cell's edge is nearly always enough
                at = np.uint64(cell[np.uint64(min(np.uint32((z[j] + reach) * fine), np.uint32(_CELLS - 1)))])
                at = min(at + np.uint64(z[j] > mean[at + np.uint64(1)]), top)
                while at < top and z[j] > mean[at + np.uint64(1)]:
                    at += np.uint64(1)
                below, above = mean[at], mean[at + np.uint64(1)]
                h = at_row[j]
                up = np.uint8(row[at] == h) & np.uint8(drawn[j] * (above - below) < z[j] - below)
                code[j] = flat[at * levels + np.uint64(h)] + up
        out[head + 1] = np.uint32(sent)


@_kernel
def _uncode(  # type: ignore[no-untyped-def]
    words, floats, codes, values, shared0, shared1, start, ptr, coordinate, piece, mask, first, last, y,
):  # fmt: skip
    rows, levels = np.uint32(values.shape[0] - 1), np.uint32(values.shape[1])
    flat, base = values.ravel(), start[piece[first]]
    for k in range(first, last):
        lo, hi = coordinate[k], coordinate[k + 1]
        part = y[lo - base : hi - base]
        if mask[k] == 0:
            part[:] = np.float32(0)
            continue
        head = ptr[k] // 4
        scale = floats[head] / np.float32(np.sqrt(start[piece[k] + 1] - start[piece[k]]))
        code = codes[lo - base : hi - base]
        for j in range(part.size):
            h = hash32(np.uint32(lo) + np.uint32(j), shared0, shared1) & rows
            part[j] = flat[np.uint64(h * levels + code[j])] * scale
        for place in range(words[head + 1]):
            entry = words[head + 2 + place : head + 3 + place] & np.uint32(0xFFFF0000)
            i = words[head + 2 + place] & np.uint32(0xFFFF)
            if i < part.size:
                part[i] = entry.view(np.float32)[0] * scale


@cache
def _places(bits: int, packet: int, outlier: float) -> int:
    """Places for values apart that are nearly always enough for the coordinates that fit beside them."""
    places = 1
    while True:
        fits = 1 << 16 if packet == 0 else min(1 << 16, max(0, packet - 8 - 4 * places) * 8 // bits)
        fits = fits // GROUP * GROUP
        crowded = bdtrc(np.arange(fits), fits, outlier)  # P(more than m of them lie beyond)
        needed = int(np.argmax(crowded <= _CROWDED)) if fits else 1
        if needed <= places:
            return places
        places = needed if packet == 0 else places + 1


@cache
def _cells(bits: int, randomness: int, outlier: float) -> NDArray[np.int64]:
    """The last switch before the lower edge of each of the cells that divide the range."""
    table = quic_table(bits, randomness, outlier)
    edges = -table.reach + 2.0 * table.reach * np.arange(_CELLS) / _CELLS
    return np.clip(np.searchsorted(table.mean, edges, "right") - 1, 0, table.row.size - 1)


@dataclass(frozen=True)
class QuicFl(RotatedCodec):
    """QUIC-FL.

    Parameters
    ----------
    bits : int
        Bits per coordinate, 1 to 4.
    outlier : float
        Share of a normal vector that is sent apart.
    randomness : int
        Values of the shared randomness, a power of two; 0: 64, 32, 16, 16 for 1 to 4 bits, as published.
    block, packet : int
        As for EDEN; a packet holds at most 65,536 coordinates.

    Raises
    ------
    ConfigError
        A parameter out of range.
    """

    bits: int = 4
    outlier: float = 1 / 512
    randomness: int = 0
    block: int = BLOCK
    packet: int = MTU_PAYLOAD
    name: str = "quic_fl"
    shared: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.randomness == 0 and 1 <= self.bits <= 4:
            object.__setattr__(self, "randomness", (64, 32, 16, 16)[self.bits - 1])
        if not 1 <= self.bits <= 4:
            raise ConfigError(f"`{self.name}.bits`: {self.bits}; tables are solved for 1 to 4")
        if not 0.0 < self.outlier < 0.5:
            raise ConfigError(f"`{self.name}.outlier`: {self.outlier}; a share above 0 and below one half")
        self._check_block(self.name)

    @property
    def unbiased(self) -> bool:
        """Always."""
        return True

    @property
    def table(self) -> QuicTable:
        """The sender's and receiver's tables."""
        return quic_table(self.bits, self.randomness, self.outlier)

    @property
    def places(self) -> int:
        """Values that a packet can hold apart."""
        return _places(self.bits, self.packet, self.outlier)

    def _plan(self, d: int) -> Layout:
        header = 8 + 4 * self.places
        most = header + (1 << 16) // 8 * self.bits
        packet = most if self.packet == 0 else min(self.packet, most)
        return grouped(d, self._start(d), self.bits, packet, header=header)

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Encode float32[d]; see `Codec.encode`."""
        x = as_vector(x, key.label)
        layout, table = self.layout(x.size), self.table
        cell = _cells(self.bits, self.randomness, self.outlier)
        mean = table.mean.astype(np.float32)
        draws = *keys(key.seed("table", shared=False)), *keys(key.seed("rounding", shared=False))
        data = np.zeros(layout.bytes // 4, np.uint32)
        floats = data.view(np.float32)
        factor, size = np.zeros(layout.pieces, np.float32), np.zeros(layout.pieces, np.float32)
        codes = np.empty(layout.largest_batch(BLOCK), np.uint8)
        for first, last, y, norm, gain in self._rotations(x, key, layout):
            factor[first:last] = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
            size[first:last] = norm * gain
            _code(
                y, factor, np.float32(table.reach), mean, table.row, table.code, cell, *draws,
                layout.start, layout.ptr, layout.coordinate, layout.piece, self.places,
                layout.packet_start[first], layout.packet_start[last], codes, data, floats,
            )  # fmt: skip
            groups = int(layout.start[first]) // GROUP, -(-int(layout.start[last]) // GROUP)
            pack_groups(codes[: y.size], *groups, layout.width, layout.word, 0, data)
        floats[layout.ptr[:-1] // 4] = size[layout.piece]
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        layout, words, key = payload.layout, payload.words, payload.key
        groups = int(layout.start[first]) // GROUP, -(-int(layout.start[last]) // GROUP)
        codes = np.empty(values.size, np.uint8)
        unpack_groups(words, *groups, layout.width, layout.word, 0, codes)
        _uncode(
            words, words.view(np.float32), codes, self.table.values.astype(np.float32),
            *keys(key.seed("table", shared=False)), layout.start, layout.ptr, layout.coordinate, layout.piece,
            mask, layout.packet_start[first], layout.packet_start[last], values,
        )  # fmt: skip

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """The table's error for normal coordinates within the range; what is beyond is exact. Large d."""
        error = self.table.error
        return rescaled_vnmse(error, 1.0 + error, loss)
