"""What all codecs here do alike: cached layouts, checked payloads, loss made up for, rotations in batches.

A codec inherits `PackedCodec` and says how a vector is laid out, coded and uncoded; `RotatedCodec` adds the
randomised Hadamard transform around that. Both work on runs of pieces that stay in the cache.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression._fwht import rotate, tile_size, unrotate
from euston.compression.base import (
    NonFinite,
    PacketsLost,
    Payload,
    SizeMismatch,
    StepKey,
    as_vector,
    signature,
)
from euston.compression.layout import GROUP, Layout, pieces
from euston.errors import ConfigError

__all__ = ["BLOCK", "MTU_PAYLOAD", "PackedCodec", "RotatedCodec", "check_finite", "scratch"]

BLOCK = 1 << 20
"""Coordinates rotated together by default: 4 MiB, which stays in a last-level cache between the sweeps."""

MTU_PAYLOAD = 1452
"""Bytes of a packet by default: Ethernet's 1500 less IPv4 (20), UDP (8) and a transport header (20)."""

_LARGEST = 1 << 26

# Sums of squares outside this range may have under- or overflowed float32 on the way: such pieces are scaled
# by a power of two first. Inside it, squares that matter are normal numbers and butterflies stay below 1e20.
_SAFE = (1e-24, 1e30)

_local = threading.local()


def scratch(name: str, size: int) -> NDArray[np.float32]:
    """`size` floats that this thread uses again and again (fresh pages cost as much as a sweep)."""
    have: NDArray[np.float32] | None = getattr(_local, name, None)
    if have is None or have.size < size:
        have = np.empty(size, np.float32)
        setattr(_local, name, have)
    return have[:size]


@lru_cache(maxsize=1024)
def _layout(codec: PackedCodec, d: int) -> Layout:
    return codec._plan(d)


def check_finite(x: NDArray[np.float32], key: StepKey, first: int = 0) -> None:
    """Refuse NaN and Inf, with the bucket's name and the first place."""
    fine = np.isfinite(x)
    if not fine.all():
        bad = np.flatnonzero(~fine)
        raise NonFinite(
            f"`{key.label}`: {bad.size} values are NaN or Inf, the first at {first + int(bad[0])}; "
            "find the bad gradient or skip the step"
        )


