"""HPCC: a window from the use of the busiest link, by what links report (SIGCOMM 2019, Algorithm 1)."""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np

from euston.network.packet._events import inlined
from euston.network.packet._layout import (
    L_GAP, N_GAP, P_AUX, P_SEQ, REPORT_COLUMNS, S_FLOW, S_GAP, S_MAX_WINDOW, S_NEXT, S_OWN, S_WINDOW, V_LINK,
    V_QUEUE, V_SENT, V_TIME,
)  # fmt: skip

# the slot's own columns: use of the busiest link in 1/2^20, reference window, stage, packet whose ACK
# updates them next, time of the last loss; then the last report of each link
USE, REFERENCE, STAGE, UPDATE, CUT_AT = np.arange(S_OWN, S_OWN + 5, dtype=np.uintp)
SEEN = np.int64(S_OWN + 5)
# Net.tuning, after what all have
U_RTT = np.uintp(0)
U_MTU, U_ETA, U_STEP, U_STAGES = np.arange(3, 7, dtype=np.uintp)
ONE = 2.0**20


@inlined
def start(tuning, flow, slot, s):  # type: ignore[no-untyped-def]
    """A flow begins at line rate."""
    slot[s, USE] = np.int64(ONE * tuning[U_ETA])
    slot[s, REFERENCE] = slot[s, S_WINDOW]
    _pace(tuning, flow, slot, s)


@inlined
def _pace(tuning, flow, slot, s):  # type: ignore[no-untyped-def]
    """The window spread over a round trip; its last packet may begin inside it and end beyond."""
    window = np.float64(slot[s, S_WINDOW])
    slot[s, S_GAP] = max(flow[slot[s, S_FLOW], N_GAP], np.int64(tuning[U_RTT] / window * ONE))
    slot[s, S_WINDOW] = np.int64(window + tuning[U_MTU]) - 1


@inlined
def _measure(tuning, link, slot, note, s, p, links):  # type: ignore[no-untyped-def]
    """Use of the busiest link since the last report; False when there is nothing to compare with."""
    most, over = -1.0, 0.0
    for k in range(links):
        new, old = REPORT_COLUMNS * k, SEEN + REPORT_COLUMNS * k
        at = note[p, new + V_LINK]
        span = np.float64(note[p, new + V_TIME] - slot[s, old + V_TIME])
        if slot[s, old + V_LINK] == at and span > 0:
            ps_per_byte = np.float64(link[at - 1, L_GAP]) * 2.0**-20
            sent = np.float64(note[p, new + V_SENT] - slot[s, old + V_SENT])
            queue = np.float64(min(note[p, new + V_QUEUE], slot[s, old + V_QUEUE]))
            use = queue * ps_per_byte / tuning[U_RTT] + sent * ps_per_byte / span
            if use > most:
                most, over = use, span
        if slot[s, old + V_LINK] != at or span > 0:
            for column in range(REPORT_COLUMNS):
                slot[s, old + column] = note[p, new + column]
    if most < 0.0:
        return False
    over = min(over, tuning[U_RTT]) / tuning[U_RTT]
    slot[s, USE] = np.int64((1.0 - over) * slot[s, USE] + over * most * ONE)
    return True


@inlined
def acked(tuning, link, flow, slot, packet, note, s, p):  # type: ignore[no-untyped-def]
    """ACK ``p`` brings reports."""
    if not _measure(tuning, link, slot, note, s, p, np.int64(packet[p, P_AUX])):
        return
    update, window = packet[p, P_SEQ] >= slot[s, UPDATE], np.float64(slot[s, REFERENCE])
    use = max(slot[s, USE] / ONE, 1e-3) / tuning[U_ETA]
    if use >= 1.0 or slot[s, STAGE] >= np.int64(tuning[U_STAGES]):
        window = window / use + tuning[U_STEP]
        stage = np.int64(0)
    else:
        window += tuning[U_STEP]
        stage = slot[s, STAGE] + 1
    window = max(tuning[U_MTU] * 0.01, min(window, np.float64(slot[s, S_MAX_WINDOW])))
    if update:
        slot[s, REFERENCE] = np.int64(window)
        slot[s, STAGE] = stage
        slot[s, UPDATE] = slot[s, S_NEXT]
    slot[s, S_WINDOW] = np.int64(window)
    _pace(tuning, flow, slot, s)


@inlined
def lost(tuning, flow, slot, s, now):  # type: ignore[no-untyped-def]
    """A packet is lost, which the paper leaves to pauses to prevent: half the window, once per round trip."""
    if now - slot[s, CUT_AT] >= np.int64(tuning[U_RTT]):
        slot[s, CUT_AT] = now
        slot[s, REFERENCE] = max(np.int64(tuning[U_MTU] * 0.01), slot[s, REFERENCE] // 2)
        slot[s, S_WINDOW] = slot[s, REFERENCE]
        _pace(tuning, flow, slot, s)
