"""Output queues: who may join, who is marked, cut or dropped, and which class is sent next.

A link has one FIFO per class. Class 0 (ACKs, NACKs, cut packets, pulls) goes first and does not interrupt a
packet being sent; data classes follow by strict level and, within a level, by deficit round robin (Shreedhar
& Varghese 1996). A packet counts in its queue until its last bit is out; ECN marks at that moment from what
is left behind (RED without averaging). A full queue cuts the arriving packet to its header or, as often, the
one at its tail, so that no flow is always the victim (Handley et al. 2017, NDP).
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import draw, heap_push, helper, inlined, ring_push, uniform
from euston.network.packet._layout import (
    C_FIRST, C_LAST, DOWN, EV_ARRIVE, EV_PAUSE, EV_RESUME, EV_SENT, G_DELIVERED, G_DROPPED, G_FREE, G_FREE_N,
    G_MADE, G_MARKED, G_PAUSES, G_TRIMMED, HOST, K_ALPHA, K_CLASSES, K_CLASS_ROW, K_CONTROL_LIMIT, K_HEADER,
    K_MARK_MOST, K_MTU, K_REPORT, K_SHARED, K_TRIM, K_XOFF, K_XON, LAST_HOP, L_AREA, L_BACK, L_BYTES,
    L_DROPS, L_GAP, L_HIGH, L_LATENCY, L_LIMIT, L_LOW, L_MARKS, L_MOST, L_OWNER, L_PAUSED, L_RATE, L_SENT,
    L_SERVING, L_SINCE, L_STATE, L_TRIMS, L_USED, L_WAY, MARKED, NONE, PACKET_COLUMNS, P_AUX, P_CLASS,
    P_FLAGS, P_NEXT, P_POS, P_SIZE, Q_BYTES, Q_DEFICIT, Q_HEAD, Q_HELD, Q_QUANTUM, Q_TAIL, Q_TURN,
    REPORT_COLUMNS, RNG_MARK, RNG_TRIM, TRIMMED, T_CTRL, T_CTRL_RING, T_DATA, T_DATA_RING, V_LINK, V_QUEUE,
    V_SENT, V_TIME,
)  # fmt: skip

HALF = np.uint64(2**63)
ZERO, ONE = np.arange(2)
HALF_PS = np.int64(2**19)
UNIT = 2.0**-20


@inlined
def take_packet(packet, count):  # type: ignore[no-untyped-def]
    """A free packet; the kernel has made sure that there is one."""
    p = count[G_FREE]
    count[G_FREE] = packet[p, P_NEXT]
    count[G_FREE_N] -= 1
    count[G_MADE] += 1
    return p


@inlined
def free_packet(packet, count, p):  # type: ignore[no-untyped-def]
    """Give a packet back."""
    packet[p, P_NEXT] = count[G_FREE]
    count[G_FREE] = p
    count[G_FREE_N] += 1


@inlined
def deliver(packet, count, p):  # type: ignore[no-untyped-def]
    """A packet has reached its end."""
    count[G_DELIVERED] += 1
    free_packet(packet, count, p)


@helper
def drop(packet, link, count, at, p):  # type: ignore[no-untyped-def]
    """A packet is lost at a link."""
    count[G_DROPPED] += 1
    link[at, L_DROPS] += 1
    free_packet(packet, count, p)


@inlined
def transmit(net, st, at, p, now):  # type: ignore[no-untyped-def]
    """Start to send a packet on an idle link."""
    st.link[at, L_SERVING] = p
    size, row = st.packet[p, P_SIZE], st.link[at, L_RATE]
    ring = NONE
    if size == net.config[K_MTU]:
        ring, time = net.rate[row, T_DATA_RING], now + net.rate[row, T_DATA]
    elif size == net.config[K_HEADER]:
        ring, time = net.rate[row, T_CTRL_RING], now + net.rate[row, T_CTRL]
    else:
        time = now + ((size * st.link[at, L_GAP] + HALF_PS) >> 20)
    if ring >= 0:
        ring_push(st.rings, st.ring, net.config, ring, time, at)
    else:
        heap_push(st.heap, st.counter, time, EV_SENT, at)


@inlined
def push(packet, fifo, at, c, p):  # type: ignore[no-untyped-def]
    """Append a packet to a FIFO."""
    packet[p, P_NEXT] = -1
    tail = fifo[at, c, Q_TAIL]
    if fifo[at, c, Q_HEAD] < 0:
        fifo[at, c, Q_HEAD] = p
    else:
        packet[tail, P_NEXT] = p
    fifo[at, c, Q_TAIL] = p


@inlined
def pop(packet, fifo, at, c):  # type: ignore[no-untyped-def]
    """Take the first packet of a FIFO."""
    p = np.int64(fifo[at, c, Q_HEAD])
    fifo[at, c, Q_HEAD] = packet[p, P_NEXT]
    return p


@helper
def _swap(packet, a, b):  # type: ignore[no-untyped-def]
    """Exchange two data packets but for their places."""
    for column in range(1, PACKET_COLUMNS):
        packet[a, column], packet[b, column] = packet[b, column], packet[a, column]


@inlined
def next_data(net, st, at):  # type: ignore[no-untyped-def]
    """Data class to send next on a link that has just become idle, -1 for none."""
    classes, paused = net.config[K_CLASSES], st.link[at, L_PAUSED]
    if classes == 2:
        return ONE if st.fifo[at, 1, Q_HEAD] >= 0 and paused == 0 else NONE
    row, first = net.config[K_CLASS_ROW], NONE
    for c in range(1, classes):  # in order of level
        if first < 0 and st.fifo[at, c, Q_HEAD] >= 0 and not (paused >> c) & 1:
            first = net.rate[row + c, C_FIRST]
    if first < 0:
        return NONE
    last = net.rate[row + first, C_LAST]
    turn = max(first, np.int64(st.fifo[at, first, Q_TURN]))
    while True:
        head, free = st.fifo[at, turn, Q_HEAD], not (paused >> turn) & 1
        if head < 0:
            st.fifo[at, turn, Q_DEFICIT] = 0
        elif free and st.packet[head, P_SIZE] <= st.fifo[at, turn, Q_DEFICIT]:
            st.fifo[at, turn, Q_DEFICIT] -= st.packet[head, P_SIZE]
            st.fifo[at, first, Q_TURN] = turn
            return turn
        turn = turn + ONE if turn < last else first
        if st.fifo[at, turn, Q_HEAD] >= 0 and not (paused >> turn) & 1:
            st.fifo[at, turn, Q_DEFICIT] += st.fifo[at, turn, Q_QUANTUM]


@inlined
def resume(net, st, at, now):  # type: ignore[no-untyped-def]
    """Send the next packet of an idle switch link, if there is one."""
    c = ZERO if st.fifo[at, 0, Q_HEAD] >= 0 else next_data(net, st, at)
    if c >= 0:
        transmit(net, st, at, pop(st.packet, st.fifo, at, c), now)


@helper
def _overflows(net, st, p, c, size):  # type: ignore[no-untyped-def]
    """PFC: whether a packet finds no room left behind the link that it came by."""
    pos = st.packet[p, P_POS]
    if pos == 0 or net.hop[pos - 1] < 0:
        return False
    came = net.hop[pos - 1]
    held = st.fifo[came, c, Q_HELD]
    if held < 0:
        held = -1 - held
    return held + size > st.link[came, L_LIMIT]


@helper
def _hold(net, st, at, p, c, size, now):  # type: ignore[no-untyped-def]
    """PFC: bytes that came in by a link wait behind it; too many pause it."""
    pos = st.packet[p, P_POS]
    if pos == 0:
        return
    came = net.hop[pos - 1]
    if came < 0:
        return
    held = st.fifo[came, c, Q_HELD]
    if held < 0:
        st.fifo[came, c, Q_HELD] = held - size
    elif held + size < net.config[K_XOFF]:
        st.fifo[came, c, Q_HELD] = held + size
    else:
        st.fifo[came, c, Q_HELD] = -1 - held - size
        st.counter[G_PAUSES] += 1
        delay = st.link[st.link[came, L_BACK], L_LATENCY]
        heap_push(st.heap, st.counter, now + delay, EV_PAUSE, came * net.config[K_CLASSES] + c)


@helper
def _let_go(net, st, p, c, size, now):  # type: ignore[no-untyped-def]
    """PFC: bytes are gone again; few enough release the link that they came by."""
    pos = st.packet[p, P_POS]
    if pos == 0:
        return
    came = net.hop[pos - 1]
    if came < 0:
        return
    held = st.fifo[came, c, Q_HELD]
    if held >= 0:
        st.fifo[came, c, Q_HELD] = held - size
    elif -1 - held - size > net.config[K_XON]:
        st.fifo[came, c, Q_HELD] = held + size
    else:
        st.fifo[came, c, Q_HELD] = -1 - held - size
        delay = st.link[st.link[came, L_BACK], L_LATENCY]
        heap_push(st.heap, st.counter, now + delay, EV_RESUME, came * net.config[K_CLASSES] + c)


@inlined
def grew(st, at, size, now):  # type: ignore[no-untyped-def]
    """The data queue of a link changes by ``size`` bytes: statistics."""
    held = st.link[at, L_BYTES]
    st.link[at, L_AREA] += (held * (now - st.link[at, L_SINCE])) >> 10
    st.link[at, L_SINCE] = now
    held += size
    st.link[at, L_BYTES] = held
    if held > st.link[at, L_MOST]:
        st.link[at, L_MOST] = held


@helper
def _refuse(net, st, at, p):  # type: ignore[no-untyped-def]
    """A data packet finds its queue full: the header to send instead, or -1 when all of it is lost."""
    if net.config[K_TRIM] == 0:
        drop(st.packet, st.link, st.counter, at, p)
        return NONE
    c = st.packet[p, P_CLASS]
    tail = st.fifo[at, c, Q_TAIL]
    at_tail = st.fifo[at, c, Q_HEAD] >= 0 and draw(st.counter, RNG_TRIM) < HALF
    if at_tail and st.packet[tail, P_SIZE] == st.packet[p, P_SIZE]:
        _swap(st.packet, p, tail)
    st.packet[p, P_SIZE] = net.config[K_HEADER]
    st.packet[p, P_CLASS] = 0
    st.packet[p, P_FLAGS] |= TRIMMED
    if net.hop[st.packet[p, P_POS] + 1] < 0:
        st.packet[p, P_FLAGS] |= LAST_HOP
    st.link[at, L_TRIMS] += 1
    st.counter[G_TRIMMED] += 1
    return p


@inlined
def enqueue(net, st, at, p, now):  # type: ignore[no-untyped-def]
    """A packet arrives at a switch's output link."""
    if st.link[at, L_STATE] & DOWN:
        drop(st.packet, st.link, st.counter, at, p)
        return
    c, size = st.packet[p, P_CLASS], np.int64(st.packet[p, P_SIZE])
    if c > 0:
        owner = st.link[at, L_OWNER]
        if net.config[K_XOFF] > 0:
            full = _overflows(net, st, p, c, size)
        else:
            limit = st.link[at, L_LIMIT]
            if net.config[K_SHARED] > 0:
                free = net.config[K_SHARED] - st.link[owner, L_USED]
                limit = min(free, (free * net.config[K_ALPHA]) >> 10)
            full = st.fifo[at, c, Q_BYTES] + size > limit
        if full:
            p = _refuse(net, st, at, p)
            if p < 0:
                return
            c, size = st.packet[p, P_CLASS], np.int64(st.packet[p, P_SIZE])
        else:
            grew(st, at, size, now)
            if net.config[K_SHARED] > 0:
                st.link[owner, L_USED] += size
            if net.config[K_XOFF] > 0:
                _hold(net, st, at, p, c, size, now)
    if c == 0 and st.fifo[at, 0, Q_BYTES] + size > net.config[K_CONTROL_LIMIT]:
        drop(st.packet, st.link, st.counter, at, p)
        return
    st.fifo[at, c, Q_BYTES] += size
    if st.link[at, L_SERVING] < 0 and not (st.link[at, L_PAUSED] >> c) & 1:
        transmit(net, st, at, p, now)
    else:
        push(st.packet, st.fifo, at, c, p)


