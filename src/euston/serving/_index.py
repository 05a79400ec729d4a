"""What routers know: loads as they were a delay ago, and an index of who holds which block.

Engines write a log of their loads and of blocks stored and removed; a router reads it up to ``delay`` before
now. The approximate index (prefix-aware) has what the router itself sent, with a bound and a time to live.
"""

from __future__ import annotations

import numpy as np

from euston.serving import _cache as kv
from euston.serving._state import (
    C_HOME,
    F_DELAY,
    F_INDEX_CAP,
    F_TTL,
    H_HEAD,
    H_SIZE,
    I_LOG,
    I_LOGGED,
    K_KEY,
    KNOWN,
    L_LOAD,
    L_STORED,
    NAMED,
    P_BLOCK,
    P_ENCODES,
    P_FIRST,
    P_IDS,
    P_RANKS,
    P_RATIO,
    P_ROUTER,
    Q_NOW,
    R_CAP,
    R_FREE,
    R_POOL,
    R_PREFILLING,
    R_REQ,
    R_TOK,
    RT_PREFIX,
    bare,
)

V_REQ, V_TOK, V_BLOCKS, V_SCORE, V_UP = np.arange(5, dtype=np.uintp)
PACK = 2.0**24  # blocks of a rank are fewer: two numbers in one float
BEFORE, AFTER = np.arange(2, dtype=np.uintp)


@bare
def report(rank_i, pool_f, seen, c, rank):  # type: ignore[no-untyped-def]
    """A replica's load changed: routers see it, at once or later."""
    tokens = rank_i[rank, R_TOK] + rank_i[rank, R_PREFILLING]
    blocks = rank_i[rank, R_CAP] - rank_i[rank, R_FREE]
    if pool_f[rank_i[rank, R_POOL], F_DELAY] > 0:
        kv.write(c, L_LOAD, rank, rank_i[rank, R_REQ], tokens * PACK + blocks)
        return
    seen[rank, V_REQ] = rank_i[rank, R_REQ]
    seen[rank, V_TOK] = tokens
    seen[rank, V_BLOCKS] = blocks


@bare
def holder_heads(s, rank):  # type: ignore[no-untyped-def]
    """Homes of a rank's entries, and of the heads of the lists of holders of its pool."""
    ranks = s.fleet.rank_i.shape[0]
    homes = s.cache.home.shape[0] - ranks - s.fleet.pool_i.shape[0]
    return homes + rank, homes + ranks + s.fleet.rank_i[rank, R_POOL]


@bare
def know(s, rank, key):  # type: ignore[no-untyped-def]
    """The router takes note that a replica holds a block; its entry."""
    c = s.cache
    home, heads = holder_heads(s, rank)
    x = kv.find(c, home, key)
    if x >= 0:
        return x
    top = kv.find(c, heads, key)
    if top < 0:
        top = kv.insert(c, heads, key, 0)
        c.link[top, AFTER] = -1
    x = kv.insert(c, home, key, 0)
    after = c.link[top, AFTER]
    c.link[x, BEFORE] = top
    c.link[x, AFTER] = after
    if after >= 0:
        c.link[after, BEFORE] = x
    c.link[top, AFTER] = x
    c.node_f[x, K_KEY] = c.now[Q_NOW]
    return x


@bare
def unknow(s, rank, x):  # type: ignore[no-untyped-def]
    """The router forgets an entry of a replica."""
    c = s.cache
    heads = holder_heads(s, rank)[1]
    before, after = np.int64(c.link[x, BEFORE]), np.int64(c.link[x, AFTER])
    c.link[before, AFTER] = after
    if after >= 0:
        c.link[after, BEFORE] = before
    elif c.node[before, C_HOME] == heads:
        kv.forget(c, before)
    kv.forget(c, x)


