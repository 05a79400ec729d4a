"""Incremental max-min: after a change only the rows whose level really moves are solved again, exactly.

A row's level is the share at which it saturates, given what its flows are offered elsewhere:
``sum_f a_f min(offer_f, level) = capacity`` with ``a = coefficient * weight``; infinite when it does not. An
allocation is max-min if and only if every row's stored level solves its own equation (the certificate, row by
row). What a row's level depends on are only levels below it, so inconsistent rows are settled in increasing
order of ``min(stored, solved)``, each at most twice: too high ones take their new level, too low ones are
first taken out of the way (the ordering of Ramalingam & Reps' dynamic shortest paths, 1996).
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np
from numba import njit

from euston.network._fill import AUTO, SLACK, fill
from euston.network._fill import CAPACITY as F_CAPACITY
from euston.network._hierarchical_kernel import fill_queues
from euston.network._net import (
    AGAIN, CAP, CAPACITY, CHANGED, COLUMN, DIRTY, E_COLUMN, E_NEXT, E_ROW, F_SEEN, GIVEN, HEAP, HELD, KNOWN,
    LAMBDA, LEVEL, LIVE, LOAD, L_NEXT, NEXT, N_BUSY, N_CHANGED, N_DIRTY, N_FULL, N_HEAP, N_REPAIRS, N_STAMP,
    N_TOUCHED, N_UNSETTLED, N_VISITS, OFFER, POSSIBLE, R_DIRTY, R_LIST, R_SEEN, SOLVED, TAKES, WEIGHT, bare,
    leave_alone,
)  # fmt: skip

# A repair that looks at this many entries per busy entry has found no locality: solve the component instead.
_PATIENCE = 20.0
# Rows that have to change, a quarter of all in use, for it not even to be tried.
_LARGE = 4096


@bare
def _solve(row, flow, flow_i, entry, share, row_head, column_head, column_live, buffer, tally, r, slack):  # type: ignore[no-untyped-def]
    """The level that row ``r`` would have if all others kept theirs (inf: it would not saturate).

    Makes the row's load and what it holds back exact again on the way.
    """
    stored, capacity = row[r, LEVEL], row[r, CAPACITY]
    held_from = stored * (1.0 - SLACK)
    n, visits, demand, load, held = 0, 0, 0.0, 0.0, 0.0
    e = row_head[r]
    while e >= 0:
        c = entry[e, E_COLUMN]
        elsewhere = -1.0
        f = column_head[c]
        while f >= 0:
            mine = share[e] * flow[f, WEIGHT]
            limit = flow[f, LAMBDA]
            load += mine * limit
            if limit >= held_from and stored < np.inf:
                # Held here, as far as one knows: what would the rest of its path offer?
                held += mine
                if elsewhere < 0.0:
                    elsewhere = np.inf
                    g = np.int64(column_live[c])
                    while g >= 0:
                        if g != e:
                            elsewhere = min(elsewhere, row[entry[g, E_ROW], LEVEL])
                        visits += 1
                        g = np.int64(entry[g, L_NEXT])
                limit = min(elsewhere, flow[f, CAP] / flow[f, WEIGHT])
            buffer[TAKES, n] = mine
            buffer[OFFER, n] = limit
            demand += mine
            n += 1
            f = flow_i[f, NEXT]
        e = np.int64(entry[e, E_NEXT])
    row[r, LOAD] = load
    row[r, HELD] = held
    tally[N_VISITS] += visits + n
    if row[r, POSSIBLE] <= capacity * (1.0 + SLACK):
        return np.inf
    free = capacity
    while n > 0:
        level = free / demand
        kept, left, demand = 0, free, 0.0
        for k in range(n):
            if buffer[OFFER, k] <= level * (1.0 + slack):
                left -= buffer[TAKES, k] * buffer[OFFER, k]
            else:
                buffer[TAKES, kept], buffer[OFFER, kept] = buffer[TAKES, k], buffer[OFFER, k]
                demand += buffer[TAKES, k]
                kept += 1
        if kept == n:
            return level
        free = max(left, 0.0)
        n = kept
    return np.inf


@bare
def _place(heap_key, heap_row, row_i, n, k, key, r):  # type: ignore[no-untyped-def]
    """Row ``r`` goes to place ``k`` of the 4-ary heap, or to where its key belongs from there."""
    while k > 0 and key < heap_key[(k - 1) >> 2]:
        heap_key[k] = heap_key[(k - 1) >> 2]
        other = heap_row[(k - 1) >> 2]
        heap_row[k] = other
        row_i[other, HEAP] = k
        k = (k - 1) >> 2
    while True:
        first = 4 * k + 1
        if first >= n:
            break
        least = first
        for child in range(first + 1, min(first + 4, n)):
            if heap_key[child] < heap_key[least]:
                least = child
        if heap_key[least] >= key:
            break
        heap_key[k] = heap_key[least]
        other = heap_row[least]
        heap_row[k] = other
        row_i[other, HEAP] = k
        k = least
    heap_key[k] = key
    heap_row[k] = r
    row_i[r, HEAP] = k


@bare
def _leave(heap_key, heap_row, row_i, n, r):  # type: ignore[no-untyped-def]
    """Row ``r`` is consistent: out of the heap, if it stood there."""
    k = row_i[r, HEAP]
    if k >= 0:
        row_i[r, HEAP] = -1
        last = n[N_HEAP] - 1
        n[N_HEAP] = last
        if k < last:
            _place(heap_key, heap_row, row_i, last, k, heap_key[last], heap_row[last])


@bare
def _queue(heap_key, heap_row, row_i, n, r, key):  # type: ignore[no-untyped-def]
    """Row ``r`` stands in the heap with ``key``, new or moved."""
    k = row_i[r, HEAP]
    if k < 0:
        k = n[N_HEAP]
        n[N_HEAP] = k + 1
    elif heap_key[k] == key:
        return
    _place(heap_key, heap_row, row_i, n[N_HEAP], k, key, r)


@bare
def _touch(row, row_i, heap_key, heap_row, n, r, slack, now):  # type: ignore[no-untyped-def]
    """The load of row ``r`` has changed while levels up to ``now`` are settled.

    Its new level is not solved here: a lower bound of the level at which it has to be looked at will do.
    """
    stored, over = row[r, LEVEL], row[r, LOAD] - row[r, CAPACITY]
    row_i[r, KNOWN] = 0
    key = now
    if np.isnan(over):
        fine = False
    elif stored == np.inf:
        fine = over <= slack * row[r, CAPACITY]
    else:
        held = row[r, HELD]
        fine = abs(over) <= slack * held * stored
        if over <= 0.0:
            key = stored
        elif held > 0.0:
            # Lowering the level by x takes at least x * held off the load.
            key = max(now, stored - over / held)
    if fine:
        _leave(heap_key, heap_row, row_i, n, r)
    else:
        _queue(heap_key, heap_row, row_i, n, r, key)


@bare
def _local(net, budget):  # type: ignore[no-untyped-def]
    """Settle all inconsistent rows in order of level; False when that took more visits than ``budget``."""
    row, row_i, flow, flow_i, n = net.row, net.row_i, net.flow, net.flow_i, net.n
    coefficient, column_live = net.coefficient, net.column_live
    heap_key, heap_row, row_head, entry, column_head = (
        net.heap_key, net.heap_row, net.row_head, net.entry, net.column_head,
    )  # fmt: skip
    row_list, flow_list, buffer = net.row_list, net.flow_list, net.buffer
    slack = max(SLACK, net.tol[0])
    stamp = n[N_REPAIRS]
    n[N_HEAP] = 0
    n[N_VISITS] = 0
    again = n[N_DIRTY]
    listed = again
    for k in range(again):
        row_list[AGAIN, k] = row_list[DIRTY, k]
    now = 0.0
    while True:
        for k in range(again):
            _touch(row, row_i, heap_key, heap_row, n, row_list[AGAIN, k], slack, now)
        again = 0
        if n[N_HEAP] == 0 or n[N_VISITS] > budget:
            break
        r, now = heap_row[0], max(now, heap_key[0])
        if row_i[r, KNOWN] == 0:
            stored = row[r, LEVEL]
            solved = _solve(
                row, flow, flow_i, entry, coefficient, row_head, column_head, column_live, buffer, n, r, slack
            )
            key = min(stored, solved)
            if solved == stored or abs(solved - stored) <= slack * key:
                _leave(heap_key, heap_row, row_i, n, r)
            else:
                row[r, SOLVED] = solved
                row_i[r, KNOWN] = 1
                _queue(heap_key, heap_row, row_i, n, r, key)
            continue
        _leave(heap_key, heap_row, row_i, n, r)
        n[N_STAMP] += 1
        seen = n[N_STAMP]
        row[r, LEVEL] = row[r, SOLVED]
        if row_i[r, R_DIRTY] != stamp:
            row_i[r, R_DIRTY] = stamp
            row_list[R_LIST, listed] = r
            listed += 1
        row_i[r, R_SEEN] = seen
        row_list[AGAIN, 0] = r
        again = 1
        held, load = 0.0, 0.0
        e = row_head[r]
        while e >= 0:
            c = np.int64(entry[e, E_COLUMN])
            level = np.inf
            g = np.int64(column_live[c])
            while g >= 0:
                level = min(level, row[entry[g, E_ROW], LEVEL])
                n[N_VISITS] += 1
                g = np.int64(entry[g, L_NEXT])
            f = column_head[c]
            while f >= 0:
                mine, was = min(level, flow[f, CAP] / flow[f, WEIGHT]), flow[f, LAMBDA]
                if mine != was and abs(mine - was) > SLACK * min(mine, was):
                    flow[f, LAMBDA] = mine
                    if flow_i[f, F_SEEN] != stamp:
                        flow_i[f, F_SEEN] = stamp
                        flow_list[CHANGED, n[N_CHANGED]] = f
                        n[N_CHANGED] += 1
                    g = np.int64(column_live[c])
                    while g >= 0:
                        q = np.int64(entry[g, E_ROW])
                        takes = coefficient[g] * flow[f, WEIGHT]
                        g = np.int64(entry[g, L_NEXT])
                        n[N_VISITS] += 1
                        row[q, LOAD] += takes * (mine - was)
                        edge = row[q, LEVEL] * (1.0 - SLACK)
                        if was >= edge:
                            row[q, HELD] -= takes
                        if mine >= edge:
                            row[q, HELD] += takes
                        if row_i[q, R_SEEN] != seen:
                            row_i[q, R_SEEN] = seen
                            row_list[AGAIN, again] = q
                            again += 1
                takes = coefficient[e] * flow[f, WEIGHT]
                load += takes * flow[f, LAMBDA]
                if flow[f, LAMBDA] >= row[r, LEVEL] * (1.0 - SLACK):
                    held += takes
                f = flow_i[f, NEXT]
            e = np.int64(entry[e, E_NEXT])
        row[r, LOAD], row[r, HELD] = load, held
    fine = n[N_HEAP] == 0
    for k in range(n[N_HEAP]):
        left = heap_row[k]
        row_i[left, HEAP] = -1
        if row_i[left, R_DIRTY] != stamp:
            row_i[left, R_DIRTY] = stamp
            row_list[R_LIST, listed] = left
            listed += 1
    n[N_DIRTY] = listed
    return fine


@njit(cache=True, no_cfunc_wrapper=True)
def component(net, queues):  # type: ignore[no-untyped-def]
    """Solve from nothing every flow connected with the rows of the list; ``queues`` may be None."""
    row, row_i, flow, flow_i, n = net.row, net.row_i, net.flow, net.flow_i, net.n
    ptr, index, row_list, flow_list = net.ptr, net.entry_row, net.row_list, net.flow_list
    stamp = n[N_REPAIRS]
    for k in range(n[N_CHANGED]):
        f = flow_list[CHANGED, k]
        flow_i[f, F_SEEN] = -1
        net.buffer_i[k] = f
    rows, flows, k = n[N_DIRTY], 0, 0
    while k < rows:
        r = row_list[R_LIST, k]
        row[r, LEVEL] = np.inf
        row[r, LOAD] = 0.0
        row[r, HELD] = 0.0
        k += 1
        e = net.row_head[r]
        while e >= 0:
            c = np.int64(net.entry[e, E_COLUMN])
            e = np.int64(net.entry[e, E_NEXT])
            f = net.column_head[c]
            if flow_i[f, F_SEEN] == stamp:
                continue
            while f >= 0:
                flow_i[f, F_SEEN] = stamp
                flow_list[CHANGED, flows] = f
                flows += 1
                f = flow_i[f, NEXT]
            g = np.int64(net.column_live[c])
            while g >= 0:
                q = np.int64(net.entry[g, E_ROW])
                if row_i[q, R_DIRTY] != stamp:
                    row_i[q, R_DIRTY] = stamp
                    row_list[R_LIST, rows] = q
                    rows += 1
                g = np.int64(net.entry[g, L_NEXT])
    # New flows that nobody can slow keep what they were admitted with.
    for k in range(n[N_CHANGED]):
        f = net.buffer_i[k]
        if flow_i[f, F_SEEN] != stamp:
            flow_i[f, F_SEEN] = stamp
            flow_list[CHANGED, flows] = f
            flows += 1
    n[N_CHANGED] = flows
    n[N_DIRTY] = rows
    n[N_FULL] += 1
    # The solver wants its arrays dense; what was true until now stays in RATE.
    live, column = np.arange(flows), np.empty(flows, np.int64)
    weight, cap, rate, held_by = np.empty(flows), np.empty(flows), np.empty(flows), np.empty(flows, np.int64)
    for k in range(flows):
        f = flow_list[CHANGED, k]
        column[k], weight[k], cap[k] = flow_i[f, COLUMN], flow[f, WEIGHT], flow[f, CAP]
        for e in range(ptr[column[k]], ptr[column[k] + 1]):
            net.scratch[F_CAPACITY, index[e]] = row[index[e], CAPACITY]
    if queues is None:
        fill(live, flows, column, weight, cap, ptr, index, net.coefficient, net.scratch, rate, held_by, AUTO)
    else:
        queue, priority = np.empty(flows, np.int64), np.empty(flows, np.int64)
        for k in range(flows):
            given = flow_i[flow_list[CHANGED, k], GIVEN]
            queue[k], priority[k] = queues.queue[given], queues.priority[given]
        answers = fill_queues(
            live, flows, column, weight, cap, queue, priority, ptr, index, net.coefficient, net.scratch,
            queues.phi, rate, held_by, AUTO, 1e-12, False,
        )  # fmt: skip
        n[N_UNSETTLED] += answers < 0
        held_by[:] = -1  # levels mean nothing when links have queues
    for k in range(flows):
        flow[flow_list[CHANGED, k], LAMBDA] = rate[k] / weight[k]
        if held_by[k] >= 0 and row_i[held_by[k], LIVE] > 0:
            row[held_by[k], LEVEL] = rate[k] / weight[k]
    for k in range(flows):
        _count(net, flow_list[CHANGED, k])


@bare
def _count(net, f):  # type: ignore[no-untyped-def]
    """Add a flow to the loads of the rows that could bind it, and to what they hold back."""
    row, entry, level, weight = net.row, net.entry, net.flow[f, LAMBDA], net.flow[f, WEIGHT]
    g = np.int64(net.column_live[net.flow_i[f, COLUMN]])
    while g >= 0:
        r = entry[g, E_ROW]
        takes = net.coefficient[g] * weight
        row[r, LOAD] += takes * level
        if level >= row[r, LEVEL] * (1.0 - SLACK):
            row[r, HELD] += takes
        g = np.int64(entry[g, L_NEXT])


@bare
def _admit(net, f):  # type: ignore[no-untyped-def]
    """A new flow begins with what the levels of now leave it."""
    row, flow, entry = net.row, net.flow, net.entry
    level = flow[f, CAP] / flow[f, WEIGHT]
    g = np.int64(net.column_live[net.flow_i[f, COLUMN]])
    while g >= 0:
        level = min(level, row[entry[g, E_ROW], LEVEL])
        g = np.int64(entry[g, L_NEXT])
    flow[f, LAMBDA] = level
    _count(net, f)


@bare
def attempt(net, whole):  # type: ignore[no-untyped-def]
    """New levels after opens, closes and new capacities; False when a ``component`` has to be solved.

    ``whole``: always, because links have queues.
    """
    n = net.n
    for k in range(n[N_CHANGED]):
        _admit(net, net.flow_list[CHANGED, k])
    for k in range(n[N_DIRTY]):
        net.row_list[R_LIST, k] = net.row_list[DIRTY, k]
    # A change of everything needs no locality, once there is enough of it.
    large = n[N_DIRTY] > _LARGE and n[N_DIRTY] * 4 > n[N_BUSY]
    return not whole and not large and _local(net, _PATIENCE * n[N_BUSY] + 256)


@bare
def retire(net):  # type: ignore[no-untyped-def]
    """After new levels: rows that could not bind any more are left alone from now on.

    Flows ``flow_list[CHANGED, :n[N_CHANGED]]`` may have moved: ``LAMBDA * WEIGHT`` is the new rate, ``RATE``
    still the old one. The caller takes note, writes the rates and calls ``settle``.
    """
    n = net.n
    for k in range(n[N_DIRTY]):
        r = net.row_list[R_LIST, k]
        idle = net.row[r, POSSIBLE] <= net.row[r, CAPACITY] * (1.0 + SLACK)
        if idle and net.row[r, LEVEL] == np.inf and net.row_i[r, LIVE] > 0:
            leave_alone(net, r)
    n[N_TOUCHED] += n[N_CHANGED]


@bare
def settle(net):  # type: ignore[no-untyped-def]
    """The changes are known: the next ones belong to the next repair."""
    net.n[N_DIRTY] = 0
    net.n[N_CHANGED] = 0
    net.n[N_REPAIRS] += 1