@helper
def report(net, st, at, p, left, now):  # type: ignore[no-untyped-def]
    """A link adds its state to a packet that leaves it (INT)."""
    k = np.int64(st.packet[p, P_AUX])
    if k < net.config[K_REPORT]:
        first = REPORT_COLUMNS * k
        st.note[p, first + V_LINK] = at + 1
        st.note[p, first + V_SENT] = st.link[at, L_SENT]
        st.note[p, first + V_TIME] = now
        st.note[p, first + V_QUEUE] = left
        st.packet[p, P_AUX] = k + 1


@inlined
def queued(net, st, at, p):  # type: ignore[no-untyped-def]
    """Whether a packet counts in the queue of a link: a NIC's own packets do not, what it forwards does."""
    if not st.link[at, L_STATE] & HOST:
        return True
    pos = st.packet[p, P_POS]
    return pos > 0 and net.hop[pos - 1] >= 0


@inlined
def leave_queue(net, st, at, p, now):  # type: ignore[no-untyped-def]
    """A packet's bytes are in a switch's queue no longer."""
    c, size = st.packet[p, P_CLASS], np.int64(st.packet[p, P_SIZE])
    st.fifo[at, c, Q_BYTES] -= size
    if c > 0:
        grew(st, at, -size, now)
        if net.config[K_SHARED] > 0:
            st.link[st.link[at, L_OWNER], L_USED] -= size
        if net.config[K_XOFF] > 0:
            _let_go(net, st, p, c, size, now)


