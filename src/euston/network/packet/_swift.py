"""Swift: additive increase below a target of the round trip, multiplicative decrease above (SIGCOMM 2020).

Algorithm 1 of Kumar et al.; constants come from `transport.swift`.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import inlined
from euston.network.packet._layout import (
    N_GAP, S_BASE_RTT, S_FLOW, S_GAP, S_LAST_SENT, S_MAX_WINDOW, S_OWN, S_PACE, S_TRIES, S_WINDOW,
)  # fmt: skip

# the slot's own columns: window in bytes x 2^10, round trip of the last sample and time of the last cut, ps
WINDOW, RTT, CUT_AT = np.arange(S_OWN, S_OWN + 3, dtype=np.uintp)
# Net.tuning, after what all have
U_MTU, U_TARGET, U_SCALING, U_ALPHA, U_BETA = np.arange(3, 8, dtype=np.uintp)
U_ADD, U_CUT, U_MOST_CUT, U_LEAST, U_RESETS = np.arange(8, 13, dtype=np.uintp)
FINE = 2.0**10


@inlined
def start(slot, s):  # type: ignore[no-untyped-def]
    """The window is kept finer than bytes."""
    slot[s, WINDOW] = np.int64(slot[s, S_WINDOW] * FINE)
    slot[s, RTT] = slot[s, S_BASE_RTT]


@inlined
def _set(tuning, flow, slot, s, packets):  # type: ignore[no-untyped-def]
    """A window of ``packets``; one below a packet becomes a pause between packets (section 3.4)."""
    mtu = tuning[U_MTU]
    packets = max(tuning[U_LEAST], min(packets, slot[s, S_MAX_WINDOW] / mtu))
    slot[s, WINDOW] = np.int64(packets * mtu * FINE)
    slot[s, S_WINDOW] = np.int64(max(packets, 1.0) * mtu)
    given = flow[slot[s, S_FLOW], N_GAP]
    slot[s, S_GAP] = given
    if packets < 1.0:
        slot[s, S_GAP] = max(given, np.int64(slot[s, RTT] / (packets * mtu) * 2.0**20))
    # a pause that has begun ends earlier when the window has grown
    slot[s, S_PACE] = min(slot[s, S_PACE], slot[s, S_LAST_SENT] + np.int64(mtu * slot[s, S_GAP] * 2.0**-20))


@inlined
def acked(tuning, flow, slot, s, got, delay, now):  # type: ignore[no-untyped-def]
    """An ACK for ``got`` wire bytes that took ``delay`` ps longer than an idle network would have."""
    packets, base = slot[s, WINDOW] / (FINE * tuning[U_MTU]), slot[s, S_BASE_RTT]
    if delay < 0:
        if got > 0 and packets < 1.0:  # of a packet sent several times: that it arrives says enough
            _set(tuning, flow, slot, s, packets + tuning[U_ADD] * got / tuning[U_MTU])
        return
    rtt = np.float64(base + delay)
    slot[s, RTT] = base + delay
    more = tuning[U_ALPHA] / np.sqrt(packets) + tuning[U_BETA]
    target = base + tuning[U_TARGET] + max(0.0, min(more, tuning[U_SCALING]))
    if rtt < target:
        packets += tuning[U_ADD] * got / tuning[U_MTU] / max(packets, 1.0)
    elif now - slot[s, CUT_AT] >= slot[s, RTT]:
        packets *= max(1.0 - tuning[U_CUT] * (rtt - target) / rtt, 1.0 - tuning[U_MOST_CUT])
        slot[s, CUT_AT] = now
    _set(tuning, flow, slot, s, packets)


@inlined
def lost(tuning, flow, slot, s, timed_out, now):  # type: ignore[no-untyped-def]
    """A packet is lost: the largest cut, once per round trip; many timeouts in a row start anew."""
    packets = slot[s, WINDOW] / (FINE * tuning[U_MTU])
    if timed_out and slot[s, S_TRIES] >= np.int64(tuning[U_RESETS]):
        packets = tuning[U_LEAST]
    elif now - slot[s, CUT_AT] >= slot[s, RTT]:
        packets *= 1.0 - tuning[U_MOST_CUT]
        slot[s, CUT_AT] = now
    _set(tuning, flow, slot, s, packets)
