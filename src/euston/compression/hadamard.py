"""The randomised Hadamard transform on its own: R = H D / sqrt(P), block by block.

`hadamard` is what codecs apply before they quantise; it is offered because a rotation alone already turns
the loss of some packets into even noise. The definition of the signs is in `euston.compression._fwht`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression._codec import BLOCK, scratch
from euston.compression._fwht import rotate, tile_size, unrotate
from euston.compression.base import SizeMismatch, as_vector
from euston.compression.layout import pieces
from euston.errors import ConfigError

__all__ = ["hadamard"]


def hadamard(
    x: Any,
    seed: int | None = None,
    *,
    block: int = BLOCK,
    inverse: bool = False,
    d: int | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Rotate a vector, or rotate it back.

    Parameters
    ----------
    x
        float32[d]; with `inverse`, float32[P] as this function returned it.
    seed
        64 bits that choose the signs; None for the plain transform.
    block
        Coordinates rotated together, a power of two from 256 on. The rest of a vector is cut into smaller
        powers of two (`euston.compression.layout.pieces`), the last one padded with zeros.
    inverse
        Rotate back; `x` is used up (it holds scratch afterwards).
    d
        With `inverse`: the length of the vector; by default that of `x`.
    out
        Where to put the result.

    Returns
    -------
    float32[P] (P >= d, padding included), or float32[d] with `inverse`. Norms are kept.

    Raises
    ------
    SizeMismatch
        Not a contiguous float32 vector, or a rotated one of the wrong length.
    ConfigError
        A block that is no power of two from 256 on.
    """
    x = as_vector(x, "hadamard")
    if block < 256 or block & (block - 1):
        raise ConfigError(f"`block`: {block} is no power of two from 256 on")
    start = pieces(x.size if d is None or not inverse else d, block)
    count, coded = start.size - 1, int(start[-1])
    if inverse and x.size != coded:
        raise SizeMismatch(f"`hadamard`: {x.size} rotated values; {coded} are right for d = {d}")
    size = coded if not inverse else (x.size if d is None else d)
    y = np.empty(size, np.float32) if out is None else as_vector(out, "hadamard: out")
    if y.size != size:
        raise SizeMismatch(f"`hadamard`: `out` has room for {y.size} values, not {size}")
    if count == 0:
        return y
    sizes = np.diff(start)
    tile, word = scratch("tile", tile_size(int(sizes[0]))), np.uint64(0 if seed is None else seed)
    scale = (1.0 / np.sqrt(sizes)).astype(np.float32)
    if inverse:
        unrotate(x, y, tile, word, start, 0, count, seed is not None, scale)
        return y
    rotate(x, y, tile, word, start, 0, count, seed is not None, scale, np.zeros(count))
    return y
