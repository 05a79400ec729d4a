"""Receivers that do more than acknowledge, or something else: CNPs, PULLs, go-back-N, bounded loss."""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet import _lossy, _ndp
from euston.network.packet._events import helper
from euston.network.packet._layout import (
    ACK, AGAIN, G_ACKS, G_CNPS, G_DUPLICATES, G_NACKS, K_ACK_BYTES, K_RECEIVER, LAST_HOP, MARKED, NACK,
    NOTIFY, P_CUM, P_FLAGS, P_FLOW, P_REF, P_SEQ, P_SIZE, P_SLOT, REQUEST, R_IN_ORDER, R_LOSSY, R_NOTIFY,
    R_PULL, S_EXPECTED, S_FLOW, S_RECEIVED, S_TOLD_AT, S_UNREPORTED, S_WANTED, S_WANTED_AT, TRIMMED, W_BITS,
    W_BYTES,
)  # fmt: skip
from euston.network.packet._receiver import answer

# Net.tuning of receivers: least time between two CNPs of a flow, and between two NAKs for one packet, ps
U_NOTIFY, U_NAK = np.arange(30, 32, dtype=np.uintp)
ZERO = np.int64(0)


@helper
def _in_order(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """Go-back-N: the packet that is due is taken, one beyond it is thrown away and the due one asked for."""
    slot, packet = st.slot, st.packet
    flags, seq = np.int64(packet[p, P_FLAGS]), np.int64(packet[p, P_SEQ])
    due = True
    if seq > slot[s, S_EXPECTED] or (flags & TRIMMED and seq == slot[s, S_EXPECTED]):
        wanted = slot[s, S_EXPECTED] + 1
        if slot[s, S_WANTED] == wanted and now - slot[s, S_WANTED_AT] < np.int64(net.tuning[U_NAK]):
            return
        slot[s, S_WANTED] = wanted
        slot[s, S_WANTED_AT] = now
        st.counter[G_NACKS] += 1
        a = answer(net, st, p, NACK, flags & (LAST_HOP | MARKED), now)
    else:
        if seq < slot[s, S_EXPECTED]:
            st.counter[G_DUPLICATES] += 1
        else:
            size = np.int64(packet[p, P_SIZE])
            slot[s, S_UNREPORTED] += size
            due = slot[s, S_RECEIVED] == 0 or flags & REQUEST != 0
            slot[s, S_RECEIVED] += size
            slot[s, S_EXPECTED] += 1
        if not due and slot[s, S_UNREPORTED] < net.config[K_ACK_BYTES]:
            return
        slot[s, S_UNREPORTED] = 0
        st.counter[G_ACKS] += 1
        a = answer(net, st, p, ACK, flags & (AGAIN | MARKED), now)
    packet[a, P_CUM] = slot[s, S_EXPECTED]
    packet[a, P_REF] = slot[s, S_EXPECTED]
    st.wide[a, W_BITS] = ZERO
    st.wide[a, W_BYTES] = slot[s, S_RECEIVED]


@helper
def special(net, st, p, now):  # type: ignore[no-untyped-def]
    """A data packet, whole or cut, has reached its destination; whether that is all there is to do."""
    what, slot, s = net.config[K_RECEIVER], st.slot, np.int64(st.packet[p, P_SLOT])
    if slot[s, S_FLOW] != st.packet[p, P_FLOW]:  # of a flow that has ended: like any
        return False
    if what & R_NOTIFY and st.packet[p, P_FLAGS] & MARKED and now >= slot[s, S_TOLD_AT]:
        slot[s, S_TOLD_AT] = now + np.int64(net.tuning[U_NOTIFY])
        st.counter[G_CNPS] += 1
        answer(net, st, p, NOTIFY, ZERO, now)
    if what & R_PULL:
        _ndp.arrived(net, st, s, p, now)
    if what & R_IN_ORDER:
        _in_order(net, st, s, p, now)
        return True
    if what & R_LOSSY:
        _lossy.arrived(net, st, s, p, now)
        return True
    return False
