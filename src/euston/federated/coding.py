"""Updates as bytes: each tensor of a fragment through a codec of `euston.compression`, one payload per
tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression import CODECS, Codec, Payload, StepKey

__all__ = ["codec_of", "decode", "encode"]

Floats = NDArray[np.float32]


@cache
def codec_of(name: str) -> Codec:
    """A codec for streams over sockets: one packet per tensor, so that nothing but scales comes on top."""
    made: Any = CODECS.get(name)
    codec: Codec = made(packet=0)
    return codec


def encode(name: str, vector: Floats, slices: Sequence[slice], key: StepKey) -> list[NDArray[np.uint8]]:
    """Bytes of each tensor ``vector[s]``.

    Raises
    ------
    NonFinite
        NaN or Inf in it.
    """
    codec = codec_of(name)
    return [codec.encode(np.ascontiguousarray(vector[s]), key).data for s in slices]


def decode(
    name: str, payloads: Sequence[NDArray[np.uint8]], slices: Sequence[slice], out: Floats, key: StepKey
) -> None:
    """Put the decoded tensors where they belong in `out`.

    Raises
    ------
    SizeMismatch
        A payload of another length than the codec writes for its tensor, or another number of payloads.
    """
    from euston.compression import SizeMismatch

    if len(payloads) != len(slices):
        raise SizeMismatch(f"`{key.label}`: {len(payloads)} tensors came, the fragment has {len(slices)}")
    codec = codec_of(name)
    for data, s in zip(payloads, slices, strict=True):
        empty = Payload.empty(codec, s.stop - s.start, key)
        out[s] = codec.decode(empty.fill(data))
