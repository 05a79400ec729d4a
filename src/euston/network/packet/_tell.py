"""A control packet from a flow's receiver to its sender that answers no packet in particular."""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import helper
from euston.network.packet._layout import (
    K_HEADER, L_SERVING, P_CLASS, P_EV, P_FLAGS, P_FLOW, P_KIND, P_POS, P_SEQ, P_SIZE, P_SLOT, S_FLOW,
)  # fmt: skip
from euston.network.packet._paths import BACK, path
from euston.network.packet._switch import push, take_packet, transmit

ZERO = np.int64(0)


@helper
def tell(net, st, s, ev, kind, now):  # type: ignore[no-untyped-def]
    """Send it by the way back of an entropy value."""
    packet, flow = st.packet, st.slot[s, S_FLOW]
    a = take_packet(packet, st.counter)
    pos = path(net, st, flow, ev, BACK)
    packet[a, P_FLOW] = flow
    packet[a, P_POS] = pos
    packet[a, P_SIZE] = net.config[K_HEADER]
    packet[a, P_KIND] = kind
    packet[a, P_CLASS] = 0
    packet[a, P_FLAGS] = 0
    packet[a, P_EV] = ev
    packet[a, P_SEQ] = 0
    packet[a, P_SLOT] = s
    at = np.int64(net.hop[pos])
    if st.link[at, L_SERVING] < 0:
        transmit(net, st, at, a, now)
    else:
        push(packet, st.fifo, at, ZERO, a)
