"""Moving KV: stations whose bandwidth is shared by what they carry, hand-overs, and their ends."""

from __future__ import annotations

import numpy as np

from euston.serving import _cache as kv
from euston.serving import _heap as h
from euston.serving._index import report
from euston.serving._queue import BEHIND, FIRST, enqueue, kick
from euston.serving._state import (
    BLOCKS,
    COMPUTED,
    D_BLOCKS,
    D_HIT,
    D_KEPT,
    D_RANK,
    E_LOADED,
    E_STATION,
    EM_HOLDS,
    EM_WAITS,
    EMBED,
    F_COST_A,
    F_COST_B,
    F_EMBED,
    F_IMAGE_TOKENS,
    F_LATENCY,
    F_PER_BLOCK,
    F_RATE,
    HIT,
    I_FREE_JOBS,
    I_JOB,
    I_OUT,
    I_STAMP,
    I_TICKET,
    I_TRANSFERS,
    IMAGES,
    J_DELAY,
    J_END,
    J_NEXT,
    J_REQ,
    J_TICKET,
    JOBS,
    KEPT,
    NAMED,
    P_ADMIT,
    P_ASKING,
    P_BLOCK,
    P_EVICT,
    P_IDS,
    P_LAYERS,
    P_LAYERWISE,
    P_NETWORK,
    P_PREFIX,
    P_RATIO,
    P_ROOM,
    P_STATION,
    Q_HANDED,
    Q_NOW,
    R_FREE,
    R_HOLDS,
    R_LOAD,
    R_POOL,
    R_ROOM,
    RANK,
    ST_HANDED,
    ST_LOADED,
    ST_LOADING,
    ST_WAITING,
    STATE,
    T_ACTIVE,
    T_HEAD,
    T_LAST,
    T_LATENCY,
    T_MOST,
    T_RATE,
    T_SEQ,
    T_SINCE,
    T_V,
    T_WAIT,
    TICKET,
    TICKETS,
    W_ADMISSION,
    W_D_ADMISSION,
    W_PREFILL,
    bare,
)


@bare
def settle(t, k, time):  # type: ignore[no-untyped-def]
    """Bring a station's virtual time (bytes that each of its jobs has got) up to now."""
    n = t.station_i[k, T_ACTIVE]
    if n > 0:
        t.station_f[k, T_V] += (time - t.station_f[k, T_SINCE]) * t.station_f[k, T_RATE] / n
    t.station_f[k, T_SINCE] = time


@bare
def plan(t, heap, i, k, time):  # type: ignore[no-untyped-def]
    """When the first of a station's jobs will be done."""
    x = t.station_i[k, T_HEAD]
    if x < 0:
        t.station_i[k, T_SEQ] = -1
        return
    least = np.inf
    while x >= 0:
        least = min(least, t.job_f[x, J_END])
        x = np.int64(t.job_i[x, J_NEXT])
    left = max(least - t.station_f[k, T_V], 0.0)
    when = time + left * t.station_i[k, T_ACTIVE] / t.station_f[k, T_RATE]
    t.station_i[k, T_SEQ] = h.push(heap, i, when, E_STATION, k)


@bare
def join(t, k, x):  # type: ignore[no-untyped-def]
    """A job sets out at station ``k``, behind the others: what ends at one moment ends in this order."""
    t.job_i[x, J_NEXT] = -1
    last = t.station_i[k, T_HEAD]
    if last < 0:
        t.station_i[k, T_HEAD] = x
    else:
        while t.job_i[last, J_NEXT] >= 0:
            last = np.int64(t.job_i[last, J_NEXT])
        t.job_i[last, J_NEXT] = x
    t.station_i[k, T_ACTIVE] += 1


@bare
def carry(t, heap, i, k, time, r, ticket, size, delay):  # type: ignore[no-untyped-def]
    """``size`` bytes for a request through station ``k``; beyond its concurrency they wait their turn."""
    x = i[I_JOB]
    i[I_JOB] = t.job_i[x, J_NEXT]
    i[I_FREE_JOBS] -= 1
    t.job_i[x, J_REQ], t.job_i[x, J_TICKET], t.job_i[x, J_NEXT] = r, ticket, -1
    t.job_f[x, J_END], t.job_f[x, J_DELAY] = size, delay
    station = t.station_i
    if station[k, T_ACTIVE] < station[k, T_MOST]:
        settle(t, k, time)
        t.job_f[x, J_END] = t.station_f[k, T_V] + size
        join(t, k, x)
        plan(t, heap, i, k, time)
        return
    if station[k, T_WAIT] < 0:
        station[k, T_WAIT] = x
    else:
        t.job_i[station[k, T_LAST], J_NEXT] = x
    station[k, T_LAST] = x


