"""NSCC, the sender-based congestion control of Ultra Ethernet: a window from delay, ECN and trimming.

Rules and constants as in uet-htsim @40ccb05 (`uec.cpp`: updateCwndOnAck_NSCC, quick_adapt,
fulfill_adjustment, update_delay; `initNsccParams` for the constants, which `transport.nscc` computes). An
unmarked ACK raises a pending increase, in proportion to how far the delay is below its target; a marked one
with a long delay shrinks the window once per round trip; a cut packet takes its own bytes off; and once per
round trip a window far above what arrived is set to what arrived ("quick adapt").
"""

from __future__ import annotations

import numpy as np

from euston.network.packet._events import helper
from euston.network.packet._layout import S_BASE_RTT, S_FLIGHT, S_MAX_WINDOW, S_OWN, S_WINDOW

# the slot's own columns
(
    INCREASE,  # pending, in bytes x window
    ARRIVED,  # bytes since the last adjustment
    ACHIEVED,  # bytes in this quick-adapt period
    IGNORED,
    TO_IGNORE,  # bytes whose feedback is older than the last quick adapt
    PERIOD_END,
    TRIGGER,
    FAST_COUNT,
    FAST,
    MEAN_DELAY,  # ps
    DECREASED,  # when
    ADJUSTED,  # when
) = np.arange(S_OWN, S_OWN + 12, dtype=np.uintp)
FIRST = np.int64(S_OWN)

# Net.tuning
(
    U_RTT,  # ps, of the longest path of the network
    U_TARGET,  # ps of queueing
    U_MIN,  # bytes
    U_ALPHA,
    U_FAIR,
    U_ETA,
    U_GAMMA,
    U_FAST_SCALE,
    U_DELAY_GAIN,
    U_ADJUST_BYTES,
    U_QUICK_GATE,  # power of two by which less than the largest window must have arrived
    U_FAST_DELAY,  # ps
    U_WINDOW_FACTOR,  # largest window over bandwidth-delay product
    U_START,  # bytes; 0: the largest window
    U_QUICK_DELAY,  # ps: a delay that calls for quick adapt
) = np.arange(15, dtype=np.uintp)


@helper
def start(tuning, slot, s, ps_per_byte):  # type: ignore[no-untyped-def]
    """A flow begins at the largest window."""
    for column in range(FIRST, FIRST + 12):
        slot[s, column] = 0
    slot[s, S_BASE_RTT] = np.int64(tuning[U_RTT])
    product = np.int64(tuning[U_RTT] / ps_per_byte)
    slot[s, S_MAX_WINDOW] = np.int64(tuning[U_WINDOW_FACTOR] * product)
    given = np.int64(tuning[U_START])
    slot[s, S_WINDOW] = max(np.int64(tuning[U_MIN]), given if given > 0 else slot[s, S_MAX_WINDOW])


@helper
def _bound(tuning, slot, s):  # type: ignore[no-untyped-def]
    low = np.int64(tuning[U_MIN])
    slot[s, S_WINDOW] = max(low, min(slot[s, S_WINDOW], slot[s, S_MAX_WINDOW]))


@helper
def measured(tuning, slot, s, rtt, ps_per_byte):  # type: ignore[no-untyped-def]
    """A shorter round trip than ever is the base, and bounds the window."""
    if rtt < slot[s, S_BASE_RTT]:
        slot[s, S_BASE_RTT] = rtt
        slot[s, S_MAX_WINDOW] = np.int64(tuning[U_WINDOW_FACTOR] * np.int64(rtt / ps_per_byte))


@helper
def averaged(tuning, slot, s, delay, marked):  # type: ignore[no-untyped-def]
    """The mean delay follows a sample; a long one without a mark counts as a quarter of the round trip."""
    gain, mean = tuning[U_DELAY_GAIN], np.float64(slot[s, MEAN_DELAY])
    sample = np.float64(delay)
    if not marked and delay > tuning[U_TARGET]:
        sample = np.float64(slot[s, S_BASE_RTT]) * 0.25
    slot[s, MEAN_DELAY] = np.int64(gain * sample + (1.0 - gain) * mean)


