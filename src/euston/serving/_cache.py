"""Paged KV blocks with names: a hash table of blocks per home (rank, store of a tier, router's index).

A named block in use has references; without any it stays matchable among the free ones until its space is
taken: least recently used first and deepest first (as vLLM does, whose free list this is: blocks without a
name stand in it as runs), or by another order. A copy of a block that is already known has no name.
"""

from __future__ import annotations

import numpy as np

from euston.serving import _heap as h
from euston.serving._state import (
    C_CHAIN,
    C_COUNT,
    C_DEPTH,
    C_FREQ,
    C_HOME,
    C_NEXT,
    C_PREV,
    C_REF,
    EV_FIFO,
    EV_LFU,
    EV_LRU,
    H_ANON,
    H_CAP,
    H_HEAD,
    H_LOGS,
    H_ROOT,
    H_SIZE,
    H_TAIL,
    H_UP,
    I_FREE_NODES,
    I_LOGGED,
    I_NODE,
    I_NODES,
    I_SEQ,
    K_CREATOR,
    K_KEY,
    K_SEQ,
    L_REMOVED,
    L_STORED,
    Q_NOW,
    TA_SECOND,
    TA_THROUGH,
    bare,
)

_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_S = np.uint64(29)


@bare
def place(size, home, key):  # type: ignore[no-untyped-def]
    """Bucket of a name at a home, in a table of ``size`` (a power of two) buckets."""
    x = (np.uint64(key) + np.uint64(home) * _B) * _A
    x ^= x >> _S
    x *= _B
    x ^= x >> _S
    return np.int64(x & np.uint64(size - 1))


@bare
def find(c, home, key):  # type: ignore[no-untyped-def]
    """The node of a name, -1 if it is not there."""
    x = np.int64(c.bucket[place(c.bucket.size, home, key)])
    while x >= 0 and (c.key[x] != key or c.node[x, C_HOME] != home):
        x = np.int64(c.node[x, C_CHAIN])
    return x


@bare
def fresh(c, home, key):  # type: ignore[no-untyped-def]
    """A node out of the store of nodes, not yet in the table."""
    i = c.i
    x = i[I_NODE]
    if x >= 0:
        i[I_NODE] = c.node[x, C_NEXT]
    else:
        x = i[I_NODES]
        i[I_NODES] = x + 1
    i[I_FREE_NODES] -= 1
    c.key[x] = key
    c.node[x, C_HOME] = home
    c.node[x, C_REF] = 0
    c.node[x, C_PREV] = -1
    c.node[x, C_NEXT] = -1
    c.node[x, C_COUNT] = 1
    c.node[x, C_FREQ] = 1
    return x


@bare
def insert(c, home, key, depth):  # type: ignore[no-untyped-def]
    """A new name."""
    x = fresh(c, home, key)
    b = place(c.bucket.size, home, key)
    c.node[x, C_CHAIN] = c.bucket[b]
    c.bucket[b] = x
    c.node[x, C_DEPTH] = depth
    c.home[home, H_SIZE] += 1
    return x


@bare
def drop(c, x):  # type: ignore[no-untyped-def]
    """Give a node back to the store."""
    c.node[x, C_HOME] = -1
    c.node[x, C_NEXT] = c.i[I_NODE]
    c.i[I_NODE] = x
    c.i[I_FREE_NODES] += 1


@bare
def forget(c, x):  # type: ignore[no-untyped-def]
    """A name goes, and its node."""
    home = np.int64(c.node[x, C_HOME])
    b = place(c.bucket.size, home, c.key[x])
    y = np.int64(c.bucket[b])
    if y == x:
        c.bucket[b] = c.node[x, C_CHAIN]
    else:
        while c.node[y, C_CHAIN] != x:
            y = np.int64(c.node[y, C_CHAIN])
        c.node[y, C_CHAIN] = c.node[x, C_CHAIN]
    c.home[home, H_SIZE] -= 1
    drop(c, x)


@bare
def append(c, home, x):  # type: ignore[no-untyped-def]
    """To the recently used end of a home's list."""
    tail = c.home[home, H_TAIL]
    c.node[x, C_PREV] = tail
    c.node[x, C_NEXT] = -1
    if tail >= 0:
        c.node[tail, C_NEXT] = x
    else:
        c.home[home, H_HEAD] = x
    c.home[home, H_TAIL] = x


@bare
def unlink(c, home, x):  # type: ignore[no-untyped-def]
    """Out of a home's list."""
    before, after = np.int64(c.node[x, C_PREV]), np.int64(c.node[x, C_NEXT])
    if before >= 0:
        c.node[before, C_NEXT] = after
    else:
        c.home[home, H_HEAD] = after
    if after >= 0:
        c.node[after, C_PREV] = before
    else:
        c.home[home, H_TAIL] = before


@bare
def write(c, kind, rank, value, more):  # type: ignore[no-untyped-def]
    """A line of the log that routers read."""
    n = c.i[I_LOGGED]
    c.log[n, 0] = c.now[Q_NOW]
    c.log[n, 1] = kind
    c.log[n, 2] = rank
    c.log[n, 3] = value
    c.log[n, 4] = more
    c.i[I_LOGGED] = n + 1


