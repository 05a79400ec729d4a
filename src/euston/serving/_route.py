"""Which replica: routers, what they know and when, and the way of a request from pool to pool."""

from __future__ import annotations

import numpy as np

from euston.serving import _heap as h
from euston.serving._index import (
    V_BLOCKS,
    V_REQ,
    V_SCORE,
    V_TOK,
    V_UP,
    advance_view,
    index_match,
    index_sent,
    report,
)
from euston.serving._loads import ask_room, fetch_images
from euston.serving._queue import BEHIND, end, enqueue, kick
from euston.serving._random import uniform
from euston.serving._state import (
    BLOCKS,
    COMPUTED,
    D_BLOCKS,
    D_HIT,
    D_KEPT,
    D_RANK,
    EM_MADE,
    EMBED,
    F_ABS,
    F_BOUND,
    F_IMAGE_TOKENS,
    F_KV,
    F_MATCH,
    F_OVERLAP,
    F_QUEUE,
    F_REL,
    F_TEMPERATURE,
    F_TOKEN_S,
    HIT,
    I_HELD,
    I_SEED,
    I_STAMP,
    IMAGES,
    IN,
    KEPT,
    KNOWN,
    MADE,
    NAMED,
    NAMES,
    NONE,
    OC_REFUSED,
    OC_TOO_LARGE,
    OC_TOO_LONG,
    ORDER_SEQ,
    OUT,
    P_ALIVE,
    P_BLOCK,
    P_ENCODES,
    P_FIRST,
    P_HELD,
    P_INDEX,
    P_LEN,
    P_MARK,
    P_NEXT,
    P_QUEUE_CAP,
    P_RANKS,
    P_REFUSE,
    P_RING,
    P_RING_N,
    P_ROUTER,
    P_SPEC,
    P_TURN,
    POOL,
    Q_BUCKET,
    Q_BUCKET_AT,
    Q_BUCKET_MOST,
    Q_BUCKET_RATE,
    Q_NOW,
    R_CAP,
    R_HOLDS,
    R_POOL,
    R_REQ,
    R_WAIT,
    RANK,
    RT_KV,
    RT_PREFIX,
    RT_RANDOM,
    RT_ROUND_ROBIN,
    RT_SESSION,
    RT_SLO,
    RT_TOKENS,
    RT_TWO,
    ST_HANDED,
    ST_HELD,
    ST_WAITING,
    STATE,
    W_ADMISSION,
    W_ARRIVAL,
    W_D_ADMISSION,
    W_PREFILL,
    W_SCHEDULED,
    X_IMAGES,
    X_SESSION,
    Y_DEADLINE,
    bare,
)


@bare
def on_ring(s, pool, session):  # type: ignore[no-untyped-def]
    """Consistent hashing with bounded load (Mirrokni et al. 2018): the first replica that is not too full."""
    pool_i, seen = s.fleet.pool_i, s.clock.seen
    first, n = pool_i[pool, P_RING], pool_i[pool, P_RING_N]
    ring = s.clock.ring
    start, many = pool_i[pool, P_FIRST], pool_i[pool, P_RANKS]
    total = 1.0
    for rank in range(start, start + many):
        if seen[rank, V_UP] > 0:
            total += seen[rank, V_REQ]
    bound = s.fleet.pool_f[pool, F_BOUND] * total / pool_i[pool, P_ALIVE]
    point = np.int64(uniform(np.int64(0), session, np.int64(0)) * 9007199254740992.0)
    low, high = np.int64(0), n
    while low < high:
        middle = (low + high) >> 1
        if ring[first + middle, 0] < point:
            low = middle + 1
        else:
            high = middle
    for j in range(n):
        rank = ring[first + (low + j) % n, 1]
        if seen[rank, V_UP] > 0 and seen[rank, V_REQ] + 1 <= np.ceil(bound):
            return rank
    return NONE


