"""FP8 (E4M3) with a scale per 256 coordinates, and FP4 (E3M0) with one scale for all.

E4M3 as in the OCP 8-bit floating point specification: bias 7, subnormals, largest value 448, ties to even.
E3M0 as Streaming DiLoCo sends pseudo-gradients: a sign and three exponent bits, that is 0 and seven powers
of two, the largest of them the largest value of the vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.compression._codec import MTU_PAYLOAD, PackedCodec, check_finite
from euston.compression.base import Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.bits import pack_groups
from euston.compression.gaussian import largest_quantiles, level_error
from euston.compression.integer import look_up_groups, whole_groups
from euston.compression.layout import GROUP, Layout, grouped

__all__ = ["Fp4", "Fp8"]

_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)

_E4M3_LARGEST = 448.0


@_kernel
def _code_e4m3(x, codes, scale):  # type: ignore[no-untyped-def]
    scaled = np.zeros(GROUP, np.float32)
    bits = scaled.view(np.uint32)
    for g in range(scale.size):
        part = x[g * GROUP : min(x.size, (g + 1) * GROUP)]
        code = codes[g * GROUP : min(x.size, (g + 1) * GROUP)]
        largest = np.float32(0)
        for j in range(part.size):
            largest = max(largest, abs(part[j]))
        inverse = _E4M3_LARGEST / np.float64(largest) if largest > 0 else 0.0
        scale[g] = np.float32(np.float64(largest) / _E4M3_LARGEST)
        if np.isinf(scale[g] * np.float32(_E4M3_LARGEST)):  # rounded up at the end of float32
            scale[g] = np.nextafter(scale[g], np.float32(0))
        for j in range(part.size):
            scaled[j] = np.float32(np.float64(part[j]) * inverse)
        for j in range(part.size):
            size = abs(scaled[j])
            if size < np.float32(2.0**-6):  # subnormal: steps of 2^-9, and 8 of them are the smallest normal
                value = np.uint32(np.rint(size * np.float32(512)))
            else:
                plain = bits[j] & np.uint32(0x7FFFFFFF)
                rounded = plain + np.uint32(0x7FFFF) + ((plain >> np.uint32(20)) & np.uint32(1))
                value = np.uint32(min((rounded >> np.uint32(20)) - np.uint32((127 - 7) << 3), 0x7E))
            code[j] = value | ((bits[j] >> np.uint32(31)) << np.uint32(7))


@_kernel
def _code_e3m0(x, scale, codes):  # type: ignore[no-untyped-def]
    one = np.zeros(1, np.float32)
    bits = one.view(np.uint32)
    for j in range(x.size):
        one[0] = np.float32(np.float64(x[j]) / scale)
        sign, plain = bits[0] >> np.uint32(31), bits[0] & np.uint32(0x7FFFFFFF)
        value = np.uint32(0)
        if abs(one[0]) >= np.float32(2.0**-7):
            # Half of 2^k to 2^(k+1) is a mantissa of one half: add it, and the exponent is the nearest.
            exponent = int((plain + np.uint32(0x400000)) >> np.uint32(23)) - 120
            value = np.uint32(max(1, min(exponent, 7)))
        codes[j] = value | (sign << np.uint32(3))


def _e4m3_values() -> NDArray[np.float32]:
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    size = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8.0 + mantissa, exponent - 10))
    return np.where(code & 128, -size, size).astype(np.float32)


_E4M3 = _e4m3_values()
_E3M0_SIZES = np.concatenate(([0.0], np.ldexp(1.0, np.arange(-6, 1))))
_E3M0 = np.concatenate([_E3M0_SIZES, -_E3M0_SIZES]).astype(np.float32)


@cache
def _errors(name: str, n: int) -> tuple[float, float]:
    """Error and energy when `n` normal values are scaled to their largest, which is exact itself."""
    levels = _E3M0_SIZES if name == "fp4" else _E4M3[:127].astype(np.float64) / _E4M3_LARGEST
    largest = largest_quantiles(n, 100)
    error, energy = np.mean([level_error(levels * m) for m in largest], axis=0) * (n - 1) / n
    return float(error), float(energy + (largest**2).mean() / n)


@dataclass(frozen=True)
class Fp8(PackedCodec):
    """FP8 E4M3; each group of 256 coordinates is scaled so that its largest value is 448.

    Parameters
    ----------
    packet : int
        Bytes per packet; 0 for one packet.
    """

    packet: int = MTU_PAYLOAD
    name: str = "fp8"

    @property
    def unbiased(self) -> bool:
        """Rounding to nearest is not."""
        return False

    def _plan(self, d: int) -> Layout:
        return grouped(d, whole_groups(d), 8, self.packet, header=0, extra=4)

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Round float32[d]; see `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        layout = self.layout(x.size)
        codes, scale = np.zeros(layout.coded, np.uint8), np.zeros(layout.word.size, np.float32)
        _code_e4m3(x, codes, scale)
        data = np.zeros(layout.bytes // 4, np.uint32)
        pack_groups(codes, 0, scale.size, layout.width, layout.word, 1, data)
        data[layout.word] = scale.view(np.uint32)
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        look_up_groups(payload, mask, _E4M3, 1, values)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """For normal vectors: the mean over the distribution of a group's largest value."""
        return rescaled_vnmse(*_errors("fp8", min(max(d, 1), GROUP)), loss)


@dataclass(frozen=True)
class Fp4(PackedCodec):
    """FP4 E3M0: a sign and a power of two, relative to the largest value of the vector.

    Parameters
    ----------
    packet : int
        Bytes per packet; 0 for one packet. Every packet carries the scale.
    """

    packet: int = MTU_PAYLOAD
    name: str = "fp4"

    @property
    def unbiased(self) -> bool:
        """Rounding to nearest is not."""
        return False

    def _plan(self, d: int) -> Layout:
        return grouped(d, whole_groups(d), 4, self.packet, header=4)

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Round float32[d]; see `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        layout = self.layout(x.size)
        data, codes = np.zeros(layout.bytes // 4, np.uint32), np.zeros(layout.coded, np.uint8)
        scale = float(np.abs(x).max()) if x.size else 0.0
        if scale > 0.0:
            _code_e3m0(x, scale, codes)
        pack_groups(codes, 0, layout.word.size, layout.width, layout.word, 0, data)
        data.view(np.float32)[layout.ptr[:-1] // 4] = scale
        return Payload(signature(self), key, data.view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        look_up_groups(payload, mask, _E3M0, 0, values)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """For normal vectors of d values: the mean over the distribution of the largest one."""
        return rescaled_vnmse(*_errors("fp4", max(d, 1)), loss)
