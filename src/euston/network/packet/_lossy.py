"""Bounded loss: the receiver notes what is here and closes the message; the sender forgets what it sent."""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import heap_push, helper
from euston.network.packet._layout import (
    EV_TIMER, F_CLOSED, F_CLOSED_AT, F_GOT, F_START, G_DUPLICATES, INF, K_MTU, NOTIFY, N_EXTRA, N_LAST,
    N_PACKETS, P_EV, P_FLAGS, P_SEQ, P_SIZE, S_BASE, S_FLIGHT, S_FLOW, S_GAP, S_MAX_WINDOW, S_NEXT, S_OWN,
    S_RECEIVED, S_TICK, S_WINDOW, TRIMMED,
)  # fmt: skip
from euston.network.packet._tell import tell

# the slot's own columns: packets here; when the last one came, ps; the entropy value that it had
HERE, LAST, EV = np.arange(S_OWN, S_OWN + 3, dtype=np.uintp)
# Net.tuning, after what all have
U_RTT = np.uintp(0)
U_FRACTION, U_DEADLINE, U_SILENCE, U_GAP = np.arange(4, 8, dtype=np.uintp)
# F_CLOSED, why: all is here, enough is, the deadline has passed, nothing comes any more
ALL, ENOUGH, LATE, SILENT = np.arange(1, 5)
ONE, SIX, LOW = np.array([1, 6, 63])
PAUSES = np.int64(4)  # of the sender that a silence lasts at least


@helper
def _wait(st, s, time):  # type: ignore[no-untyped-def]
    """Look again at ``time``."""
    st.slot[s, S_TICK] = time
    heap_push(st.heap, st.counter, time, EV_TIMER, s)


@helper
def _due(net, st, s):  # type: ignore[no-untyped-def]
    """When the message is to be closed if no packet comes."""
    pause = np.int64(net.tuning[U_SILENCE])
    pause = max(pause, PAUSES * ((net.config[K_MTU] * st.slot[s, S_GAP]) >> 20))
    end = st.flow[st.slot[s, S_FLOW], F_START] + np.int64(net.tuning[U_DEADLINE])
    return min(end, st.slot[s, LAST] + pause)


@helper
def begin(net, st, s, now):  # type: ignore[no-untyped-def]
    """A flow begins."""
    st.slot[s, S_WINDOW] = INF
    st.slot[s, S_MAX_WINDOW] = INF
    st.slot[s, S_GAP] = max(st.slot[s, S_GAP], np.int64(net.tuning[U_GAP]))
    st.slot[s, LAST] = now
    _wait(st, s, _due(net, st, s))


@helper
def _close(net, st, s, why, now):  # type: ignore[no-untyped-def]
    """The receiver takes the message as it is, and tells the sender."""
    flow = st.slot[s, S_FLOW]
    st.flow[flow, F_CLOSED] = why
    st.flow[flow, F_CLOSED_AT] = now
    st.flow[flow, F_GOT] = st.slot[s, HERE]
    _repeat(net, st, s, now)


@helper
def _repeat(net, st, s, now):  # type: ignore[no-untyped-def]
    """Tell the sender, and again later if it should not hear."""
    tell(net, st, s, st.slot[s, EV], NOTIFY, now)
    _wait(st, s, now + 2 * np.int64(net.tuning[U_RTT]))


@helper
def arrived(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """A packet has reached its destination."""
    slot, flow, seq = st.slot, st.slot[s, S_FLOW], np.int64(st.packet[p, P_SEQ])
    slot[s, EV] = st.packet[p, P_EV]
    slot[s, LAST] = now
    if st.flow[flow, F_CLOSED] > 0:
        st.counter[G_DUPLICATES] += 1
        return
    if st.packet[p, P_FLAGS] & TRIMMED:
        return
    st.extra[st.flow[flow, N_EXTRA] + (seq >> SIX)] |= ONE << (seq & LOW)
    slot[s, HERE] += 1
    slot[s, S_RECEIVED] += st.packet[p, P_SIZE]
    packets = st.flow[flow, N_PACKETS]
    size = np.float64((packets - 1) * net.config[K_MTU] + st.flow[flow, N_LAST])
    if slot[s, HERE] == packets:
        _close(net, st, s, ALL, now)
    elif slot[s, S_RECEIVED] >= net.tuning[U_FRACTION] * size:
        _close(net, st, s, ENOUGH, now)


@helper
def ticked(net, st, s, now):  # type: ignore[no-untyped-def]
    """Time to look: close it, tell the sender again, or look again later."""
    flow, due = st.slot[s, S_FLOW], _due(net, st, s)
    if st.flow[flow, F_CLOSED] > 0:
        _repeat(net, st, s, now)
    elif due > now:
        _wait(st, s, due)
    elif now - st.flow[flow, F_START] >= np.int64(net.tuning[U_DEADLINE]):
        _close(net, st, s, LATE, now)
    else:
        _close(net, st, s, SILENT, now)


@helper
def sent(slot, s):  # type: ignore[no-untyped-def]
    """Nothing is waited for."""
    slot[s, S_BASE] = slot[s, S_NEXT]
    slot[s, S_FLIGHT] = 0