@bare
def free_run(c, home, count, evict):  # type: ignore[no-untyped-def]
    """Blocks without a name become free."""
    if count <= 0:
        return
    if evict != EV_LRU:
        c.home[home, H_ANON] += count
        return
    tail = c.home[home, H_TAIL]
    if tail >= 0 and c.key[tail] < 0:
        c.node[tail, C_COUNT] += count
        return
    x = fresh(c, home, -1)
    c.node[x, C_COUNT] = count
    append(c, home, x)


@bare
def free_named(c, home, x, evict, cost_a, cost_b):  # type: ignore[no-untyped-def]
    """A named block loses its last reference and stays matchable."""
    if evict == EV_LRU:
        append(c, home, x)
        return
    seq = c.i[I_SEQ]
    c.i[I_SEQ] = seq + 1
    c.node_f[x, K_SEQ] = seq
    if evict == EV_LFU:
        c.node_f[x, K_KEY] = c.node[x, C_FREQ]
    elif evict == EV_FIFO:
        c.node_f[x, K_KEY] = c.node_f[x, K_CREATOR]
    else:  # greedy dual: what the last victim was worth + frequency x cost of computing the block again
        cost = cost_a + cost_b * c.node[x, C_DEPTH]
        c.node_f[x, K_KEY] = c.home_f[home] + c.node[x, C_FREQ] * cost
    c.home[home, H_ROOT] = h.add(c.link, c.node_f, c.home[home, H_ROOT], x)


@bare
def hold(c, home, x, evict):  # type: ignore[no-untyped-def]
    """One more reference to a named block; 1 if it was free before."""
    was_free = np.int64(0)
    if c.node[x, C_REF] == 0:
        was_free = np.int64(1)
        if evict == EV_LRU:
            unlink(c, home, x)
        else:
            c.home[home, H_ROOT] = h.remove(c.link, c.node_f, c.home[home, H_ROOT], x)
    c.node[x, C_REF] += 1
    c.node[x, C_FREQ] += 1
    return was_free


@bare
def demote(c, home, key, depth):  # type: ignore[no-untyped-def]
    """A block comes to a tier's store, whose least recently used one goes a tier down."""
    while home >= 0:
        x = find(c, home, key)
        if x >= 0:
            unlink(c, home, x)
            append(c, home, x)
            return
        append(c, home, insert(c, home, key, depth))
        if c.home[home, H_SIZE] <= c.home[home, H_CAP]:
            return
        y = c.home[home, H_HEAD]
        unlink(c, home, y)
        key, depth = c.key[y], np.int64(c.node[y, C_DEPTH])
        forget(c, y)
        home = c.home[home, H_UP]


@bare
def take(c, home, count, evict, admit):  # type: ignore[no-untyped-def]
    """``count`` free blocks are taken; how many of them lost a name."""
    lost = np.int64(0)
    while count > 0:
        if evict == EV_LRU:
            x = c.home[home, H_HEAD]
            if c.key[x] < 0:
                part = min(count, np.int64(c.node[x, C_COUNT]))
                count -= part
                c.node[x, C_COUNT] -= part
                if c.node[x, C_COUNT] == 0:
                    unlink(c, home, x)
                    drop(c, x)
                continue
            unlink(c, home, x)
        else:
            part = min(count, c.home[home, H_ANON])
            count -= part
            c.home[home, H_ANON] -= part
            if count == 0:
                break
            x = c.home[home, H_ROOT]
            c.home[home, H_ROOT] = h.shed(c.link, c.node_f, x)
            c.home_f[home] = c.node_f[x, K_KEY]
        count -= 1
        lost += 1
        if c.home[home, H_LOGS]:
            write(c, L_REMOVED, home, c.key[x], 0)
        if c.home[home, H_UP] >= 0 and admit != TA_THROUGH and (admit != TA_SECOND or c.node[x, C_FREQ] > 1):
            demote(c, c.home[home, H_UP], c.key[x], np.int64(c.node[x, C_DEPTH]))
        forget(c, x)
    return lost


@bare
def keep(c, home, key, depth, admission, admit):  # type: ignore[no-untyped-def]
    """A block that its request fills gets its name, unless another block has it."""
    if find(c, home, key) >= 0:
        return
    x = insert(c, home, key, depth)
    c.node[x, C_REF] = 1
    c.node_f[x, K_CREATOR] = admission
    if c.home[home, H_LOGS]:
        write(c, L_STORED, home, key, depth)
    if c.home[home, H_UP] >= 0 and admit == TA_THROUGH:
        demote(c, c.home[home, H_UP], key, depth)


@bare
def name(ids, first, k, ratio):  # type: ignore[no-untyped-def]
    """Name of block ``k``: each of the trace's blocks is ``ratio`` of the engine's."""
    return ids[first + k // ratio] * ratio + k % ratio


@bare
def give_back(c, ids, first, ratio, home, blocks, hit, kept, admission, evict, cost_a, cost_b):  # type: ignore[no-untyped-def]
    """A request's blocks lose its reference, deepest first; how many became free."""
    free_run(c, home, blocks - kept, evict)
    freed = blocks - kept
    for k in range(kept - 1, -1, -1):
        x = find(c, home, name(ids, first, k, ratio))
        if k < hit or (x >= 0 and c.node_f[x, K_CREATOR] == admission):
            c.node[x, C_REF] -= 1
            if c.node[x, C_REF] == 0:
                freed += 1
                free_named(c, home, x, evict, cost_a, cost_b)
        else:  # a copy of a block that another request named first
            freed += 1
            free_run(c, home, np.int64(1), evict)
    return freed
