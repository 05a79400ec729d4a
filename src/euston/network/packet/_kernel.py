"""The event loop: takes the next event, until a time, a message or the end; and the end-of-run checks."""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np
from numba import njit

from euston.network.packet._events import heap_drop, heap_push, helper, inlined, ring_pop
from euston.network.packet._feedback import after_nack, on_ack, on_nack, on_timeout
from euston.network.packet._flows import end_flow, start_flow
from euston.network.packet._layout import (
    ACK, DATA, DEAD, DONE_ALL, ENDED, EV_ARRIVE, EV_PACE, EV_PAUSE, EV_SAMPLE, EV_SENT, EV_START, EV_TIMEOUT,
    EV_TIMER, E_ID, GROW_HEAP, GROW_PACKETS, GROW_SAMPLES, GROW_SLOTS, G_EVENTS, G_FREE_N, G_HEAP, G_NOW,
    G_SAMPLES, G_SAMPLING, G_SLOT_FREE_N, G_START, G_TOLD, HOST, H_ID, H_KIND, H_TIME, INF, K_ARRIVALS,
    K_CLASSES, K_ORDER, K_ORDER_N, K_RECEIVER, K_RINGS, K_RING_MASK, K_SAMPLE, K_SAMPLED, K_SAMPLED_N,
    L_BYTES, L_HALTED, L_HALTED_AT, L_PAUSED, L_PAUSES, L_SERVING, L_STATE, NACK, NONE, N_EARLIEST, P_FLOW,
    P_KIND, P_POS, P_SLOT, Q_HEAD, REACHED, S_FLOW, S_PACE_TIMER, TOLD, X_FIRST, X_IN, X_OUT,
)  # fmt: skip
from euston.network.packet._others import notified, ticked
from euston.network.packet._prefetch import prefetch
from euston.network.packet._receiver import on_data
from euston.network.packet._sender import kick, nic_next
from euston.network.packet._shares import count as count_flow
from euston.network.packet._special import special
from euston.network.packet._switch import deliver, drop, enqueue, leave_queue, pop, queued, resume, sent

SPARE_PACKETS = 16  # more than one event can make
SPARE_EVENTS = 64
NEAR, MIDDLE, FAR = 4, 8, 12  # events to look ahead: nothing when fewer wait
ONE = np.int64(1)


@inlined
def look_ahead(net, st, r):  # type: ignore[no-untyped-def]
    """Fetch what the next arrivals of a ring need: the packet, then its path, then the link."""
    at, end, mask = st.rings[r, X_OUT], st.rings[r, X_IN], net.config[K_RING_MASK]
    if at + FAR < end:
        prefetch(st.packet, st.ring[r, (at + FAR) & mask, E_ID], 0)
        prefetch(net.hop, np.int64(st.packet[st.ring[r, (at + MIDDLE) & mask, E_ID], P_POS]), 0)
        link = np.int64(net.hop[st.packet[st.ring[r, (at + NEAR) & mask, E_ID], P_POS]])
        if link >= 0:
            prefetch(st.link, link, 0)
            prefetch(st.link, link, 64)
            prefetch(st.fifo, link, 0)
        else:
            p = st.ring[r, (at + NEAR) & mask, E_ID]
            s, flow = np.int64(st.packet[p, P_SLOT]), np.int64(st.packet[p, P_FLOW])
            prefetch(st.flow, flow, 0)
            prefetch(st.slot, s, 0)
            prefetch(st.slot, s, 64)
            prefetch(st.slot, s, 128)
            prefetch(st.slot, s, 192)
            if st.packet[p, P_KIND] != DATA:
                prefetch(st.slot, s, 256)
                prefetch(st.slot, s, 320)
                prefetch(st.wide, p, 0)


@inlined
def look_ahead_sent(net, st, r):  # type: ignore[no-untyped-def]
    """Fetch what the next ends of transmissions need: the link, then its packet."""
    at, end, mask = st.rings[r, X_OUT], st.rings[r, X_IN], net.config[K_RING_MASK]
    if at + MIDDLE < end:
        link = st.ring[r, (at + MIDDLE) & mask, E_ID]
        prefetch(st.link, link, 0)
        prefetch(st.link, link, 64)
        prefetch(st.fifo, link, 0)
        prefetch(st.packet, st.link[st.ring[r, (at + NEAR) & mask, E_ID], L_SERVING], 0)