class PackedCodec:
    """Layouts, payload checks and decoding; a subclass has `_plan`, `encode` and `_uncode`."""

    @property
    def rotated(self) -> bool:
        return False

    @property
    def summable(self) -> bool:
        return False

    def _plan(self, d: int) -> Layout:
        raise TypeError(f"{type(self).__name__} does not say how it lays out a vector")

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        """Fill `values` with pieces ``first <= p < last``, zero where packets are missing."""
        raise TypeError(f"{type(self).__name__} does not say how it decodes a packet")

    def _size(self, layout: Layout) -> int:
        """Values that `unpack` gives."""
        return layout.coded

    def layout(self, d: int) -> Layout:
        """Packets of a vector of `d` coordinates."""
        if d < 0:
            raise SizeMismatch(f"`d`: {d} coordinates")
        return _layout(self, int(d))

    def bytes(self, d: int) -> int:
        """Exact size of the encoded vector in bytes."""
        return self.layout(d).bytes

    def _mask(self, payload: Payload, mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        layout, label = payload.layout, payload.key.label
        mine = signature(self)  # type: ignore[arg-type]
        if payload.codec != mine:
            raise SizeMismatch(f"`{label}`: encoded by {payload.codec}, to be decoded by {mine}")
        if payload.data.size != layout.bytes:
            raise SizeMismatch(f"`{label}`: {payload.data.size} bytes where {layout.bytes} are right")
        if mask is None:
            return np.ones(layout.packets, np.uint8)
        if mask.shape != (layout.packets,):
            raise SizeMismatch(f"`{label}`: a mask of {mask.shape} for {layout.packets} packets")
        return np.ascontiguousarray(mask, np.uint8)

    def _gain(self, payload: Payload, mask: NDArray[np.uint8], lost: str) -> NDArray[np.float64]:
        """By how much what arrived of each piece is scaled, float64[pieces]."""
        if lost not in ("raise", "zero"):
            raise ConfigError(f"`lost`: {lost!r}; 'raise' or 'zero'")
        layout = payload.layout
        share = layout.received(mask.view(np.bool_))
        if lost == "raise" and not share.all():
            p = int(np.flatnonzero(share == 0)[0])
            lo, hi = int(layout.start[p]), min(int(layout.start[p + 1]), layout.d)
            raise PacketsLost(
                f"`{payload.key.label}`: no packet of coordinates {lo} to {hi - 1} arrived; "
                "ask for it again or leave this sender out"
            )
        return np.divide(1.0, share, out=np.zeros_like(share), where=share > 0)

    def unpack(
        self,
        payload: Payload,
        mask: NDArray[np.bool_] | None = None,
        *,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Values in the coded domain; see `Codec.unpack`."""
        came, layout = self._mask(payload, mask), payload.layout
        values = self._out(out, self._size(layout), payload.key)
        if layout.pieces:
            self._uncode(payload, came, 0, layout.pieces, values)
        return values

    def restore(
        self, values: NDArray[np.float32], key: StepKey, d: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """From the coded domain back; see `Codec.restore`."""
        x = self._out(out, d, key)
        x[:] = values[:d]
        return x

    def decode(
        self,
        payload: Payload,
        mask: NDArray[np.bool_] | None = None,
        *,
        lost: str = "raise",
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Estimate the vector from the packets that arrived; see `Codec.decode`."""
        came, layout = self._mask(payload, mask), payload.layout
        gain = self._gain(payload, came, lost)
        x = self._out(out, layout.d, payload.key)
        if layout.pieces:
            size = self._size(layout)
            values = x if size == layout.d else scratch("values", size)
            self._uncode(payload, came, 0, layout.pieces, values)
            if values is not x:
                x[:] = values[: layout.d]
            if (gain != 1.0).any():
                x *= np.float32(gain[0])
        return x

    def _out(self, out: NDArray[np.float32] | None, size: int, key: StepKey) -> NDArray[np.float32]:
        if out is None:
            return np.empty(size, np.float32)
        out = as_vector(out, f"{key.label}: out")
        if out.size != size:
            raise SizeMismatch(f"`{key.label}`: `out` has room for {out.size} coordinates, not {size}")
        return out


class RotatedCodec(PackedCodec):
    """Codes of a rotated vector; a subclass has `block`, `shared`, `_plan`, `_code` and `_uncode`."""

    block: int
    shared: bool

    @property
    def rotated(self) -> bool:
        return True

    def _check_block(self, where: str) -> None:
        if not GROUP <= self.block <= _LARGEST or self.block & (self.block - 1):
            raise ConfigError(f"`{where}.block`: {self.block} is no power of two from 256 to 2^26")

    def _start(self, d: int) -> NDArray[np.int64]:
        return pieces(d, self.block)

    def _seed(self, key: StepKey) -> np.uint64:
        return np.uint64(key.seed("rotation", shared=self.shared))

    def _rotations(
        self, x: NDArray[np.float32], key: StepKey, layout: Layout, agreed: NDArray[np.float64] | None = None
    ) -> Any:
        """Rotate batch by batch: yields (first, last, y, norm, gain) for pieces ``first <= p < last``.

        ``y = H D x / gain`` (not normalised) and ``norm = ||x|| / gain`` by piece; `gain` is a power of two,
        1 unless a piece's norm (or the norm that senders agreed on) is near the ends of float32.
        """
        seed, start = self._seed(key), layout.start
        squares, whole = np.zeros(layout.pieces), np.ones(layout.pieces, np.float32)
        for first, last in layout.batches(BLOCK):
            y = scratch("rotated", int(start[last] - start[first]))
            tile = scratch("tile", tile_size(int(start[first + 1] - start[first])))
            rotate(x, y, tile, seed, start, first, last, True, whole, squares)
            norm, gain = np.sqrt(squares[first:last]), np.ones(last - first)
            risky = ~((squares[first:last] >= _SAFE[0]) & (squares[first:last] <= _SAFE[1]))
            if agreed is not None:
                risky |= (agreed[first:last] ** 2 < _SAFE[0]) | (agreed[first:last] ** 2 > _SAFE[1])
            for p in first + np.flatnonzero(risky):
                lo, hi = int(start[p]), min(int(start[p + 1]), layout.d)
                check_finite(x[lo:hi], key, lo)
                norm[p - first] = np.linalg.norm(x[lo:hi].astype(np.float64))
                size = norm[p - first] if agreed is None else agreed[p]
                if size == 0.0:
                    continue
                away = int(np.frexp(size)[1])
                scaled = np.zeros(hi, np.float32)
                scaled[lo:] = np.ldexp(x[lo:hi], -away)
                part = y[lo - start[first] : start[p + 1] - start[first]]
                rotate(scaled, part, tile, seed, start, p, p + 1, True, whole, squares)
                norm[p - first], gain[p - first] = np.ldexp(norm[p - first], -away), np.ldexp(1.0, away)
            yield first, last, y, norm, gain

    def restore(
        self, values: NDArray[np.float32], key: StepKey, d: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """From the rotated domain back; `values` is used up. See `Codec.restore`."""
        start = self.layout(d).start
        if values.size != start[-1]:
            raise SizeMismatch(
                f"`{key.label}`: {values.size} rotated values where {int(start[-1])} are right"
            )
        x = self._out(out, d, key)
        self._unrotate(values, x, key, start, 0, start.size - 1, np.ones(start.size - 1))
        return x

    def _unrotate(
        self,
        values: NDArray[np.float32],
        x: NDArray[np.float32],
        key: StepKey,
        start: NDArray[np.int64],
        first: int,
        last: int,
        gain: NDArray[np.float64],
    ) -> None:
        if first == last:
            return
        size = np.diff(start)
        tile = scratch("tile", tile_size(int(size[first])))
        scale = (gain / np.sqrt(size)).astype(np.float32)
        unrotate(values, x, tile, self._seed(key), start, first, last, True, scale)

    def decode(
        self,
        payload: Payload,
        mask: NDArray[np.bool_] | None = None,
        *,
        lost: str = "raise",
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Estimate the vector from the packets that arrived; see `Codec.decode`."""
        came, layout = self._mask(payload, mask), payload.layout
        gain = self._gain(payload, came, lost)
        x = self._out(out, layout.d, payload.key)
        for first, last in layout.batches(BLOCK):
            values = scratch("rotated", int(layout.start[last] - layout.start[first]))
            self._uncode(payload, came, first, last, values)
            self._unrotate(values, x, payload.key, layout.start, first, last, gain)
        return x