@helper
def _quick_adapt(tuning, slot, s, lost, marked, delay, now):  # type: ignore[no-untyped-def]
    """Fall to what arrived in a round trip; whether this feedback is to be ignored."""
    done = False
    if slot[s, IGNORED] < slot[s, TO_IGNORE] and marked:
        done = True
    elif now > slot[s, PERIOD_END]:
        called = slot[s, TRIGGER] == 1 or lost or delay > tuning[U_QUICK_DELAY]
        gate = slot[s, S_MAX_WINDOW] >> np.int64(tuning[U_QUICK_GATE])
        if slot[s, PERIOD_END] != 0 and called and slot[s, ACHIEVED] < gate:
            slot[s, S_WINDOW] = max(slot[s, ACHIEVED], np.int64(tuning[U_MIN]))
            slot[s, TO_IGNORE] = slot[s, S_FLIGHT]
            slot[s, IGNORED] = 0
            slot[s, TRIGGER] = 0
            done = True
        slot[s, ACHIEVED] = 0
        slot[s, PERIOD_END] = now + slot[s, S_BASE_RTT] + np.int64(tuning[U_TARGET])
    if done:
        slot[s, INCREASE] = 0
        slot[s, ARRIVED] = 0
    return done


@helper
def _raise(tuning, slot, s, got, delay):  # type: ignore[no-untyped-def]
    """Below the target: fast after a window without queueing, else in proportion to the room."""
    if delay < tuning[U_FAST_DELAY]:
        slot[s, FAST_COUNT] += got
        if slot[s, FAST_COUNT] > slot[s, S_WINDOW] or slot[s, FAST] == 1:
            slot[s, S_WINDOW] = np.int64(slot[s, S_WINDOW] + got * tuning[U_FAST_SCALE])
            slot[s, FAST] = 1
            return
    else:
        slot[s, FAST_COUNT] = 0
    slot[s, FAST] = 0
    room = np.float64(tuning[U_TARGET] - delay)
    slot[s, INCREASE] = np.int64(slot[s, INCREASE] + tuning[U_ALPHA] * got * room)


@helper
def _shrink(tuning, slot, s, now):  # type: ignore[no-untyped-def]
    """Above the target and marked: multiplicative decrease, once per base round trip."""
    slot[s, FAST] = 0
    slot[s, FAST_COUNT] = 0
    mean, target = np.float64(slot[s, MEAN_DELAY]), tuning[U_TARGET]
    if mean > target and now - slot[s, DECREASED] > slot[s, S_BASE_RTT]:
        factor = max(1.0 - tuning[U_GAMMA] * (mean - target) / mean, 0.5)
        slot[s, S_WINDOW] = max(np.int64(slot[s, S_WINDOW] * factor), np.int64(tuning[U_MIN]))
        slot[s, DECREASED] = now


@helper
def received(slot, s, got):  # type: ignore[no-untyped-def]
    """The receiver has ``got`` more wire bytes."""
    slot[s, ACHIEVED] += got
    slot[s, ARRIVED] += got
    slot[s, IGNORED] += got


@helper
def acked(tuning, slot, s, got, marked, delay, now):  # type: ignore[no-untyped-def]
    """An ACK for ``got`` wire bytes with a queueing delay of ``delay`` ps."""
    if _quick_adapt(tuning, slot, s, False, marked, delay, now):
        return
    if not marked and delay >= tuning[U_TARGET]:
        slot[s, INCREASE] = np.int64(slot[s, INCREASE] + tuning[U_FAIR] * got)
    elif not marked:
        _raise(tuning, slot, s, got, delay)
    elif delay >= tuning[U_TARGET]:
        _shrink(tuning, slot, s, now)
    _bound(tuning, slot, s)
    since = now - slot[s, ADJUSTED]
    if slot[s, ARRIVED] > tuning[U_ADJUST_BYTES] or since > tuning[U_RTT]:
        slot[s, S_WINDOW] += slot[s, INCREASE] // slot[s, S_WINDOW]
        if since >= tuning[U_RTT]:
            slot[s, S_WINDOW] = np.int64(slot[s, S_WINDOW] + tuning[U_ETA])
            slot[s, ADJUSTED] = now
        slot[s, INCREASE] = 0
        slot[s, ARRIVED] = 0
    _bound(tuning, slot, s)


@helper
def nacked(tuning, slot, s, size, now):  # type: ignore[no-untyped-def]
    """A packet of ``size`` bytes was cut: the delay counts as a full round trip."""
    slot[s, IGNORED] += size
    averaged(tuning, slot, s, np.int64(tuning[U_RTT]), True)
    slot[s, TRIGGER] = 1
    if not _quick_adapt(tuning, slot, s, True, True, np.int64(0), now):
        slot[s, S_WINDOW] -= size
        _bound(tuning, slot, s)


@helper
def timed_out(tuning, slot, s, size):  # type: ignore[no-untyped-def]
    """A packet was never answered."""
    slot[s, S_WINDOW] = max(slot[s, S_WINDOW] - size, np.int64(tuning[U_MIN]))