@bare
def choose(s, r, pool):  # type: ignore[no-untyped-def]
    """The replica for a request, by the pool's policy; -1: none is up, -2: refused."""
    fleet, rank_i, clock, seen = s.fleet, s.fleet.rank_i, s.clock, s.clock.seen
    pool_i, pool_f = fleet.pool_i, fleet.pool_f
    if pool_i[pool, P_ALIVE] == 0:
        return NONE
    first, many, policy = pool_i[pool, P_FIRST], pool_i[pool, P_RANKS], pool_i[pool, P_ROUTER]
    turn = pool_i[pool, P_TURN]
    pool_i[pool, P_TURN] = (turn + 1) % many
    if policy == RT_ROUND_ROBIN:
        for j in range(many):
            rank = first + (turn + j) % many
            if seen[rank, V_UP] > 0:
                pool_i[pool, P_TURN] = (turn + j + 1) % many
                return rank
    seed, stamp = clock.i[I_SEED], np.int64(s.work.aux[r, ORDER_SEQ])
    if policy in (RT_RANDOM, RT_TWO):
        advance_view(s)
        pick = NONE
        for draw in range(2 if policy == RT_TWO else 1):
            k = np.int64(uniform(seed, stamp, np.int64(pool * 4 + draw)) * pool_i[pool, P_ALIVE])
            rank = first
            while True:  # the k-th of those that are up
                if seen[rank, V_UP] > 0:
                    if k == 0:
                        break
                    k -= 1
                rank += 1
            if pick < 0 or clock.seen[rank, V_REQ] < clock.seen[pick, V_REQ]:
                pick = rank
        return pick
    advance_view(s)
    if policy == RT_SESSION:
        return on_ring(s, pool, s.trace.fix_i[r, X_SESSION])
    block = pool_i[pool, P_BLOCK]
    known = np.int64(s.work.req[r, KNOWN])
    if pool_i[pool, P_INDEX]:
        index_match(s, r, pool)  # V_SCORE: blocks of the prompt that each replica is believed to hold
    balance = True
    if policy == RT_PREFIX:
        least, most = np.inf, 0.0
        for rank in range(first, first + many):
            if seen[rank, V_UP] > 0:
                least, most = min(least, seen[rank, V_REQ]), max(most, seen[rank, V_REQ])
        balance = most > least + pool_f[pool, F_ABS] and most > pool_f[pool, F_REL] * least
    best, cost, load = NONE, np.inf, np.inf
    rank = first + turn - 1  # equal ones take turns
    for _ in range(many):
        rank += 1
        if rank == first + many:
            rank = first
        if seen[rank, V_UP] == 0:
            continue
        requests = seen[rank, V_REQ]
        mine, tie = requests, requests
        if policy == RT_TOKENS:
            mine = seen[rank, V_TOK] + seen[rank, V_BLOCKS] * block
        elif policy == RT_PREFIX and not balance:
            share = min(seen[rank, V_SCORE] * block / known, 1.0)
            full = seen[rank, V_BLOCKS] / max(rank_i[rank, R_CAP], 1)
            mine = (
                pool_f[pool, F_QUEUE] * requests + pool_f[pool, F_KV] * full - pool_f[pool, F_MATCH] * share
            )
        elif policy == RT_KV:
            new = (known + block - 1) // block - seen[rank, V_SCORE]
            mine = pool_f[pool, F_OVERLAP] * (new + seen[rank, V_TOK] / block) + seen[rank, V_BLOCKS]
            if pool_f[pool, F_TEMPERATURE] > 0:  # softmax by the Gumbel trick
                u = uniform(seed, stamp, np.int64(1000 + rank))
                mine += pool_f[pool, F_TEMPERATURE] * np.log(-np.log(max(u, 1e-300)))
        elif policy == RT_SLO:
            new = max(float(known) - seen[rank, V_SCORE] * block, 1.0)
            mine = (seen[rank, V_TOK] + new) * pool_f[pool, F_TOKEN_S]
        if mine < cost or (mine == cost and tie < load):
            best, cost, load = rank, mine, tie
    refuses = pool_i[pool, P_REFUSE] and s.work.aux[r, D_RANK] < 0
    if policy == RT_SLO and refuses and cost > s.trace.fix_f[r, Y_DEADLINE]:
        return NONE - 1
    return best


@bare
def to_images(s, r, pool):  # type: ignore[no-untyped-def]
    """What a request has to compute are its images now."""
    req, aux = s.work.req, s.work.aux
    if aux[r, EMBED] != EM_MADE:
        aux[r, EMBED] = EM_MADE
        aux[r, MADE], aux[r, NAMES] = req[r, KNOWN] - req[r, IN], req[r, NAMED]
        req[r, KNOWN] = aux[r, IMAGES] * np.int64(s.fleet.pool_f[pool, F_IMAGE_TOKENS])
        req[r, NAMED] = s.trace.fix_i[r + 1, X_IMAGES] - s.trace.fix_i[r, X_IMAGES]


@bare
def to_prompt(s, r):  # type: ignore[no-untyped-def]
    """What a request has to compute is its prompt (again), with the tokens that it has given."""
    req, aux = s.work.req, s.work.aux
    if aux[r, EMBED] == EM_MADE:
        aux[r, EMBED] = 0
        req[r, KNOWN], req[r, NAMED] = req[r, IN] + aux[r, MADE], aux[r, NAMES]


