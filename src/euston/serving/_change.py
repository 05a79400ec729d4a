"""Replicas that die, come up or drain: rare, so a kernel of their own that few runs compile."""

from __future__ import annotations

import numpy as np
from numba import njit

from euston.serving import _cache as kv
from euston.serving import _heap as h
from euston.serving._index import V_UP, report
from euston.serving._loads import fetch_images, images_there, release
from euston.serving._queue import dequeue, kick
from euston.serving._route import dispatch, entrance, to_prompt
from euston.serving._state import (
    A_DOWN,
    A_DRAIN,
    A_UP,
    BLOCKS,
    C_HOME,
    COMPUTED,
    D_RANK,
    E_DOWN,
    E_UP,
    EM_HOLDS,
    EM_WAITS,
    EMBED,
    H_ANON,
    H_HEAD,
    H_LOGS,
    H_ROOT,
    H_TAIL,
    HIT,
    I_CHANGE,
    I_CHANGED,
    I_HELD,
    I_NODES,
    KEPT,
    L_REMOVED,
    P_ALIVE,
    P_ASKING,
    P_EVICT,
    P_GROUP,
    P_HELD,
    P_PP,
    P_PREFIX,
    POOL,
    R_ALIVE,
    R_CAP,
    R_FREE,
    R_HOLDS,
    R_LOAD,
    R_POOL,
    R_PREFILLING,
    R_REQ,
    R_ROOM,
    R_RUN,
    R_WAIT,
    RANK,
    RETRIES,
    S_SEQ,
    ST_ENDED,
    ST_HELD,
    ST_LOADED,
    ST_LOADING,
    ST_OUTSIDE,
    ST_SWAPPED,
    ST_WAITING,
    STATE,
    TICKET,
    U_FREE_AT,
    U_POOL,
    U_RANK,
    U_SLOT,
    bare,
)


@bare
def clear_cache(s, rank):  # type: ignore[no-untyped-def]
    """A rank forgets every block; all of them are free."""
    c, rank_i = s.cache, s.fleet.rank_i
    pool = rank_i[rank, R_POOL]
    rank_i[rank, R_FREE] = rank_i[rank, R_CAP]
    if not s.fleet.pool_i[pool, P_PREFIX]:
        return
    for x in range(c.i[I_NODES]):
        if c.node[x, C_HOME] == rank:
            if c.key[x] >= 0:
                if c.home[rank, H_LOGS]:
                    kv.write(c, L_REMOVED, rank, c.key[x], 0)
                kv.forget(c, np.int64(x))
            else:
                kv.drop(c, np.int64(x))
    c.home[rank, H_HEAD] = -1
    c.home[rank, H_TAIL] = -1
    c.home[rank, H_ROOT] = -1
    c.home[rank, H_ANON] = 0
    kv.free_run(c, rank, rank_i[rank, R_CAP], s.fleet.pool_i[pool, P_EVICT])


@bare
def lose(s, r, dead_first, dead_last):  # type: ignore[no-untyped-def]
    """What a request has to do with ranks that die; whether it has to start again."""
    req, aux, rank_i = s.work.req, s.work.aux, s.fleet.rank_i
    state, rank, donor = req[r, STATE], np.int64(req[r, RANK]), np.int64(aux[r, D_RANK])
    if state in (ST_OUTSIDE, ST_ENDED):
        return False
    placed = state != ST_HELD
    here = placed and dead_first <= rank < dead_last
    given = dead_first <= donor < dead_last
    if not here and not given:
        return False
    if not placed:  # it waited for a replica of the next pool; what was held for it is gone
        root = s.fleet.pool_i[req[r, POOL], P_HELD]
        s.fleet.root[root] = h.remove(s.work.link, s.work.key, s.fleet.root[root], r)
        s.clock.i[I_HELD] -= 1
    if aux[r, EMBED] == EM_WAITS:
        root = s.fleet.pool_i[rank_i[rank, R_POOL], P_ASKING] + rank
        s.fleet.root[root] = h.remove(s.work.link, s.work.key, s.fleet.root[root], r)
    elif aux[r, EMBED] == EM_HOLDS:
        rank_i[rank, R_ROOM] += images_there(s, r, rank)
    to_prompt(s, r)
    aux[r, EMBED] = 0
    if placed:
        if here:
            if state in (ST_WAITING, ST_LOADED, ST_SWAPPED):
                dequeue(s.fleet, s.work, rank, r)
        else:  # alive, but what it waits for is lost
            if state == ST_WAITING:
                dequeue(s.fleet, s.work, rank, r)
            elif state == ST_LOADING:
                release(s, r)
                rank_i[rank, R_LOAD] -= 1
                kick(s.fleet, s.clock.i, rank)
        rank_i[rank, R_REQ] -= 1
    aux[r, TICKET] = -1
    req[r, BLOCKS], req[r, HIT], req[r, KEPT], req[r, COMPUTED] = 0, 0, 0, 0
    if given:
        aux[r, D_RANK] = -1
    aux[r, RETRIES] += 1
    return placed or given