@bare
def served(t, heap, i, k, time):  # type: ignore[no-untyped-def]
    """The first of a station's jobs are done; those that waited take their places."""
    station = t.station_i
    settle(t, k, time)
    least, x = np.inf, station[k, T_HEAD]
    while x >= 0:
        least = min(least, t.job_f[x, J_END])
        x = np.int64(t.job_i[x, J_NEXT])
    t.station_f[k, T_V] = max(least, t.station_f[k, T_V])
    before, x = np.int64(-1), station[k, T_HEAD]
    while x >= 0:
        after = np.int64(t.job_i[x, J_NEXT])
        if t.job_f[x, J_END] <= t.station_f[k, T_V]:
            delay = t.station_f[k, T_LATENCY] + t.job_f[x, J_DELAY]
            h.push(
                heap, i, time + delay, E_LOADED, np.int64(t.job_i[x, J_REQ]) * TICKETS + t.job_i[x, J_TICKET]
            )
            if before >= 0:
                t.job_i[before, J_NEXT] = after
            else:
                station[k, T_HEAD] = after
            t.job_i[x, J_NEXT] = i[I_JOB]
            i[I_JOB] = x
            i[I_FREE_JOBS] += 1
            station[k, T_ACTIVE] -= 1
        else:
            before = x
        x = after
    while station[k, T_ACTIVE] < station[k, T_MOST] and station[k, T_WAIT] >= 0:
        x = station[k, T_WAIT]
        station[k, T_WAIT] = t.job_i[x, J_NEXT]
        t.job_f[x, J_END] += t.station_f[k, T_V]
        join(t, k, x)
    plan(t, heap, i, k, time)


@bare
def ticket(i, aux, r):  # type: ignore[no-untyped-def]
    """A number by which what comes later for a request is known to be of now."""
    i[I_TICKET] = (i[I_TICKET] + 1) % TICKETS
    aux[r, TICKET] = i[I_TICKET]
    return i[I_TICKET]


@bare
def free(s, r, rank, blocks, hit, kept, admission):  # type: ignore[no-untyped-def]
    """Blocks that a request had at a rank are free again."""
    rank_i, pool_i, pool_f = s.fleet.rank_i, s.fleet.pool_i, s.fleet.pool_f
    pool = rank_i[rank, R_POOL]
    if pool_i[pool, P_PREFIX]:
        blocks = kv.give_back(
            s.cache, s.trace.ids, s.trace.fix_i[r, pool_i[pool, P_IDS]], pool_i[pool, P_RATIO], rank,
            np.int64(blocks), np.int64(hit), np.int64(kept), admission, pool_i[pool, P_EVICT],
            pool_f[pool, F_COST_A], pool_f[pool, F_COST_B],
        )  # fmt: skip
    rank_i[rank, R_FREE] += blocks


@bare
def release(s, r):  # type: ignore[no-untyped-def]
    """A request's blocks at its rank are free again."""
    req = s.work.req
    free(s, r, np.int64(req[r, RANK]), req[r, BLOCKS], req[r, HIT], req[r, KEPT], s.work.when[r, W_ADMISSION])
    req[r, BLOCKS] = 0
    req[r, HIT] = 0
    req[r, KEPT] = 0


@bare
def release_donor(s, r):  # type: ignore[no-untyped-def]
    """The rank that computed a prompt need not hold it any longer."""
    aux, rank_i = s.work.aux, s.fleet.rank_i
    rank = np.int64(aux[r, D_RANK])
    if rank < 0:
        return
    aux[r, D_RANK] = -1
    rank_i[rank, R_HOLDS] -= 1
    free(s, r, rank, aux[r, D_BLOCKS], aux[r, D_HIT], aux[r, D_KEPT], s.work.when[r, W_D_ADMISSION])
    report(rank_i, s.fleet.pool_f, s.clock.seen, s.cache, rank)
    kick(s.fleet, s.clock.i, rank)


