"""Flows begin, release those that wait for them, and end."""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._control import control_start
from euston.network.packet._events import heap_push, helper
from euston.network.packet._layout import (
    ENDED, EV_START, F_END, F_GOT, F_OPEN, F_SLOT, F_START, F_STATE, G_DEAD, G_ENDED, G_SLOT_FREE,
    G_SLOT_FREE_N, G_TOLD, INF, K_AFTER, K_MTU, K_RECEIVER, K_WEIGHTED, K_WINDOW, L_FIRST, L_LAST, M_HERE,
    M_STATE, NONE, N_DELAY, N_EARLIEST, N_GAP, N_PACKETS, N_TELL, RUNNING, R_PULL, S_AFTER, S_EV_AHEAD,
    S_FLOW, S_GAP, S_OWN, S_PACE_TIMER, S_QUEUED, S_RECEIVED, S_STUCK, S_TICK, S_TIMER, S_TRIED_AT, UNSENT,
)  # fmt: skip
from euston.network.packet._ndp import forget
from euston.network.packet._paths import begin
from euston.network.packet._shares import count

OWN = np.int64(S_OWN)
ONE = np.int64(1)


@helper
def start_flow(net, st, flow, now):  # type: ignore[no-untyped-def]
    """A flow takes a slot, which is to be kicked."""
    slot = st.slot
    s = st.counter[G_SLOT_FREE]
    st.counter[G_SLOT_FREE] = slot[s, S_AFTER]
    st.counter[G_SLOT_FREE_N] -= 1
    for column in range(OWN):
        slot[s, column] = 0
    slot[s, S_FLOW] = flow
    slot[s, S_GAP] = st.flow[flow, N_GAP]
    slot[s, S_AFTER] = -1
    slot[s, S_EV_AHEAD] = -1
    slot[s, S_TIMER] = INF
    slot[s, S_STUCK] = -1
    slot[s, S_TRIED_AT] = 0
    used = min(net.config[K_WINDOW] + 1, st.flow[flow, N_PACKETS])
    for k in range(used):
        st.mark[s, k, M_STATE] = UNSENT
        st.mark[s, k, M_HERE] = 0
    st.flow[flow, F_SLOT] = s
    st.flow[flow, F_STATE] = RUNNING
    st.flow[flow, F_START] = now
    begin(net, st, s)
    control_start(net, st, s, now)
    if net.config[K_WEIGHTED] > 0:
        count(net, st, flow, ONE)
    return s


@helper
def release(st, flow, now):  # type: ignore[no-untyped-def]
    """One thing less that a flow waits for: the last one starts it."""
    st.flow[flow, F_OPEN] -= 1
    if st.flow[flow, F_OPEN] == 0:
        time = max(st.flow[flow, N_EARLIEST], now + st.flow[flow, N_DELAY])
        heap_push(st.heap, st.counter, time, EV_START, flow)


@helper
def _unlist(st, s, at):  # type: ignore[no-untyped-def]
    """Slot ``s`` waits for a NIC no longer."""
    slot, before, here = st.slot, NONE, st.link[at, L_FIRST]
    while here != s:
        before, here = here, slot[here, S_AFTER]
    if before < 0:
        st.link[at, L_FIRST] = slot[s, S_AFTER]
    else:
        slot[before, S_AFTER] = slot[s, S_AFTER]
    if st.link[at, L_LAST] == s:
        st.link[at, L_LAST] = before


@helper
def _leave(st, s):  # type: ignore[no-untyped-def]
    """A flow gives its slot back."""
    slot = st.slot
    if slot[s, S_QUEUED] > 0:
        _unlist(st, s, slot[s, S_QUEUED] - 1)
    st.flow[slot[s, S_FLOW], F_SLOT] = -1
    slot[s, S_FLOW] = -1
    slot[s, S_TIMER] = INF
    slot[s, S_PACE_TIMER] = INF
    slot[s, S_TICK] = INF
    slot[s, S_AFTER] = st.counter[G_SLOT_FREE]
    st.counter[G_SLOT_FREE] = s
    st.counter[G_SLOT_FREE_N] += 1


@helper
def end_flow(net, st, s, state, now):  # type: ignore[no-untyped-def]
    """A flow has ended, or is given up; those that waited for its end may start."""
    flow = st.slot[s, S_FLOW]
    st.flow[flow, F_STATE] = state
    st.flow[flow, F_END] = now
    st.counter[G_ENDED] += 1
    if net.config[K_RECEIVER] & R_PULL:
        forget(st, s)
    if net.config[K_WEIGHTED] > 0:
        count(net, st, flow, -ONE)
    got = st.slot[s, S_RECEIVED] // net.config[K_MTU]
    _leave(st, s)
    if state == ENDED:
        after = net.config[K_AFTER]
        for k in range(net.lists[after + flow], net.lists[after + flow + 1]):
            release(st, net.lists[k], now)
    else:
        st.counter[G_DEAD] += 1
        st.flow[flow, F_GOT] = got
    if st.flow[flow, N_TELL]:
        st.counter[G_TOLD] = flow
