"""Incremental max-min: after a change only the rows whose level really moves are solved again, exactly.

A row's level is the share at which it saturates, given what its flows are offered elsewhere:
``sum_f a_f min(offer_f, level) = capacity`` with ``a = coefficient * weight``; infinite when it does not. An
allocation is max-min if and only if every row's stored level solves its own equation (the certificate, row by
row). What a row's level depends on are only levels below it, so inconsistent rows are settled in increasing
order of ``min(stored, solved)``, each at most twice: too high ones take their new level, too low ones are
first taken out of the way (the ordering of Ramalingam & Reps' dynamic shortest paths, 1996).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.network._fill import AUTO, CAPACITY, SLACK, fill
from euston.network.columns import Columns

# Lines of ``Net.row``: the first four belong to ``fill``; then levels, what they would be, the load if all
# ran as fast as their paths allow, the present load, and the weight that the row itself holds back.
LEVEL, SOLVED, POSSIBLE, LOAD, HELD = np.arange(4, 9, dtype=np.uintp)
ROW_LINES = 9

# Lines of ``Net.row_i``: stamps of sets, lists of rows, place in the heap, whether ``SOLVED`` is of now.
R_DIRTY, R_SEEN, DIRTY, R_LIST, AGAIN, HEAP, KNOWN = np.arange(7, dtype=np.uintp)
ROW_I_LINES = 7

# Lines of ``Net.flow`` and ``Net.flow_i`` that the solver uses; executors add theirs behind.
WEIGHT, CAP, RATE, LAMBDA, TAKES, OFFER = np.arange(6, dtype=np.uintp)
FLOW_LINES = 6
COLUMN, NEXT, PREV, F_SEEN, CHANGED, F_LIVE, BOTTLENECK = np.arange(7, dtype=np.uintp)
FLOW_I_LINES = 7

# Lines of ``Net.entry``: neighbours in the list of a row's busy entries, and the column of an entry.
E_NEXT, E_PREV, E_COLUMN = np.arange(3, dtype=np.uintp)

# Counters in ``Net.n``: dirty rows, changed flows, stamps, repairs, flows touched, full solves, busy entries,
# size of the heap, visits.
N_DIRTY, N_CHANGED, N_STAMP, N_REPAIRS, N_TOUCHED, N_FULL, N_BUSY, N_HEAP, N_VISITS = np.arange(
    9, dtype=np.uintp
)
COUNTERS = 9

# A repair that looks at this many entries per busy entry has found no locality: solve the component instead.
_PATIENCE = 40.0

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Net(NamedTuple):
    """Columns, active flows (slots) and the state of every row."""

    ptr: np.ndarray  # int64[C + 1]
    entry_row: np.ndarray  # int32[nnz]
    coefficient: np.ndarray  # float64[nnz]
    fastest: np.ndarray  # float64[C] rate that the column's own rows allow
    entry: np.ndarray  # int32[3, nnz]
    column_head: np.ndarray  # int64[C] first active flow
    row_head: np.ndarray  # int64[R] first busy entry
    row: np.ndarray  # float64[9, R]
    row_i: np.ndarray  # int64[7, R]
    flow: np.ndarray  # float64[6 + ..., A]
    flow_i: np.ndarray  # int64[7 + ..., A]
    heap_key: np.ndarray  # float64[H]
    heap_row: np.ndarray  # int64[H]
    n: np.ndarray  # int64[9]
    tol: np.ndarray  # float64[1] relative change of a level that is let pass


def net(
    columns: Columns,
    capacity: NDArray[np.float64],
    slots: int,
    *,
    most: NDArray[np.float64] | None = None,
    flow_lines: int = 0,
    flow_i_lines: int = 0,
    tol: float = 0.0,
) -> Net:
    """State without flows over ``columns`` and ``capacity`` float64[rows].

    ``most``: the largest capacity each row will ever have; ``slots``: active flows at one time.
    """
    nnz, rows = columns.row.size, columns.rows
    lengths = np.diff(columns.ptr)
    fastest = np.full(len(columns), np.inf)
    rate = (capacity if most is None else most)[columns.row] / columns.coefficient
    if nnz:
        filled = lengths > 0
        fastest[filled] = np.minimum.reduceat(rate, columns.ptr[:-1][filled])
    row = np.zeros((ROW_LINES, rows))
    row[CAPACITY] = capacity
    row[LEVEL] = np.inf
    entry = np.full((3, nnz), -1, np.int32)
    entry[E_COLUMN] = np.repeat(np.arange(len(columns)), lengths)
    return Net(
        ptr=columns.ptr,
        entry_row=columns.row,
        coefficient=columns.coefficient,
        fastest=fastest,
        entry=entry,
        column_head=np.full(len(columns), -1, np.int64),
        row_head=np.full(rows, -1, np.int64),
        row=row,
        row_i=np.full((ROW_I_LINES, rows), -1, np.int64),
        flow=np.zeros((FLOW_LINES + flow_lines, slots)),
        flow_i=np.full((FLOW_I_LINES + flow_i_lines, slots), -1, np.int64),
        heap_key=np.empty(rows),
        heap_row=np.empty(rows, np.int64),
        n=np.zeros(COUNTERS, np.int64),
        tol=np.array([tol]),
    )


@_helper
def mark(net, r):  # type: ignore[no-untyped-def]
    """Row ``r`` has changed; the stamp is the number of the repair to come."""
    if net.row_i[R_DIRTY, r] != net.n[N_REPAIRS]:
        net.row_i[R_DIRTY, r] = net.n[N_REPAIRS]
        net.row_i[DIRTY, net.n[N_DIRTY]] = r
        net.n[N_DIRTY] += 1


@_helper
def _busy(net, f, c, sign):  # type: ignore[no-untyped-def]
    """Rows of a flow that comes (+1) or goes (-1): their loads and their marks."""
    row, most, level, weight = net.row, net.flow[CAP, f], net.flow[LAMBDA, f], net.flow[WEIGHT, f]
    for e in range(net.ptr[c], net.ptr[c + 1]):
        r = np.int64(net.entry_row[e])
        takes = net.coefficient[e] * weight
        if most < np.inf:
            row[POSSIBLE, r] += sign * net.coefficient[e] * most
        else:
            row[POSSIBLE, r] = np.inf
        row[LOAD, r] += sign * takes * level
        if sign < 0.0 and level >= row[LEVEL, r] * (1.0 - SLACK):
            row[HELD, r] -= takes
        mark(net, r)


@_helper
def open_flow(net, f, c, weight, cap):  # type: ignore[no-untyped-def]
    """Slot ``f`` becomes an active flow of column ``c``; its rate comes with the next repair."""
    flow, flow_i, entry, row_head, n = net.flow, net.flow_i, net.entry, net.row_head, net.n
    flow[WEIGHT, f] = weight
    # What its own path allows is a cap too: a row that can not bind is not solved, even if it is the fastest.
    flow[CAP, f] = min(cap, net.fastest[c])
    flow[RATE, f] = 0.0
    flow[LAMBDA, f] = 0.0
    flow_i[COLUMN, f] = c
    head = net.column_head[c]
    flow_i[NEXT, f] = head
    flow_i[PREV, f] = -1
    net.column_head[c] = f
    if head >= 0:
        flow_i[PREV, head] = f
    else:
        for e in range(net.ptr[c], net.ptr[c + 1]):
            r = net.entry_row[e]
            first = row_head[r]
            entry[E_NEXT, e] = first
            entry[E_PREV, e] = -1
            if first >= 0:
                entry[E_PREV, first] = e
            row_head[r] = e
            n[N_BUSY] += 1
    if flow_i[F_SEEN, f] != n[N_REPAIRS]:
        flow_i[F_SEEN, f] = n[N_REPAIRS]
        flow_i[CHANGED, n[N_CHANGED]] = f
        n[N_CHANGED] += 1
    _busy(net, f, c, 1.0)


@_helper
def close_flow(net, f):  # type: ignore[no-untyped-def]
    """Take the flow in slot ``f`` off the network."""
    flow_i, entry, row_head = net.flow_i, net.entry, net.row_head
    c = flow_i[COLUMN, f]
    _busy(net, f, c, -1.0)
    before, after = flow_i[PREV, f], flow_i[NEXT, f]
    if before >= 0:
        flow_i[NEXT, before] = after
    else:
        net.column_head[c] = after
    if after >= 0:
        flow_i[PREV, after] = before
    if before < 0 and after < 0:
        for e in range(net.ptr[c], net.ptr[c + 1]):
            e_before, e_after = entry[E_PREV, e], entry[E_NEXT, e]
            if e_before >= 0:
                entry[E_NEXT, e_before] = e_after
            else:
                row_head[net.entry_row[e]] = e_after
            if e_after >= 0:
                entry[E_PREV, e_after] = e_before
            if row_head[net.entry_row[e]] < 0:
                for line in (POSSIBLE, LOAD, HELD):
                    net.row[line, net.entry_row[e]] = 0.0  # the last one leaves no dust behind
            net.n[N_BUSY] -= 1


@_helper
def _solve(row, flow, flow_i, entry, ptr, index, coefficient, row_head, column_head, counters, r, slack):  # type: ignore[no-untyped-def]
    """The level that row ``r`` would have if all others kept theirs (inf: it would not saturate).

    Makes the row's load and what it holds back exact again on the way.
    """
    stored, capacity = row[LEVEL, r], row[CAPACITY, r]
    held_from = stored * (1.0 - SLACK)
    n, visits, demand, load, held = 0, 0, 0.0, 0.0, 0.0
    e = row_head[r]
    while e >= 0:
        c = entry[E_COLUMN, e]
        elsewhere = -1.0
        f = column_head[c]
        while f >= 0:
            mine = coefficient[e] * flow[WEIGHT, f]
            limit = flow[LAMBDA, f]
            load += mine * limit
            if limit >= held_from and stored < np.inf:
                # Held here, as far as one knows: what would the rest of its path offer?
                held += mine
                if elsewhere < 0.0:
                    elsewhere = np.inf
                    for g in range(ptr[c], ptr[c + 1]):
                        if g != e:
                            elsewhere = min(elsewhere, row[LEVEL, index[g]])
                    visits += ptr[c + 1] - ptr[c]
                limit = min(elsewhere, flow[CAP, f] / flow[WEIGHT, f])
            flow[TAKES, n] = mine
            flow[OFFER, n] = limit
            demand += mine
            n += 1
            f = flow_i[NEXT, f]
        e = np.int64(entry[E_NEXT, e])
    row[LOAD, r] = load
    row[HELD, r] = held
    counters[N_VISITS] += visits + n
    if row[POSSIBLE, r] <= capacity * (1.0 + SLACK):
        return np.inf
    free = capacity
    while n > 0:
        share = free / demand
        kept, left, demand = 0, free, 0.0
        for k in range(n):
            if flow[OFFER, k] <= share * (1.0 + slack):
                left -= flow[TAKES, k] * flow[OFFER, k]
            else:
                flow[TAKES, kept], flow[OFFER, kept] = flow[TAKES, k], flow[OFFER, k]
                demand += flow[TAKES, k]
                kept += 1
        if kept == n:
            return share
        free = max(left, 0.0)
        n = kept
    return np.inf


@_helper
def _place(heap_key, heap_row, row_i, n, k, key, r):  # type: ignore[no-untyped-def]
    """Row ``r`` goes to place ``k`` of the 4-ary heap, or to where its key belongs from there."""
    while k > 0 and key < heap_key[(k - 1) >> 2]:
        heap_key[k] = heap_key[(k - 1) >> 2]
        other = heap_row[(k - 1) >> 2]
        heap_row[k] = other
        row_i[HEAP, other] = k
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
        row_i[HEAP, other] = k
        k = least
    heap_key[k] = key
    heap_row[k] = r
    row_i[HEAP, r] = k


@_helper
def _leave(heap_key, heap_row, row_i, n, r):  # type: ignore[no-untyped-def]
    """Row ``r`` is consistent: out of the heap, if it stood there."""
    k = row_i[HEAP, r]
    if k >= 0:
        row_i[HEAP, r] = -1
        last = n[N_HEAP] - 1
        n[N_HEAP] = last
        if k < last:
            _place(heap_key, heap_row, row_i, last, k, heap_key[last], heap_row[last])


@_helper
def _queue(heap_key, heap_row, row_i, n, r, key):  # type: ignore[no-untyped-def]
    """Row ``r`` stands in the heap with ``key``, new or moved."""
    k = row_i[HEAP, r]
    if k < 0:
        k = n[N_HEAP]
        n[N_HEAP] = k + 1
    elif heap_key[k] == key:
        return
    _place(heap_key, heap_row, row_i, n[N_HEAP], k, key, r)


@_helper
def _touch(row, row_i, heap_key, heap_row, n, r, slack, now):  # type: ignore[no-untyped-def]
    """The load of row ``r`` has changed while levels up to ``now`` are settled.

    Its new level is not solved here: a lower bound of the level at which it has to be looked at will do.
    """
    stored, over = row[LEVEL, r], row[LOAD, r] - row[CAPACITY, r]
    row_i[KNOWN, r] = 0
    key = now
    if stored == np.inf:
        fine = over <= slack * row[CAPACITY, r]
    else:
        held = row[HELD, r]
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


@_helper
def _local(net, budget):  # type: ignore[no-untyped-def]
    """Settle all inconsistent rows in order of level; False when that took more visits than ``budget``."""
    row, row_i, flow, flow_i, n = net.row, net.row_i, net.flow, net.flow_i, net.n
    ptr, index, coefficient = net.ptr, net.entry_row, net.coefficient
    heap_key, heap_row, row_head, entry, column_head = (
        net.heap_key, net.heap_row, net.row_head, net.entry, net.column_head,
    )  # fmt: skip
    slack = max(SLACK, net.tol[0])
    stamp = n[N_REPAIRS]
    n[N_HEAP] = 0
    n[N_VISITS] = 0
    for k in range(n[N_CHANGED]):  # the new ones
        f = flow_i[CHANGED, k]
        level = flow[CAP, f] / flow[WEIGHT, f]
        c = flow_i[COLUMN, f]
        for e in range(ptr[c], ptr[c + 1]):
            level = min(level, row[LEVEL, index[e]])
        flow[LAMBDA, f] = level
        for e in range(ptr[c], ptr[c + 1]):
            r = index[e]
            takes = coefficient[e] * flow[WEIGHT, f]
            row[LOAD, r] += takes * level
            if level >= row[LEVEL, r] * (1.0 - SLACK):
                row[HELD, r] += takes
    again = n[N_DIRTY]
    listed = again
    for k in range(again):
        row_i[AGAIN, k] = row_i[DIRTY, k]
    now = 0.0
    while True:
        for k in range(again):
            _touch(row, row_i, heap_key, heap_row, n, row_i[AGAIN, k], slack, now)
        again = 0
        if n[N_HEAP] == 0 or n[N_VISITS] > budget:
            break
        r, now = heap_row[0], max(now, heap_key[0])
        if row_i[KNOWN, r] == 0:
            stored = row[LEVEL, r]
            solved = _solve(
                row, flow, flow_i, entry, ptr, index, coefficient, row_head, column_head, n, r, slack
            )
            key = min(stored, solved)
            if solved == stored or abs(solved - stored) <= slack * key:
                _leave(heap_key, heap_row, row_i, n, r)
            else:
                row[SOLVED, r] = solved
                row_i[KNOWN, r] = 1
                _queue(heap_key, heap_row, row_i, n, r, key)
            continue
        _leave(heap_key, heap_row, row_i, n, r)
        n[N_STAMP] += 1
        seen = n[N_STAMP]
        row[LEVEL, r] = row[SOLVED, r]
        if row_i[R_DIRTY, r] != stamp:
            row_i[R_DIRTY, r] = stamp
            row_i[R_LIST, listed] = r
            listed += 1
        row_i[R_SEEN, r] = seen
        row_i[AGAIN, 0] = r
        again = 1
        held, load = 0.0, 0.0
        e = row_head[r]
        while e >= 0:
            c = np.int64(entry[E_COLUMN, e])
            level = np.inf
            for g in range(ptr[c], ptr[c + 1]):
                level = min(level, row[LEVEL, index[g]])
            n[N_VISITS] += ptr[c + 1] - ptr[c]
            f = column_head[c]
            while f >= 0:
                mine, was = min(level, flow[CAP, f] / flow[WEIGHT, f]), flow[LAMBDA, f]
                if mine != was and abs(mine - was) > SLACK * min(mine, was):
                    flow[LAMBDA, f] = mine
                    if flow_i[F_SEEN, f] != stamp:
                        flow_i[F_SEEN, f] = stamp
                        flow_i[CHANGED, n[N_CHANGED]] = f
                        n[N_CHANGED] += 1
                    n[N_VISITS] += ptr[c + 1] - ptr[c]
                    for g in range(ptr[c], ptr[c + 1]):
                        q = np.int64(index[g])
                        takes = coefficient[g] * flow[WEIGHT, f]
                        row[LOAD, q] += takes * (mine - was)
                        edge = row[LEVEL, q] * (1.0 - SLACK)
                        if was >= edge:
                            row[HELD, q] -= takes
                        if mine >= edge:
                            row[HELD, q] += takes
                        if row_i[R_SEEN, q] != seen:
                            row_i[R_SEEN, q] = seen
                            row_i[AGAIN, again] = q
                            again += 1
                takes = coefficient[e] * flow[WEIGHT, f]
                load += takes * flow[LAMBDA, f]
                if flow[LAMBDA, f] >= row[LEVEL, r] * (1.0 - SLACK):
                    held += takes
                f = flow_i[NEXT, f]
            e = np.int64(entry[E_NEXT, e])  # type: ignore[assignment]
        row[LOAD, r], row[HELD, r] = load, held
    fine = n[N_HEAP] == 0
    for k in range(n[N_HEAP]):
        left = heap_row[k]
        row_i[HEAP, left] = -1
        if row_i[R_DIRTY, left] != stamp:
            row_i[R_DIRTY, left] = stamp
            row_i[R_LIST, listed] = left
            listed += 1
    n[N_DIRTY] = listed
    return fine


@_helper
def _component(net):  # type: ignore[no-untyped-def]
    """Solve from nothing every flow connected with the rows of the list."""
    row, row_i, flow, flow_i, n = net.row, net.row_i, net.flow, net.flow_i, net.n
    ptr, index = net.ptr, net.entry_row
    stamp = n[N_REPAIRS]
    for k in range(n[N_CHANGED]):
        flow_i[F_SEEN, flow_i[CHANGED, k]] = -1
    rows, flows, k = n[N_DIRTY], 0, 0
    while k < rows:
        r = row_i[R_LIST, k]
        row[LEVEL, r] = np.inf
        row[LOAD, r] = 0.0
        row[HELD, r] = 0.0
        k += 1
        e = net.row_head[r]
        while e >= 0:
            c = np.int64(net.entry[E_COLUMN, e])
            e = np.int64(net.entry[E_NEXT, e])
            f = net.column_head[c]
            if flow_i[F_SEEN, f] == stamp:
                continue
            while f >= 0:
                flow_i[F_SEEN, f] = stamp
                flow_i[CHANGED, flows] = f
                flow_i[F_LIVE, flows] = f
                flows += 1
                f = flow_i[NEXT, f]
            for g in range(ptr[c], ptr[c + 1]):
                q = np.int64(index[g])
                if row_i[R_DIRTY, q] != stamp:
                    row_i[R_DIRTY, q] = stamp
                    row_i[R_LIST, rows] = q
                    rows += 1
    n[N_CHANGED] = flows
    n[N_FULL] += 1
    # The rates go into LAMBDA: RATE keeps what was true until now.
    fill(
        flow_i[F_LIVE], flows, flow_i[COLUMN], flow[WEIGHT], flow[CAP], ptr, index, net.coefficient,
        row, flow[LAMBDA], flow_i[BOTTLENECK], AUTO,
    )  # fmt: skip
    for k in range(flows):
        f = flow_i[CHANGED, k]
        flow[LAMBDA, f] /= flow[WEIGHT, f]
        b = flow_i[BOTTLENECK, f]
        if b >= 0:
            row[LEVEL, b] = flow[LAMBDA, f]
    for k in range(flows):
        f = flow_i[CHANGED, k]
        c = flow_i[COLUMN, f]
        for e in range(ptr[c], ptr[c + 1]):
            takes = net.coefficient[e] * flow[WEIGHT, f]
            row[LOAD, index[e]] += takes * flow[LAMBDA, f]
            if flow[LAMBDA, f] >= row[LEVEL, index[e]] * (1.0 - SLACK):
                row[HELD, index[e]] += takes


@_helper
def repair(net):  # type: ignore[no-untyped-def]
    """New levels after opens, closes and new capacities.

    Flows ``flow_i[CHANGED, :n[N_CHANGED]]`` may have moved: ``LAMBDA * WEIGHT`` is the new rate, ``RATE``
    still the old one. The caller takes note, writes the rates and calls ``settle``.
    """
    n = net.n
    for k in range(n[N_DIRTY]):
        net.row_i[R_LIST, k] = net.row_i[DIRTY, k]
    # A change of everything needs no locality.
    local = n[N_DIRTY] * 4 <= n[N_BUSY]
    if local:
        local = _local(net, _PATIENCE * n[N_BUSY] + 256)
    if not local:
        _component(net)
    n[N_TOUCHED] += n[N_CHANGED]


@_helper
def settle(net):  # type: ignore[no-untyped-def]
    """The changes are known: the next ones belong to the next repair."""
    net.n[N_DIRTY] = 0
    net.n[N_CHANGED] = 0
    net.n[N_REPAIRS] += 1
