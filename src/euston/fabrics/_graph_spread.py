"""Numba kernels of switch graphs: all paths of a flow at once, as shares of links.

A share is pushed through the acyclic graph of (switch, hops to spare) that a target's table spans: every path
alike, or each by its narrowest link. The sum over paths of the narrowest link is taken capacity by capacity:
with w1 < w2 < ... the capacities there are, it is the sum of (w_i - w_(i-1)) times the paths all of whose
links have w_i or more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.fabrics._graph_tables import BUNDLE, COST, STEP, TO, Tables, at

__all__ = ["spread"]

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)

# rows of Work.state
STAMP, WAITING, FIRST, LAST, ORDER, PLACE = 0, 1, 2, 3, 4, 5
# rows of Work.value
COUNT, SHARE = 0, 1
# entries of Work.tally
TICK, TOUCHED, ARRIVED = 0, 1, 2


class Work(NamedTuple):
    """Room to work in, reused by every flow."""

    state: NDArray[np.int64]
    """int64[6, S] by (hops to spare, switch)."""
    value: NDArray[np.float64]
    """float64[2, S]"""
    edge: NDArray[np.int64]
    """int64[2, edges]: link, state behind it."""
    pending: NDArray[np.float64]
    """float64[n]: share that waits to be sent from a switch."""
    arrived: NDArray[np.int64]
    """int64[n]: switches where shares arrived."""
    start: NDArray[np.int64]
    """int64[1]: where a flow starts."""
    load: NDArray[np.float64]
    """float64[m]: share of the present flow on each link."""
    touched: NDArray[np.int64]
    """int64[m]: links with a load, as met."""
    level: NDArray[np.float64]
    """float64[m]: capacities of the links in question, rising."""
    amount: NDArray[np.float64]
    """float64[2, n]: what starts where, and the width of its paths."""
    tally: NDArray[np.int64]


@_helper
def _reach(graph, view, alive, k, t, starts, work):  # type: ignore[no-untyped-def]
    """Number the states on the way from ``starts`` to ``t`` so that each comes after all that lead to it."""
    n = graph.ptr.size - 1
    ptr, link, ahead, lattice = graph.ptr, graph.link, view.ahead, view.size.size > 0
    dist, walks = view.dist[k], view.walks[k]
    state, edge = work.state, work.edge
    work.tally[TICK] += 1
    tick = work.tally[TICK]
    todo, edges = 0, 0
    for i in range(starts.size):
        for e in range(view.walks.shape[1]):
            here = at(view, starts[i], t)
            if walks[e, here] > 0.0:
                s = e * n + starts[i]
                state[STAMP, s], state[WAITING, s], state[PLACE, s] = tick, 0, here
                state[ORDER, todo] = s
                todo += 1
    while todo > 0:  # depth first; ORDER serves as the stack
        todo -= 1
        s = state[ORDER, todo]
        e, v, here = s // n, s % n, state[PLACE, s]
        state[FIRST, s] = edges
        d = dist[here]
        if d > 0:
            for out in range(ptr[v], ptr[v + 1]):
                to = link[out, TO]
                there = np.int64(ahead[here, link[out, STEP]]) if lattice else np.int64(to)
                left = e - (dist[there] + link[out, COST] - d)
                if left < 0 or not alive[out] or walks[left, there] == 0.0:
                    continue
                s2 = left * n + to
                edge[0, edges], edge[1, edges] = out, s2
                edges += 1
                if state[STAMP, s2] != tick:
                    state[STAMP, s2], state[WAITING, s2], state[PLACE, s2] = tick, 0, there
                    state[ORDER, todo] = s2
                    todo += 1
                state[WAITING, s2] += 1
        state[LAST, s] = edges
    done, found = 0, 0
    for i in range(starts.size):
        for e in range(view.walks.shape[1]):
            s = e * n + starts[i]
            if state[STAMP, s] == tick and state[WAITING, s] == 0:
                state[ORDER, found] = s
                found += 1
    while done < found:
        s = state[ORDER, done]
        done += 1
        for i in range(state[FIRST, s], state[LAST, s]):
            s2 = edge[1, i]
            state[WAITING, s2] -= 1
            if state[WAITING, s2] == 0:
                state[ORDER, found] = s2
                found += 1
    return found, edges


@_helper
def _levels(weight, work, edges):  # type: ignore[no-untyped-def]
    """Distinct weights of the edges' links, rising, into ``work.level``; how many."""
    level = work.level
    n = 0
    for i in range(edges):
        w = weight[work.edge[0, i]]
        place = n
        while place > 0 and level[place - 1] > w:
            place -= 1
        if place > 0 and level[place - 1] == w:
            continue
        for j in range(n, place, -1):
            level[j] = level[j - 1]
        level[place] = w
        n += 1
    return n