@inlined
def sent(net, st, at, now):  # type: ignore[no-untyped-def]
    """The last bit of a packet has left a link: it travels on; the link is idle."""
    link = st.link
    p = link[at, L_SERVING]
    link[at, L_SERVING] = -1
    c, size = st.packet[p, P_CLASS], np.int64(st.packet[p, P_SIZE])
    link[at, L_SENT] += size
    state = link[at, L_STATE]
    if queued(net, st, at, p):
        leave_queue(net, st, at, p, now)
        if c > 0:
            left = np.int64(st.fifo[at, c, Q_BYTES])
            low = link[at, L_LOW]
            if left > low:
                high = link[at, L_HIGH]
                most = np.float64(net.config[K_MARK_MOST]) * UNIT
                if left > high or uniform(st.counter, RNG_MARK) * (high - low) < (left - low) * most:
                    st.packet[p, P_FLAGS] |= MARKED
                    link[at, L_MARKS] += 1
                    st.counter[G_MARKED] += 1
            if net.config[K_REPORT] > 0:
                report(net, st, at, p, left, now)
    if state & DOWN:
        drop(st.packet, link, st.counter, at, p)
        return
    st.packet[p, P_POS] += 1
    way = link[at, L_WAY]
    if way >= 0:
        ring_push(st.rings, st.ring, net.config, way, now + link[at, L_LATENCY], p)
    else:
        heap_push(st.heap, st.counter, now + link[at, L_LATENCY], EV_ARRIVE, p)
