"""Sending: what a flow may send next, whose turn it is at the NIC, and what answers and timers change.

A NIC sends one packet at a time; flows that may send wait in a list and take turns, so that no queue of data
builds in a host. Control packets wait in class 0 of the uplink and get ten turns for one of data when both
wait (`UecNIC` of uet-htsim @40ccb05). Acknowledgement is selective: a cut packet is asked for again by a
NACK, one that vanished is found by the timer, and lost ones are sent again before new ones.
"""

from __future__ import annotations

import numpy as np

from euston.network.packet._control import (
    control_acked, control_guess, control_nacked, control_received, control_rtt, control_start,
    control_timed_out,
)  # fmt: skip
from euston.network.packet._events import heap_push, helper, inlined
from euston.network.packet._layout import (
    AGAIN, DATA, DEAD, DONE, ENDED, EV_PACE, EV_START, EV_TIMEOUT, F_AGAIN, F_END, F_OPEN, F_SLOT, F_STATE,
    F_START, F_TIMEOUTS, FLYING, G_AGAIN, G_DATA, G_DEAD, G_ENDED, G_SLOT_FREE, G_SLOT_FREE_N,
    G_TIMEOUTS, G_TOLD, INF, K_AFTER, K_MTU, K_NIC_RATIO, K_RTO, K_TRIES, K_WINDOW, L_FIRST, L_LAST, L_PAUSED,
    L_SERVING, L_TURN, LAST_HOP, LOST, M_AGAIN, M_EV, M_HERE, M_STATE, MARKED, N_CLASS, N_DELAY, N_EARLIEST,
    N_FIRST, N_GAP, N_LAST, N_PACKETS, N_TELL, NONE, P_CLASS, P_CUM, P_EV, P_FLAGS, P_FLOW, P_KIND, P_POS, P_REF,
    P_SEQ, P_SIZE, P_SLOT, Q_HEAD, REQUEST, RUNNING, S_AFTER, S_BASE, S_EV_AHEAD, S_FLIGHT, S_FLOW, S_GAP, S_GOT,
    S_LAST_SENT, S_LOST, S_LOST_FROM, S_NEXT, S_OWN, S_PACE, S_PACE_TIMER, S_QUEUED, S_TIMER, S_TRIES,
    S_WINDOW, UNSENT, W_BITS, W_BYTES,
)  # fmt: skip
from euston.network.packet._paths import CUT, ECN, GOOD, SILENT, THERE, begin, choose, learn, path
from euston.network.packet._switch import pop, take_packet, transmit

ZERO, ONE = np.arange(2)
OWN = np.int64(S_OWN)


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
            heap_push(st.heap, st.count, slot[s, S_PACE], EV_PACE, s)
        return False
    return True


@inlined
def uplink(net, st, s, now):  # type: ignore[no-untyped-def]
    """The link that the next packet leaves by; where uplinks differ its path is chosen now."""
    slot = st.slot
    flow = slot[s, S_FLOW]
    if st.flow[flow, N_FIRST] >= 0:
        return st.flow[flow, N_FIRST]
    if slot[s, S_EV_AHEAD] < 0:
        slot[s, S_EV_AHEAD] = choose(net, st, s, now)
    return np.int64(net.hop[path(net, st, flow, slot[s, S_EV_AHEAD], THERE)])


@inlined
def set_timer(net, st, s, sent):  # type: ignore[no-untyped-def]
    """Wait for the answer to a packet that was sent at ``sent``."""
    st.slot[s, S_TIMER] = sent + net.config[K_RTO]
    heap_push(st.heap, st.count, st.slot[s, S_TIMER], EV_TIMEOUT, s)


