"""EDEN: rotate, quantise to the Lloyd-Max levels of the normal distribution, send one scale.

Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak & Mitzenmacher, "EDEN: Communication-Efficient and
Robust Distributed Mean Estimation for Federated Learning", ICML 2022. After a random rotation every
coordinate is nearly N(0, ||x||^2 / d). With q the nearest levels, the scale ||y||^2 / <q, y> makes R^-1 (S
q) unbiased.

Whole bits code every coordinate alike. Fractions code a scrambled share of the groups of 256 coordinates
with one bit more; below one bit, the share is sent with 1 bit and the rest not at all. The paper draws such
shares by coordinate and drops coordinates before rotating; after the rotation all are alike, so the mean
error is the same, its spread over draws is smaller, and sizes are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.compression._codec import BLOCK, MTU_PAYLOAD, RotatedCodec
from euston.compression._vector import (
    dequantise1,
    dequantise2,
    dequantise3,
    dequantise4,
    quantise1,
    quantise2,
    quantise3,
    quantise4,
)  # fmt: skip
from euston.compression.base import NonFinite, Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.bits import pack_group, unpack_group
from euston.compression.layout import GROUP, Layout, grouped
from euston.compression.lloyd_max import lloyd_max
from euston.errors import ConfigError

__all__ = ["Eden"]

SCALES = ("unbiased", "mse", "norm")

# Beyond 4 bits the level is looked up by |z| in cells of 1/64, narrower than the narrowest cell of 8 bits
# (0.0169), and corrected by at most one threshold.
_CELLS = 64

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


@cache
def _tables(bits: int) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Thresholds followed by centroids, and the level at the lower edge of each cell."""
    if bits == 0:
        return np.zeros(0, np.float32), np.zeros(1, np.uint32)
    levels = lloyd_max(bits)
    table = np.concatenate([levels.thresholds, levels.centroids]).astype(np.float32)
    edges = np.arange(int(levels.centroids[-1] * _CELLS) + 2) / _CELLS
    cells = np.searchsorted(table[: levels.thresholds.size], edges.astype(np.float32), "left")
    return table, cells.astype(np.uint32)


@_helper
def _quantise(y, i, n, scale, bits, table, cells, code, sums):  # type: ignore[no-untyped-def]
    """Codes of ``scale * y[i:i + n]``; the halves of `sums` grow by <q, |z|> and <q, q>."""
    if bits == 1:
        for j in range(0, n, 32):
            quantise1(y, i + j, scale, table, code, j, sums)
    elif bits == 2:
        for j in range(0, n, 32):
            quantise2(y, i + j, scale, table, code, j, sums)
    elif bits == 3:
        for j in range(0, n, 32):
            quantise3(y, i + j, scale, table, code, j, sums)
    elif bits == 4:
        for j in range(0, n, 32):
            quantise4(y, i + j, scale, table, code, j, sums)
    else:
        half = 1 << (bits - 1)
        top = np.float32(cells.size - 1)
        part = y[i : i + n]
        sign = part.view(np.uint32)
        for j in range(n):
            size = abs(part[j]) * scale
            level = cells[np.uint32(min(size * np.float32(_CELLS), top))]
            # The last threshold is followed by the first centroid in the table: never pass it.
            code[j] = min(level + np.uint32(size > table[level]), np.uint32(half - 1))
        for j in range(0, n, 8):
            for lane in range(8):
                q = table[half - 1 + code[j + lane]]
                sums[lane] += q * (abs(part[j + lane]) * scale)
                sums[8 + lane] += q * q
        for j in range(n):
            code[j] += (sign[j] >> np.uint32(31)) * np.uint32(half)


