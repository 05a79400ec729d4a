"""Admission: the head of a rank's queue finds its cached blocks, loads what is elsewhere, takes its place."""

from __future__ import annotations

import numpy as np

from euston.serving import _cache as kv
from euston.serving._loads import carry, keep_names, move, release_donor, ticket
from euston.serving._queue import dequeue, peek
from euston.serving._state import (
    BLOCKS,
    C_REF,
    COMPUTED,
    D_RANK,
    F_BYTES,
    F_SWAP_RATE,
    F_TOKEN_S,
    F_VTC_IN,
    H_UP,
    HIT,
    HITS,
    I_ADMISSION,
    IN,
    JOBS,
    KEPT,
    KLASS,
    KNOWN,
    N_DECODES,
    N_REQ,
    N_SLOT,
    N_TOK,
    NAMED,
    OR_FAIR,
    OUT,
    P_ADMIT,
    P_BLOCK,
    P_BUDGET,
    P_CHUNKED,
    P_ENCODES,
    P_EVICT,
    P_IDS,
    P_LONG,
    P_MARK,
    P_ORDER,
    P_OVERLAP,
    P_PREFIX,
    P_RATIO,
    P_RESERVE,
    P_RULE,
    P_SEQS,
    P_TABLE,
    P_TIERS,
    Q_LOADED,
    Q_NOW,
    R_BASE,
    R_EVICTED,
    R_FREE,
    R_HIT,
    R_LOAD,
    R_LOADED,
    R_POOL,
    R_RECOMPUTED,
    R_ROOT,
    R_RUN,
    R_SWAPPED,
    R_UNIT,
    RS_ALL,
    RS_NEED,
    ST_LOADING,
    ST_RUNNING,
    ST_SWAPPED,
    ST_WAITING,
    STATE,
    T_ACTIVE,
    T_LATENCY,
    T_RATE,
    TIER_HITS,
    U_LOAD,
    U_SWAP,
    W_ADMISSION,
    W_SCHEDULED,
    bare,
    inlined,
)
from euston.serving._step import chunk_seconds


