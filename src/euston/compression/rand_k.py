"""Rand-k: k coordinates that sender and receiver draw alike, so that only values travel.

Scaled by d / k it is unbiased; unscaled it is a contraction for error feedback (Stich, Cordonnier & Jaggi
2018). The draw is a keyed permutation of the indices (a Feistel network walked until it falls inside), cut
after k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.compression._codec import MTU_PAYLOAD, PackedCodec, check_finite
from euston.compression._hash import chain, hash32, keys
from euston.compression.base import Payload, StepKey, as_vector, rescaled_vnmse, signature
from euston.compression.layout import Layout, raw
from euston.compression.none import drop_missing
from euston.compression.top_k import kept
from euston.errors import ConfigError

__all__ = ["RandK", "permuted"]

_kernel = njit(cache=True, no_cfunc_wrapper=True, nogil=True)


@_kernel
def _permuted(count, d, half, round_keys, out):  # type: ignore[no-untyped-def]
    mask = (1 << half) - 1
    for i in range(count):
        at = i
        while True:
            left, right = at >> half, at & mask
            for r in range(round_keys.size // 2):
                mixed = hash32(right, round_keys[2 * r], round_keys[2 * r + 1])
                left, right = right, left ^ (np.int64(mixed) & mask)
            at = (left << half) | right
            if at < d:
                break
        out[i] = at


def permuted(count: int, d: int, seed: int) -> NDArray[np.int64]:
    """The first `count` of the indices below `d` in the order of a keyed permutation, int64[count]."""
    half = max(1, ((max(d, 2) - 1).bit_length() + 1) // 2)
    round_keys = np.array([word for r in range(6) for word in keys(chain(seed, r))], np.uint32)
    out = np.zeros(count, np.int64)
    _permuted(count, d, half, round_keys, out)
    return out


@dataclass(frozen=True)
class RandK(PackedCodec):
    """Randomly chosen coordinates.

    Parameters
    ----------
    ratio : float
        k / d, above 0 to 1.
    scale : str
        "unbiased": values times d / k; "plain": values as they are, for error feedback.
    shared : bool
        The same coordinates for all senders of a step, so that their values add up.
    packet : int
        Bytes per packet; 0 for one packet.

    Raises
    ------
    ConfigError
        A parameter out of range.
    """

    ratio: float = 0.01
    scale: str = "unbiased"
    shared: bool = True
    packet: int = MTU_PAYLOAD
    name: str = "rand_k"

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0:
            raise ConfigError(f"`{self.name}.ratio`: {self.ratio}; a share above 0 up to 1")
        if self.scale not in ("unbiased", "plain"):
            raise ConfigError(f"`{self.name}.scale`: {self.scale!r}; unbiased or plain")

    @property
    def unbiased(self) -> bool:
        """With the unbiased scale."""
        return self.scale == "unbiased"

    def _plan(self, d: int) -> Layout:
        return raw(d, kept(self.ratio, d), 4, self.packet, header=0)

    def _size(self, layout: Layout) -> int:
        return layout.d

    def indices(self, d: int, key: StepKey) -> NDArray[np.int64]:
        """The coordinates drawn for a key, int64[k]."""
        return permuted(kept(self.ratio, d), d, key.seed("indices", shared=self.shared))

    def encode(self, x: Any, key: StepKey = StepKey()) -> Payload:  # noqa: B008
        """Draw and copy; see `Codec.encode`."""
        x = as_vector(x, key.label)
        check_finite(x, key)
        layout = self.layout(x.size)
        gain = np.float32(x.size / layout.coded if self.unbiased and x.size else 1.0)
        values = x[self.indices(x.size, key)] * gain
        return Payload(signature(self), key, values.view(np.uint8), layout)

    def _uncode(
        self, payload: Payload, mask: NDArray[np.uint8], first: int, last: int, values: NDArray[np.float32]
    ) -> None:
        sent = payload.data.view(np.float32).copy()
        drop_missing(payload.layout, mask, sent)
        values[:] = 0
        values[self.indices(payload.d, payload.key)] = sent

    def expected_vnmse(self, d: int, loss: float = 0.0) -> float:
        """d/k - 1 when unbiased, 1 - k/d when plain; exact for every vector."""
        if d == 0:
            return 0.0
        share = kept(self.ratio, d) / d
        if self.unbiased:
            return rescaled_vnmse(1.0 / share - 1.0, 1.0 / share, loss)
        return rescaled_vnmse(1.0 - share, share, loss)
