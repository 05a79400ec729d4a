"""Receiving: what data and cut packets are answered with.

An ACK goes out for the first packet, when asked for, for a marked packet, every `K_ACK_BYTES`, and when a
hole has been filled; it carries the next expected number, 64 bits of what lies beyond and the bytes received
so far. A cut packet is answered by a NACK. Both travel in class 0 by the path that the data packet's entropy
value hashes to on the way back (`UecSink` of uet-htsim @40ccb05).
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import inlined
from euston.network.packet._layout import (
    ACK, AGAIN, G_ACKS, G_DUPLICATES, G_NACKS, K_ACK_BYTES, K_HEADER, K_REPORT, K_WINDOW, LAST_HOP, L_SERVING,
    MARKED, M_HERE, NACK, P_AUX, P_CLASS, P_CUM, P_EV, P_FLAGS, P_FLOW, P_KIND, P_POS, P_REF, P_SEQ, P_SIZE,
    P_SLOT, REPORT_COLUMNS, REQUEST, S_ASKED, S_BEYOND, S_EXPECTED, S_FLOW, S_HIGHEST, S_RECEIVED,
    S_UNREPORTED, TRIMMED, W_BITS, W_BYTES,
)  # fmt: skip
from euston.network.packet._paths import BACK, path
from euston.network.packet._switch import push, take_packet, transmit

ONE = np.int64(1)


@inlined
def answer(net, st, p, kind, flags, now):  # type: ignore[no-untyped-def]
    """Send a control packet back to the source of data packet ``p``; its number."""
    packet = st.packet
    a = take_packet(packet, st.counter)
    flow, ev = packet[p, P_FLOW], packet[p, P_EV]
    pos = path(net, st, np.int64(flow), np.int64(ev), BACK)
    packet[a, P_FLOW] = flow
    packet[a, P_POS] = pos
    packet[a, P_SIZE] = net.config[K_HEADER]
    packet[a, P_KIND] = kind
    packet[a, P_CLASS] = 0
    packet[a, P_FLAGS] = flags
    packet[a, P_EV] = ev
    packet[a, P_SEQ] = packet[p, P_SEQ]
    packet[a, P_SLOT] = packet[p, P_SLOT]
    packet[a, P_AUX] = packet[p, P_AUX]
    if net.config[K_REPORT] > 0:
        for k in range(REPORT_COLUMNS * np.int64(packet[p, P_AUX])):
            st.note[a, k] = st.note[p, k]
    at = np.int64(net.hop[pos])
    if st.link[at, L_SERVING] < 0:
        transmit(net, st, at, a, now)
    else:
        push(packet, st.fifo, at, 0, a)
    return a


@inlined
def _accept(net, st, s, seq, size, flags):  # type: ignore[no-untyped-def]
    """Take in a new packet; whether it is to be acknowledged."""
    slot, mask = st.slot, net.config[K_WINDOW]
    due = slot[s, S_RECEIVED] == 0 or flags & (REQUEST | MARKED) != 0
    slot[s, S_RECEIVED] += size
    slot[s, S_UNREPORTED] += size
    if flags & REQUEST:
        slot[s, S_ASKED] = 1
    expected = slot[s, S_EXPECTED]
    if seq == expected:
        expected += 1
        while st.mark[s, expected & mask, M_HERE] == 1:
            st.mark[s, expected & mask, M_HERE] = 0
            slot[s, S_BEYOND] -= 1
            expected += 1
        slot[s, S_EXPECTED] = expected
        if slot[s, S_BEYOND] == 0 and slot[s, S_ASKED] == 1:
            slot[s, S_ASKED] = 0
            due = True
    else:
        st.mark[s, seq & mask, M_HERE] = 1
        slot[s, S_BEYOND] += 1
    return due or slot[s, S_UNREPORTED] >= net.config[K_ACK_BYTES]


@inlined
def _bits(mark, slot, s, ref, mask):  # type: ignore[no-untyped-def]
    """Which of the 64 packets from ``ref`` on are here."""
    bits = np.int64(0)
    for i in range(min(np.int64(64), slot[s, S_HIGHEST] - ref + 1)):
        if ref + i > slot[s, S_EXPECTED] and mark[s, (ref + i) & mask, M_HERE]:
            bits |= ONE << np.int64(i)
    return bits


@inlined
def on_data(net, st, p, now):  # type: ignore[no-untyped-def]
    """A data packet, whole or cut, has reached its destination: answer it."""
    packet, slot, mask = st.packet, st.slot, net.config[K_WINDOW]
    flags, seq = np.int64(packet[p, P_FLAGS]), np.int64(packet[p, P_SEQ])
    s = np.int64(packet[p, P_SLOT])
    if slot[s, S_FLOW] != packet[p, P_FLOW]:  # a late copy for a flow that has ended
        st.counter[G_DUPLICATES] += 1
        return
    known = seq < slot[s, S_EXPECTED] or st.mark[s, seq & mask, M_HERE] == 1
    if flags & TRIMMED and not known:
        st.counter[G_NACKS] += 1
        answer(net, st, p, NACK, flags & (LAST_HOP | MARKED), now)
        return
    first = False  # whether the bitmap begins at this packet
    if flags & TRIMMED:
        flags &= ~MARKED
    elif known:
        slot[s, S_HIGHEST] = max(seq, slot[s, S_HIGHEST])
        st.counter[G_DUPLICATES] += 1
        first = flags & MARKED != 0
    else:
        slot[s, S_HIGHEST] = max(seq, slot[s, S_HIGHEST])
        if not _accept(net, st, s, seq, np.int64(packet[p, P_SIZE]), flags):
            return
        first = flags & (MARKED | REQUEST) != 0
    if not flags & TRIMMED:
        slot[s, S_UNREPORTED] = 0
    ref = seq if first else max(seq - 63, slot[s, S_EXPECTED] + 1)
    bits = _bits(st.mark, slot, s, ref, mask)
    st.counter[G_ACKS] += 1
    a = answer(net, st, p, ACK, flags & (AGAIN | MARKED), now)
    packet[a, P_CUM] = slot[s, S_EXPECTED]
    packet[a, P_REF] = ref
    st.wide[a, W_BITS] = bits
    st.wide[a, W_BYTES] = slot[s, S_RECEIVED]
