"""What answers and timers change at the sender.

Acknowledgement is selective: a cut packet is asked for again by a NACK, one that vanished is found by the
timer (`UecSrc` of uet-htsim @40ccb05). Nothing here sends: the event loop does, told what to do by what these
functions return.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._control import (
    control_acked, control_guess, control_nacked, control_received, control_rtt, control_timed_out,
)  # fmt: skip
from euston.network.packet._events import helper, inlined
from euston.network.packet._layout import (
    AGAIN, DONE, FLYING, F_TIMEOUTS, G_TIMEOUTS, INF, K_CREDIT, K_MTU, K_OVERTAKEN, K_RECEIVER, K_RTO,
    K_TRIES, K_WINDOW, LAST_HOP, LOST, MARKED, M_AGAIN, M_EV, M_STATE, NONE, N_PACKETS, P_CUM, P_EV, P_FLAGS,
    P_REF, P_SEQ, R_IN_ORDER, R_LOSSY, S_BASE, S_FLIGHT, S_FLOW, S_GOT, S_LOST, S_LOST_FROM, S_NEXT, S_STUCK,
    S_TIMER, S_TRIED_AT, S_TRIES, S_WINDOW, UNSENT, W_BITS, W_BYTES,
)  # fmt: skip
from euston.network.packet._paths import CUT, ECN, GOOD, SILENT, learn
from euston.network.packet._sender import set_timer, size_of

ZERO, ONE = np.arange(2)


@inlined
def _settled(net, st, s, seq):  # type: ignore[no-untyped-def]
    """The receiver has a packet."""
    k = seq & net.config[K_WINDOW]
    state = st.mark[s, k, M_STATE]
    if state == LOST:  # it was thought lost, and its bytes were taken off already
        st.slot[s, S_LOST] -= 1
        if net.config[K_CREDIT] == 0:
            st.slot[s, S_FLIGHT] += size_of(net, st, st.slot[s, S_FLOW], seq)
    st.mark[s, k, M_STATE] = DONE


@helper
def on_ack(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """An ACK arrives at the sender; whether it ends the flow (else the slot is to be kicked)."""
    slot, packet, mask = st.slot, st.packet, net.config[K_WINDOW]
    total = st.wide[p, W_BYTES]
    got = max(ZERO, total - slot[s, S_GOT])
    if got > 0:
        slot[s, S_GOT] = total
        slot[s, S_TRIES] = 0
        control_received(net, st, s, got)
    if net.config[K_CREDIT] == 0:
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
    control_acked(net, st, s, p, got, marked, delay, now)
    if net.config[K_OVERTAKEN] > 0:
        _overtaken(net, st, s, seq, flags, now)
    return cum >= st.flow[slot[s, S_FLOW], N_PACKETS]


@helper
def _lose(net, st, s, seq):  # type: ignore[no-untyped-def]
    """A packet in flight must be sent again."""
    st.mark[s, seq & net.config[K_WINDOW], M_STATE] = LOST
    st.slot[s, S_LOST] += 1
    st.slot[s, S_LOST_FROM] = min(seq, st.slot[s, S_LOST_FROM])
    if net.config[K_CREDIT] == 0:
        st.slot[s, S_FLIGHT] -= size_of(net, st, st.slot[s, S_FLOW], seq)


@helper
def _overtaken(net, st, s, seq, flags, now):  # type: ignore[no-untyped-def]
    """What was sent well before a packet that has arrived, and is missing, is lost (as in RFC 8985)."""
    mask = net.config[K_WINDOW]
    if st.mark[s, seq & mask, M_AGAIN] != (ONE if flags & AGAIN else ZERO):
        return
    sent = st.window[s, seq & mask]
    for missing in range(st.slot[s, S_BASE], seq - net.config[K_OVERTAKEN] + 1):
        k = missing & mask
        if st.mark[s, k, M_STATE] == FLYING and st.window[s, k] < sent:
            control_nacked(net, st, s, size_of(net, st, st.slot[s, S_FLOW], missing), now)
            _lose(net, st, s, missing)


@helper
def _go_back(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """A NAK of go-back-N: all from the wanted packet on go out again; whether any was in flight."""
    slot, mask, wanted = st.slot, net.config[K_WINDOW], np.int64(st.packet[p, P_CUM])
    if wanted < slot[s, S_BASE]:
        return False
    got = max(ZERO, st.wide[p, W_BYTES] - slot[s, S_GOT])
    if got > 0:
        slot[s, S_GOT] += got
        slot[s, S_FLIGHT] -= got
        slot[s, S_TRIES] = 0
    for seq in range(slot[s, S_BASE], wanted):
        _settled(net, st, s, seq)
        st.mark[s, seq & mask, M_STATE] = UNSENT
    slot[s, S_BASE] = wanted
    slot[s, S_LOST_FROM] = max(wanted, slot[s, S_LOST_FROM])
    found = False
    for seq in range(wanted, slot[s, S_NEXT]):
        if st.mark[s, seq & mask, M_STATE] == FLYING:
            _lose(net, st, s, seq)
            found = True
    if found:
        control_nacked(net, st, s, net.config[K_MTU], now)
    return found


@helper
def on_nack(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """A NACK arrives at the sender: a packet was cut on its way; whether it was still in flight.

    If so the slot is to be kicked, `after_nack` called and the slot kicked again.
    """
    if net.config[K_RECEIVER] & R_IN_ORDER:
        return _go_back(net, st, s, p, now)
    slot, seq = st.slot, np.int64(st.packet[p, P_SEQ])
    k = seq & net.config[K_WINDOW]
    if seq < slot[s, S_BASE] or st.mark[s, k, M_STATE] != FLYING:
        return False
    control_rtt(net, st, s, now - st.window[s, k], True, False)
    control_nacked(net, st, s, size_of(net, st, slot[s, S_FLOW], seq), now)
    _lose(net, st, s, seq)
    return True


@inlined
def after_nack(net, st, s, p, now):  # type: ignore[no-untyped-def]
    """The path learns of a cut packet; one on the last link is no fault of the path."""
    flags, what = st.packet[p, P_FLAGS], CUT
    if flags & LAST_HOP:
        what = ECN if flags & MARKED else GOOD
    learn(net.config, st.slot, st.paths, s, np.int64(st.packet[p, P_EV]), what, now)


@helper
def on_timeout(net, st, s, time, now):  # type: ignore[no-untyped-def]
    """The retransmission timer fires: packets unanswered for too long are lost.

    -1 when there is nothing to do, 0 when the slot is to be kicked, 1 when the flow is to be given up.
    """
    slot, mask = st.slot, net.config[K_WINDOW]
    if slot[s, S_TIMER] != time:
        return NONE
    slot[s, S_TIMER] = INF
    oldest, found = INF, False
    for seq in range(slot[s, S_BASE], slot[s, S_NEXT]):
        k = seq & mask
        if st.mark[s, k, M_STATE] != FLYING:
            continue
        if st.window[s, k] + net.config[K_RTO] <= now or (found and net.config[K_RECEIVER] & R_IN_ORDER):
            found = True
            _lose(net, st, s, seq)
            control_timed_out(net, st, s, size_of(net, st, slot[s, S_FLOW], seq), now)
            learn(net.config, slot, st.paths, s, np.int64(st.mark[s, k, M_EV]), SILENT, now)
            st.counter[G_TIMEOUTS] += 1
            st.flow[slot[s, S_FLOW], F_TIMEOUTS] += 1
        else:
            oldest = min(oldest, st.window[s, k])
    # all flying for a short time only, and yet nothing arrives: lost packets are sent again for ever
    if found or (slot[s, S_STUCK] == slot[s, S_GOT] and not net.config[K_RECEIVER] & R_LOSSY):
        if now - slot[s, S_TRIED_AT] >= net.config[K_RTO]:  # packets of one round time out one by one
            slot[s, S_TRIED_AT] = now
            slot[s, S_TRIES] += 1
        if slot[s, S_TRIES] > net.config[K_TRIES]:
            return ONE
    slot[s, S_STUCK] = slot[s, S_GOT]
    if oldest < INF:
        set_timer(net, st, s, oldest)
    elif net.config[K_CREDIT] > 0:  # all was answered, but PULLs for the rest may be lost: send one unasked
        slot[s, S_WINDOW] = max(slot[s, S_WINDOW], slot[s, S_FLIGHT] + net.config[K_MTU])
        set_timer(net, st, s, now)
    return ZERO
