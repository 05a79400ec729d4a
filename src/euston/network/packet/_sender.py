"""Sending: what a flow may send next, and whose turn it is at the NIC.

A NIC sends one packet at a time; flows that may send wait in a list and take turns, so that no queue of data
builds in a host. Control packets wait in class 0 of the uplink and get ten turns for one of data when both
wait (`UecNIC` of uet-htsim @40ccb05). Lost packets are sent again before new ones.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import heap_push, helper, inlined
from euston.network.packet._layout import (
    AGAIN, C_FIRST, C_LAST, DATA, EV_PACE, EV_TIMEOUT, FLYING, F_AGAIN, G_AGAIN, G_DATA, INF, K_CLASSES,
    K_CLASS_ROW, K_MTU, K_NIC_RATIO, K_RTO, K_SENDER, K_WINDOW, LOST, L_FIRST, L_LAST, L_OWN, L_PAUSED,
    L_RATIO, L_SERVING, M_AGAIN, M_EV, M_STATE, NONE, N_CLASS, N_FIRST, N_LAST, N_PACKETS, P_AUX, P_CLASS,
    P_EV, P_FLAGS, P_FLOW, P_KIND, P_POS, P_SEQ, P_SIZE, P_SLOT, Q_DEFICIT, Q_HEAD, Q_QUANTUM, Q_TURN,
    REQUEST, S_AFTER, S_BASE, S_EV_AHEAD, S_FLIGHT, S_FLOW, S_GAP, S_LAST_SENT, S_LOST, S_LOST_FROM, S_NEXT,
    S_PACE, S_PACE_TIMER, S_QUEUED, S_TIMER, S_WINDOW,
)  # fmt: skip
from euston.network.packet._others import sent_one
from euston.network.packet._paths import THERE, choose, path
from euston.network.packet._switch import next_data, pop, take_packet, transmit

ZERO = np.int64(0)
DRAWS = 4  # entropy values tried for an idle uplink


@inlined
def size_of(net, st, flow, seq):  # type: ignore[no-untyped-def]
    """Wire bytes of a packet of a flow."""
    if seq == st.flow[flow, N_PACKETS] - 1:
        return st.flow[flow, N_LAST]
    return net.config[K_MTU]


@inlined
def next_seq(net, st, s):  # type: ignore[no-untyped-def]
    """Sequence number to send next: the first lost one, else the next new one; -1 for none."""
    slot = st.slot
    if slot[s, S_LOST] > 0:
        seq, mask = slot[s, S_LOST_FROM], net.config[K_WINDOW]
        while st.mark[s, seq & mask, M_STATE] != LOST:
            seq += 1
        slot[s, S_LOST_FROM] = seq
        return seq
    seq = slot[s, S_NEXT]
    if seq == st.flow[slot[s, S_FLOW], N_PACKETS] or seq - slot[s, S_BASE] > net.config[K_WINDOW]:
        return NONE
    return seq


@inlined
def may_send(net, st, s, now):  # type: ignore[no-untyped-def]
    """Whether slot ``s`` has something to send that window and pace allow; sets the pacing timer."""
    slot = st.slot
    seq = next_seq(net, st, s)
    if seq < 0 or slot[s, S_FLIGHT] + size_of(net, st, slot[s, S_FLOW], seq) > slot[s, S_WINDOW]:
        return False
    if slot[s, S_PACE] > now:
        if slot[s, S_PACE_TIMER] != slot[s, S_PACE]:
            slot[s, S_PACE_TIMER] = slot[s, S_PACE]
            heap_push(st.heap, st.counter, slot[s, S_PACE], EV_PACE, s)
        return False
    return True


@helper
def _ahead(net, st, s, now):  # type: ignore[no-untyped-def]
    """Where uplinks differ: choose the path of the next packet, if possible one with an idle uplink."""
    slot = st.slot
    ev, at = slot[s, S_EV_AHEAD], ZERO
    if ev >= 0:
        return np.int64(net.hop[path(net, st, slot[s, S_FLOW], ev, THERE)])
    for _ in range(DRAWS):
        ev = choose(net, st, s, now)
        at = np.int64(net.hop[path(net, st, slot[s, S_FLOW], ev, THERE)])
        if st.link[at, L_SERVING] < 0:
            break
    slot[s, S_EV_AHEAD] = ev
    return at


@inlined
def uplink(net, st, s, now):  # type: ignore[no-untyped-def]
    """The link that the next packet leaves by; where uplinks differ its path is chosen now."""
    slot = st.slot
    flow = slot[s, S_FLOW]
    if st.flow[flow, N_FIRST] >= 0:
        return st.flow[flow, N_FIRST]
    return _ahead(net, st, s, now)


@inlined
def set_timer(net, st, s, sent):  # type: ignore[no-untyped-def]
    """Wait for the answer to a packet that was sent at ``sent``."""
    st.slot[s, S_TIMER] = sent + net.config[K_RTO]
    heap_push(st.heap, st.counter, st.slot[s, S_TIMER], EV_TIMEOUT, s)


@helper
def send(net, st, s, at, now):  # type: ignore[no-untyped-def]
    """Send the next packet of slot ``s`` on its idle uplink."""
    slot, packet = st.slot, st.packet
    flow, seq, flags = slot[s, S_FLOW], next_seq(net, st, s), ZERO
    k = seq & net.config[K_WINDOW]
    size = size_of(net, st, flow, seq)
    ev = slot[s, S_EV_AHEAD]
    if ev < 0:
        ev = choose(net, st, s, now)
    slot[s, S_EV_AHEAD] = -1
    slot[s, S_FLIGHT] += size
    if slot[s, S_LOST] > 0:
        slot[s, S_LOST] -= 1
        slot[s, S_LOST_FROM] = seq + 1
        st.mark[s, k, M_AGAIN] = st.mark[s, k, M_AGAIN] + 1
        st.flow[flow, F_AGAIN] += 1
        st.counter[G_AGAIN] += 1
        flags = AGAIN | REQUEST
    else:
        slot[s, S_NEXT] = seq + 1
        st.mark[s, k, M_AGAIN] = 0
        st.counter[G_DATA] += 1
        if seq + 1 == st.flow[flow, N_PACKETS] or slot[s, S_FLIGHT] + size >= slot[s, S_WINDOW]:
            flags = REQUEST
    st.mark[s, k, M_STATE] = FLYING
    st.window[s, k] = now
    st.mark[s, k, M_EV] = ev
    slot[s, S_LAST_SENT] = now
    p = take_packet(packet, st.counter)
    packet[p, P_FLOW] = flow
    packet[p, P_POS] = path(net, st, flow, ev, THERE)
    packet[p, P_SIZE] = size
    packet[p, P_KIND] = DATA
    packet[p, P_CLASS] = st.flow[flow, N_CLASS]
    packet[p, P_FLAGS] = flags
    packet[p, P_EV] = ev
    packet[p, P_SEQ] = seq
    packet[p, P_SLOT] = s
    packet[p, P_AUX] = 0
    if net.config[K_SENDER] > 0:
        sent_one(net, st, s, size, now)
    if slot[s, S_GAP] > 0:
        pause = (size * slot[s, S_GAP]) >> 20
        late = now - slot[s, S_PACE] >= pause  # less is the NIC's other packets' fault, and made up for
        slot[s, S_PACE] = pause + (now if late else slot[s, S_PACE])
    if slot[s, S_TIMER] == INF:
        set_timer(net, st, s, now)
    transmit(net, st, at, p, now)


@inlined
def _wait(st, s, at):  # type: ignore[no-untyped-def]
    """Slot ``s`` joins those that wait for a NIC."""
    st.slot[s, S_QUEUED] = at + 1
    st.slot[s, S_AFTER] = -1
    if st.link[at, L_FIRST] < 0:
        st.link[at, L_FIRST] = s
    else:
        st.slot[st.link[at, L_LAST], S_AFTER] = s
    st.link[at, L_LAST] = s


@helper
def kick(net, st, s, now):  # type: ignore[no-untyped-def]
    """Slot ``s`` may have become able to send: send at once on an idle NIC, and wait for the next turn."""
    while st.slot[s, S_QUEUED] == 0 and may_send(net, st, s, now):
        at = uplink(net, st, s, now)
        held = (st.link[at, L_PAUSED] >> st.flow[st.slot[s, S_FLOW], N_CLASS]) & 1
        if st.link[at, L_SERVING] < 0 and not held:
            send(net, st, s, at, now)
        else:
            _wait(st, s, at)


@helper
def _first_of(net, st, at, c):  # type: ignore[no-untyped-def]
    """The first waiting slot of a class that no pause holds back, -1 for none."""
    if (st.link[at, L_PAUSED] >> c) & 1:
        return NONE
    s = st.link[at, L_FIRST]
    while s >= 0 and st.flow[st.slot[s, S_FLOW], N_CLASS] != c:
        s = st.slot[s, S_AFTER]
    return s


@helper
def _whose_turn(net, st, at):  # type: ignore[no-untyped-def]
    """The waiting slot whose class goes next, by strict level and deficit round robin; -1 for none."""
    row, first, s = net.config[K_CLASS_ROW], np.int64(2**31), st.link[at, L_FIRST]
    while s >= 0:
        c = st.flow[st.slot[s, S_FLOW], N_CLASS]
        if not (st.link[at, L_PAUSED] >> c) & 1:
            first = min(first, net.rate[row + c, C_FIRST])
        s = st.slot[s, S_AFTER]
    if first == 2**31:
        return NONE
    last = net.rate[row + first, C_LAST]
    turn = max(first, np.int64(st.fifo[at, first, Q_TURN]))
    while True:
        s = _first_of(net, st, at, turn)
        if s < 0:
            st.fifo[at, turn, Q_DEFICIT] = 0
        else:
            size = size_of(net, st, st.slot[s, S_FLOW], next_seq(net, st, s))
            if size <= st.fifo[at, turn, Q_DEFICIT]:
                st.fifo[at, turn, Q_DEFICIT] -= size
                st.fifo[at, first, Q_TURN] = turn
                return s
        turn = turn + 1 if turn < last else first
        if _first_of(net, st, at, turn) >= 0:
            st.fifo[at, turn, Q_DEFICIT] += st.fifo[at, turn, Q_QUANTUM]


@helper
def _send_by_class(net, st, at, now):  # type: ignore[no-untyped-def]
    """As `_send_data` where there are several classes: the NIC shares its link as switches do."""
    link, slot = st.link, st.slot
    s, before = link[at, L_FIRST], NONE
    while s >= 0:  # forget those that cannot send any more
        after = slot[s, S_AFTER]
        if may_send(net, st, s, now):
            before = s
        else:
            slot[s, S_QUEUED] = 0
            if before < 0:
                link[at, L_FIRST] = after
            else:
                slot[before, S_AFTER] = after
        s = after
    link[at, L_LAST] = before
    s = _whose_turn(net, st, at)
    if s < 0:
        return NONE
    here, before = link[at, L_FIRST], NONE
    while here != s:
        before, here = here, slot[here, S_AFTER]
    if before < 0:
        link[at, L_FIRST] = slot[s, S_AFTER]
    else:
        slot[before, S_AFTER] = slot[s, S_AFTER]
    if link[at, L_LAST] == s:
        link[at, L_LAST] = before
    slot[s, S_QUEUED] = 0
    send(net, st, s, at, now)
    if st.flow[slot[s, S_FLOW], N_FIRST] >= 0 and may_send(net, st, s, now):
        _wait(st, s, at)
    return np.int64(s)


@inlined
def _send_data(net, st, at, now):  # type: ignore[no-untyped-def]
    """The first waiting slot that still may send does; that slot, or -1."""
    if net.config[K_CLASSES] > 2:
        return _send_by_class(net, st, at, now)
    link, slot = st.link, st.slot
    kept = NONE  # first of those that a pause holds back
    s = link[at, L_FIRST]
    while s >= 0 and s != kept:
        link[at, L_FIRST] = slot[s, S_AFTER]
        slot[s, S_QUEUED] = 0
        if may_send(net, st, s, now):
            if not (link[at, L_PAUSED] >> st.flow[slot[s, S_FLOW], N_CLASS]) & 1:
                send(net, st, s, at, now)
                if st.flow[slot[s, S_FLOW], N_FIRST] >= 0 and may_send(net, st, s, now):
                    _wait(st, s, at)
                return np.int64(s)
            _wait(st, s, at)
            if kept < 0:
                kept = s
        s = link[at, L_FIRST]
    return NONE


@inlined
def nic_next(net, st, at, now):  # type: ignore[no-untyped-def]
    """A NIC is idle: control, or data of the flow whose turn it is; a slot to be kicked, or -1.

    Data that an endpoint forwards for others takes turns with its own.
    """
    link = st.link
    control, own, passing = st.fifo[at, 0, Q_HEAD] >= 0, link[at, L_FIRST] >= 0, next_data(net, st, at)
    turn = control
    if control and (own or passing >= 0):
        link[at, L_RATIO] += 1
        if link[at, L_RATIO] > net.config[K_NIC_RATIO]:
            link[at, L_RATIO] = 0
            turn = False
    if not turn:
        if own and (passing < 0 or link[at, L_OWN] == 1):
            link[at, L_OWN] = 0
            s = _send_data(net, st, at, now)
            if s >= 0:
                return s if st.flow[st.slot[s, S_FLOW], N_FIRST] < 0 else NONE
        if passing >= 0:
            link[at, L_OWN] = 1
            transmit(net, st, at, pop(st.packet, st.fifo, at, passing), now)
            return NONE
    if control:
        transmit(net, st, at, pop(st.packet, st.fifo, at, ZERO), now)
    return NONE
