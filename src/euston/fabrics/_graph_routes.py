"""Numba kernels of switch graphs: one path by its number, read off a target's table hop by hop.

The paths of a pair are numbered by stepping through their lexicographic order at the golden ratio of their
count, so that small numbers already differ in their first hop. Beyond 2^31 paths a number seeds a draw
instead, uniform over paths.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from euston.fabrics._graph_tables import COST, FAR, STEP, TO, at

__all__ = ["MANY", "UNCOUNTED", "number_of", "rank_of", "route", "stride"]

MANY = 1 << 31
UNCOUNTED = 2.0**62
_TRIES = 32  # walks looked at per path wanted, where a walk may meet itself
_GOLDEN_RATIO = 0.6180339887498949

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_helper
def _mix(x):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@_helper
def stride(count):  # type: ignore[no-untyped-def]
    """The step nearest below the golden ratio of ``count`` that visits every number below it."""
    found = max(np.int64(1), np.int64(count * _GOLDEN_RATIO))
    while True:
        a, b = np.int64(count), found
        while b > 0:
            a, b = b, a % b
        if a == 1:
            return found
        found -= 1


@_helper
def rank_of(number, count):  # type: ignore[no-untyped-def]
    """Place in lexicographic order of path ``number`` of ``count`` (at most 2^31)."""
    return number * stride(count) % count


@_helper
def number_of(rank, count):  # type: ignore[no-untyped-def]
    """The inverse of `rank_of`: extended Euclid on the stride."""
    a, b = np.int64(count), stride(count)
    x, y = np.int64(0), np.int64(1)
    while b > 0:
        q = a // b
        a, b = b, a - q * b
        x, y = y, x - q * y
    return rank * (x % count) % count


@_helper
def trace(graph, view, alive, k, s, t, e, rank, seed, out):  # type: ignore[no-untyped-def]
    """Write the links of walk number ``rank`` with ``e`` hops above the least; how many they are.

    A negative ``rank`` draws each hop in proportion to the walks behind it, from ``seed``.
    """
    # arrays by their own names: taken out of a tuple in a loop they are counted as references each time
    ptr, link, ahead, lattice = graph.ptr, graph.link, view.ahead, view.size.size > 0
    dist, walks = view.dist[k], view.walks[k]
    v, here = np.int64(s), at(view, s, t)
    hops = 0
    left, drawn = rank, 0.0
    while dist[here] > 0:
        if rank < 0:
            seed = _mix(seed + np.uint64(0x9E3779B97F4A7C15))
            drawn = np.float64(seed >> np.uint64(11)) * 2.0**-53 * walks[e, here]
        chosen, there, spare = -1, here, e
        for i in range(ptr[v], ptr[v + 1]):
            place = np.int64(ahead[here, link[i, STEP]]) if lattice else np.int64(link[i, TO])
            after = e - (dist[place] + link[i, COST] - dist[here])
            if after < 0 or not alive[i] or walks[after, place] == 0.0:
                continue
            chosen, there, spare = i, place, after
            if rank >= 0:
                if left < walks[after, place]:
                    break
                left -= np.int64(walks[after, place])
            else:
                if drawn < walks[after, place]:
                    break
                drawn -= walks[after, place]
        out[hops] = chosen
        hops += 1
        v, here, e = np.int64(link[chosen, TO]), there, spare
    return hops


@_helper
def _meets_itself(graph, s, out, hops):  # type: ignore[no-untyped-def]
    for i in range(hops):
        v = graph.link[out[i], TO]
        if v == s:
            return True
        for j in range(i):
            if graph.link[out[j], TO] == v:
                return True
    return False


@_helper
def select(graph, view, alive, k, s, t, chosen, out):  # type: ignore[no-untyped-def]
    """Fill ``chosen`` (int64[2, limit]: hops above the least, rank) with the shortest paths; how many.

    Walks of least length or one hop more cannot meet themselves: cutting out the loop, of two hops or more,
    would leave a walk shorter than the shortest.
    """
    here = at(view, s, t)
    n = 0
    for e in range(view.walks.shape[1]):
        count = np.int64(min(view.walks[k, e, here], np.float64(MANY)))
        if count == 0:
            continue
        pace = stride(count)
        tries = count if e < 2 else min(count, _TRIES * chosen.shape[1])
        for i in range(tries):
            if n == chosen.shape[1]:
                return n
            rank = i * pace % count
            if e >= 2:
                hops = trace(graph, view, alive, k, s, t, e, rank, np.uint64(0), out)
                if _meets_itself(graph, s, out, hops):
                    continue
            chosen[0, n], chosen[1, n] = e, rank
            n += 1
    return n


@njit(cache=True, no_cfunc_wrapper=True)
def route(graph, view, slot, alive, source, target, choice, limit, out, hops, paths):  # type: ignore[no-untyped-def]
    """Row f of ``out``: path number ``choice % paths``; ``hops[f]`` -1 where there is none.

    ``limit`` 0: all walks the tables count are paths; else the ``limit`` shortest are. ``paths`` (float64[F])
    becomes how many there are.
    """
    chosen = np.empty((2, max(1, limit)), np.int64)
    levels = view.walks.shape[1]
    for f in range(source.size):
        s, t, k = np.int64(source[f]), np.int64(target[f]), np.int64(slot[target[f]])
        here = at(view, s, t)
        if view.dist[k, here] >= FAR:
            hops[f] = -1
            paths[f] = 0.0
            continue
        if limit > 0:
            n = select(graph, view, alive, k, s, t, chosen, out[f])
            i = np.int64(choice[f] % np.uint64(n))
            paths[f] = n
            hops[f] = trace(graph, view, alive, k, s, t, chosen[0, i], chosen[1, i], np.uint64(0), out[f])
            continue
        total = 0.0
        for e in range(levels):
            total += view.walks[k, e, here]
        paths[f] = total
        e = 0
        if total > MANY:
            seed = _mix(choice[f] % np.uint64(min(total, UNCOUNTED)))
            drawn = np.float64(seed >> np.uint64(11)) * 2.0**-53 * total
            while e < levels - 1 and drawn >= view.walks[k, e, here] and view.walks[k, e + 1, here] > 0:
                drawn -= view.walks[k, e, here]
                e += 1
            rank = np.int64(-1)
        else:
            seed = np.uint64(0)
            number = np.int64(choice[f] % np.uint64(total))
            while number >= view.walks[k, e, here]:
                number -= np.int64(view.walks[k, e, here])
                e += 1
            rank = rank_of(number, np.int64(view.walks[k, e, here]))
        hops[f] = trace(graph, view, alive, k, s, t, e, rank, seed, out[f])
