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


def _scaled(rows: NDArray[np.float32], exponent: NDArray[Any]) -> NDArray[np.float32]:
    """Rows times powers of two, exactly."""
    if exponent.size and np.abs(exponent).max() < 126:  # a multiplication is ten times as fast as ldexp
        return rows * np.ldexp(np.float32(1), exponent).astype(np.float32)[:, None]
    return np.ldexp(rows, exponent[:, None])


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

    def _values(self, layout: Layout, data: NDArray[np.uint8]) -> list[NDArray[np.uint16]]:
        """Views of where the values are: all full packets as rows, then the last, shorter one."""
        places, fits = data.view(np.uint16), int(layout.coordinate[1])
        stride = int(layout.ptr[1]) // 2
        full = layout.d // fits
        rows = places[: full * stride].reshape(full, stride)[:, 2 : 2 + fits]
        rest = layout.d - full * fits
        return [rows, places[full * stride + 2 : full * stride + 2 + rest].reshape(1, rest)]

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Scale and round float32[d]; see `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        layout = self.layout(x.size)
        data = np.zeros(layout.bytes, np.uint8)
        if x.size:
            exponents = []
            for rows, part in zip(self._values(layout, data), self._split(layout, x), strict=True):
                largest = np.abs(part).max(axis=1, initial=0.0)
                exponent = np.where(largest > 0, 15 - np.frexp(largest)[1], 0)
                rows[:] = _scaled(part, exponent).astype(np.float16).view(np.uint16)
                exponents.append(exponent[: None if part.size else 0])
            data.view(np.int32)[layout.ptr[:-1] // 4] = -np.concatenate(exponents)
        return Payload(signature(self), key, data, layout)

    def _split(self, layout: Layout, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """A vector as `_values` divides the payload."""
        fits = int(layout.coordinate[1])
        full = layout.d // fits * fits
        return [x[:full].reshape(-1, fits), x[full:].reshape(1, -1)]

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        layout, at = payload.layout, 0
        exponent = payload.data.view(np.int32)[layout.ptr[:-1] // 4]
        for halves, part in zip(self._values(layout, payload.data), self._split(layout, values), strict=True):
            if not part.size:
                continue
            here = slice(at, at + len(part))
            came = mask[here] > 0
            wide = halves.view(np.float16)[came].astype(np.float32)
            with np.errstate(over="ignore"):  # the largest float32 was rounded up
                part[came] = _scaled(wide, exponent[here][came])
            np.clip(part, -_LARGEST, _LARGEST, out=part)
            part[~came] = 0
            at += len(part)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """Rounding of log-uniform mantissas: see `rounding_vnmse`."""
        return rescaled_vnmse(rounding_vnmse(10), 1.0, loss)
