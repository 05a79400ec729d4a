"""NDP's receiver: a PULL for everything that arrives, paced, to the senders in turn (SIGCOMM 2017)."""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import heap_push, helper
from euston.network.packet._layout import (
    EV_TIMER, G_PULLS, HO_FIRST, HO_FREE, HO_GAP, HO_LAST, HO_TIMER, K_MTU, NONE, N_EXTRA, N_PACKETS, PULL,
    P_EV, P_FLAGS, S_FLOW, S_OWN, S_WINDOW, TRIMMED,
)  # fmt: skip
from euston.network.packet._tell import tell

# the slot's own columns: PULLs owed; PULLs that may still be sent; entropy value of the last packet; next
# slot that the same host owes PULLs
OWED, LEFT, EV, NEXT = np.arange(S_OWN, S_OWN + 4, dtype=np.uintp)


@helper
def begin(net, st, s):  # type: ignore[no-untyped-def]
    """A flow begins: its first window comes without PULLs."""
    st.slot[s, LEFT] = st.flow[st.slot[s, S_FLOW], N_PACKETS] - st.slot[s, S_WINDOW] // net.config[K_MTU]


@helper
def _join(slot, extra, host, s):  # type: ignore[no-untyped-def]
    """A slot becomes the last of those that a host owes PULLs."""
    slot[s, NEXT] = -1
    if extra[host + HO_FIRST] < 0:
        extra[host + HO_FIRST] = s
    else:
        slot[extra[host + HO_LAST], NEXT] = s
    extra[host + HO_LAST] = s


@helper
def serve(net, st, host, now):  # type: ignore[no-untyped-def]
    """A host pays the next PULL it owes, now or when its turn comes."""
    slot, extra = st.slot, st.extra
    s = extra[host + HO_FIRST]
    if s < 0 or extra[host + HO_TIMER] == 1:
        return
    if extra[host + HO_FREE] <= now:
        extra[host + HO_FIRST] = slot[s, NEXT]
        slot[s, OWED] -= 1
        slot[s, LEFT] -= 1
        if slot[s, OWED] > 0:
            _join(slot, extra, host, s)
        st.counter[G_PULLS] += 1
        tell(net, st, s, slot[s, EV], PULL, now)
        extra[host + HO_FREE] = now + extra[host + HO_GAP]
        if extra[host + HO_FIRST] < 0:
            return
    extra[host + HO_TIMER] = 1
    heap_push(st.heap, st.counter, extra[host + HO_FREE], EV_TIMER, host)


@helper
def waited(net, st, host, now):  # type: ignore[no-untyped-def]
    """A host's pacer fires."""
    st.extra[host + HO_TIMER] = 0
    serve(net, st, host, now)


@helper
def arrived(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """A packet, whole or cut, has reached its destination."""
    slot = st.slot
    slot[s, EV] = st.packet[p, P_EV]
    if st.packet[p, P_FLAGS] & TRIMMED:  # it has to come again, and to be pulled
        slot[s, LEFT] += 1
    if slot[s, OWED] < slot[s, LEFT]:
        host = st.flow[slot[s, S_FLOW], N_EXTRA]
        slot[s, OWED] += 1
        if slot[s, OWED] == 1:
            _join(slot, st.extra, host, s)
        serve(net, st, host, now)


@helper
def forget(st, s):  # type: ignore[no-untyped-def]
    """A flow is over: nothing is owed any more."""
    slot, extra = st.slot, st.extra
    if slot[s, OWED] <= 0:
        return
    host = st.flow[slot[s, S_FLOW], N_EXTRA]
    before, here = NONE, extra[host + HO_FIRST]
    while here != s:
        before, here = here, slot[here, NEXT]
    if before < 0:
        extra[host + HO_FIRST] = slot[s, NEXT]
    else:
        slot[before, NEXT] = slot[s, NEXT]
    if extra[host + HO_LAST] == s:
        extra[host + HO_LAST] = before
    slot[s, OWED] = 0
