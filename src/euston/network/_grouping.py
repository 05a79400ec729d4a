"""Numbers equal words alike, in order of first appearance: what sorting would find, in linear time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["combine", "group"]


@njit(cache=True, no_cfunc_wrapper=True)
def _number(words, table, of, first):  # type: ignore[no-untyped-def]
    """Open addressing with linear probing in ``table`` (int32[2^k], -1: empty); how many were found.

    Stops when the table is half full, with -1 in ``of`` from there on.
    """
    mask = np.uint64(table.size - 1)
    found = 0
    for i in range(words.size):
        word = words[i]
        if i > 0 and word == words[i - 1]:
            of[i] = of[i - 1]
            continue
        # SplitMix64's last multiplication and shift scatter well enough for a table of this load.
        k = ((word ^ (word >> np.uint64(31))) * np.uint64(0x94D049BB133111EB) >> np.uint64(20)) & mask
        while table[k] >= 0 and words[first[table[k]]] != word:
            k = (k + np.uint64(1)) & mask
        if table[k] < 0:
            if 2 * found >= table.size:
                of[i:] = -1
                break
            table[k] = found
            first[found] = i
            found += 1
        of[i] = table[k]
    return found


def group(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """``first`` int64[K], ``of`` int32[N], ``count`` int64[K] of N values of 8 bytes (or fewer, or bool)."""
    if values.dtype.itemsize < 8:
        values = values.astype(np.int64)
    if values.dtype.kind == "f":
        values = values + 0.0  # one zero only
    words = np.ascontiguousarray(values).view(np.uint64)
    n = words.size
    if n == 0 or (words == words[0]).all():
        some = min(n, 1)
        return np.zeros(some, np.int64), np.zeros(n, np.int32), np.full(some, n, np.int64)
    of = np.empty(n, np.int32)
    first = np.empty(n, np.int64)
    size = 2**12
    while True:
        found = _number(words, np.full(size, -1, np.int32), of, first)
        if of[-1] >= 0:
            break
        size = min(16 * size, 2 ** (2 * n).bit_length())
    return first[:found].copy(), of, np.bincount(of, minlength=found)


def combine(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """A number per distinct combination of values, int64[N], by first appearance."""
    out = np.zeros(columns[0].size, np.int64)
    for column in columns:
        first, key, _ = group(column)
        if first.size > 1:
            out = group(out * first.size + key)[1].astype(np.int64)
    return out
