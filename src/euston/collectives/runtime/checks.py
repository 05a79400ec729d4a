"""What a group of ranks accepts: vectors, and codecs whose packets fit the network."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression import Codec, SizeMismatch
from euston.errors import ConfigError

__all__ = ["as_array", "fitting"]


def as_array(x: Any, where: str) -> NDArray[np.float32]:
    """A vector or a tensor as an array that shares its memory; ``where`` is what errors call it."""
    if hasattr(x, "detach"):
        if x.device.type != "cpu":
            raise SizeMismatch(f"`{where}`: a tensor on {x.device}; move it to the CPU first")
        x = x.detach().numpy()
    if not (isinstance(x, np.ndarray) and x.dtype == np.float32 and x.ndim == 1 and x.flags.c_contiguous):
        kind = f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
        raise SizeMismatch(f"`{where}`: {kind}; a contiguous float32 vector is needed")
    if not x.flags.writeable:
        raise SizeMismatch(f"`{where}`: is read-only; the mean replaces it")
    return x


def fitting(codec: Codec, payload: int) -> tuple[Codec, int]:
    """The codec with packets that fit, and the bytes of its largest, rounded up to whole words."""
    if int(getattr(codec, "packet", 0)) > payload and is_dataclass(codec):
        codec = replace(codec, packet=payload)
    largest = int(np.diff(codec.layout(1 << 16).ptr).max())
    if largest > payload:
        raise ConfigError(
            f"`codec`: {codec.name} makes packets of {largest} bytes; {payload} fit the MTU beside our header"
        )
    return codec, -(-largest // 4) * 4
