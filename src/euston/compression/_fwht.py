"""The randomised Hadamard transform of one piece, in two sweeps over memory (kernels).

A piece of ``P = R B`` coordinates is a matrix of R rows. ``H_P = H_R (x) H_B``: sweep one transforms each
row in cache, signs flipped as it is read; sweep two takes strips of 128 columns through all R rows. R is 1
up to 4,096 coordinates and at least 64 beyond, so that a strip starts and ends with a radix-8 step that
reads from and writes to the piece itself.

Signs: the 32 words of 128 bits of a group of 4,096 coordinates are ``splitmix64(seed + 64 group + k)``, k <
64, low half first; coordinate j of the group is flipped when bit ``j // 128`` of word ``j % 128`` is set.
Whole vectors of words then meet whole vectors of coordinates.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from euston.compression._hash import splitmix64
from euston.compression._vector import (
    LANES,
    hadamard64_signed,
    radix2,
    radix4,
    radix8,
    signed_hadamard64,
)  # fmt: skip

__all__ = ["STRIP", "WHOLE_ROW", "WIDEST_ROW", "rotate", "tile_size", "unrotate"]

# Columns per strip of the second sweep: 512 bytes of each row at a time (measured: 16, 32, 64, 128).
STRIP = 128
# Pieces up to this size are one row; rows grow to this size before there are more than 64 of them.
WHOLE_ROW, WIDEST_ROW = 4096, 1 << 16

_GROUP, _WORDS = 4096, 128

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


def tile_size(largest: int) -> int:
    """Floats of scratch that a piece of `largest` coordinates needs."""
    if largest <= WHOLE_ROW:
        return 0
    return largest // min(WIDEST_ROW, max(STRIP, largest // 64)) * STRIP


@_helper
def _sign_words(words, seed, group):  # type: ignore[no-untyped-def]
    for k in range(_WORDS // 2):
        word = splitmix64(seed + np.uint64(group * (_WORDS // 2) + k))
        words[2 * k] = np.uint32(word & np.uint64(0xFFFFFFFF))
        words[2 * k + 1] = np.uint32(word >> np.uint64(32))


@_helper
def _levels(v, first, size, step):  # type: ignore[no-untyped-def]
    """All levels of ``v[first:first + size]`` from stride ``step`` (a multiple of 8) upwards, in place."""
    n = size // step
    while n >= 8:
        for o in range(first, first + size, 8 * step):
            for i in range(o, o + step, LANES):
                radix8(v, i, step, v, i, step)
        step *= 8
        n //= 8
    if n == 4:
        for i in range(first, first + step, LANES):
            radix4(v, i, step, v, i, step)
    elif n == 2:
        for i in range(first, first + step, LANES):
            radix2(v, i, step, v, i, step)


@_helper
def _columns(y, tile, rows, columns):  # type: ignore[no-untyped-def]
    """Sweep two: the transform across the rows, strip by strip; `tile` is float32[rows * STRIP]."""
    eighth = rows // 8
    for c in range(0, columns, STRIP):
        for r in range(eighth):
            for i in range(0, STRIP, LANES):
                radix8(y, r * columns + c + i, eighth * columns, tile, r * STRIP + i, eighth * STRIP)
        if eighth > 8:
            for k in range(8):
                _levels(tile, k * eighth * STRIP, eighth * STRIP, 8 * STRIP)
        for r in range(0, rows, 8):
            for i in range(0, STRIP, LANES):
                radix8(tile, r * STRIP + i, STRIP, y, r * columns + c + i, columns)


@_helper
def _shape(size):  # type: ignore[no-untyped-def]
    if size <= WHOLE_ROW:
        return 1, size
    columns = min(WIDEST_ROW, max(STRIP, size // 64))
    return size // columns, columns


@_helper
def _rotate_piece(x, y, tile, seed, first, signed, scale, words, sums):  # type: ignore[no-untyped-def]
    rows, columns = _shape(y.size)
    n, group, squares = x.size, np.int64(-1), 0.0
    block = min(columns, WHOLE_ROW)
    for o in range(0, y.size, columns):
        for b in range(o, o + columns, block):
            sums[:] = np.float32(0)
            for i in range(b, b + block, 64):
                at = first + i
                if signed and at // _GROUP != group:
                    group = at // _GROUP
                    _sign_words(words, seed, group)
                shift = np.uint32(31 - at // _WORDS % 32)
                if i + 64 <= n:
                    signed_hadamard64(x, i, words, at % _WORDS, shift, scale, y, i, sums)
                    continue
                for j in range(i, i + 64):
                    y[j] = x[j] if j < n else np.float32(0)
                signed_hadamard64(y, i, words, at % _WORDS, shift, scale, y, i, sums)
            for lane in range(LANES):
                squares += np.float64(sums[lane])
            _levels(y, b, block, 64)
        _levels(y, o, columns, block)
    if rows > 1:
        _columns(y, tile, rows, columns)
    return squares


@_helper
def _unrotate_piece(y, x, tile, seed, first, signed, scale, words, sums):  # type: ignore[no-untyped-def]
    rows, columns = _shape(y.size)
    n, group = x.size, np.int64(-1)
    block = min(columns, WHOLE_ROW)
    if rows > 1:
        _columns(y, tile, rows, columns)
    for o in range(0, n, columns):
        _levels(y, o, columns, block)
        for b in range(o, min(n, o + columns), block):
            _levels(y, b, block, 64)
            for i in range(b, min(n, b + block), 64):
                at = first + i
                if signed and at // _GROUP != group:
                    group = at // _GROUP
                    _sign_words(words, seed, group)
                shift = np.uint32(31 - at // _WORDS % 32)
                if i + 64 <= n:
                    hadamard64_signed(y, i, words, at % _WORDS, shift, scale, x, i, sums)
                    continue
                hadamard64_signed(y, i, words, at % _WORDS, shift, scale, y, i, sums)
                for j in range(i, n):
                    x[j] = y[j]


@_kernel
def rotate(x, y, tile, seed, start, first, last, signed, scale, squares):  # type: ignore[no-untyped-def]
    """``y = scale[p] * H D x`` of the pieces `first` to `last`.

    Parameters
    ----------
    x : float32[d]
        The whole vector; coordinates from d on are zero.
    y : float32[start[last] - start[first]]
        The pieces' transforms.
    tile : float32[tile_size(largest piece)]
        Scratch.
    seed : uint64
    start : int64[pieces + 1]
        Coordinates at which pieces start, each a multiple of the piece's size.
    first, last : int
        Pieces ``first <= p < last``.
    signed : bool
        Without signs this is the plain transform.
    scale : float32[pieces]
    squares : float64[pieces]
        Filled with the sum of the squares of x in each piece.
    """
    words, sums = np.zeros(_WORDS, np.uint32), np.zeros(LANES, np.float32)
    for p in range(first, last):
        lo, hi = start[p], start[p + 1]
        part = y[lo - start[first] : hi - start[first]]
        squares[p] = _rotate_piece(
            x[lo : min(hi, x.size)], part, tile, seed, lo, signed, scale[p], words, sums
        )


@_kernel
def unrotate(y, x, tile, seed, start, first, last, signed, scale):  # type: ignore[no-untyped-def]
    """``x = scale[p] * D H y`` of pieces `first` to `last`; `y` is used up. Parameters as for `rotate`."""
    words, sums = np.zeros(_WORDS, np.uint32), np.zeros(LANES, np.float32)
    for p in range(first, last):
        lo, hi = start[p], start[p + 1]
        part = y[lo - start[first] : hi - start[first]]
        _unrotate_piece(part, x[lo : min(hi, x.size)], tile, seed, lo, signed, scale[p], words, sums)