@_helper
def _count(weight, least, found, work):  # type: ignore[no-untyped-def]
    """Walks from every state over links of ``least`` or more, last states first."""
    state, value = work.state, work.value
    for i in range(found - 1, -1, -1):
        s = state[ORDER, i]
        if state[FIRST, s] == state[LAST, s]:
            value[COUNT, s] = 1.0
            continue
        total = 0.0
        for j in range(state[FIRST, s], state[LAST, s]):
            if weight[work.edge[0, j]] >= least:
                total += value[COUNT, work.edge[1, j]]
        value[COUNT, s] = total


@_helper
def _flow(weight, least, found, collect, work):  # type: ignore[no-untyped-def]
    """Move shares from state to state over links of ``least`` or more."""
    state, value = work.state, work.value
    for j in range(found):
        s = state[ORDER, j]
        share = value[SHARE, s]
        if share == 0.0:
            continue
        if state[FIRST, s] == state[LAST, s]:
            if collect:
                if work.pending[s] == 0.0:
                    work.arrived[work.tally[ARRIVED]] = s
                    work.tally[ARRIVED] += 1
                work.pending[s] += share
            continue
        share /= value[COUNT, s]
        for i in range(state[FIRST, s], state[LAST, s]):
            link, s2 = work.edge[0, i], work.edge[1, i]
            if weight[link] >= least and value[COUNT, s2] > 0.0:
                moved = share * value[COUNT, s2]
                value[SHARE, s2] += moved
                if work.load[link] == 0.0:
                    work.touched[work.tally[TOUCHED]] = link
                    work.tally[TOUCHED] += 1
                work.load[link] += moved


@_helper
def _push(graph, view, weight, alive, k, t, starts, collect, work):  # type: ignore[no-untyped-def]
    """Send what is pending at ``starts`` to target ``t``; with ``collect`` it is pending where it arrives."""
    n, levels = graph.ptr.size - 1, view.walks.shape[1]
    state, value, tick = work.state, work.value, work.tally[TICK] + 1
    found, edges = _reach(graph, view, alive, k, t, starts, work)
    widths = _levels(weight, work, edges)
    if widths == 0:  # all starts are in the target already
        return
    for j in range(starts.size):
        v = starts[j]
        work.amount[0, j], work.amount[1, j] = work.pending[v], 0.0
        work.pending[v] = 0.0
    for turn in range(2):  # the sum over paths of their widths, then the shares
        below = 0.0
        for i in range(widths):
            least = work.level[i]
            if turn == 0 or widths > 1:
                _count(weight, least, found, work)
            if turn == 1:
                for j in range(found):
                    value[SHARE, state[ORDER, j]] = 0.0
            for j in range(starts.size):
                for e in range(levels):
                    s = e * n + starts[j]
                    if state[STAMP, s] == tick:
                        wide = (least - below) * value[COUNT, s]
                        if turn == 0:
                            work.amount[1, j] += wide
                        else:
                            value[SHARE, s] += work.amount[0, j] * wide / work.amount[1, j]
            below = least
            if turn == 1:
                _flow(weight, least, found, collect, work)


