"""Top-k: the k coordinates of the largest size with their indices. Biased: use it with error feedback.

Aji & Heafield 2017; Lin et al., "Deep Gradient Compression", ICLR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.compression._codec import MTU_PAYLOAD, PackedCodec, check_finite
from euston.compression.base import Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.layout import Layout, raw
from euston.errors import ConfigError

__all__ = ["TopK", "kept"]


def kept(ratio: float, d: int) -> int:
    """How many of d: at least one coordinate of a vector that has any."""
    return max(1, round(ratio * d)) if d else 0


@dataclass(frozen=True)
class TopK(PackedCodec):
    """The largest coordinates.

    Parameters
    ----------
    ratio : float
        k / d, above 0 to 1.
    packet : int
        Bytes per packet; 0 for one packet. A packet holds the indices (uint32) of its coordinates, then their
        values (float32).

    Raises
    ------
    ConfigError
        A ratio out of range.
    """

    ratio: float = 0.01
    packet: int = MTU_PAYLOAD
    name: str = "top_k"

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0:
            raise ConfigError(f"`{self.name}.ratio`: {self.ratio}; a share above 0 up to 1")

    @property
    def unbiased(self) -> bool:
        """Small coordinates are never sent."""
        return False

    def _plan(self, d: int) -> Layout:
        return raw(d, kept(self.ratio, d), 8, self.packet, header=0)

    def _size(self, layout: Layout) -> int:
        return layout.d

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Choose and copy; ties go to lower indices. See `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        layout, size = self.layout(x.size), np.abs(x)
        data = np.zeros((layout.coded, 2), np.uint32)
        if x.size:
            least = np.partition(size, x.size - layout.coded)[x.size - layout.coded]
            larger = np.flatnonzero(size > least)
            equal = np.flatnonzero(size == least)[: layout.coded - larger.size]
            index = np.sort(np.concatenate([larger, equal]))
            for lo, hi in zip(layout.coordinate[:-1], layout.coordinate[1:], strict=True):
                packet = data[lo:hi].reshape(-1)
                packet[: hi - lo] = index[lo:hi]
                packet[hi - lo :] = x[index[lo:hi]].view(np.uint32)
        return Payload(signature(self), key, data.reshape(-1).view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        values[:] = 0
        for k in np.flatnonzero(mask):
            packet = np.frombuffer(payload.packet(int(k)), np.uint32)
            half = packet.size // 2
            index = packet[:half]
            fine = index < values.size  # a forged index must not write elsewhere
            values[index[fine]] = packet[half:].view(np.float32)[fine]

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """At most 1 - k/d, reached when all coordinates are equally large."""
        if d == 0:
            return 0.0
        share = kept(self.ratio, d) / d
        return rescaled_vnmse(1.0 - share, share, loss)
