"""16-bit floats: fp16 with a power of two per packet, bf16 as it is; rounded to nearest, ties to even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.compression._codec import MTU_PAYLOAD, PackedCodec, check_finite
from euston.compression.base import Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.layout import Layout, raw
from euston.compression.none import drop_missing

__all__ = ["Bf16", "Fp16", "rounding_vnmse"]

_LARGEST = np.finfo(np.float32).max
# Coordinates that are scaled and rounded together, in cache.
_CHUNK = 512

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


def rounding_vnmse(mantissa: int) -> float:
    """The error of rounding to `mantissa` bits when mantissas are log-uniform: 2^-2m (1 - 1/4) / (24 ln 2).

    In [2^e, 2^(e+1)) the error is uniform over a step of 2^(e - m): 2^(2e - 2m) / 12; the mean of (2^e / x)^2
    over log-uniform x is (1 - 1/4) / (2 ln 2).
    """
    return float(4.0**-mantissa / 12.0 * 0.75 / (2.0 * np.log(2.0)))


@_kernel
def _to_bf16(bits, out):  # type: ignore[no-untyped-def]
    for i in range(bits.size):
        rounded = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        # The largest float32 would round to infinity: keep it finite.
        full = (rounded & np.uint32(0x7FFF)) == np.uint32(0x7F80)
        out[i] = np.uint16(rounded - np.uint32(full))


@dataclass(frozen=True)
class Bf16(PackedCodec):
    """bfloat16: float32's range, 8 bits of precision.

    Parameters
    ----------
    packet : int
        Bytes per packet; 0 for one packet.
    """

    packet: int = MTU_PAYLOAD
    name: str = "bf16"

    @property
    def unbiased(self) -> bool:
        """Rounding to nearest is not, by up to 2^-9 of a value."""
        return False

    def _plan(self, d: int) -> Layout:
        return raw(d, d, 2, self.packet, header=0, least=2)

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Round float32[d]; see `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        layout = self.layout(x.size)
        data = np.zeros(layout.bytes // 2, np.uint16)
        _to_bf16(x.view(np.uint32), data[: x.size])
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        wide = payload.data.view(np.uint16)[: payload.d].astype(np.uint32) << np.uint32(16)
        values[:] = wide.view(np.float32)
        drop_missing(payload.layout, mask, values)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """Rounding of log-uniform mantissas: see `rounding_vnmse`."""
        return rescaled_vnmse(rounding_vnmse(7), 1.0, loss)


@_helper
def _powers(exponent):  # type: ignore[no-untyped-def]
    """Two floats whose product is 2^exponent: one alone would overflow beyond 2^127, or underflow."""
    first = min(max(exponent, -100), 100)
    rest = min(max(exponent - first, -126), 126)
    return np.float32(2.0**first), np.float32(2.0**rest)


@_kernel
def _to_fp16(x, coordinate, ptr, out, words):  # type: ignore[no-untyped-def]
    """Halves of float32[d] and the exponent of each packet into `out` (uint16), `words` (the same, int32).

    False when there is NaN or Inf among them. An integer addition rounds to 10 bits of mantissa, ties to
    even; below the least normal half it is the addition of the float whose last bit is a half's last bit.
    """
    bits, tiny = x.view(np.uint32), np.float32(0.5)
    scaled, rounded = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    raw, added = scaled.view(np.uint32), rounded.view(np.uint32)
    for k in range(ptr.size - 1):
        lo, hi = coordinate[k], min(coordinate[k + 1], x.size)
        largest = np.uint32(0)
        for i in range(lo, hi):
            largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
        if largest >= np.uint32(0x7F800000):
            return False
        exponent = np.int64(largest >> np.uint32(23)) - 126  # the largest is below 2^exponent
        if largest < np.uint32(0x00800000):
            exponent = np.int64(-149)
            while largest:
                largest >>= np.uint32(1)
                exponent += 1
        up = 15 - exponent if exponent > -149 else 0
        words[ptr[k] // 4] = -up
        one, two = _powers(up)
        for start in range(lo, hi, _CHUNK):
            n = min(_CHUNK, hi - start)
            to = out[ptr[k] // 2 + 2 + start - lo : ptr[k] // 2 + 2 + start - lo + n]
            part = x[start : start + n]
            for j in range(n):
                scaled[j] = abs(part[j]) * one * two
            for j in range(n):
                rounded[j] = scaled[j] + tiny
            sign = bits[start : start + n]
            for j in range(n):
                odd = (raw[j] >> np.uint32(13)) & np.uint32(1)
                normal = (raw[j] + odd + np.uint32(0xC8000FFF)) >> np.uint32(13)  # exponents of 15, not 127
                small = added[j] - np.uint32(0x3F000000)
                half = small if raw[j] < np.uint32(0x38800000) else normal
                to[j] = np.uint16(half | ((sign[j] >> np.uint32(16)) & np.uint32(0x8000)))
    return True


@_kernel
def _from_fp16(halves, words, coordinate, ptr, mask, values):  # type: ignore[no-untyped-def]
    """The inverse of `_to_fp16`: zero where a packet is missing; what overflows is the largest float32."""
    bits, least = values.view(np.uint32), np.float32(2.0**-14)
    for k in range(ptr.size - 1):
        lo, hi = coordinate[k], min(coordinate[k + 1], values.size)
        part, raw = values[lo:hi], bits[lo:hi]
        if mask[k] == 0:
            part[:] = np.float32(0)
            continue
        half = halves[ptr[k] // 2 + 2 : ptr[k] // 2 + 2 + hi - lo]
        one, two = _powers(words[ptr[k] // 4])
        for j in range(hi - lo):
            low = (np.uint32(half[j]) & np.uint32(0x7FFF)) << np.uint32(13)
            # a subnormal half has no leading one: give it that of 2^-14 and take it away again below
            raw[j] = low + (np.uint32(0x38800000) if low < np.uint32(0x00800000) else np.uint32(0x38000000))
        for j in range(hi - lo):
            low = np.uint32(half[j]) & np.uint32(0x7FFF)
            value = part[j] - (least if low < np.uint32(0x0400) else np.float32(0))
            value = min(value * one * two, _LARGEST)
            part[j] = -value if half[j] & np.uint16(0x8000) else value


@dataclass(frozen=True)
class Fp16(PackedCodec):
    """IEEE half precision; each packet is scaled by a power of two that puts its largest value near 2^15.

    Without that, gradients below 6e-8 would vanish and values above 65,504 be infinite.

    Parameters
    ----------
    packet : int
        Bytes per packet; 0 for one packet.
    """

    packet: int = MTU_PAYLOAD
    name: str = "fp16"

    @property
    def unbiased(self) -> bool:
        """Rounding to nearest is not, by up to 2^-12 of a value."""
        return False

    def _plan(self, d: int) -> Layout:
        return raw(d, d, 2, self.packet, header=4, least=2)

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Scale and round float32[d]; see `Codec.encode`."""
        x = as_vector(x, key.label)
        layout = self.layout(x.size)
        data = np.zeros(layout.bytes, np.uint8)
        halves, words = data.view(np.uint16), data.view(np.int32)
        if not _to_fp16(x, layout.coordinate, layout.ptr, halves, words):
            check_finite(x, key)
        return Payload(signature(self), key, data, layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        layout, data = payload.layout, payload.data
        _from_fp16(
            data.view(np.uint16), data.view(np.int32), layout.coordinate, layout.ptr, mask, values
        )  # fmt: skip

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """Rounding of log-uniform mantissas: see `rounding_vnmse`."""
        return rescaled_vnmse(rounding_vnmse(10), 1.0, loss)
