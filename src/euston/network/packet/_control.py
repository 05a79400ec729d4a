"""Where a congestion control plugs in: one function per event, each a choice by number.

A congestion control reads and writes `S_WINDOW` (and `S_PACE` to send on a timer) of a slot; columns from
`S_OWN` on are its own, `Net.tuning` holds its parameters. To add one: a number in
`transport.base.Control`, a file like `_nscc.py`, a branch in each function here, and a dataclass in
`transport/` that says which number and parameters it stands for.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet import _nscc, _others
from euston.network.packet._events import inlined
from euston.network.packet._layout import (
    K_CONTROL, NONE, N_SPEED, S_BASE_RTT, S_FLOW, S_MAX_WINDOW, S_TOLD_AT, S_WANTED, S_WINDOW,
)  # fmt: skip
from euston.network.transport.base import Control

FIXED, NSCC = np.array([Control.FIXED, Control.NSCC])

# Net.tuning of FIXED
U_RTT, U_WINDOW = np.arange(2, dtype=np.uintp)


@inlined
def _ps_per_byte(st, s):  # type: ignore[no-untyped-def]
    """Of the flow alone on the network."""
    return np.float64(st.flow[st.slot[s, S_FLOW], N_SPEED]) * 2.0**-20


@inlined
def control_start(net, st, s, now):  # type: ignore[no-untyped-def]
    """A flow begins in slot ``s``: set `S_WINDOW`, `S_MAX_WINDOW`, `S_BASE_RTT` and the own columns."""
    if net.config[K_CONTROL] == NSCC:
        _nscc.start(net.tuning, st.slot, s, _ps_per_byte(st, s))
    elif net.config[K_CONTROL] > NSCC:
        _others.start(net, st, s, _ps_per_byte(st, s), now)
    else:
        st.slot[s, S_TOLD_AT] = 0
        st.slot[s, S_WANTED] = 0
        st.slot[s, S_BASE_RTT] = np.int64(net.tuning[U_RTT])
        st.slot[s, S_WINDOW] = np.int64(net.tuning[U_WINDOW])
        st.slot[s, S_MAX_WINDOW] = st.slot[s, S_WINDOW]


@inlined
def control_received(net, st, s, got):  # type: ignore[no-untyped-def]
    """An answer says that the receiver has ``got`` more wire bytes (before `control_acked`)."""
    if net.config[K_CONTROL] == NSCC:
        _nscc.received(st.slot, s, got)


@inlined
def control_rtt(net, st, s, rtt, marked, whole):  # type: ignore[no-untyped-def]
    """A round trip was measured, of a whole packet or of a cut one; the delay it stands for in ps."""
    slot = st.slot
    if net.config[K_CONTROL] == NSCC:
        _nscc.measured(net.tuning, slot, s, rtt, _ps_per_byte(st, s))
        delay = rtt - slot[s, S_BASE_RTT]
        if whole:
            _nscc.averaged(net.tuning, slot, s, delay, marked)
        return delay
    return max(np.int64(0), rtt - slot[s, S_BASE_RTT])


@inlined
def control_guess(net, st, s):  # type: ignore[no-untyped-def]
    """The delay in ps to assume for an ACK that measures none."""
    if net.config[K_CONTROL] == NSCC:
        return st.slot[s, _nscc.MEAN_DELAY]
    return NONE


@inlined
def control_acked(net, st, s, p, got, marked, delay, now):  # type: ignore[no-untyped-def]
    """ACK ``p`` for ``got`` new wire bytes arrived, ECN mark echoed, with a queueing delay (-1: unknown)."""
    if net.config[K_CONTROL] == NSCC:
        _nscc.acked(net.tuning, st.slot, s, got, marked, delay, now)
    elif net.config[K_CONTROL] > NSCC:
        _others.acked(net, st, s, p, got, marked, delay, now)


@inlined
def control_nacked(net, st, s, size, now):  # type: ignore[no-untyped-def]
    """A packet of ``size`` wire bytes is known to be lost: a NACK for it, or ACKs for later ones."""
    if net.config[K_CONTROL] == NSCC:
        _nscc.nacked(net.tuning, st.slot, s, size, now)
    elif net.config[K_CONTROL] > NSCC:
        _others.lost(net, st, s, now)


@inlined
def control_timed_out(net, st, s, size, now):  # type: ignore[no-untyped-def]
    """A packet of ``size`` wire bytes was not answered in time."""
    if net.config[K_CONTROL] == NSCC:
        _nscc.timed_out(net.tuning, st.slot, s, size)
    elif net.config[K_CONTROL] > NSCC:
        _others.timed_out(net, st, s, size, now)