@inlined
def send(net, st, s, at, now):  # type: ignore[no-untyped-def]
    """Send the next packet of slot ``s`` on its idle uplink."""
    slot, packet = st.slot, st.packet
    flow, seq, flags = slot[s, S_FLOW], next_seq(net, st, s), ZERO
    k = seq & net.config[K_WINDOW]
    size = size_of(net, st, flow, seq)
    slot[s, S_FLIGHT] += size
    if slot[s, S_LOST] > 0:
        slot[s, S_LOST] -= 1
        slot[s, S_LOST_FROM] = seq + 1
        st.mark[s, k, M_AGAIN] = st.mark[s, k, M_AGAIN] + 1
        st.flow[flow, F_AGAIN] += 1
        st.count[G_AGAIN] += 1
        flags = AGAIN | REQUEST
    else:
        slot[s, S_NEXT] = seq + 1
        st.mark[s, k, M_AGAIN] = 0
        st.count[G_DATA] += 1
        if seq + 1 == st.flow[flow, N_PACKETS] or slot[s, S_FLIGHT] + size >= slot[s, S_WINDOW]:
            flags = REQUEST
    ev = slot[s, S_EV_AHEAD]
    if ev < 0:
        ev = choose(net, st, s, now)
    slot[s, S_EV_AHEAD] = -1
    st.mark[s, k, M_STATE] = FLYING
    st.window[s, k] = now
    st.mark[s, k, M_EV] = ev
    slot[s, S_LAST_SENT] = now
    p = take_packet(packet, st.count)
    packet[p, P_FLOW] = flow
    packet[p, P_POS] = path(net, st, flow, ev, THERE)
    packet[p, P_SIZE] = size
    packet[p, P_KIND] = DATA
    packet[p, P_CLASS] = st.flow[flow, N_CLASS]
    packet[p, P_FLAGS] = flags
    packet[p, P_EV] = ev
    packet[p, P_SEQ] = seq
    packet[p, P_SLOT] = s
    if slot[s, S_GAP] > 0:
        slot[s, S_PACE] = max(now, slot[s, S_PACE]) + ((size * slot[s, S_GAP]) >> 20)
    if slot[s, S_TIMER] == INF:
        set_timer(net, st, s, now)
    transmit(net, st, at, p, now)


@inlined
def _wait(st, s, at):  # type: ignore[no-untyped-def]
    """Slot ``s`` joins those that wait for a NIC."""
    st.slot[s, S_QUEUED] = 1
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


@inlined
def _send_data(net, st, at, now):  # type: ignore[no-untyped-def]
    """The first waiting slot that still may send does; whether there was one."""
    link, slot = st.link, st.slot
    kept = NONE  # first of those that a pause holds back
    s = link[at, L_FIRST]
    while s >= 0 and s != kept:
        link[at, L_FIRST] = slot[s, S_AFTER]
        slot[s, S_QUEUED] = 0
        if may_send(net, st, s, now):
            if not (link[at, L_PAUSED] >> st.flow[slot[s, S_FLOW], N_CLASS]) & 1:
                send(net, st, s, at, now)
                if may_send(net, st, s, now):
                    _wait(st, s, uplink(net, st, s, now))
                return True
            _wait(st, s, at)
            if kept < 0:
                kept = s
        s = link[at, L_FIRST]
    return False


@inlined
def nic_next(net, st, at, now):  # type: ignore[no-untyped-def]
    """A NIC is idle: a control packet or the data of the flow whose turn it is."""
    link = st.link
    control = st.fifo[at, 0, Q_HEAD] >= 0
    if link[at, L_FIRST] >= 0:
        turn = control
        if control:
            link[at, L_TURN] += 1
            if link[at, L_TURN] > net.config[K_NIC_RATIO]:
                link[at, L_TURN] = 0
                turn = False
        if not turn and _send_data(net, st, at, now):
            return
    if control:
        transmit(net, st, at, pop(st.packet, st.fifo, at, 0), now)