@inlined
def pending(net, st):  # type: ignore[no-untyped-def]
    """Time of the next event in ps, INF when there is none."""
    best = INF
    for r in range(net.config[K_RINGS]):
        best = min(best, st.rings[r, X_FIRST])
    if st.counter[G_HEAP] > 0:
        best = min(best, st.heap[0, H_TIME])
    if st.counter[G_START] < net.config[K_ORDER_N]:
        flow = net.lists[net.config[K_ORDER] + st.counter[G_START]]
        best = min(best, st.flow[flow, N_EARLIEST])
    return best


@inlined
def resume_samples(net, st, time):  # type: ignore[no-untyped-def]
    """The next sample, if there are samples and none is due."""
    if net.config[K_SAMPLE] > 0 and st.counter[G_SAMPLING] == 0:
        st.counter[G_SAMPLING] = 1
        heap_push(st.heap, st.counter, time + net.config[K_SAMPLE], EV_SAMPLE, NONE)


@helper
def sample(net, st, time):  # type: ignore[no-untyped-def]
    """Note the queues of the sampled links; again later while flows run."""
    row = st.counter[G_SAMPLES]
    st.series[row, 0] = time
    for k in range(net.config[K_SAMPLED_N]):
        st.series[row, k + 1] = st.link[net.lists[net.config[K_SAMPLED] + k], L_BYTES]
    st.counter[G_SAMPLES] = row + 1
    st.counter[G_SAMPLING] = 0
    if pending(net, st) < INF:  # nothing else to come: a sample would follow itself for ever
        resume_samples(net, st, time)


@inlined
def pause(net, st, kind, ident, now):  # type: ignore[no-untyped-def]
    """A pause frame stops or resumes one class of a link; the link if it is idle and may send again."""
    at, c = ident // net.config[K_CLASSES], ident % net.config[K_CLASSES]
    if kind == EV_PAUSE:
        if st.link[at, L_PAUSED] == 0:
            st.link[at, L_HALTED_AT] = now
        st.link[at, L_PAUSED] |= ONE << c
        st.link[at, L_PAUSES] += 1
        return NONE
    st.link[at, L_PAUSED] &= ~(ONE << c)
    if st.link[at, L_PAUSED] == 0:
        st.link[at, L_HALTED] += now - st.link[at, L_HALTED_AT]
    return at if st.link[at, L_SERVING] < 0 else NONE


@njit(cache=True, no_cfunc_wrapper=True, error_model="numpy")
def next_event(net, st):  # type: ignore[no-untyped-def]
    """Time of the next event in ps, INF when there is none."""
    return pending(net, st)


