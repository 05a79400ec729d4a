"""The randomised Hadamard transform of blocks on a GPU (Triton), with the signs of `_fwht`.

Imported where a tensor lies on a GPU and nowhere else. Every program transforms one block in registers:
pairs at distance 1, 2, 4... become sums and differences, as often as the block can be halved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

__all__ = ["LARGEST", "transform"]

LARGEST = 4096
"""Coordinates of a block at most: what one program keeps in registers."""


@triton.jit
def _signs(at, low, high):  # type: ignore[no-untyped-def]
    """1 where the sign of coordinates is to be flipped; the seed as two halves of 32 bits."""
    seed = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    z = seed + (at // 4096 * 64 + at % 128 // 2).to(tl.uint64) + 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z >> (32 * (at % 2) + at // 128 % 32).to(tl.uint64)) & 1


@triton.jit(do_not_specialize=["low", "high"])  # a seed of 1 would be no tensor
def _blocks(  # type: ignore[no-untyped-def]
    x, y, first, n, low, high, scale, BLOCK: tl.constexpr, LEVELS: tl.constexpr, SIGNED: tl.constexpr,
    INVERSE: tl.constexpr,
):  # fmt: skip
    """``y = scale H D x`` of blocks from coordinate `first` on, zeros beyond n; inverse: ``scale D H x``."""
    at = first + tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=(at >= 0) if INVERSE else (at < n), other=0.0)
    if SIGNED and not INVERSE:
        v = tl.where(_signs(at, low, high) == 1, -v, v)
    for level in tl.static_range(LEVELS):
        pairs = tl.permute(tl.reshape(v, (BLOCK >> (level + 1), 2, 1 << level)), (0, 2, 1))
        a, b = tl.split(pairs)
        v = tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 2, 1)), (BLOCK,))
    if SIGNED and INVERSE:
        v = tl.where(_signs(at, low, high) == 1, -v, v)
    tl.store(y + at, v * scale, mask=(at < n) if INVERSE else (at >= 0))


def transform(x: Any, y: Any, start: np.ndarray, seed: int | None, *, inverse: bool) -> None:
    """Transform a tensor piece by piece.

    Parameters
    ----------
    x, y : torch.Tensor
        float32, contiguous, on one device. Forward, x is the vector and y has room for all pieces; with
        `inverse` the other way round.
    start : int64[pieces + 1]
        Coordinates at which pieces start, as `euston.compression.layout.pieces` cuts them.
    seed : int, optional
        64 bits that choose the signs; None for the plain transform.
    """
    word = (seed or 0) & (1 << 64) - 1
    sizes = np.diff(start)
    n = y.numel() if inverse else x.numel()
    for size in np.unique(sizes).tolist():  # pieces of one size lie next to each other
        here = np.flatnonzero(sizes == size)
        _blocks[(here.size,)](
            x, y, int(start[here[0]]), n, word & 0xFFFFFFFF, word >> 32, float(1 / np.sqrt(size)),
            BLOCK=size, LEVELS=size.bit_length() - 1, SIGNED=seed is not None, INVERSE=inverse,
        )  # fmt: skip
