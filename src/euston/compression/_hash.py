"""Counter-based randomness of the codecs: the same numbers on every device, for every version of a framework.

A 64-bit seed is a SplitMix64 chain over (job, step, bucket, sender, salt); words of signs are SplitMix64 of
a counter (Steele, Lea & Flood 2014), numbers per coordinate two keyed rounds of a 32-bit finaliser
(Wellons' ``lowbias32``). Neither stores a state: coordinate i costs the same in whatever order it is asked
for.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["chain", "hash32", "keys", "numbers", "splitmix64"]

_MASK = (1 << 64) - 1

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def chain(*words: int) -> int:
    """A 64-bit seed from integers: SplitMix64's finaliser over their running sum."""
    state = 0
    for word in words:
        state = (state + (word & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def keys(seed: int) -> tuple[np.uint32, np.uint32]:
    """The two 32-bit keys of `hash32` for a 64-bit seed."""
    mixed = chain(seed)
    return np.uint32(mixed & 0xFFFFFFFF), np.uint32(mixed >> 32)


@_helper
def splitmix64(counter):  # type: ignore[no-untyped-def]
    """SplitMix64's output for a counter (uint64)."""
    z = counter + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_helper
def _mix32(x):  # type: ignore[no-untyped-def]
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@_helper
def hash32(counter, key0, key1):  # type: ignore[no-untyped-def]
    """32 random bits of a counter (integer below 2^32) under two keys (uint32)."""
    return _mix32(np.uint32(_mix32(np.uint32(counter) ^ key0) + key1))


@njit(cache=True, no_cfunc_wrapper=True, nogil=True)
def _numbers(key0, key1, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = np.float32(hash32(i, key0, key1) >> np.uint32(8)) * np.float32(2.0**-24)


def numbers(n: int, seed: int) -> NDArray[np.float32]:
    """`n` numbers in [0, 1) of a seed, 24 random bits each."""
    out = np.empty(n, np.float32)
    _numbers(*keys(seed), out)
    return out