@_kernel
def _code(y, scale, start, first, last, width, word, low, low_cells, high, high_cells, out, sums):  # type: ignore[no-untyped-def]
    """Quantise and pack pieces; ``sums[p]`` becomes (<q, |z|>, <q, q>) of what is sent of piece p."""
    code = np.zeros(GROUP, np.uint32)
    lane_sums = np.zeros(16, np.float32)
    for p in range(first, last):
        total, energy = 0.0, 0.0
        for g in range(start[p] // GROUP, (start[p + 1] + GROUP - 1) // GROUP):
            bits = np.int64(width[g])
            if bits == 0:
                continue
            n = min(GROUP, start[p + 1] - g * GROUP)
            lane_sums[:] = np.float32(0)
            table, cells = (low, low_cells) if (1 << bits) - 1 == low.size else (high, high_cells)
            _quantise(y, g * GROUP - start[first], n, scale[p - first], bits, table, cells, code, lane_sums)
            pack_group(code, bits, n // 32, out, word[g])
            for lane in range(8):
                total += np.float64(lane_sums[lane])
                energy += np.float64(lane_sums[8 + lane])
        sums[p, 0], sums[p, 1] = total, energy


@_kernel
def _uncode(words, floats, ptr, coordinate, group_start, width, word, mask, first, last, base, low, high, y):  # type: ignore[no-untyped-def]
    """Values of packets ``first <= k < last`` into y, which starts at coordinate `base`."""
    code = np.zeros(GROUP, np.uint32)
    low_values, high_values = np.empty_like(low), np.empty_like(high)
    for k in range(first, last):
        part = y[coordinate[k] - base : coordinate[k + 1] - base]
        if mask[k] == 0:
            part[:] = np.float32(0)
            continue
        scale = floats[ptr[k] // 4]
        for j in range(low.size):
            low_values[j] = low[j] * scale
        for j in range(high.size):
            high_values[j] = high[j] * scale
        i = 0
        for g in range(group_start[k], group_start[k + 1]):
            n = min(GROUP, part.size - i)
            bits = np.int64(width[g])
            if bits == 0:
                part[i : i + n] = np.float32(0)
                i += n
                continue
            unpack_group(words, word[g], bits, n // 32, code)
            values = low_values if (1 << (bits - 1)) == low.size else high_values
            if bits == 1:
                for j in range(0, n, 8):
                    dequantise1(code, j, values, part, i + j)
            elif bits == 2:
                for j in range(0, n, 8):
                    dequantise2(code, j, values, part, i + j)
            elif bits == 3:
                for j in range(0, n, 8):
                    dequantise3(code, j, values, part, i + j)
            elif bits == 4:
                for j in range(0, n, 8):
                    dequantise4(code, j, values, part, i + j)
            else:
                half = np.uint32(1 << (bits - 1))
                for j in range(n):
                    value = values[code[j] & (half - np.uint32(1))]
                    part[i + j] = -value if code[j] & half else value
            i += n


@dataclass(frozen=True)
class Eden(RotatedCodec):
    """EDEN.

    The theory is that of a uniformly random rotation. A randomised Hadamard transform comes as close as tests
    show (1 %) when the energy lies in some hundred coordinates or more; with two or three coordinates
    alone the values after it are few, and the error can be higher (two equal ones, 1 bit: 1.0, not 0.57).

    Parameters
    ----------
    bits : float
        Bits per coordinate, above 0 to 8; fractions and less than one bit are allowed.
    scale : str
        "unbiased"; "mse", the least error of one vector, biased, for error feedback or storage; "norm", which
        keeps the norm and lies between them.
    block : int
        Coordinates rotated together, a power of two from 256 to 2^26. Every block has its own scale.
    shared : bool
        One rotation for all senders, so that values can be added before they are rotated back. Errors of
        similar vectors then correlate and average out less than 1/n: by default every sender has its own.
    packet : int
        Bytes per packet; 0 for one packet per block.

    Raises
    ------
    ConfigError
        A parameter out of range.
    """

    bits: float = 4
    scale: str = "unbiased"
    block: int = BLOCK
    shared: bool = False
    packet: int = MTU_PAYLOAD
    name: str = "eden"

    def __post_init__(self) -> None:
        if not 0.0 < self.bits <= 8.0:
            raise ConfigError(f"`{self.name}.bits`: {self.bits}; above 0 to 8 can be coded")
        if self.scale not in SCALES:
            raise ConfigError(f"`{self.name}.scale`: {self.scale!r}; one of {', '.join(SCALES)}")
        self._check_block(self.name)

    @property
    def unbiased(self) -> bool:
        """Only with the unbiased scale."""
        return self.scale == "unbiased"

    def _plan(self, d: int) -> Layout:
        return grouped(d, self._start(d), self.bits, self.packet, header=4)

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Encode float32[d]; see `Codec.encode`.

        Raises
        ------
        NonFinite
            NaN or Inf in it, or, below one bit, a block whose energy lies in coordinates that are not sent.
        """
        x = as_vector(x, key.label)
        layout = self.layout(x.size)
        data = np.empty(layout.bytes // 4, np.uint32)
        low, low_cells = _tables(int(self.bits))
        high, high_cells = _tables(int(np.ceil(self.bits)))
        sums = np.zeros((layout.pieces, 2))
        scale = np.zeros(layout.pieces, np.float32)
        for first, last, y, norm, gain in self._rotations(x, key, layout):
            # y is sqrt(P) times the rotated piece, so y / norm is nearly N(0, 1).
            factor = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0).astype(np.float32)
            _code(
                y, factor, layout.start, first, last, layout.width, layout.word,
                low, low_cells, high, high_cells, data, sums,
            )  # fmt: skip
            scale[first:last] = self._scale(norm * gain, sums[first:last], layout, first, last, key)
        data[layout.ptr[:-1] // 4] = scale[layout.piece].view(np.uint32)
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def _scale(
        self, norm: NDArray[np.float64], sums: NDArray[np.float64], layout: Layout, first: int, last: int,
        key: StepKey,
    ) -> NDArray[np.float64]:  # fmt: skip
        """S of each piece in the rotated domain, where y = norm z / sqrt(P)."""
        if ((sums[:, 0] <= 0.0) & (norm > 0.0)).any():
            raise NonFinite(f"`{key.label}`: nothing of a block's energy is among what {self.bits} bits send")
        size = np.sqrt(np.diff(layout.start[first : last + 1]))
        agreement, energy = sums[:, 0], sums[:, 1]
        if self.scale == "unbiased":
            over, under = norm * size, agreement
        elif self.scale == "mse":
            over, under = norm / size * agreement, energy
        else:
            over, under = norm, np.sqrt(energy)
        return np.divide(over, under, out=np.zeros_like(over), where=norm > 0)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        layout, words = payload.layout, payload.words
        low, high = (
            _tables(bits)[0][(1 << bits) // 2 - 1 :] if bits else np.zeros(0, np.float32)
            for bits in (int(self.bits), int(np.ceil(self.bits)))
        )
        _uncode(
            words, words.view(np.float32), layout.ptr, layout.coordinate, layout.group_start, layout.width,
            layout.word, mask, layout.packet_start[first], layout.packet_start[last], layout.start[first],
            low, high, values,
        )  # fmt: skip

    def kept(self, d: int) -> NDArray[np.float64]:
        """E <q, z> / E z^2 by piece, float64[pieces]: 1 - D averaged over the widths that are sent."""
        layout = self.layout(d)
        keep = np.array([0.0] + [1.0 - lloyd_max(bits).distortion for bits in range(1, 9)])
        piece = np.searchsorted(layout.start, np.arange(layout.width.size) * GROUP, "right") - 1
        size = np.minimum(GROUP, layout.coded - np.arange(layout.width.size) * GROUP)
        return np.bincount(piece, keep[layout.width] * size, layout.pieces) / np.diff(layout.start)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """1/((1 - D)(1 - loss)) - 1 for the unbiased scale, D the distortion of the widths; large d."""
        if d == 0:
            return 0.0
        layout = self.layout(d)
        keep = self.kept(d)
        if self.scale == "unbiased":
            vnmse, energy = 1.0 / keep - 1.0, 1.0 / keep
        elif self.scale == "mse":
            vnmse, energy = 1.0 - keep, keep
        else:
            vnmse, energy = 2.0 - 2.0 * np.sqrt(keep), np.ones_like(keep)
        weight = np.diff(np.minimum(layout.start, d)) / d
        return rescaled_vnmse(float(weight @ vnmse), float(weight @ energy), loss)