@njit(cache=True, no_cfunc_wrapper=True, error_model="numpy")
def advance(net, st, until):  # type: ignore[no-untyped-def]
    """Run events up to and including ``until`` ps; why it stopped."""
    count, rings, heap, config = st.counter, st.rings, st.heap, net.config
    last, arrivals = config[K_RINGS], config[K_ARRIVALS]
    hop, packet = net.hop, st.packet
    events = np.int64(0)
    why = DONE_ALL
    while True:
        time, which = INF, np.int64(-1)
        for r in range(last):
            if rings[r, X_FIRST] < time:
                time, which = rings[r, X_FIRST], np.int64(r)
        if count[G_HEAP] > 0 and heap[0, H_TIME] < time:
            time, which = heap[0, H_TIME], last
        if count[G_START] < config[K_ORDER_N]:
            start = st.flow[net.lists[config[K_ORDER] + count[G_START]], N_EARLIEST]
            if start <= time:
                time, which = start, last + 1
        if which < 0:
            break
        if time > until:
            why = REACHED
            break
        if count[G_FREE_N] < SPARE_PACKETS:
            why = GROW_PACKETS
            break
        if which >= last and (count[G_SLOT_FREE_N] == 0 and (which > last or heap[0, H_KIND] == EV_START)):
            why = GROW_SLOTS
            break
        if count[G_HEAP] + SPARE_EVENTS > heap.shape[0]:
            why = GROW_HEAP
            break
        if count[G_SAMPLES] == st.series.shape[0]:
            why = GROW_SAMPLES
            break
        events += 1
        count[G_NOW] = time
        if which < arrivals:
            look_ahead(net, st, which)
            kind, ident = EV_ARRIVE, ring_pop(rings, st.ring, config, which)
        elif which < last:
            look_ahead_sent(net, st, which)
            kind, ident = EV_SENT, ring_pop(rings, st.ring, config, which)
        elif which == last:
            kind, ident = heap[0, H_KIND], heap[0, H_ID]
            heap_drop(heap, count)
        else:
            kind, ident = EV_START, net.lists[config[K_ORDER] + count[G_START]]
            count[G_START] += 1
        idle, wake = NONE, NONE  # link that may send its next packet, slot that may
        if kind == EV_ARRIVE:
            at = np.int64(hop[packet[ident, P_POS]])
            if at >= 0:
                enqueue(net, st, at, ident, time)
            else:
                what, s = packet[ident, P_KIND], np.int64(packet[ident, P_SLOT])
                if what == DATA:
                    if config[K_RECEIVER] == 0 or not special(net, st, ident, time):
                        on_data(net, st, ident, time)
                elif st.slot[s, S_FLOW] == packet[ident, P_FLOW]:
                    if what == ACK:
                        wake = s
                        if on_ack(net, st, s, ident, time):
                            wake = NONE
                            end_flow(net, st, s, ENDED, time)
                    elif what == NACK:
                        if on_nack(net, st, s, ident, time):
                            kick(net, st, s, time)
                            after_nack(net, st, s, ident, time)
                            wake = s
                    elif notified(net, st, s, time):
                        end_flow(net, st, s, ENDED, time)
                    else:
                        wake = s
                deliver(packet, count, ident)
        elif kind == EV_SENT:
            sent(net, st, ident, time)
            idle = ident
        elif kind == EV_START:
            wake = start_flow(net, st, ident, time)
        elif kind == EV_TIMEOUT:
            result = on_timeout(net, st, ident, time, time)
            if result == 0:
                wake = ident
            elif result == 1:
                end_flow(net, st, ident, DEAD, time)
        elif kind == EV_PACE:
            if st.slot[ident, S_PACE_TIMER] == time:
                st.slot[ident, S_PACE_TIMER] = INF
                wake = ident
        elif kind == EV_SAMPLE:
            sample(net, st, time)
        elif kind == EV_TIMER:
            wake = ticked(net, st, ident, time)
        else:
            idle = pause(net, st, kind, ident, time)
        if idle >= 0:
            if st.link[idle, L_STATE] & HOST:
                wake = nic_next(net, st, idle, time)
            else:
                resume(net, st, idle, time)
        if wake >= 0:
            kick(net, st, wake, time)
        if count[G_TOLD] >= 0:
            why = TOLD
            break
    count[G_EVENTS] += events
    return why


@njit(cache=True, no_cfunc_wrapper=True, error_model="numpy")
def push_start(net, st, time, flow):  # type: ignore[no-untyped-def]
    """A released flow starts at ``time``."""
    heap_push(st.heap, st.counter, time, EV_START, flow)
    resume_samples(net, st, st.counter[G_NOW])


@njit(cache=True, no_cfunc_wrapper=True, error_model="numpy")
def recount(net, st, flows, sign):  # type: ignore[no-untyped-def]
    """Flows leave (-1) their links, or come (1) to new ones; see `_shares`."""
    for flow in flows:
        count_flow(net, st, flow, sign)


@njit(cache=True, no_cfunc_wrapper=True, error_model="numpy")
def flush(net, st, at, now):  # type: ignore[no-untyped-def]
    """A link has died: what waits on it is lost; what is being sent is, when its last bit would leave."""
    for c in range(net.config[K_CLASSES]):
        while st.fifo[at, c, Q_HEAD] >= 0:
            p = pop(st.packet, st.fifo, at, np.int64(c))
            if queued(net, st, at, p):
                leave_queue(net, st, at, p, now)
            drop(st.packet, st.link, st.counter, at, p)
