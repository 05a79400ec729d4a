"""No compression: float32 in packets. The baseline that others are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression._codec import MTU_PAYLOAD, PackedCodec, check_finite
from euston.compression.base import Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.layout import Layout, raw

__all__ = ["Plain"]


@dataclass(frozen=True)
class Plain(PackedCodec):
    """float32 as it is.

    Parameters
    ----------
    packet : int
        Bytes per packet; 0 for one packet.
    """

    packet: int = MTU_PAYLOAD
    name: str = "none"

    @property
    def unbiased(self) -> bool:
        """Nothing is changed."""
        return True

    def _plan(self, d: int) -> Layout:
        return raw(d, d, 4, self.packet, header=0)

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Copy float32[d] into packets; see `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        return Payload(signature(self), key, x.copy().view(np.uint8), self.layout(x.size))

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        values[:] = payload.data.view(np.float32)
        drop_missing(payload.layout, mask, values)

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """Loss / (1 - loss): only what is lost is missing."""
        return rescaled_vnmse(0.0, 1.0, loss)


def drop_missing(layout: Layout, mask: NDArray[np.uint8], values: NDArray[Any]) -> None:
    """Zero the coordinates of packets that are missing."""
    for k in np.flatnonzero(mask == 0):
        values[layout.coordinate[k] : layout.coordinate[k + 1]] = 0