@helper
def start_flow(net, st, flow, now):  # type: ignore[no-untyped-def]
    """A flow takes a slot and begins to send."""
    slot = st.slot
    s = st.count[G_SLOT_FREE]
    st.count[G_SLOT_FREE] = slot[s, S_AFTER]
    st.count[G_SLOT_FREE_N] -= 1
    for column in range(OWN):
        slot[s, column] = 0
    slot[s, S_FLOW] = flow
    slot[s, S_GAP] = st.flow[flow, N_GAP]
    slot[s, S_AFTER] = -1
    slot[s, S_EV_AHEAD] = -1
    slot[s, S_TIMER] = INF
    used = min(net.config[K_WINDOW] + 1, st.flow[flow, N_PACKETS])
    for k in range(used):
        st.mark[s, k, M_STATE] = UNSENT
        st.mark[s, k, M_HERE] = 0
    st.flow[flow, F_SLOT] = s
    st.flow[flow, F_STATE] = RUNNING
    st.flow[flow, F_START] = now
    begin(net, st, s)
    control_start(net, st, s)
    kick(net, st, s, now)


@helper
def release(st, flow, now):  # type: ignore[no-untyped-def]
    """One thing less that a flow waits for: the last one starts it."""
    st.flow[flow, F_OPEN] -= 1
    if st.flow[flow, F_OPEN] == 0:
        time = max(st.flow[flow, N_EARLIEST], now + st.flow[flow, N_DELAY])
        heap_push(st.heap, st.count, time, EV_START, flow)


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
def _leave(net, st, s, now):  # type: ignore[no-untyped-def]
    """A flow gives its slot back."""
    slot = st.slot
    if slot[s, S_QUEUED] == 1:
        _unlist(st, s, uplink(net, st, s, now))
    st.flow[slot[s, S_FLOW], F_SLOT] = -1
    slot[s, S_FLOW] = -1
    slot[s, S_TIMER] = INF
    slot[s, S_PACE_TIMER] = INF
    slot[s, S_AFTER] = st.count[G_SLOT_FREE]
    st.count[G_SLOT_FREE] = s
    st.count[G_SLOT_FREE_N] += 1


@helper
def end_flow(net, st, s, state, now):  # type: ignore[no-untyped-def]
    """A flow has ended, or is given up; those that waited for its end may start."""
    flow = st.slot[s, S_FLOW]
    st.flow[flow, F_STATE] = state
    st.flow[flow, F_END] = now
    st.count[G_ENDED] += 1
    _leave(net, st, s, now)
    if state == ENDED:
        after = net.config[K_AFTER]
        for k in range(net.lists[after + flow], net.lists[after + flow + 1]):
            release(st, net.lists[k], now)
    else:
        st.count[G_DEAD] += 1
    if st.flow[flow, N_TELL]:
        st.count[G_TOLD] = flow


@inlined
def _settled(net, st, s, seq):  # type: ignore[no-untyped-def]
    """The receiver has a packet."""
    k = seq & net.config[K_WINDOW]
    state = st.mark[s, k, M_STATE]
    if state == LOST:  # it was thought lost, and its bytes were taken off already
        st.slot[s, S_LOST] -= 1
        st.slot[s, S_FLIGHT] += size_of(net, st, st.slot[s, S_FLOW], seq)
    st.mark[s, k, M_STATE] = DONE