@_helper
def _emit(graph, split, bundle0, link0, row, fraction, at_, work):  # type: ignore[no-untyped-def]
    """Rows of the present flow, whole bundles where they are not split; clears the loads."""
    for i in range(work.tally[TOUCHED]):
        link = work.touched[i]
        if work.load[link] == 0.0:
            continue  # stands in its bundle already
        bundle = graph.link[link, BUNDLE]
        if split[bundle0 + bundle]:
            row[at_], fraction[at_] = link0 + link, work.load[link]
            work.load[link] = 0.0
        else:
            first, total = link, 0.0
            while first > 0 and graph.link[first - 1, BUNDLE] == bundle:
                first -= 1
            while first < work.load.size and graph.link[first, BUNDLE] == bundle:
                total += work.load[first]
                work.load[first] = 0.0
                first += 1
            row[at_], fraction[at_] = bundle0 + bundle, total
        at_ += 1
    work.tally[TOUCHED] = 0
    return at_


@njit(cache=True, no_cfunc_wrapper=True)
def _spread(  # type: ignore[no-untyped-def]
    graph, view, slot, weight, alive, source, target, direct, via, split, first, work, ptr, row, fraction
):
    """Rows of flows ``first[0]`` and on, as many as there is room for; the next flow, or how many there are.

    ``first``: flow, row of bundle 0, row of link 0. ``ptr[first[0]]`` entries stand already.
    """
    start = work.start
    at_ = ptr[first[0]]
    for f in range(first[0], source.size):
        if at_ + work.load.size > row.size:
            return f
        s, t = np.int64(source[f]), np.int64(target[f])
        if s != t:
            turns = 0
            while turns < via.shape[1] and via[f, turns] >= 0:
                turns += 1
            work.tally[ARRIVED] = 0
            # what goes through the turns (none of them s or t) first, then all of it on to t
            for i in range(turns + 1):
                last = i == turns
                goal = t if last else via[f, i]
                if last:
                    if direct[f] > 0.0:
                        work.arrived[work.tally[ARRIVED]] = s
                        work.tally[ARRIVED] += 1
                        work.pending[s] = direct[f]
                else:
                    work.pending[s] = (1.0 - direct[f]) / turns
                starts = work.arrived[: work.tally[ARRIVED]] if last else start
                start[0] = s
                _push(graph, view, weight, alive, np.int64(slot[goal]), goal, starts, not last, work)
        at_ = _emit(graph, split, first[1], first[2], row, fraction, at_, work)
        ptr[f + 1] = at_
    return source.size


def spread(
    tables: Tables,
    weight: NDArray[np.float64],
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    direct: NDArray[np.float64],
    via: NDArray[np.int64],
    split: NDArray[np.bool_],
    first_bundle: int,
    first_link: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """CSR (ptr, row, fraction) of flows between switches, each with its share ``direct[f]`` on direct paths.

    The rest goes in equal parts through the targets ``via[f]`` (int64[F, V], -1: none). All targets must be
    prepared, and every flow must have a live path.

    Parameters
    ----------
    weight : float64[m]
        Of the links between switches; 0: dead.
    split : bool[B]
        Bundles to name by single links; those of this graph begin at ``first_bundle``, which is also the row
        of the first one. ``first_link`` is the row of link 0.
    """
    graph, view = tables.graph, tables.view
    n, m = graph.ptr.size - 1, graph.link.shape[0]
    states, edges = n * (tables.excess + 1), m * (tables.excess + 1)
    work = Work(
        state=np.zeros((6, states), np.int64),
        value=np.zeros((2, states)),
        edge=np.empty((2, edges), np.int64),
        pending=np.zeros(n),
        arrived=np.empty(n, np.int64),
        start=np.empty(1, np.int64),
        load=np.zeros(m),
        touched=np.empty(m, np.int64),
        level=np.empty(m),
        amount=np.empty((2, n)),
        tally=np.zeros(3, np.int64),
    )
    ptr = np.zeros(source.size + 1, np.int64)
    row, fraction = np.empty(16 * source.size + m, np.int32), np.empty(16 * source.size + m)
    alive = weight > 0
    done = 0
    while True:
        first = np.array([done, first_bundle, first_link])
        done = _spread(
            graph, view, tables.slot, weight, alive, source, target, direct, via, split, first, work,
            ptr, row, fraction,
        )  # fmt: skip
        if done == source.size:
            return ptr, row[: ptr[-1]], fraction[: ptr[-1]]
        row, fraction = (np.concatenate((a, np.empty(a.size + m, a.dtype))) for a in (row, fraction))
