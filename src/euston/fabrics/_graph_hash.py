"""Hop-by-hop hashing in switch graphs: every switch takes its next hop ``word % live next hops``.

The path found has a number, by which `euston.fabrics.Fabric.route` gives it again.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.fabrics._graph_routes import MANY, number_of
from euston.fabrics._graph_tables import COST, STEP, TO, Tables, at
from euston.fabrics.structure import SwitchWord

__all__ = ["hashed_choice"]


@njit(cache=True, no_cfunc_wrapper=True)
def _hop(graph, view, slot, alive, where, target, word, rank, done):  # type: ignore[no-untyped-def]
    """Move every flow one hop on; ``rank`` gains the walks that come before the hop taken."""
    ptr, link, dist, walks = graph.ptr, graph.link, view.dist, view.walks
    ahead, lattice = view.ahead, view.size.size > 0
    for f in range(where.size):
        v, t = np.int64(where[f]), np.int64(target[f])
        k, here = np.int64(slot[t]), at(view, v, t)
        if dist[k, here] == 0:
            done[f] = True
            continue
        hops, left = np.int64(0), np.int64(-1)
        for turn in range(2):  # count the next hops, then take one
            if turn == 1:
                left = np.int64(word[f] % np.uint64(hops))
            for i in range(ptr[v], ptr[v + 1]):
                there = np.int64(ahead[here, link[i, STEP]]) if lattice else np.int64(link[i, TO])
                if not alive[i] or dist[k, there] + link[i, COST] != dist[k, here]:
                    continue
                if turn == 0:
                    hops += 1
                elif left == 0:
                    where[f] = link[i, TO]
                    break
                else:
                    left -= 1
                    rank[f] += np.int64(walks[k, 0, there])


@njit(cache=True, no_cfunc_wrapper=True)
def _numbers(rank, count):  # type: ignore[no-untyped-def]
    out = np.empty(rank.size, np.uint64)
    for f in range(rank.size):
        out[f] = np.uint64(number_of(rank[f], count[f]))
    return out


def hashed_choice(
    tables: Tables,
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    flow: NDArray[np.int64],
    word: SwitchWord,
    first_switch: int,
) -> NDArray[np.uint64]:
    """Numbers of the hashed paths of flows between switches, uint64[F].

    Pairs with more than 2^31 paths are hashed once, at the first switch: their paths have no numbers.
    """
    out = word(flow, first_switch + source)
    for part in tables.prepare(target):
        s, t = source[part], target[part]
        count = tables.count(s, t)[:, 0]
        few = (count > 0) & (count <= MANY)
        go = part[few]
        where, t = source[go].copy(), target[go]
        rank, done = np.zeros(go.size, np.int64), np.zeros(go.size, bool)
        while go.size and not done.all():
            hashed = word(flow[go], first_switch + where)
            _hop(tables.graph, tables.view, tables.slot, tables.alive, where, t, hashed, rank, done)
        out[go] = _numbers(rank, count[few].astype(np.int64))
    return out
