"""DCQCN's reaction point: rates cut by notifications, raised by timer and byte counter (SIGCOMM 2015)."""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import heap_push, inlined
from euston.network.packet._layout import (
    EV_TIMER, INF, N_GAP, S_FLOW, S_GAP, S_MAX_WINDOW, S_OWN, S_PACE, S_TICK, S_WINDOW,
)  # fmt: skip

# the slot's own columns
(
    RATE,  # bytes/s
    TARGET,
    LINE,  # most
    ALPHA,  # estimate of congestion in 1/2^30
    ALPHA_AT,  # ps
    BYTES,  # sent since the byte counter moved
    TIMES,  # rises by the timer since the last cut
    ROUNDS,  # and by the byte counter
) = np.arange(S_OWN, S_OWN + 8, dtype=np.uintp)
# Net.tuning, after what all have
U_GAIN, U_ALPHA_TIMER, U_TIMER, U_BYTES = np.arange(4, 8, dtype=np.uintp)
U_ROUNDS, U_ADD, U_HYPER, U_LEAST = np.arange(8, 12, dtype=np.uintp)
ONE = 2.0**30
PACE = 2.0**20 * 1e12  # a pause per byte as it stands in S_GAP, times bytes/s
ALMOST = 0.999  # of the line rate counts as all of it


@inlined
def start(flow, slot, s, ps_per_byte):  # type: ignore[no-untyped-def]
    """A flow begins at line rate."""
    rate, gap = 1e12 / ps_per_byte, flow[slot[s, S_FLOW], N_GAP]
    if gap > 0:
        rate = min(rate, PACE / gap)
    slot[s, LINE] = np.int64(rate)
    slot[s, RATE] = slot[s, LINE]
    slot[s, TARGET] = slot[s, LINE]
    slot[s, ALPHA] = np.int64(ONE)
    slot[s, S_WINDOW] = INF
    slot[s, S_MAX_WINDOW] = INF


@inlined
def _set(slot, s, rate, now):  # type: ignore[no-untyped-def]
    """Another rate; the pause that is running shrinks or grows along."""
    if rate > ALMOST * slot[s, LINE]:
        rate = np.float64(slot[s, LINE])
    old, gap = slot[s, S_GAP], np.int64(PACE / rate)
    slot[s, RATE] = np.int64(rate)
    slot[s, S_GAP] = gap
    if old > 0 and slot[s, S_PACE] > now:
        slot[s, S_PACE] = now + np.int64((slot[s, S_PACE] - now) * (np.float64(gap) / np.float64(old)))


@inlined
def notified(tuning, heap, count, slot, s, now):  # type: ignore[no-untyped-def]
    """A CNP: the target is the rate of now, the rate falls, all counters begin again (equation 1)."""
    idle = (now - slot[s, ALPHA_AT]) // np.int64(tuning[U_ALPHA_TIMER])
    alpha = slot[s, ALPHA] / ONE
    if slot[s, ALPHA_AT] > 0:  # it decays while no CNP comes (equation 2)
        alpha *= (1.0 - tuning[U_GAIN]) ** np.float64(idle)
    slot[s, TARGET] = slot[s, RATE]
    _set(slot, s, max(tuning[U_LEAST], slot[s, RATE] * (1.0 - alpha / 2.0)), now)
    slot[s, ALPHA] = np.int64(((1.0 - tuning[U_GAIN]) * alpha + tuning[U_GAIN]) * ONE)
    slot[s, ALPHA_AT] = now
    slot[s, BYTES] = 0
    slot[s, TIMES] = 0
    slot[s, ROUNDS] = 0
    slot[s, S_TICK] = now + np.int64(tuning[U_TIMER])
    heap_push(heap, count, slot[s, S_TICK], EV_TIMER, s)


@inlined
def _rise(tuning, slot, s, now):  # type: ignore[no-untyped-def]
    """Halfway to the target; later the target rises too (section 3.1, "Algorithms")."""
    rounds = np.int64(tuning[U_ROUNDS])
    if min(slot[s, TIMES], slot[s, ROUNDS]) > rounds:
        slot[s, TARGET] += np.int64(tuning[U_HYPER])
    elif max(slot[s, TIMES], slot[s, ROUNDS]) > rounds:
        slot[s, TARGET] += np.int64(tuning[U_ADD])
    slot[s, TARGET] = min(slot[s, TARGET], slot[s, LINE])
    _set(slot, s, (slot[s, RATE] + slot[s, TARGET]) / 2.0, now)


@inlined
def ticked(tuning, heap, count, slot, s, now):  # type: ignore[no-untyped-def]
    """The timer of a flow below its line rate."""
    slot[s, TIMES] += 1
    _rise(tuning, slot, s, now)
    slot[s, S_TICK] = INF
    if slot[s, RATE] < slot[s, LINE]:
        slot[s, S_TICK] = now + np.int64(tuning[U_TIMER])
        heap_push(heap, count, slot[s, S_TICK], EV_TIMER, s)


@inlined
def sent(tuning, slot, s, size, now):  # type: ignore[no-untyped-def]
    """The byte counter."""
    slot[s, BYTES] += size
    if slot[s, BYTES] >= np.int64(tuning[U_BYTES]):
        slot[s, BYTES] -= np.int64(tuning[U_BYTES])
        slot[s, ROUNDS] += 1
        if slot[s, RATE] < slot[s, LINE]:
            _rise(tuning, slot, s, now)
