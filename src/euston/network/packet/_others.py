"""Congestion controls other than NSCC and fixed windows: one choice by number per event.

They stand behind one call each, so that the event loop pays nothing for them when they are not used.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet import _dcqcn, _dctcp, _hpcc, _lossy, _ndp, _swift
from euston.network.packet._events import helper
from euston.network.packet._layout import (
    INF, K_CONTROL, K_HOPS, K_REPORT, L_LATENCY, L_RATE, NONE, N_BACK, N_FORWARD, SLOT_COLUMNS, S_BASE_RTT,
    S_FLOW, S_MAX_WINDOW, S_OWN, S_TICK, S_WINDOW, T_CTRL, T_DATA,
)  # fmt: skip
from euston.network.transport.base import Control

DCTCP, DCQCN, SWIFT, NDP, HPCC, LOSSY = np.array(
    [Control.DCTCP, Control.DCQCN, Control.SWIFT, Control.NDP, Control.HPCC, Control.LOSSY]
)
# Net.tuning of all of them: the longest round trip in ps; first and largest window in products of the flow's
# bandwidth and that time; wire bytes of a packet
U_RTT, U_START, U_MOST, U_MTU = np.arange(4, dtype=np.uintp)
OWN, END = np.array([S_OWN, SLOT_COLUMNS], np.int64)


@helper
def _way(net, st, row, size):  # type: ignore[no-untyped-def]
    """Time in ps that a packet takes on an idle path, by column ``size`` of Net.rate."""
    pos, time = row * net.config[K_HOPS], np.int64(0)
    while net.hop[pos] >= 0:
        at = np.int64(net.hop[pos])
        time += st.link[at, L_LATENCY] + net.rate[st.link[at, L_RATE], size]
        pos += 1
    return time


@helper
def start(net, st, s, ps_per_byte, now):  # type: ignore[no-untyped-def]
    """A flow begins in slot ``s``."""
    slot, tuning, control = st.slot, net.tuning, net.config[K_CONTROL]
    for column in range(OWN, END):
        slot[s, column] = 0
    slot[s, S_TICK] = INF
    slot[s, S_BASE_RTT] = np.int64(tuning[U_RTT])
    product, mtu = tuning[U_RTT] / ps_per_byte, tuning[U_MTU]
    slot[s, S_WINDOW] = np.int64(max(mtu, tuning[U_START] * product))
    slot[s, S_MAX_WINDOW] = np.int64(max(mtu, tuning[U_MOST] * product))
    if control == DCTCP:
        _dctcp.start(tuning, slot, s)
    elif control == DCQCN:
        _dcqcn.start(st.flow, slot, s, ps_per_byte)
    elif control == SWIFT:
        flow = slot[s, S_FLOW]
        there = _way(net, st, st.flow[flow, N_FORWARD], T_DATA)
        slot[s, S_BASE_RTT] = there + _way(net, st, st.flow[flow, N_BACK], T_CTRL)
        _swift.start(slot, s)
    elif control == NDP:
        _ndp.begin(net, st, s)
    elif control == HPCC:
        _hpcc.start(tuning, st.flow, slot, s)
    else:
        _lossy.begin(net, st, s, now)


@helper
def acked(net, st, s, p, got, marked, delay, now):  # type: ignore[no-untyped-def]
    """ACK ``p`` for ``got`` new wire bytes, mark echoed, with a queueing delay (-1: unknown)."""
    control = net.config[K_CONTROL]
    if control == DCTCP:
        _dctcp.acked(net.tuning, st.slot, s, got, marked)
    elif control == SWIFT:
        _swift.acked(net.tuning, st.flow, st.slot, s, got, delay, now)
    elif control == HPCC and net.config[K_REPORT] > 0:
        _hpcc.acked(net.tuning, st.link, st.flow, st.slot, st.packet, st.note, s, p)


@helper
def lost(net, st, s, now):  # type: ignore[no-untyped-def]
    """A packet is known to be lost."""
    control = net.config[K_CONTROL]
    if control == DCTCP:
        _dctcp.lost(net.tuning, st.slot, s)
    elif control == SWIFT:
        _swift.lost(net.tuning, st.flow, st.slot, s, False, now)
    elif control == HPCC:
        _hpcc.lost(net.tuning, st.flow, st.slot, s, now)


@helper
def timed_out(net, st, s, size, now):  # type: ignore[no-untyped-def]
    """A packet of ``size`` wire bytes was not answered in time."""
    control = net.config[K_CONTROL]
    if control == DCTCP:
        _dctcp.timed_out(net.tuning, st.slot, s)
    elif control == SWIFT:
        _swift.lost(net.tuning, st.flow, st.slot, s, True, now)
    elif control == HPCC:
        _hpcc.lost(net.tuning, st.flow, st.slot, s, now)
    elif control == NDP:  # no PULL will come for it
        st.slot[s, S_WINDOW] += size


@helper
def sent_one(net, st, s, size, now):  # type: ignore[no-untyped-def]
    """A packet of ``size`` wire bytes goes out."""
    control = net.config[K_CONTROL]
    if control == DCQCN:
        _dcqcn.sent(net.tuning, st.slot, s, size, now)
    elif control == LOSSY:
        _lossy.sent(st.slot, s)


@helper
def notified(net, st, s, now):  # type: ignore[no-untyped-def]
    """A CNP, a PULL or word that the message is closed reaches the sender; whether that ends the flow."""
    control = net.config[K_CONTROL]
    if control == DCQCN:
        _dcqcn.notified(net.tuning, st.heap, st.counter, st.slot, s, now)
    elif control == NDP:
        st.slot[s, S_WINDOW] += np.int64(net.tuning[U_MTU])
    return control == LOSSY


@helper
def ticked(net, st, ident, now):  # type: ignore[no-untyped-def]
    """A timer fires, of a slot or (NDP) a host; a slot to be kicked, or -1."""
    control = net.config[K_CONTROL]
    if control == NDP:
        _ndp.waited(net, st, ident, now)
    elif st.slot[ident, S_TICK] == now:
        if control == LOSSY:
            _lossy.ticked(net, st, ident, now)
        elif control == DCQCN:
            _dcqcn.ticked(net.tuning, st.heap, st.counter, st.slot, ident, now)
            return np.int64(ident)
    return NONE
