"""The randomised Hadamard transform on its own: R = H D / sqrt(P), block by block.

`hadamard` is what codecs apply before they quantise; it is offered because a rotation alone already turns
the loss of some packets into even noise. The definition of the signs is in `euston.compression._fwht`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from euston.compression._codec import BLOCK, scratch
from euston.compression._fwht import rotate, tile_size, unrotate
from euston.compression.base import SizeMismatch, as_vector
from euston.compression.layout import pieces
from euston.errors import ConfigError, MissingExtra

__all__ = ["hadamard"]


def hadamard(
    x: Any,
    seed: int | None = None,
    *,
    block: int = BLOCK,
    inverse: bool = False,
    d: int | None = None,
    out: Any = None,
) -> Any:
    """Rotate a vector, or rotate it back.

    Parameters
    ----------
    x
        float32[d]; with `inverse`, float32[P] as this function returned it. A tensor on a GPU is transformed
        there (Triton), in blocks of 4,096 at most, and the result is a tensor.
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
    if hasattr(x, "detach") and x.device.type == "cuda":
        return on_gpu(x, seed, block, inverse, d, out)
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


def on_gpu(x: Any, seed: int | None, block: int, inverse: bool, d: int | None, out: Any) -> Any:
    """`hadamard` of a tensor by Triton, where it lies.

    Raises
    ------
    MissingExtra
        Triton is not installed.
    """
    try:
        from euston.compression import _triton
    except ImportError as error:
        raise MissingExtra("triton", "lossy") from error
    import torch

    if not 256 <= block <= _triton.LARGEST or block & (block - 1):
        raise ConfigError(f"`block`: {block}; on a GPU a power of two from 256 to {_triton.LARGEST}")
    if x.dtype != torch.float32 or x.ndim != 1 or not x.is_contiguous():
        raise SizeMismatch(f"`hadamard`: {x.dtype}{list(x.shape)}; a contiguous float32 vector is needed")
    length = x.numel() if d is None or not inverse else d
    start = pieces(length, block)
    coded = int(start[-1])
    if inverse and x.numel() != coded:
        raise SizeMismatch(f"`hadamard`: {x.numel()} rotated values; {coded} are right for d = {length}")
    size = length if inverse else coded
    y = torch.empty(size, device=x.device) if out is None else out
    if y.numel() != size or y.dtype != torch.float32 or y.device != x.device:
        raise SizeMismatch(f"`hadamard`: `out` has room for {y.numel()} {y.dtype} values, not {size}")
    if coded:
        _triton.transform(x, y, start, seed, inverse=inverse)
    return y