@bare
def keep_names(s, r, rank, pool, tokens):  # type: ignore[no-untyped-def]
    """Blocks of a request that are full with its first ``tokens`` tokens get their names."""
    req, pool_i = s.work.req, s.fleet.pool_i
    full = min(tokens // pool_i[pool, P_BLOCK], np.int64(req[r, NAMED]))
    first, ratio = s.trace.fix_i[r, pool_i[pool, P_IDS]], pool_i[pool, P_RATIO]
    for k in range(np.int64(req[r, KEPT]), full):
        key = kv.name(s.trace.ids, first, k, ratio)
        kv.keep(s.cache, rank, key, k, s.work.when[r, W_ADMISSION], pool_i[pool, P_ADMIT])
    if full > req[r, KEPT]:
        req[r, KEPT] = full


@bare
def move(s, r, source, target, size, blocks):  # type: ignore[no-untyped-def]
    """Bytes of a request go from rank to rank: on the network, or through the sender's own station."""
    i, now, clock = s.clock.i, s.clock.now, s.clock
    pool = s.fleet.rank_i[source, R_POOL]
    pool_i, pool_f = s.fleet.pool_i, s.fleet.pool_f
    number = ticket(i, s.work.aux, r)
    s.work.aux[r, JOBS] = 1
    now[Q_HANDED] += size
    i[I_TRANSFERS] += 1
    if pool_i[pool, P_LAYERWISE] and blocks > 0:
        # Layers leave as they are computed: exposed is the last one, or what prefill was too short to hide.
        layers = float(pool_i[pool, P_LAYERS])
        hidden = pool_f[pool, F_RATE] * s.work.when[r, W_PREFILL] * (layers - 1.0) / layers
        size = max(size / layers, size - hidden)
    delay = pool_f[pool, F_LATENCY] + pool_f[pool, F_PER_BLOCK] * blocks
    if pool_i[pool, P_NETWORK]:
        n = i[I_OUT]
        clock.out[n, 0], clock.out[n, 1], clock.out[n, 2], clock.out[n, 3] = now[Q_NOW], r, source, target
        clock.out[n, 4], clock.out[n, 5], clock.out[n, 6] = size, number, delay
        i[I_OUT] = n + 1
    else:
        station = pool_i[pool, P_STATION] + source
        carry(s.loads, clock.heap, i, station, now[Q_NOW], r, number, size, delay)


@bare
def ask_room(s, r, rank):  # type: ignore[no-untyped-def]
    """A request's embeddings wait at their encoder, behind others, for room at the rank of its prompt."""
    fleet, work, i = s.fleet, s.work, s.clock.i
    i[I_STAMP] += 1
    work.key[r, 0], work.key[r, 1] = 0.0, i[I_STAMP]
    root = fleet.pool_i[fleet.rank_i[rank, R_POOL], P_ASKING] + rank
    fleet.root[root] = h.add(work.link, work.key, fleet.root[root], np.int64(r))
    work.aux[r, EMBED] = EM_WAITS


@bare
def images_there(s, r, rank):  # type: ignore[no-untyped-def]
    """Images whose embeddings a request has at a rank at a time: more than fit come as others are used up."""
    most = s.fleet.pool_i[s.fleet.rank_i[rank, R_POOL], P_ROOM]
    return min(np.int64(s.work.aux[r, IMAGES]), most)


@bare
def fetch_images(s, rank):  # type: ignore[no-untyped-def]
    """Embeddings set out for a rank, in order, while there is room for them."""
    fleet, work, rank_i = s.fleet, s.work, s.fleet.rank_i
    root = fleet.pool_i[rank_i[rank, R_POOL], P_ASKING] + rank
    while fleet.root[root] >= 0:
        r = np.int64(fleet.root[root])
        images = images_there(s, r, rank)
        if images > rank_i[rank, R_ROOM]:
            return
        fleet.root[root] = h.shed(work.link, work.key, r)
        rank_i[rank, R_ROOM] -= images
        work.aux[r, EMBED] = EM_HOLDS
        source = np.int64(work.aux[r, D_RANK])
        pool = rank_i[source, R_POOL]
        tokens = work.aux[r, IMAGES] * fleet.pool_f[pool, F_IMAGE_TOKENS]
        move(s, r, source, rank, tokens * fleet.pool_f[pool, F_EMBED], np.int64(0))


@bare
def leave_room(s, r, rank):  # type: ignore[no-untyped-def]
    """A prompt is computed, or lost: its embeddings make room for the next."""
    if s.work.aux[r, EMBED] == EM_HOLDS:
        s.work.aux[r, EMBED] = 0
        s.fleet.rank_i[rank, R_ROOM] += images_there(s, r, rank)
        fetch_images(s, rank)


@bare
def loaded(s, r, number):  # type: ignore[no-untyped-def]
    """Something has arrived for a request; when all of it has, the request goes on."""
    req, aux, i = s.work.req, s.work.aux, s.clock.i
    if aux[r, TICKET] != number or aux[r, JOBS] == 0:
        return
    aux[r, JOBS] -= 1
    if aux[r, JOBS] > 0:
        return
    rank = np.int64(req[r, RANK])
    pool = s.fleet.rank_i[rank, R_POOL]
    if req[r, STATE] == ST_HANDED:
        release_donor(s, r)
        req[r, STATE] = ST_WAITING
        enqueue(s.fleet, s.work, s.trace.fix_f, i, rank, r, BEHIND)
    elif req[r, STATE] == ST_LOADING:
        if s.fleet.pool_i[pool, P_PREFIX]:
            keep_names(s, r, rank, pool, np.int64(req[r, COMPUTED]))
        release_donor(s, r)
        s.fleet.rank_i[rank, R_LOAD] -= 1
        req[r, STATE] = ST_LOADED
        enqueue(s.fleet, s.work, s.trace.fix_f, i, rank, r, FIRST)
    kick(s.fleet, i, rank)
