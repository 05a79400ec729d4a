"""INT8 and INT4: groups of 256 coordinates, each scaled to its largest value, rounded to integers.

A group carries its scale as float32 and decodes alone. Codes are offset by half their range, so that the
largest value of a group is exact and zero stays zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.compression._codec import MTU_PAYLOAD, PackedCodec, check_finite
from euston.compression._hash import hash32, keys
from euston.compression.base import Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.bits import pack_group, unpack_group
from euston.compression.gaussian import mean_square_of_largest
from euston.compression.layout import GROUP, Layout, grouped
from euston.errors import ConfigError

__all__ = ["Int4", "Int8", "whole_groups"]

_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


def whole_groups(d: int) -> NDArray[np.int64]:
    """One piece of `d` coordinates, the last group filled up to a multiple of 32."""
    return np.array([0, -(-d // 32) * 32] if d else [0], np.int64)


@_kernel
def _code(x, bits, stochastic, key0, key1, word, out):  # type: ignore[no-untyped-def]
    code = np.zeros(GROUP, np.uint32)
    floats = out.view(np.float32)
    top = np.float32((1 << (bits - 1)) - 1)
    for g in range(word.size):
        part = x[g * GROUP : min(x.size, (g + 1) * GROUP)]
        lanes = (part.size + 31) // 32
        largest = np.float32(0)
        for j in range(part.size):
            largest = max(largest, abs(part[j]))
        # A group of denormals has no inverse in float32: divide in float64.
        inverse = np.float64(top) / np.float64(largest) if largest > 0 else 0.0
        floats[word[g]] = np.float32(np.float64(largest) / np.float64(top))
        for j in range(32 * lanes):
            value = np.float32(np.float64(part[j]) * inverse) if j < part.size else np.float32(0)
            if stochastic:
                drawn = np.float32(hash32(g * GROUP + j, key0, key1) >> np.uint32(8)) * np.float32(2.0**-24)
                value = np.floor(value + drawn)
            code[j] = np.uint32(np.int32(np.rint(min(max(value, -top), top))) + np.int32(top) + np.int32(1))
        pack_group(code, bits, lanes, out, word[g] + 1)


@_kernel
def _uncode(words, floats, bits, word, group_start, mask, values):  # type: ignore[no-untyped-def]
    code = np.zeros(GROUP, np.uint32)
    middle = np.int32(1 << (bits - 1))
    for k in range(mask.size):
        for g in range(group_start[k], group_start[k + 1]):
            part = values[g * GROUP : min(values.size, (g + 1) * GROUP)]
            if mask[k] == 0:
                part[:] = np.float32(0)
                continue
            unpack_group(words, word[g] + 1, bits, part.size // 32, code)
            scale = floats[word[g]]
            for j in range(part.size):
                part[j] = np.float32(np.int32(code[j]) - middle) * scale


@dataclass(frozen=True)
class Int8(PackedCodec):
    """8-bit integers with a scale per 256 coordinates.

    Parameters
    ----------
    rounding : str
        "nearest", error at most half a step; or "stochastic", unbiased with twice the variance.
    packet : int
        Bytes per packet; 0 for one packet.

    Raises
    ------
    ConfigError
        Another rounding.
    """

    rounding: str = "nearest"
    packet: int = MTU_PAYLOAD
    name: str = "int8"
    bits: ClassVar[int] = 8

    def __post_init__(self) -> None:
        if self.rounding not in ("nearest", "stochastic"):
            raise ConfigError(f"`{self.name}.rounding`: {self.rounding!r}; nearest or stochastic")

    @property
    def unbiased(self) -> bool:
        """With stochastic rounding."""
        return self.rounding == "stochastic"

    def _plan(self, d: int) -> Layout:
        return grouped(d, whole_groups(d), self.bits, self.packet, header=0, extra=4)

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Round float32[d]; see `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        layout = self.layout(x.size)
        data = np.zeros(layout.bytes // 4, np.uint32)
        draw = keys(key.seed("rounding", shared=False))
        _code(x, self.bits, self.unbiased, *draw, layout.word, data)
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        layout, words = payload.layout, payload.words
        _uncode(words, words.view(np.float32), self.bits, layout.word, layout.group_start, mask, values)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """For normal vectors: step^2 / 12 (nearest) or / 6, step^2 = E max^2 of a group / (2^(b-1) - 1)^2."""
        step = mean_square_of_largest(min(d, GROUP)) / ((1 << (self.bits - 1)) - 1) ** 2
        vnmse = step / (6.0 if self.unbiased else 12.0)
        return rescaled_vnmse(vnmse, 1.0 + vnmse if self.unbiased else 1.0, loss)


@dataclass(frozen=True)
class Int4(Int8):
    """4-bit integers (-7 to 7) with a scale per 256 coordinates. Parameters as for `Int8`."""

    name: str = "int4"
    bits: ClassVar[int] = 4
