"""DCTCP: once per window the share of marked bytes is averaged, and shrinks the window (RFC 8257)."""

from __future__ import annotations

import numpy as np

from euston.network.packet._events import inlined
from euston.network.packet._layout import S_BASE, S_MAX_WINDOW, S_NEXT, S_OWN, S_WINDOW

# the slot's own columns
(
    ALPHA,  # average marked share in 1/2^20
    TOTAL,  # bytes acknowledged in this window of observation
    MARKED,
    END,  # it ends when this packet is acknowledged
    THRESHOLD,  # slow start below it, bytes
    RECOVER,  # losses before this packet have been reacted to
    PART,  # of the next byte of additive increase, in bytes x bytes
) = np.arange(S_OWN, S_OWN + 7, dtype=np.uintp)
# Net.tuning, after what all have
U_MTU, U_GAIN, U_SLOW = np.arange(3, 6, dtype=np.uintp)
ONE = 2.0**20


@inlined
def start(tuning, slot, s):  # type: ignore[no-untyped-def]
    """Nothing is known: the first mark halves (RFC 8257, 3.3)."""
    slot[s, ALPHA] = np.int64(ONE)
    slot[s, THRESHOLD] = slot[s, S_MAX_WINDOW] if tuning[U_SLOW] > 0 else slot[s, S_WINDOW]


@inlined
def acked(tuning, slot, s, got, marked):  # type: ignore[no-untyped-def]
    """An ACK for ``got`` wire bytes."""
    mtu = np.int64(tuning[U_MTU])
    slot[s, TOTAL] += got
    if marked:
        slot[s, MARKED] += got
    elif slot[s, S_WINDOW] < slot[s, THRESHOLD]:
        slot[s, S_WINDOW] += got
    else:
        slot[s, PART] += mtu * got
        slot[s, S_WINDOW] += slot[s, PART] // slot[s, S_WINDOW]
        slot[s, PART] %= slot[s, S_WINDOW]
    if slot[s, S_BASE] >= slot[s, END] and slot[s, TOTAL] > 0:
        share = np.float64(slot[s, MARKED]) / np.float64(slot[s, TOTAL])
        alpha = np.float64(slot[s, ALPHA])
        alpha += tuning[U_GAIN] * (share * ONE - alpha)
        slot[s, ALPHA] = np.int64(alpha)
        if slot[s, MARKED] > 0:
            slot[s, S_WINDOW] = np.int64(slot[s, S_WINDOW] * (1.0 - alpha / (2.0 * ONE)))
            slot[s, THRESHOLD] = slot[s, S_WINDOW]
        slot[s, TOTAL] = 0
        slot[s, MARKED] = 0
        slot[s, END] = slot[s, S_NEXT]
    slot[s, S_WINDOW] = max(mtu, min(slot[s, S_WINDOW], slot[s, S_MAX_WINDOW]))


@inlined
def lost(tuning, slot, s):  # type: ignore[no-untyped-def]
    """A packet is lost: half the window, once per window (RFC 5681)."""
    if slot[s, S_BASE] >= slot[s, RECOVER]:
        slot[s, S_WINDOW] = max(np.int64(tuning[U_MTU]), slot[s, S_WINDOW] // 2)
        slot[s, THRESHOLD] = slot[s, S_WINDOW]
        slot[s, RECOVER] = slot[s, S_NEXT]


@inlined
def timed_out(tuning, slot, s):  # type: ignore[no-untyped-def]
    """Nothing came back: one packet, then slow start to half of what was in flight."""
    mtu = np.int64(tuning[U_MTU])
    if slot[s, S_WINDOW] > mtu:
        slot[s, THRESHOLD] = max(2 * mtu, slot[s, S_WINDOW] // 2)
        slot[s, S_WINDOW] = mtu
        slot[s, RECOVER] = slot[s, S_NEXT]