@bare
def longest(s, r, rank, pool):  # type: ignore[no-untyped-def]
    """Full blocks of the prompt that a rank holds, from the first on, and how many of them are free ones.

    An encoder's blocks are images, in any order: those that it holds come forward.
    """
    c, pool_i, ids = s.cache, s.fleet.pool_i, s.trace.ids
    encodes, most = pool_i[pool, P_ENCODES], np.int64(s.work.req[r, NAMED])
    if not encodes:  # The last token is always computed, so that there is something to sample from.
        most = min(most, (np.int64(s.work.req[r, KNOWN]) - 1) // pool_i[pool, P_BLOCK])
    first, ratio = s.trace.fix_i[r, pool_i[pool, P_IDS]], pool_i[pool, P_RATIO]
    hit, idle = np.int64(0), np.int64(0)
    while hit < most:
        x = kv.find(c, rank, kv.name(ids, first, hit, ratio))
        other = hit
        while encodes and x < 0 and other + 1 < most:
            other += 1
            x = kv.find(c, rank, ids[first + other])
            if x >= 0:
                key = ids[first + other]
                for k in range(other, hit, -1):
                    ids[first + k] = ids[first + k - 1]
                ids[first + hit] = key
        if x < 0:
            break
        if c.node[x, C_REF] == 0:
            idle += 1
        hit += 1
    return hit, idle


@bare
def take_blocks(s, r, rank, pool, hit, idle, need):  # type: ignore[no-untyped-def]
    """``hit`` blocks of the cache get a reference, ``need`` free ones an owner."""
    c, pool_i, rank_i = s.cache, s.fleet.pool_i, s.fleet.rank_i
    if pool_i[pool, P_PREFIX]:
        evict = pool_i[pool, P_EVICT]
        first, ratio = s.trace.fix_i[r, pool_i[pool, P_IDS]], pool_i[pool, P_RATIO]
        for k in range(hit):
            kv.hold(c, rank, kv.find(c, rank, kv.name(s.trace.ids, first, k, ratio)), evict)
        if need > 0:
            rank_i[rank, R_EVICTED] += kv.take(c, rank, need, evict, pool_i[pool, P_ADMIT])
    rank_i[rank, R_FREE] -= idle + need
    s.work.req[r, BLOCKS] += hit + need


@bare
def begin(s, r, rank, hit):  # type: ignore[no-untyped-def]
    """A request gets blocks at a rank for the first time, or again after it lost them."""
    i, req = s.clock.i, s.work.req
    i[I_ADMISSION] += 1
    s.work.when[r, W_ADMISSION] = i[I_ADMISSION]
    req[r, HIT] = hit
    req[r, KEPT] = hit


@bare
def count_hits(s, r, rank, tokens):  # type: ignore[no-untyped-def]
    """Hits are counted once per request, whatever its chunks and preemptions."""
    aux = s.work.aux
    if aux[r, HITS] < 0:
        aux[r, HITS] = tokens
        s.fleet.rank_i[rank, R_HIT] += tokens


@bare
def from_tiers(s, r, rank, pool, hit, idle):  # type: ignore[no-untyped-def]
    """Blocks that lie in lower tiers behind the cached ones: 0 none, >0 found; -1 loading, -2 no room to.

    And the seconds that fetching them takes. Fetched only where that is faster than computing them, if the
    pool asks so. Tiers load side by side.
    """
    c, pool_i, pool_f, t = s.cache, s.fleet.pool_i, s.fleet.pool_f, s.loads
    req, now, i = s.work.req, s.clock.now, s.clock.i
    block, first = pool_i[pool, P_BLOCK], s.trace.fix_i[r, pool_i[pool, P_IDS]]
    ratio = pool_i[pool, P_RATIO]
    most = min(np.int64(req[r, NAMED]), (np.int64(req[r, KNOWN]) - 1) // block)
    size = block * pool_f[pool, F_BYTES]
    store0 = c.home[rank, H_UP]
    found, fetch = hit, 0.0
    home = store0
    while found < most:  # how far the chain goes over all tiers
        key = kv.name(s.trace.ids, first, found, ratio)
        home = store0
        while home >= 0 and kv.find(c, home, key) < 0:
            home = c.home[home, H_UP]
        if home < 0:
            break
        found += 1
    if found == hit:
        return np.int64(0), fetch
    home = store0
    while home >= 0:
        station = home - pool_i[pool, P_TIERS]
        part = np.int64(0)
        for k in range(hit, found):
            key = kv.name(s.trace.ids, first, k, ratio)
            if in_tier(c, store0, home, key):
                part += 1
        if part > 0:
            rate = t.station_f[station, T_RATE] / (t.station_i[station, T_ACTIVE] + 1)
            fetch = max(fetch, t.station_f[station, T_LATENCY] + part * size / rate)
        home = c.home[home, H_UP]
    new = float((found - hit) * block)
    if pool_i[pool, P_RULE]:
        compute = chunk_seconds(s.fleet.table, pool_i[pool, P_TABLE], new, float(hit * block))
        if fetch >= new * pool_f[pool, F_TOKEN_S] + compute:
            return np.int64(0), fetch
    if pool_i[pool, P_OVERLAP]:
        return found - hit, fetch
    if found - hit + idle > s.fleet.rank_i[rank, R_FREE] - pool_i[pool, P_MARK]:
        return np.int64(-2), fetch
    dequeue(s.fleet, s.work, rank, r)
    begin(s, r, rank, hit)
    req[r, COMPUTED] = found * block
    req[r, STATE] = ST_LOADING
    s.fleet.rank_i[rank, R_LOAD] += 1
    number, jobs = ticket(i, s.work.aux, r), 0
    home = store0
    while home >= 0:
        part = np.int64(0)
        for k in range(hit, found):
            key = kv.name(s.trace.ids, first, k, ratio)
            if in_tier(c, store0, home, key):
                part += 1
                x = kv.find(c, home, key)
                kv.unlink(c, home, x)
                kv.append(c, home, x)
        if part > 0:
            jobs += 1
            carry(t, s.clock.heap, i, home - pool_i[pool, P_TIERS], now[Q_NOW], r, number, part * size, 0.0)
        home = c.home[home, H_UP]
    s.work.aux[r, JOBS] = jobs
    # Only now: what is pushed out here may push what is read there a tier down.
    take_blocks(s, r, rank, pool, hit, idle, found - hit)
    count_loaded(s, r, rank, pool, found - hit)
    count_hits(s, r, rank, found * block)
    return np.int64(-1), fetch


@bare
def count_loaded(s, r, rank, pool, blocks):  # type: ignore[no-untyped-def]
    """Blocks that a request gets from lower tiers."""
    tokens = blocks * s.fleet.pool_i[pool, P_BLOCK]
    s.work.aux[r, TIER_HITS] += tokens
    s.fleet.rank_i[rank, R_LOADED] += tokens
    s.clock.now[Q_LOADED] += tokens * s.fleet.pool_f[pool, F_BYTES]


@bare
def in_tier(c, first, home, key):  # type: ignore[no-untyped-def]
    """Whether ``home`` is the first tier, from ``first`` down, that holds a block."""
    while first != home:
        if kv.find(c, first, key) >= 0:
            return False
        first = c.home[first, H_UP]
    return kv.find(c, home, key) >= 0


@bare
def fetch_prompt(s, r, rank, pool, hit, idle):  # type: ignore[no-untyped-def]
    """A prompt that another rank computed: blocks are reserved here before its KV sets out.

    -1: on its way; -2: no room; 0: all of it is here already.
    """
    req, aux, pool_i = s.work.req, s.work.aux, s.fleet.pool_i
    block, known = pool_i[pool, P_BLOCK], np.int64(req[r, KNOWN])
    missing = known - 1 - hit * block
    if missing <= 0:
        release_donor(s, r)
        return np.int64(0)
    need = (known + block - 1) // block - hit
    if need + idle > s.fleet.rank_i[rank, R_FREE] - pool_i[pool, P_MARK]:
        return np.int64(-2)
    dequeue(s.fleet, s.work, rank, r)
    begin(s, r, rank, hit)
    take_blocks(s, r, rank, pool, hit, idle, need)
    req[r, COMPUTED] = known - 1
    req[r, STATE] = ST_LOADING
    s.fleet.rank_i[rank, R_LOAD] += 1
    source = np.int64(aux[r, D_RANK])
    size = missing * s.fleet.pool_f[s.fleet.rank_i[source, R_POOL], F_BYTES]
    move(s, r, source, rank, size, (missing + block - 1) // block)
    return np.int64(-1)


@inlined
def admit(s, rank, slot, budget):  # type: ignore[no-untyped-def]
    """Requests of the queue join the batch in order until one does not fit; how many joined, budget left."""
    fleet, work, req, when = s.fleet, s.work, s.work.req, s.work.when
    rank_i, pool_i = fleet.rank_i, fleet.pool_i
    pool = rank_i[rank, R_POOL]
    block, reserve, long = pool_i[pool, P_BLOCK], pool_i[pool, P_RESERVE], pool_i[pool, P_LONG]
    base, joined = rank_i[rank, R_BASE], np.int64(0)
    while budget > 0 and rank_i[rank, R_RUN] < pool_i[pool, P_SEQS]:
        r = np.int64(peek(fleet, work, rank))
        if r < 0:
            break
        state, known = req[r, STATE], np.int64(req[r, KNOWN])
        computed, hit, idle, extra = np.int64(req[r, COMPUTED]), np.int64(0), np.int64(0), np.int64(0)
        fetch = 0.0
        if state == ST_WAITING:
            room = rank_i[rank, R_RUN] + rank_i[rank, R_LOAD] < pool_i[pool, P_SEQS]
            if pool_i[pool, P_PREFIX]:
                hit, idle = longest(s, r, rank, pool)
            if work.aux[r, D_RANK] >= 0:
                way = fetch_prompt(s, r, rank, pool, hit, idle) if room else np.int64(-2)
            elif s.cache.home[rank, H_UP] >= 0 and room:
                way, fetch = from_tiers(s, r, rank, pool, hit, idle)
            else:
                way = np.int64(0)
            if way == -2:
                break
            if way == -1:
                continue
            extra = way
            # An encoder may have all of it; the step that hands it on takes a token's time.
            computed = min((hit + extra) * block, known - 1)
        left = known - computed
        n = left
        if long > 0:
            n = min(n, long)
        if pool_i[pool, P_CHUNKED]:
            n = min(n, budget)
        elif n > budget and budget < pool_i[pool, P_BUDGET]:
            break
        tokens = computed + n
        if reserve != RS_NEED:
            tokens = max(tokens, known)
        if reserve == RS_ALL:
            tokens = max(tokens, np.int64(req[r, IN]) + req[r, OUT])
        need = max((tokens + block - 1) // block - hit - np.int64(req[r, BLOCKS]), np.int64(0))
        if need > 0 and need + idle > rank_i[rank, R_FREE] - pool_i[pool, P_MARK]:
            break
        dequeue(fleet, work, rank, r)
        if state == ST_WAITING:
            begin(s, r, rank, hit)
            if pool_i[pool, P_ENCODES]:
                rank_i[rank, R_HIT] += computed
            else:
                if work.aux[r, HITS] >= 0:
                    rank_i[rank, R_RECOMPUTED] += left
                count_hits(s, r, rank, computed)
            if extra > 0:
                unit = rank_i[rank, R_UNIT]
                fleet.unit_f[unit, U_LOAD] = max(fleet.unit_f[unit, U_LOAD], fetch)
                count_loaded(s, r, rank, pool, extra)
        elif state == ST_SWAPPED:
            begin(s, r, rank, hit)
            fleet.unit_f[rank_i[rank, R_UNIT], U_SWAP] += (
                need * block * fleet.pool_f[pool, F_BYTES] / fleet.pool_f[pool, F_SWAP_RATE]
            )
            rank_i[rank, R_SWAPPED] += need
        take_blocks(s, r, rank, pool, hit, idle, need)
        req[r, COMPUTED] = computed
        if pool_i[pool, P_PREFIX]:
            keep_names(s, r, rank, pool, min(computed + n, known))
        when[r, W_SCHEDULED] = min(when[r, W_SCHEDULED], s.clock.now[Q_NOW])
        req[r, STATE] = ST_RUNNING
        if pool_i[pool, P_ORDER] == OR_FAIR:
            fleet.served[rank_i[rank, R_ROOT] + req[r, KLASS]] += fleet.pool_f[pool, F_VTC_IN] * left
        at = base + rank_i[rank, R_RUN]
        fleet.run[at, N_REQ] = r
        fleet.run[at, N_TOK] = n
        fleet.run[at, N_SLOT] = slot
        fleet.run[at, N_DECODES] = left == 1 and not pool_i[pool, P_ENCODES]
        rank_i[rank, R_RUN] += 1
        budget -= n
        joined += 1
    return joined, budget