@inlined
def on_ack(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """An ACK arrives at the sender."""
    slot, packet, mask = st.slot, st.packet, net.config[K_WINDOW]
    total = st.wide[p, W_BYTES]
    got = max(ZERO, total - slot[s, S_GOT])
    if got > 0:
        slot[s, S_GOT] = total
        slot[s, S_TRIES] = 0
        control_received(net, st, s, got)
    slot[s, S_FLIGHT] -= got
    seq, flags = np.int64(packet[p, P_SEQ]), packet[p, P_FLAGS]
    marked, ev = flags & MARKED != 0, np.int64(packet[p, P_EV])
    cum, ref, bits = np.int64(packet[p, P_CUM]), np.int64(packet[p, P_REF]), st.wide[p, W_BITS]
    k = seq & mask
    # a time is sure if the packet was sent once, or a second time and the answer is to that
    if (
        seq >= slot[s, S_BASE]
        and st.mark[s, k, M_STATE] == FLYING
        and st.mark[s, k, M_AGAIN] == (ONE if flags & AGAIN else ZERO)
    ):
        delay = control_rtt(net, st, s, now - st.window[s, k], marked, True)
    else:
        delay = control_guess(net, st, s)
    for acked in range(slot[s, S_BASE], cum):
        _settled(net, st, s, acked)
        st.mark[s, acked & mask, M_STATE] = UNSENT
    if cum > slot[s, S_BASE]:
        slot[s, S_BASE] = cum
        slot[s, S_LOST_FROM] = max(cum, slot[s, S_LOST_FROM])
    while bits != 0:
        if bits & 1 and ref >= slot[s, S_BASE]:
            _settled(net, st, s, ref)
        ref += 1
        bits = (bits >> ONE) & np.int64(2**63 - 1)
    learn(net.config, slot, st.paths, s, ev, ECN if marked else GOOD, now)
    control_acked(net, st, s, got, marked, delay, now)
    if cum >= st.flow[slot[s, S_FLOW], N_PACKETS]:
        end_flow(net, st, s, ENDED, now)
    else:
        kick(net, st, s, now)


@helper
def _lose(net, st, s, seq):  # type: ignore[no-untyped-def]
    """A packet in flight must be sent again."""
    st.mark[s, seq & net.config[K_WINDOW], M_STATE] = LOST
    st.slot[s, S_LOST] += 1
    st.slot[s, S_LOST_FROM] = min(seq, st.slot[s, S_LOST_FROM])
    st.slot[s, S_FLIGHT] -= size_of(net, st, st.slot[s, S_FLOW], seq)


@helper
def on_nack(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """A NACK arrives at the sender: a packet was cut on its way."""
    slot, seq, ev = st.slot, np.int64(st.packet[p, P_SEQ]), np.int64(st.packet[p, P_EV])
    flags = st.packet[p, P_FLAGS]
    k = seq & net.config[K_WINDOW]
    if seq < slot[s, S_BASE] or st.mark[s, k, M_STATE] != FLYING:
        return
    control_rtt(net, st, s, now - st.window[s, k], True, False)
    control_nacked(net, st, s, size_of(net, st, slot[s, S_FLOW], seq), now)
    _lose(net, st, s, seq)
    kick(net, st, s, now)
    # a cut on the last link is no fault of the path
    what = CUT
    if flags & LAST_HOP:
        what = ECN if flags & MARKED else GOOD
    learn(net.config, slot, st.paths, s, ev, what, now)
    kick(net, st, s, now)


@helper
def on_timeout(net, st, s, time, now):  # type: ignore[no-untyped-def]
    """The retransmission timer fires: packets unanswered for too long are lost."""
    slot, mask = st.slot, net.config[K_WINDOW]
    if slot[s, S_TIMER] != time:
        return
    slot[s, S_TIMER] = INF
    oldest, found = INF, False
    for seq in range(slot[s, S_BASE], slot[s, S_NEXT]):
        k = seq & mask
        if st.mark[s, k, M_STATE] != FLYING:
            continue
        if st.window[s, k] + net.config[K_RTO] <= now:
            found = True
            _lose(net, st, s, seq)
            control_timed_out(net, st, s, size_of(net, st, slot[s, S_FLOW], seq), now)
            learn(net.config, slot, st.paths, s, np.int64(st.mark[s, k, M_EV]), SILENT, now)
            st.count[G_TIMEOUTS] += 1
            st.flow[slot[s, S_FLOW], F_TIMEOUTS] += 1
        else:
            oldest = min(oldest, st.window[s, k])
    if found:
        slot[s, S_TRIES] += 1
        if slot[s, S_TRIES] > net.config[K_TRIES]:
            end_flow(net, st, s, DEAD, now)
            return
    if oldest < INF:
        set_timer(net, st, s, oldest)
    kick(net, st, s, now)
