"""Numbers that depend on what they are for only: no state, so the order of events changes nothing."""

from __future__ import annotations

import numpy as np

from euston.serving._state import bare

_A, _B, _C = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
_30, _27, _31, _11 = np.array([30, 27, 31, 11], np.uint64)


@bare
def uniform(seed, a, b):  # type: ignore[no-untyped-def]
    """A number in [0, 1) of three whole numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = np.uint64(seed) * _A + np.uint64(a) * _B + np.uint64(b) * _C
    x = (x ^ (x >> _30)) * _B
    x = (x ^ (x >> _27)) * _C
    x = x ^ (x >> _31)
    return np.float64(x >> _11) / 9007199254740992.0
