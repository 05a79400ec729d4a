"""Waiting lines of ranks: who is next, by the pool's order; and kicks, tokens and ends of requests."""

from __future__ import annotations

import numpy as np

from euston.serving import _heap as h
from euston.serving._state import (
    BINS,
    E_ENTER,
    E_RELEASE,
    FIRST_GAP,
    I_DONE,
    I_FIFO,
    I_FIFO_END,
    I_FRONT,
    I_INSIDE,
    I_KICKED,
    I_RECORD,
    I_REFUSED,
    I_STAMP,
    IN,
    KLASS,
    KNOWN,
    NONE,
    OC_DONE,
    OR_EDF,
    OR_FAIR,
    OR_FCFS,
    OR_PRIORITY,
    ORDER_SEQ,
    OUTCOME,
    P_CLASSES,
    P_ORDER,
    PENDING,
    PER_OCTAVE,
    Q_BIN,
    Q_GAP,
    Q_NOW,
    R_POOL,
    R_ROOT,
    R_TOK,
    R_UNIT,
    R_WAIT,
    ST_ENDED,
    ST_WAITING,
    STATE,
    U_KICKED,
    W_ARRIVAL,
    W_FIRST,
    W_LAST,
    W_WORST,
    X_SUCC,
    Y_ARRIVE,
    Y_DEADLINE,
    Y_PREDICTED,
    Y_PRIORITY,
    Y_THINK,
    bare,
)

BEHIND, FRONT, FIRST = np.arange(3)
HOLDER = -2e300  # key of who holds blocks already: nobody may block it


@bare
def rank_key(fix_f, when, r, order):  # type: ignore[no-untyped-def]
    """What the queue is ordered by; smaller goes first, and the largest is preempted first."""
    if order == OR_PRIORITY:
        return fix_f[r, Y_PRIORITY]
    if order == OR_EDF:
        return when[r, W_ARRIVAL] + fix_f[r, Y_DEADLINE]
    return fix_f[r, Y_PREDICTED]


@bare
def kick(fleet, i, rank):  # type: ignore[no-untyped-def]
    """The unit of a rank may start a step at this moment."""
    unit = fleet.rank_i[rank, R_UNIT]
    if not fleet.unit_i[unit, U_KICKED]:
        fleet.unit_i[unit, U_KICKED] = 1
        fleet.kicked[i[I_KICKED]] = unit
        i[I_KICKED] += 1


@bare
def enqueue(fleet, work, fix_f, i, rank, r, where):  # type: ignore[no-untyped-def]
    """A request waits at a rank: behind, in front (it was preempted), or first (it holds blocks)."""
    rank_i, pool_i = fleet.rank_i, fleet.pool_i
    pool = rank_i[rank, R_POOL]
    order = pool_i[pool, P_ORDER]
    root = rank_i[rank, R_ROOT]
    if where == FIRST:
        i[I_FRONT] += 1
        work.key[r, 0], work.key[r, 1] = HOLDER, i[I_FRONT]
    elif order in (OR_FCFS, OR_FAIR):
        if where == FRONT:
            i[I_FRONT] += 1
            work.key[r, 0], work.key[r, 1] = -1.0, -float(i[I_FRONT])
        else:
            i[I_STAMP] += 1
            work.key[r, 0], work.key[r, 1] = 0.0, i[I_STAMP]
    else:
        work.key[r, 0], work.key[r, 1] = rank_key(fix_f, work.when, r, order), work.aux[r, ORDER_SEQ]
    if order == OR_FAIR:
        mine = root + work.req[r, KLASS]
        if fleet.root[mine] < 0:  # a client that comes back gets no credit for its absence (VTC, OSDI 2024)
            least = np.inf
            for other in range(root, root + pool_i[pool, P_CLASSES]):
                if fleet.root[other] >= 0:
                    least = min(least, fleet.served[other])
            if least < np.inf:
                fleet.served[mine] = max(fleet.served[mine], least)
        root = mine
    fleet.root[root] = h.add(work.link, work.key, fleet.root[root], np.int64(r))
    rank_i[rank, R_WAIT] += 1
    if work.req[r, STATE] == ST_WAITING:
        rank_i[rank, R_TOK] += work.req[r, KNOWN]