@bare
def die(s, unit):  # type: ignore[no-untyped-def]
    """The ranks of a unit die together: KV is lost, requests go on elsewhere with their tokens so far."""
    fleet, req, aux = s.fleet, s.work.req, s.work.aux
    rank_i, pool_i = fleet.rank_i, fleet.pool_i
    pool, first = fleet.unit_i[unit, U_POOL], fleet.unit_i[unit, U_RANK]
    last = first + pool_i[pool, P_GROUP]
    if rank_i[first, R_ALIVE] == A_DOWN:
        return
    for rank in range(first, last):
        if rank_i[rank, R_ALIVE] == A_UP:
            pool_i[pool, P_ALIVE] -= 1
        rank_i[rank, R_ALIVE] = A_DOWN
        s.clock.seen[rank, V_UP] = 0.0
        rank_i[rank, R_RUN], rank_i[rank, R_PREFILLING] = 0, 0
    for j in range(pool_i[pool, P_PP]):
        slot = fleet.unit_i[unit, U_SLOT] + j
        fleet.slot_i[slot, S_SEQ] = -1
        fleet.stage[slot] = 0.0
    fleet.unit_f[unit, U_FREE_AT] = 0.0
    for r in range(req.shape[0]):
        moved = lose(s, np.int64(r), first, last)
        if not moved:
            continue
        req[r, STATE] = ST_OUTSIDE
        target = np.int64(req[r, POOL])
        if aux[r, D_RANK] < 0:  # the prompt has to be computed again, and its images encoded
            target = entrance(s, np.int64(r))
        dispatch(s, np.int64(r), target)
    for rank in range(first, last):
        rank_i[rank, R_LOAD], rank_i[rank, R_WAIT], rank_i[rank, R_REQ], rank_i[rank, R_HOLDS] = 0, 0, 0, 0
        clear_cache(s, rank)
        report(fleet.rank_i, fleet.pool_f, s.clock.seen, s.cache, rank)
    for rank in range(rank_i.shape[0]):  # who waited for room behind embeddings that are lost
        if rank_i[rank, R_ALIVE] != A_DOWN:
            fetch_images(s, rank)


@bare
def rise(s, unit):  # type: ignore[no-untyped-def]
    """The ranks of a unit are up; who was held back may come."""
    fleet, i = s.fleet, s.clock.i
    pool, first = fleet.unit_i[unit, U_POOL], fleet.unit_i[unit, U_RANK]
    for rank in range(first, first + fleet.pool_i[pool, P_GROUP]):
        if fleet.rank_i[rank, R_ALIVE] != A_UP:
            fleet.pool_i[pool, P_ALIVE] += 1
        fleet.rank_i[rank, R_ALIVE] = A_UP
        s.clock.seen[rank, V_UP] = 1.0
    held = fleet.pool_i[pool, P_HELD]
    while fleet.root[held] >= 0:
        r = fleet.root[held]
        fleet.root[held] = h.shed(s.work.link, s.work.key, r)
        i[I_HELD] -= 1
        dispatch(s, r, pool)


@bare
def drain(s, unit):  # type: ignore[no-untyped-def]
    """The ranks of a unit finish what they have and get nothing new."""
    fleet = s.fleet
    pool, first = fleet.unit_i[unit, U_POOL], fleet.unit_i[unit, U_RANK]
    for rank in range(first, first + fleet.pool_i[pool, P_GROUP]):
        if fleet.rank_i[rank, R_ALIVE] == A_UP:
            fleet.pool_i[pool, P_ALIVE] -= 1
            fleet.rank_i[rank, R_ALIVE] = A_DRAIN
            s.clock.seen[rank, V_UP] = 0.0


@njit(cache=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")
def change(s):  # type: ignore[no-untyped-def]
    """What the last event, which ``advance`` stopped at, asks for."""
    kind, unit = s.clock.i[I_CHANGE], s.clock.i[I_CHANGED]
    if kind == E_DOWN:
        die(s, unit)
    elif kind == E_UP:
        rise(s, unit)
    else:
        drain(s, unit)
