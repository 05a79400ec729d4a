"""Events in order of time: rings for constant delays, a 4-ary heap for the rest; and random numbers.

What happens a constant delay after now (the end of a full packet's transmission, its arrival at the far end
of a link) is pushed in order of time, so a ring per delay is sorted as it stands; the next event of all is
the least of a few ring heads and the heap's top. At one moment arrivals come before ends of transmissions,
lower rings before higher ones and the heap last, in order of pushing: runs are reproducible.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

from typing import Any

import numpy as np
from numba import njit

from euston.network.packet._layout import (
    E_ID, E_TIME, G_HEAP, G_SEQ, H_ID, H_KIND, H_SEQ, H_TIME, INF, K_RING_MASK, X_FIRST, X_IN, X_OUT,
)  # fmt: skip

# Helpers are called from kernels only: no Python wrappers to compile for them. They make no arrays, so that
# arrays need no reference counts (a call with them costs several times as much); nothing in them can raise.
# What every hop of a packet needs is inlined into the event loop.
_OPTIONS: dict[str, Any] = {
    "cache": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "error_model": "numpy",
    "_nrt": False,
}
helper = njit(**_OPTIONS)
inlined = njit(**_OPTIONS, forceinline=True)

# SplitMix64 (Steele, Lea & Flood 2014): a counter and a mixer, so that a stream costs one number.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)
S30, S27, S31, S11 = np.array([30, 27, 31, 11], np.uint64)
UNIT = 2.0**-53


@inlined
def mix(x):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser of a uint64."""
    x = (x ^ (x >> S30)) * MIX_A
    x = (x ^ (x >> S27)) * MIX_B
    return x ^ (x >> S31)


@inlined
def draw(count, stream):  # type: ignore[no-untyped-def]
    """The next uint64 of a stream."""
    x = np.uint64(count[stream]) + GOLDEN
    count[stream] = np.int64(x)
    return mix(x)


@helper
def below(count, stream, n):  # type: ignore[no-untyped-def]
    """A random int64 in 0 .. n - 1."""
    return np.int64(draw(count, stream) % np.uint64(n))


@helper
def uniform(count, stream):  # type: ignore[no-untyped-def]
    """A random float in [0, 1)."""
    return np.float64(draw(count, stream) >> S11) * UNIT


@inlined
def ring_push(rings, ring, config, r, time, ident):  # type: ignore[no-untyped-def]
    """Append an event to a ring; its time is never less than that of the one before."""
    at = rings[r, X_IN]
    k = at & config[K_RING_MASK]
    ring[r, k, E_TIME] = time
    ring[r, k, E_ID] = ident
    rings[r, X_IN] = at + 1
    if at == rings[r, X_OUT]:
        rings[r, X_FIRST] = time


@inlined
def ring_pop(rings, ring, config, r):  # type: ignore[no-untyped-def]
    """Take the first event of a ring; its id."""
    at = rings[r, X_OUT]
    ident = ring[r, at & config[K_RING_MASK], E_ID]
    at += 1
    rings[r, X_OUT] = at
    rings[r, X_FIRST] = ring[r, at & config[K_RING_MASK], E_TIME] if at < rings[r, X_IN] else INF
    return ident


@helper
def heap_push(heap, count, time, kind, ident):  # type: ignore[no-untyped-def]
    """An event that fits no ring."""
    n = count[G_HEAP]
    count[G_HEAP] = n + 1
    while n > 0:
        above = (n - 1) >> 2
        if heap[above, H_TIME] <= time:
            break
        heap[n, H_TIME] = heap[above, H_TIME]
        heap[n, H_SEQ] = heap[above, H_SEQ]
        heap[n, H_KIND] = heap[above, H_KIND]
        heap[n, H_ID] = heap[above, H_ID]
        n = above
    heap[n, H_TIME] = time
    heap[n, H_SEQ] = count[G_SEQ]
    heap[n, H_KIND] = kind
    heap[n, H_ID] = ident
    count[G_SEQ] += 1


@helper
def heap_drop(heap, count):  # type: ignore[no-untyped-def]
    """Remove the first event."""
    n = count[G_HEAP] - 1
    count[G_HEAP] = n
    time, seq = heap[n, H_TIME], heap[n, H_SEQ]
    k = 0
    while True:
        child = 4 * k + 1
        if child >= n:
            break
        best = child
        for c in range(child + 1, min(child + 4, n)):
            if heap[c, H_TIME] < heap[best, H_TIME] or (
                heap[c, H_TIME] == heap[best, H_TIME] and heap[c, H_SEQ] < heap[best, H_SEQ]
            ):
                best = c
        if time < heap[best, H_TIME] or (time == heap[best, H_TIME] and seq < heap[best, H_SEQ]):
            break
        for field in range(4):
            heap[k, field] = heap[best, field]
        k = best
    for field in range(4):
        heap[k, field] = heap[n, field]