@bare
def dispatch(s, r, pool):  # type: ignore[no-untyped-def]
    """A request comes to a pool: refused, held until a replica is up, or to the queue of one."""
    fleet, req, aux = s.fleet, s.work.req, s.work.aux
    pool_i, rank_i = fleet.pool_i, fleet.rank_i
    req[r, POOL] = pool
    if pool_i[pool, P_ENCODES]:
        to_images(s, r, pool)
    rank = choose(s, r, pool)
    if rank == NONE:
        req[r, STATE] = ST_HELD
        s.work.key[r, 0], s.work.key[r, 1] = 0.0, aux[r, ORDER_SEQ]
        root = pool_i[pool, P_HELD]
        fleet.root[root] = h.add(s.work.link, s.work.key, fleet.root[root], np.int64(r))
        s.clock.i[I_HELD] += 1
        return
    cap = pool_i[pool, P_QUEUE_CAP]
    if rank < 0 or (cap > 0 and rank_i[rank, R_WAIT] >= cap and aux[r, D_RANK] < 0):
        end(s, r, OC_REFUSED)
        return
    if pool_i[pool, P_INDEX]:
        index_sent(s, r, pool, rank)
    req[r, RANK] = rank
    rank_i[rank, R_REQ] += 1
    if aux[r, D_RANK] >= 0 and pool_i[rank_i[aux[r, D_RANK], R_POOL], P_ENCODES]:
        # Embeddings come before the prompt's turn; KV waits until blocks are reserved (see ``fetch_prompt``).
        req[r, STATE] = ST_HANDED
        ask_room(s, r, rank)
        fetch_images(s, rank)
        return
    req[r, STATE] = ST_WAITING
    enqueue(fleet, s.work, s.trace.fix_f, s.clock.i, rank, r, BEHIND)
    report(rank_i, fleet.pool_f, s.clock.seen, s.cache, rank)
    kick(fleet, s.clock.i, rank)


@bare
def hand_on(s, r, rank, pool):  # type: ignore[no-untyped-def]
    """A request goes to the next pool; what it holds here stays until the hand-over is done."""
    req, aux, when = s.work.req, s.work.aux, s.work.when
    aux[r, D_RANK] = rank
    aux[r, D_BLOCKS], aux[r, D_HIT], aux[r, D_KEPT] = req[r, BLOCKS], req[r, HIT], req[r, KEPT]
    when[r, W_D_ADMISSION] = when[r, W_ADMISSION]
    when[r, W_PREFILL] = s.clock.now[Q_NOW] - when[r, W_SCHEDULED]
    req[r, BLOCKS] = 0
    req[r, HIT] = 0
    req[r, KEPT] = 0
    req[r, COMPUTED] = 0
    s.fleet.rank_i[rank, R_REQ] -= 1
    s.fleet.rank_i[rank, R_HOLDS] += 1
    if s.fleet.pool_i[pool, P_ENCODES]:
        to_prompt(s, r)
        if aux[r, MADE] == 0:
            when[r, W_SCHEDULED] = np.inf
    dispatch(s, r, s.fleet.pool_i[pool, P_NEXT])


@bare
def entrance(s, r):  # type: ignore[no-untyped-def]
    """The pool that a request begins at: they stand in the order of its way; only images need an encoder."""
    if s.fleet.pool_i[0, P_ENCODES] and s.work.aux[r, IMAGES] == 0:
        return np.int64(1)
    return np.int64(0)


@bare
def fits(s, r):  # type: ignore[no-untyped-def]
    """Whether every pool on its way can serve a request at all: the outcome that refuses it, or 0."""
    pool_i, req = s.fleet.pool_i, s.work.req
    tokens = np.int64(req[r, IN]) + req[r, OUT]
    for pool in range(pool_i.shape[0]):
        if pool_i[pool, P_ENCODES]:
            if s.work.aux[r, IMAGES] > s.fleet.rank_i[pool_i[pool, P_FIRST], R_CAP]:
                return OC_TOO_LARGE
            continue
        if pool_i[pool, P_LEN] > 0 and tokens > pool_i[pool, P_LEN]:
            return OC_TOO_LONG
        block = pool_i[pool, P_BLOCK]
        need = (tokens + pool_i[pool, P_SPEC] + block - 1) // block
        if need > s.fleet.rank_i[pool_i[pool, P_FIRST], R_CAP] - pool_i[pool, P_MARK]:
            return OC_TOO_LARGE
    return NONE


@bare
def enter(s, r):  # type: ignore[no-untyped-def]
    """A request is let in: this is its arrival."""
    i = s.clock.i
    i[I_STAMP] += 1
    s.work.when[r, W_ARRIVAL] = s.clock.now[Q_NOW]
    s.work.aux[r, ORDER_SEQ] = i[I_STAMP]
    wrong = fits(s, r)
    if wrong >= 0:
        end(s, r, wrong)
        return
    now = s.clock.now
    if now[Q_BUCKET_RATE] < np.inf:
        filled = now[Q_BUCKET] + (now[Q_NOW] - now[Q_BUCKET_AT]) * now[Q_BUCKET_RATE]
        now[Q_BUCKET], now[Q_BUCKET_AT] = min(filled, now[Q_BUCKET_MOST]), now[Q_NOW]
        if now[Q_BUCKET] < 1.0:
            end(s, r, OC_REFUSED)
            return
        now[Q_BUCKET] -= 1.0
    dispatch(s, r, entrance(s, r))