@bare
def advance_view(s):  # type: ignore[no-untyped-def]
    """Bring what routers see up to ``delay`` before now."""
    rank_i, seen, c, pool_f = s.fleet.rank_i, s.clock.seen, s.cache, s.fleet.pool_f
    time = c.now[Q_NOW]
    while c.i[I_LOG] < c.i[I_LOGGED]:
        line = c.i[I_LOG]
        rank = np.int64(c.log[line, 2])
        if c.log[line, 0] > time - pool_f[rank_i[rank, R_POOL], F_DELAY]:
            break
        kind = c.log[line, 1]
        if kind == L_LOAD:
            seen[rank, V_REQ] = c.log[line, 3]
            seen[rank, V_TOK] = np.floor(c.log[line, 4] / PACK)
            seen[rank, V_BLOCKS] = c.log[line, 4] - seen[rank, V_TOK] * PACK
        elif kind == L_STORED:
            know(s, rank, np.int64(c.log[line, 3]))
        else:
            x = kv.find(c, holder_heads(s, rank)[0], np.int64(c.log[line, 3]))
            if x >= 0:
                unknow(s, rank, x)
        c.i[I_LOG] = line + 1
    if c.i[I_LOG] == c.i[I_LOGGED]:
        c.i[I_LOG] = 0
        c.i[I_LOGGED] = 0


@bare
def index_match(s, r, pool):  # type: ignore[no-untyped-def]
    """V_SCORE of each replica: blocks of a prompt, from the first on, that it is believed to hold."""
    c, seen, pool_i = s.cache, s.clock.seen, s.fleet.pool_i
    first, many = pool_i[pool, P_FIRST], pool_i[pool, P_RANKS]
    for rank in range(first, first + many):
        seen[rank, V_SCORE] = 0.0
    heads = holder_heads(s, first)[1]
    ids, ratio = s.trace.fix_i[r, pool_i[pool, P_IDS]], pool_i[pool, P_RATIO]
    chain, most = not pool_i[pool, P_ENCODES], np.int64(s.work.req[r, NAMED])
    if chain:
        most = min(most, (np.int64(s.work.req[r, KNOWN]) - 1) // pool_i[pool, P_BLOCK])
    ranks = s.fleet.rank_i.shape[0]
    offset = c.home.shape[0] - ranks - pool_i.shape[0]
    ttl, time = s.fleet.pool_f[pool, F_TTL], c.now[Q_NOW]
    for k in range(most):
        top = kv.find(c, heads, kv.name(s.trace.ids, ids, k, ratio))
        if top < 0:
            if chain:
                break
            continue
        someone = False
        x = np.int64(c.link[top, AFTER])
        while x >= 0:
            rank = np.int64(c.node[x, C_HOME]) - offset
            if (seen[rank, V_SCORE] == k or not chain) and c.node_f[x, K_KEY] + ttl >= time:
                seen[rank, V_SCORE] += 1.0
                someone = True
            x = np.int64(c.link[x, AFTER])
        if chain and not someone:
            break


@bare
def index_sent(s, r, pool, rank):  # type: ignore[no-untyped-def]
    """The approximate index takes note of a prompt sent to a replica; beyond its bound the oldest go."""
    pool_i, c = s.fleet.pool_i, s.cache
    if pool_i[pool, P_ROUTER] != RT_PREFIX:
        return
    first, ratio = s.trace.fix_i[r, pool_i[pool, P_IDS]], pool_i[pool, P_RATIO]
    home = holder_heads(s, rank)[0]
    most = min(np.int64(s.work.req[r, NAMED]), np.int64(s.work.req[r, KNOWN]) // pool_i[pool, P_BLOCK])
    for k in range(most - 1, -1, -1):
        key = kv.name(s.trace.ids, first, k, ratio)
        x = kv.find(c, home, key)
        if x >= 0:
            kv.unlink(c, home, x)
        else:
            x = know(s, rank, key)
        kv.append(c, home, x)
        c.node_f[x, K_KEY] = c.now[Q_NOW]
    while c.home[home, H_SIZE] > s.fleet.pool_f[pool, F_INDEX_CAP]:
        x = c.home[home, H_HEAD]
        kv.unlink(c, home, x)
        unknow(s, rank, x)
