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
from euston.compression.bits import look_up, pack_groups, unpack_groups
from euston.compression.gaussian import mean_square_of_largest
from euston.compression.layout import GROUP, Layout, grouped
from euston.errors import ConfigError

__all__ = ["Int4", "Int8", "look_up_groups", "whole_groups"]

_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


def look_up_groups(
    payload: Payload, mask: NDArray[np.uint8], table: NDArray[np.float32], extra: int,
    values: NDArray[np.float32],
) -> None:  # fmt: skip
    """Table entries times the scale in front of a group (`extra` 1) or packet (0); 0 where packets miss."""
    layout, words = payload.layout, payload.words
    codes = np.empty(layout.coded, np.uint8)
    unpack_groups(words, 0, layout.word.size, layout.width, layout.word, extra, codes)
    packet = np.repeat(np.arange(layout.packets), np.diff(layout.group_start))
    scale = words.view(np.float32)[layout.word if extra else layout.ptr[packet] // 4]
    look_up(codes, table, np.where(mask[packet] > 0, scale, np.float32(0)), values)


def whole_groups(d: int) -> NDArray[np.int64]:
    """One piece of `d` coordinates, the last group filled up to a multiple of 32."""
    return np.array([0, -(-d // 32) * 32] if d else [0], np.int64)


@_kernel
def _code(x, bits, stochastic, key0, key1, codes, scale):  # type: ignore[no-untyped-def]
    top = np.float32((1 << (bits - 1)) - 1)
    for g in range(scale.size):
        part = x[g * GROUP : min(x.size, (g + 1) * GROUP)]
        code = codes[g * GROUP : min(x.size, (g + 1) * GROUP)]
        largest = np.float32(0)
        for j in range(part.size):
            largest = max(largest, abs(part[j]))
        # A group of denormals has no inverse in float32: divide in float64.
        inverse = np.float64(top) / np.float64(largest) if largest > 0 else 0.0
        scale[g] = np.float32(np.float64(largest) / np.float64(top))
        if np.isinf(scale[g] * top):  # rounded up at the end of float32
            scale[g] = np.nextafter(scale[g], np.float32(0))
        for j in range(part.size):
            value = np.float32(np.float64(part[j]) * inverse)
            if stochastic:
                drawn = np.float32(hash32(g * GROUP + j, key0, key1) >> np.uint32(8)) * np.float32(2.0**-24)
                value = np.floor(value + drawn)
            code[j] = np.uint8(np.rint(min(max(value, -top), top)) + top + np.float32(1))


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
        codes = np.full(layout.coded, 1 << (self.bits - 1), np.uint8)
        scale = np.zeros(layout.word.size, np.float32)
        draw = keys(key.seed("rounding", shared=False))
        _code(x, self.bits, self.unbiased, *draw, codes, scale)
        data = np.zeros(layout.bytes // 4, np.uint32)
        pack_groups(codes, 0, scale.size, layout.width, layout.word, 1, data)
        data[layout.word] = scale.view(np.uint32)
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        table = np.arange(1 << self.bits, dtype=np.float32) - np.float32(1 << (self.bits - 1))
        look_up_groups(payload, mask, table, 1, values)

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
