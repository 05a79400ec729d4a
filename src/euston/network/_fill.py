"""The progressive-filling kernels behind every fluid solve: weighted max-min, by rounds and by a heap.

Rounds: a row on which all its flows find their smallest share is a bottleneck of the final allocation,
because shares only rise while other flows freeze; its flows freeze at that share. Independent parts of the
network freeze in the same round, so shallow contention is over in a few rounds. Heap: the row with the
smallest share of all is a bottleneck; its key may be old, but never too large, for the same reason. Deep
contention costs rounds without end but only one pop per bottleneck here.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Shares within this relative slack are equal: it absorbs the dust of the subtractions, nothing else.
SLACK = 1e-12

# What holds a flow's rate when no row does.
OWN_CAP, UNBOUNDED, _UNDECIDED = np.array([-1, -2, -3])

# Lines of the array of rows: bytes/s there are and are left, summed weights, least level of the undecided.
CAPACITY, FREE, DEMAND, LOW = np.arange(4, dtype=np.uintp)

# With few flows per row contention is shallow: rounds first, and the heap for what twelve of them leave. With
# many it is deep, and rounds are wasted (measured with 1, 4 and 16 random flows per host on 16,384 hosts).
AUTO, _SHALLOW, _ROUNDS = -1, 8, 12

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_helper
def _rounds(live, n, column, weight, rate_cap, ptr, row, coefficient, rows, rate, bottleneck, limit):  # type: ignore[no-untyped-def]
    """At most ``limit`` rounds; returns (flows of ``live`` left undecided, rounds)."""
    free, demand, low = rows[FREE], rows[DEMAND], rows[LOW]
    rounds = 0
    while n > 0 and rounds < limit:
        rounds += 1
        for i in range(n):
            f = live[i]
            c = column[f]
            for e in range(ptr[c], ptr[c + 1]):
                demand[row[e]] += coefficient[e] * weight[f]
        for i in range(n):
            f = live[i]
            c = column[f]
            level = rate_cap[f] / weight[f]
            for e in range(ptr[c], ptr[c + 1]):
                level = min(level, free[row[e]] / demand[row[e]])
            rate[f] = level
            for e in range(ptr[c], ptr[c + 1]):
                low[row[e]] = min(low[row[e]], level)
        # Judge every flow on the state at the start of the round, then settle the frozen ones.
        for i in range(n):
            f = live[i]
            c = column[f]
            at = _UNDECIDED
            if rate_cap[f] / weight[f] <= rate[f]:
                at = UNBOUNDED if rate[f] == np.inf else OWN_CAP
            else:
                for e in range(ptr[c], ptr[c + 1]):
                    share = free[row[e]] / demand[row[e]]
                    if low[row[e]] >= share * (1.0 - SLACK):
                        at = np.int64(row[e])
                        break
            bottleneck[f] = at
        kept = 0
        for i in range(n):
            f = live[i]
            c = column[f]
            if bottleneck[f] == _UNDECIDED:
                live[kept] = f
                kept += 1
                for e in range(ptr[c], ptr[c + 1]):
                    demand[row[e]] = 0.0
                    low[row[e]] = np.inf
                continue
            rate[f] *= weight[f]
            if rate[f] < np.inf:
                for e in range(ptr[c], ptr[c + 1]):
                    left = free[row[e]] - coefficient[e] * rate[f]
                    free[row[e]] = max(left, 0.0)
        n = kept
    return n, rounds


@_helper
def _sift(key, what, n, k):  # type: ignore[no-untyped-def]
    """Entry ``k`` of the 4-ary heap of ``n`` may be larger than its children: put it where it belongs."""
    mine, me = key[k], what[k]
    while True:
        first = 4 * k + 1
        if first + 4 <= n:  # two pairs, then the better of each: no branch to foresee
            a = first + (key[first + 1] < key[first])
            b = first + 2 + (key[first + 3] < key[first + 2])
            least = b if key[b] < key[a] else a
        elif first < n:
            least = first
            for child in range(first + 1, n):
                if key[child] < key[least]:
                    least = child
        else:
            break
        if key[least] >= mine:
            break
        key[k], what[k] = key[least], what[least]
        k = least
    key[k], what[k] = mine, me


@_helper
def _by_heap(live, n, column, weight, rate_cap, ptr, row, coefficient, rows, rate, bottleneck):  # type: ignore[no-untyped-def]
    """Freeze all ``n`` flows of ``live`` on what is free, smallest share first; returns the pops.

    The rows in use are copied next to each other, by first appearance: one cache line each.
    """
    free, place = rows[FREE], rows[LOW]
    entries = 0
    for i in range(n):
        c = column[live[i]]
        entries += ptr[c + 1] - ptr[c]
        for e in range(ptr[c], ptr[c + 1]):
            place[row[e]] = -1.0
    state = np.empty((min(entries, free.size), 4))  # free, summed weights, number of undecided flows, none
    start = np.zeros(state.shape[0] + 2, np.int64)
    name = np.empty(state.shape[0], np.int32)
    where = np.empty(entries, np.int32)
    begin = np.empty(n + 1, np.int32)
    settled = np.zeros(n, np.bool_)  # asked for every entry: small enough for a near cache
    used, at, capped = 0, 0, 0
    for i in range(n):
        f = live[i]
        c = column[f]
        begin[i] = at
        capped += rate_cap[f] < np.inf
        for e in range(ptr[c], ptr[c + 1]):
            r = row[e]
            k = int(place[r])
            if k < 0:
                k = used
                place[r] = k
                name[k] = r
                state[k, 0], state[k, 1], state[k, 2] = free[r], 0.0, 0.0
                used += 1
            state[k, 1] += coefficient[e] * weight[f]
            state[k, 2] += 1.0
            start[k + 2] += 1
            where[at] = k
            at += 1
    begin[n] = at
    for k in range(2, used + 2):
        start[k] += start[k - 1]
    member = np.empty(entries, np.int32)
    key = np.empty(used + capped)
    what = np.empty(used + capped, np.int64)
    size = used
    for i in range(n):
        f = live[i]
        for j in range(begin[i], begin[i + 1]):
            behind = where[j] + 1
            member[start[behind]] = i
            start[behind] += 1
        # A rate cap is a row of its own: number ``used + i``.
        if rate_cap[f] < np.inf:
            key[size] = rate_cap[f] / weight[f]
            what[size] = used + i
            size += 1
    for k in range(used):
        key[k] = state[k, 0] / state[k, 1]
        what[k] = k
    for k in range(size // 4, -1, -1):
        _sift(key, what, size, k)
    pops = 0
    while size > 0:
        pops += 1
        k, level = what[0], key[0]
        own = k >= used
        if not own and state[k, 2] > 0.0 and level < np.inf:
            share = state[k, 0] / state[k, 1]
            if share > level * (1.0 + SLACK):
                key[0] = share
                _sift(key, what, size, 0)
                continue
            level = share
        size -= 1
        key[0], what[0] = key[size], what[size]
        _sift(key, what, size, 0)
        if level == np.inf or (not own and state[k, 2] == 0.0):
            continue
        first, last = 0, 1
        if not own:
            first, last = start[k], start[k + 1]
        for m in range(first, last):
            i = k - used if own else int(member[m])
            if settled[i]:
                continue
            settled[i] = True
            f = live[i]
            bottleneck[f] = OWN_CAP if own else np.int64(name[k])
            w = weight[f]
            x = level * w
            rate[f] = x
            e = ptr[column[f]] - begin[i]
            for j in range(begin[i], begin[i + 1]):
                q = where[j]
                share = coefficient[e + j]
                state[q, 0] = max(state[q, 0] - share * x, 0.0)
                state[q, 1] -= share * w
                state[q, 2] -= 1.0
                if state[q, 2] == 1.0:
                    # One flow left: what the subtractions left of its weight is dust next to the truth.
                    for other in range(start[q], start[q + 1]):
                        g = np.int64(member[other])
                        if not settled[g]:
                            for h in range(begin[g], begin[g + 1]):
                                if where[h] == q:
                                    c = ptr[column[live[g]]] - begin[g]
                                    state[q, 1] = coefficient[c + h] * weight[live[g]]
    for i in range(n):
        f = live[i]
        if not settled[i]:  # nothing but rows without an end, or no row
            rate[f] = np.inf
            bottleneck[f] = UNBOUNDED
    return pops


@njit(cache=True, no_cfunc_wrapper=True)
def fill(live, n, column, weight, rate_cap, ptr, row, coefficient, rows, rate, bottleneck, limit):  # type: ignore[no-untyped-def]
    """Rates of the first ``n`` flows (slots) of ``live``: all the flows on every row that they touch.

    ``live`` is used up. Of ``rows``, float64[4, rows], line ``CAPACITY`` is read, the others are scratch.
    ``limit`` rounds come first (0: the heap does all; ``AUTO``: as the depth of contention asks for). Writes
    ``rate[slot]`` (bytes/s) and ``bottleneck[slot]`` (row, ``OWN_CAP`` or ``UNBOUNDED``). Returns rounds and
    pops.
    """
    capacity, free, demand, low = rows[CAPACITY], rows[FREE], rows[DEMAND], rows[LOW]
    entries, used = 0, 0
    for i in range(n):
        entries += ptr[column[live[i]] + 1] - ptr[column[live[i]]]
    every = entries > low.size  # then one row after the other, else those that are touched
    if every:
        free[:] = capacity
        demand[:] = 0.0
        low[:] = np.inf
    else:
        for i in range(n):
            c = column[live[i]]
            for e in range(ptr[c], ptr[c + 1]):
                r = row[e]
                free[r] = capacity[r]
                demand[r] = 0.0
                low[r] = np.inf
    if limit == AUTO:
        for i in range(n):
            c = column[live[i]]
            for e in range(ptr[c], ptr[c + 1]):
                used += low[row[e]] == np.inf
                low[row[e]] = 0.0
        limit = _ROUNDS if entries <= _SHALLOW * used else 0
        if every:
            low[:] = np.inf
        else:
            for i in range(n):
                c = column[live[i]]
                for e in range(ptr[c], ptr[c + 1]):
                    low[row[e]] = np.inf
    rounds, pops = 0, 0
    if limit > 0:
        n, rounds = _rounds(
            live, n, column, weight, rate_cap, ptr, row, coefficient, rows, rate, bottleneck, limit
        )
    if n > 0:
        pops = _by_heap(live, n, column, weight, rate_cap, ptr, row, coefficient, rows, rate, bottleneck)
    return rounds, pops