@bare
def peek(fleet, work, rank):  # type: ignore[no-untyped-def]
    """Who is next, -1: nobody."""
    rank_i, pool_i = fleet.rank_i, fleet.pool_i
    root = rank_i[rank, R_ROOT]
    if pool_i[rank_i[rank, R_POOL], P_ORDER] != OR_FAIR:
        return fleet.root[root]
    best, least = NONE, np.inf
    for queue in range(root, root + pool_i[rank_i[rank, R_POOL], P_CLASSES]):
        r = fleet.root[queue]
        if r >= 0:
            if work.key[r, 0] == HOLDER:
                return r
            if fleet.served[queue] < least:
                best, least = r, fleet.served[queue]
    return best


@bare
def dequeue(fleet, work, rank, r):  # type: ignore[no-untyped-def]
    """A request leaves the queue of its rank."""
    rank_i = fleet.rank_i
    root = rank_i[rank, R_ROOT]
    if fleet.pool_i[rank_i[rank, R_POOL], P_ORDER] == OR_FAIR:
        root += work.req[r, KLASS]
    fleet.root[root] = h.remove(work.link, work.key, fleet.root[root], np.int64(r))
    rank_i[rank, R_WAIT] -= 1
    if work.req[r, STATE] == ST_WAITING:
        rank_i[rank, R_TOK] -= work.req[r, KNOWN]


@bare
def emit(work, now, i, tokens_at, r, count):  # type: ignore[no-untyped-def]
    """``count`` tokens of a request come out at this moment."""
    time, when = now[Q_NOW], work.when
    made = work.req[r, KNOWN] - work.req[r, IN]
    if made == 0:
        when[r, W_FIRST] = min(time, when[r, W_FIRST])
    else:
        gap = time - when[r, W_LAST]
        when[r, W_WORST] = max(gap, when[r, W_WORST])
        if gap != now[Q_GAP]:
            now[Q_GAP] = gap
            octave = np.log2(max(gap, FIRST_GAP) / FIRST_GAP)
            now[Q_BIN] = min(1.0 + octave * PER_OCTAVE, BINS - 1.0)
        work.hist[np.int64(now[Q_BIN])] += 1
    if count > 1 or made == 0:
        work.hist[0] += count - 1
    when[r, W_LAST] = time
    if i[I_RECORD]:
        for j in range(count):
            work.tokens[tokens_at + made + j] = time
    work.req[r, KNOWN] += count


@bare
def end(s, r, outcome):  # type: ignore[no-untyped-def]
    """A request leaves the system: who waited for it may come, the next from outside may enter."""
    work, i, now = s.work, s.clock.i, s.clock.now
    work.req[r, STATE] = ST_ENDED
    work.aux[r, OUTCOME] = outcome
    if outcome == OC_DONE:
        i[I_DONE] += 1
    else:
        i[I_REFUSED] += 1
        work.when[r, W_LAST] = now[Q_NOW]
    i[I_INSIDE] -= 1
    if i[I_FIFO] < i[I_FIFO_END]:
        h.push(s.clock.heap, i, now[Q_NOW], E_ENTER, 0)
    fix_i, fix_f = s.trace.fix_i, s.trace.fix_f
    for j in range(fix_i[r, X_SUCC], fix_i[r + 1, X_SUCC]):
        q = np.int64(s.trace.succ[j])
        work.aux[q, PENDING] -= 1
        if work.aux[q, PENDING] == 0:
            time = max(fix_f[q, Y_ARRIVE], now[Q_NOW] + fix_f[q, Y_THINK])
            h.push(s.clock.heap, i, time, E_RELEASE, q)
