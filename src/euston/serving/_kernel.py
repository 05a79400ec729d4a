"""The serving kernel: events in order of (time, sequence), then steps that may start at that moment.

At one moment come first the events of the heap, then arrivals of the trace, then the starts of steps in the
order in which they were made possible. The kernel stops after the first event that writes to the outside, or
when a store is about to run full; Python then makes it larger and goes on.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from euston.serving import _cache as kv
from euston.serving import _heap as h
from euston.serving._index import report
from euston.serving._loads import loaded, served
from euston.serving._queue import kick
from euston.serving._route import enter
from euston.serving._schedule import finish, price, schedule
from euston.serving._state import (
    A_DOWN,
    B_ID,
    B_KIND,
    B_SEQ,
    B_TIME,
    C_CHAIN,
    C_HOME,
    CHANGE,
    E_DONE,
    E_DOWN,
    E_DRAIN,
    E_ENTER,
    E_LOADED,
    E_RELEASE,
    E_STAGE,
    E_STATION,
    E_UP,
    GROW,
    I_ARRIVAL,
    I_CHANGE,
    I_CHANGED,
    I_EVENTS,
    I_FIFO,
    I_FIFO_END,
    I_FREE_JOBS,
    I_FREE_NODES,
    I_HEAP,
    I_INSIDE,
    I_KICKED,
    I_LIMIT,
    I_LOG,
    I_LOGGED,
    I_NODES,
    I_OUT,
    I_SLACK,
    I_STEPS,
    P_ASYNC,
    P_GROUP,
    P_LAYERS,
    P_PP,
    P_TABLE,
    Q_NOW,
    QUIET,
    R_ALIVE,
    S_SEQ,
    S_UNIT,
    T_SEQ,
    TICKETS,
    U_BUSY_S,
    U_FREE_AT,
    U_KICKED,
    U_LOAD,
    U_POOL,
    U_RANK,
    U_SLOT,
    U_SWAP,
    Y_ARRIVE,
    bare,
    inlined,
)
from euston.serving._step import GROUP, SEND_FIXED, SEND_TOKEN, curve


@inlined
def start(s, unit):  # type: ignore[no-untyped-def]
    """The next step of a unit, if it has a free slot and anything to do."""
    fleet, clock = s.fleet, s.clock
    unit_i, unit_f, pool_i, slot_i = fleet.unit_i, fleet.unit_f, fleet.pool_i, fleet.slot_i
    now, i = clock.now[Q_NOW], clock.i
    pool, first = unit_i[unit, U_POOL], unit_i[unit, U_RANK]
    stages, table = pool_i[pool, P_PP], fleet.table
    if fleet.rank_i[first, R_ALIVE] == A_DOWN or (stages > 1 and now < unit_f[unit, U_FREE_AT]):
        return
    slot = np.int64(-1)
    for j in range(unit_i[unit, U_SLOT] + stages - 1, unit_i[unit, U_SLOT] - 1, -1):
        if slot_i[j, S_SEQ] < 0:
            slot = np.int64(j)
    if slot < 0:
        return
    at = pool_i[pool, P_TABLE]
    slowest, host, extra, everything, requests = 0.0, 0.0, 0.0, np.int64(0), np.int64(0)
    for rank in range(first, first + pool_i[pool, P_GROUP]):
        unit_f[unit, U_SWAP] = 0.0
        unit_f[unit, U_LOAD] = 0.0
        while True:  # who threw out everybody tries again with an empty house
            thrown = schedule(s, rank, slot)
            tokens, mine, gpu, cpu = price(s, rank, slot)
            if mine > 0 or not thrown:
                break
        if mine > 0:
            requests += mine
            everything += tokens
            # Layers of cached KV come in while earlier ones compute: the first or the last is exposed.
            load, layers = unit_f[unit, U_LOAD], float(pool_i[pool, P_LAYERS])
            if load > 0:
                gpu = max(gpu + load / layers, load + gpu / layers)
            slowest, host = max(slowest, gpu), max(host, cpu)
            extra = max(extra, unit_f[unit, U_SWAP])
        report(fleet.rank_i, fleet.pool_f, s.clock.seen, s.cache, rank)
    if requests == 0:
        return
    gpu = slowest + curve(table, at, GROUP, everything) + extra
    i[I_STEPS] += 1
    if stages == 1:
        time = max(gpu, host) if pool_i[pool, P_ASYNC] else gpu + host
        unit_f[unit, U_BUSY_S] += time
        slot_i[slot, S_SEQ] = h.push(clock.heap, i, now + time, E_DONE, slot)
        return
    part = gpu / stages
    send = table[at + SEND_FIXED] + table[at + SEND_TOKEN] * everything
    time = now
    for j in range(stages):
        spent = part + send
        if j == 0:
            spent = max(part, host) if pool_i[pool, P_ASYNC] else part + host
        k = unit_i[unit, U_SLOT] + j
        time = max(time, fleet.stage[k]) + spent
        fleet.stage[k] = time
        if j == 0:
            unit_f[unit, U_FREE_AT] = time
            unit_f[unit, U_BUSY_S] += spent
            h.push(clock.heap, i, time, E_STAGE, unit)
    slot_i[slot, S_SEQ] = h.push(clock.heap, i, time, E_DONE, slot)


@bare
def arrive(s, r):  # type: ignore[no-untyped-def]
    """A request is sent: let in, or it waits outside (closed loop)."""
    i = s.clock.i
    if i[I_LIMIT] > 0 and i[I_INSIDE] >= i[I_LIMIT]:
        s.work.fifo[i[I_FIFO_END]] = r
        i[I_FIFO_END] += 1
        return
    i[I_INSIDE] += 1
    enter(s, r)


@inlined
def happen(s, kind, ident, seq):  # type: ignore[no-untyped-def]
    """One event of the heap."""
    fleet, i = s.fleet, s.clock.i
    if kind == E_DONE:
        if fleet.slot_i[ident, S_SEQ] != seq:
            return
        fleet.slot_i[ident, S_SEQ] = -1
        unit = fleet.slot_i[ident, S_UNIT]
        pool, first = fleet.unit_i[unit, U_POOL], fleet.unit_i[unit, U_RANK]
        for rank in range(first, first + fleet.pool_i[pool, P_GROUP]):
            finish(s, rank, ident)
            report(fleet.rank_i, fleet.pool_f, s.clock.seen, s.cache, rank)
        kick(fleet, i, first)
    elif kind == E_RELEASE:
        arrive(s, ident)
    elif kind == E_ENTER:
        if i[I_FIFO] < i[I_FIFO_END] and i[I_INSIDE] < i[I_LIMIT]:
            r = np.int64(s.work.fifo[i[I_FIFO]])
            i[I_FIFO] += 1
            i[I_INSIDE] += 1
            enter(s, r)
    elif kind == E_STATION:
        if s.loads.station_i[ident, T_SEQ] == seq:
            served(s.loads, s.clock.heap, i, ident, s.clock.now[Q_NOW])
    elif kind == E_LOADED:
        loaded(s, ident // TICKETS, ident % TICKETS)
    elif kind == E_STAGE:
        kick(fleet, i, fleet.unit_i[ident, U_RANK])


@inlined
def tight(s):  # type: ignore[no-untyped-def]
    """Whether one more event could overrun a store."""
    i, slack = s.clock.i, s.clock.i[I_SLACK]
    return (
        i[I_FREE_NODES] < slack + 2 * (i[I_LOGGED] - i[I_LOG])
        or i[I_LOGGED] + 2 * slack > s.cache.log.shape[0]
        or i[I_FREE_JOBS] < slack
        or 2 * i[I_HEAP] > s.clock.heap.shape[0]
    )


@njit(cache=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")
def advance(s, until):  # type: ignore[no-untyped-def]
    """Run up to ``until``; the time of the next event (inf: none) and why it stopped."""
    i, now, heap, trace = s.clock.i, s.clock.now, s.clock.heap, s.trace
    kicked = s.fleet.kicked
    done = 0
    while True:
        time, from_heap = np.inf, False
        if i[I_HEAP] > 0:
            time, from_heap = heap[0, B_TIME], True
        if i[I_ARRIVAL] < trace.order.size:
            first = trace.fix_f[trace.order[i[I_ARRIVAL]], Y_ARRIVE]
            if first < time:
                time, from_heap = first, False
        ready = done < i[I_KICKED]
        stop = i[I_OUT] > 0 or tight(s)
        if stop or (not ready and time > until) or (not ready and time == np.inf):
            for j in range(done, i[I_KICKED]):
                kicked[j - done] = kicked[j]
            i[I_KICKED] -= done
            if i[I_KICKED] > 0:
                time = now[Q_NOW]
            return time, GROW if i[I_OUT] == 0 and stop else QUIET
        if ready and time > now[Q_NOW]:
            unit = np.int64(kicked[done])
            s.fleet.unit_i[unit, U_KICKED] = 0
            done += 1
            start(s, unit)
            if 2 * done > kicked.size or done == i[I_KICKED]:
                for j in range(done, i[I_KICKED]):
                    kicked[j - done] = kicked[j]
                i[I_KICKED] -= done
                done = 0
            continue
        now[Q_NOW] = max(time, now[Q_NOW])
        i[I_EVENTS] += 1
        if from_heap:
            kind, ident, seq = np.int64(heap[0, B_KIND]), np.int64(heap[0, B_ID]), np.int64(heap[0, B_SEQ])
            h.pop(heap, i)
            if kind in (E_DOWN, E_UP, E_DRAIN):  # rare: a kernel of their own, see ``_change``
                i[I_CHANGE], i[I_CHANGED] = kind, ident
                for j in range(done, i[I_KICKED]):
                    kicked[j - done] = kicked[j]
                i[I_KICKED] -= done
                return time, CHANGE
            happen(s, kind, ident, seq)
        else:
            r = np.int64(trace.order[i[I_ARRIVAL]])
            i[I_ARRIVAL] += 1
            arrive(s, r)


@njit(cache=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")
def rehash(c):  # type: ignore[no-untyped-def]
    """Put every named node into a new table, in the order of their numbers."""
    for x in range(c.i[I_NODES]):
        if c.key[x] >= 0 and c.node[x, C_HOME] >= 0:
            b = kv.place(c.bucket.size, np.int64(c.node[x, C_HOME]), c.key[x])
            c.node[x, C_CHAIN] = c.bucket[b]
            c.bucket[b] = x
