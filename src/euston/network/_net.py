"""State of the incremental solver: columns, active flows in slots, and every row, as linked lists in arrays.

Opening and closing a flow keep the lists, and mark the rows whose level may move; ``_repair`` settles them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.network._fill import SLACK
from euston.network.columns import Columns

# Columns of ``Net.row``, one cache line per row: capacity, level, what it would be, the load if all flows ran
# as fast as their paths allow, the present load, and the weight that the row itself holds back.
CAPACITY, LEVEL, SOLVED, POSSIBLE, LOAD, HELD = np.arange(6, dtype=np.uintp)
ROW_COLUMNS = 8

# Columns of ``Net.row_i``: stamps of sets, place in the heap, whether ``SOLVED`` is of now, whether the
# row could bind. Lists of rows.
R_DIRTY, R_SEEN, HEAP, KNOWN, LIVE = np.arange(5, dtype=np.uintp)
DIRTY, R_LIST, AGAIN = np.arange(3, dtype=np.uintp)

# Columns of ``Net.flow`` and ``Net.flow_i`` that the solver uses; executors have the rest. Lists of flows.
WEIGHT, CAP, RATE, LAMBDA = np.arange(4, dtype=np.uintp)
COLUMN, NEXT, PREV, F_SEEN, GIVEN = np.arange(5, dtype=np.uintp)
FLOW_COLUMNS, FLOW_I_COLUMNS = 4, 5
CHANGED, FREE_SLOT = np.arange(2, dtype=np.uintp)
TAKES, OFFER = np.arange(2, dtype=np.uintp)

# Columns of ``Net.entry``: neighbours in the list of a row's busy entries, column and row of an entry, and
# neighbours in the list of its column's entries on rows that could bind.
E_NEXT, E_PREV, E_COLUMN, E_ROW, L_NEXT, L_PREV = np.arange(6, dtype=np.uintp)

# Counters in ``Net.n``: dirty rows, changed flows, stamps, repairs, flows touched, full solves, busy entries,
# size of the heap, visits, solves of queues that did not settle.
N_DIRTY, N_CHANGED, N_STAMP, N_REPAIRS, N_TOUCHED = np.arange(5, dtype=np.uintp)
N_FULL, N_BUSY, N_HEAP, N_VISITS, N_UNSETTLED = np.arange(5, 10, dtype=np.uintp)
COUNTERS = 10

# Kernels that make no arrays do without reference counts: those cost more than the work of a small repair.
bare = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")


class Queues(NamedTuple):
    """Weighted queues and strict levels; without them all flows share one queue."""

    queue: np.ndarray  # int64[T] of what slots were given (``GIVEN``)
    priority: np.ndarray  # int64[T]
    phi: np.ndarray  # float64[1 or R, Q] weights of the queues


class Net(NamedTuple):
    """Columns, active flows (slots) and the state of every row."""

    ptr: np.ndarray  # int64[C + 1]
    entry_row: np.ndarray  # int32[nnz]
    coefficient: np.ndarray  # float64[nnz]
    fastest: np.ndarray  # float64[C] rate that the column's own rows allow
    entry: np.ndarray  # int32[nnz, 8]
    column_head: np.ndarray  # int64[C] first active flow
    column_live: np.ndarray  # int64[C] first entry on a row that could bind
    row_head: np.ndarray  # int64[R] first busy entry
    row: np.ndarray  # float64[R, 8]
    row_i: np.ndarray  # int64[R, 8]
    row_list: np.ndarray  # int64[3, R]
    flow: np.ndarray  # float64[A, 8]
    flow_i: np.ndarray  # int64[A, 8]
    flow_list: np.ndarray  # int64[2, A]
    buffer: np.ndarray  # float64[2, A]
    buffer_i: np.ndarray  # int64[A]
    scratch: np.ndarray  # float64[4, R] rows of ``fill``
    heap_key: np.ndarray  # float64[H]
    heap_row: np.ndarray  # int64[H]
    n: np.ndarray  # int64[10]
    tol: np.ndarray  # float64[1] relative change of a level that is let pass


def net(
    columns: Columns,
    capacity: NDArray[np.float64],
    slots: int,
    *,
    most: NDArray[np.float64] | None = None,
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
    row = np.zeros((rows, ROW_COLUMNS))
    row[:, CAPACITY] = capacity
    row[:, LEVEL] = np.inf
    entry = np.full((nnz, 8), -1, np.int32)
    entry[:, E_ROW] = columns.row
    entry[:, E_COLUMN] = np.repeat(np.arange(len(columns)), lengths)
    return Net(
        ptr=columns.ptr,
        entry_row=columns.row,
        coefficient=columns.coefficient,
        fastest=fastest,
        entry=entry,
        column_head=np.full(len(columns), -1, np.int64),
        column_live=np.full(len(columns), -1, np.int64),
        row_head=np.full(rows, -1, np.int64),
        row=row,
        row_i=np.full((rows, 8), -1, np.int64),
        row_list=np.zeros((3, rows), np.int64),
        flow=np.zeros((slots, 8)),
        flow_i=np.full((slots, 8), -1, np.int64),
        flow_list=np.zeros((2, slots), np.int64),
        buffer=np.empty((2, slots)),
        buffer_i=np.empty(slots, np.int64),
        scratch=np.empty((4, rows)),
        heap_key=np.empty(rows),
        heap_row=np.empty(rows, np.int64),
        n=np.zeros(COUNTERS, np.int64),
        tol=np.array([tol]),
    )


@bare
def mark(net, r):  # type: ignore[no-untyped-def]
    """Row ``r`` has changed; the stamp is the number of the repair to come."""
    if net.row_i[r, R_DIRTY] != net.n[N_REPAIRS]:
        net.row_i[r, R_DIRTY] = net.n[N_REPAIRS]
        net.row_list[DIRTY, net.n[N_DIRTY]] = r
        net.n[N_DIRTY] += 1


@bare
def _attach(entry, column_live, e):  # type: ignore[no-untyped-def]
    """Entry ``e`` is on a row that could bind: its column has to look there."""
    c = entry[e, E_COLUMN]
    first = column_live[c]
    entry[e, L_NEXT] = first
    entry[e, L_PREV] = -1
    if first >= 0:
        entry[first, L_PREV] = e
    column_live[c] = e


@bare
def _enliven(net, r):  # type: ignore[no-untyped-def]
    """Row ``r`` could bind from now on; its load has to be counted."""
    net.row[r, LOAD] = np.nan
    if net.row_i[r, LIVE] <= 0:
        net.row_i[r, LIVE] = 1
        e = net.row_head[r]
        while e >= 0:
            _attach(net.entry, net.column_live, e)
            e = np.int64(net.entry[e, E_NEXT])


@bare
def leave_alone(net, r):  # type: ignore[no-untyped-def]
    """Row ``r`` could not bind any more, and holds nobody: its columns need not look there."""
    entry = net.entry
    net.row_i[r, LIVE] = 0
    e = net.row_head[r]
    while e >= 0:
        before, after = entry[e, L_PREV], entry[e, L_NEXT]
        if before >= 0:
            entry[before, L_NEXT] = after
        else:
            net.column_live[entry[e, E_COLUMN]] = after
        if after >= 0:
            entry[after, L_PREV] = before
        e = np.int64(entry[e, E_NEXT])


@bare
def set_capacity(net, r, capacity):  # type: ignore[no-untyped-def]
    """Row ``r`` has another capacity; its load is counted anew."""
    net.row[r, CAPACITY] = capacity
    _enliven(net, r)
    mark(net, r)


@bare
def _busy(net, f, c, sign):  # type: ignore[no-untyped-def]
    """Rows of a flow that comes (+1) or goes (-1): what they could carry, and marks where that matters.

    A row that could not even bind if all its flows ran as fast as their paths allow is left alone: it has no
    level, and its load is not known. The load of one that begins to matter has to be counted.
    """
    row, most, level, weight = net.row, net.flow[f, CAP], net.flow[f, LAMBDA], net.flow[f, WEIGHT]
    for e in range(net.ptr[c], net.ptr[c + 1]):
        r = np.int64(net.entry_row[e])
        limit = row[r, CAPACITY] * (1.0 + SLACK)
        before = row[r, POSSIBLE]
        after = before + sign * net.coefficient[e] * most if most < np.inf else np.inf
        row[r, POSSIBLE] = after
        if before <= limit and after > limit:
            _enliven(net, r)
        if sign < 0.0:
            takes = net.coefficient[e] * weight
            row[r, LOAD] -= takes * level
            if level >= row[r, LEVEL] * (1.0 - SLACK):
                row[r, HELD] -= takes
        if max(before, after) > limit or row[r, LEVEL] < np.inf:
            mark(net, r)


@bare
def open_flow(net, f, c, weight, cap):  # type: ignore[no-untyped-def]
    """Slot ``f`` becomes an active flow of column ``c``; its rate comes with the next repair."""
    flow, flow_i, entry, row_head, n = net.flow, net.flow_i, net.entry, net.row_head, net.n
    flow[f, WEIGHT] = weight
    # What its own path allows is a cap too: a row that can not bind is not solved, even if it is the fastest.
    flow[f, CAP] = min(cap, net.fastest[c])
    flow[f, RATE] = 0.0
    flow[f, LAMBDA] = 0.0
    flow_i[f, COLUMN] = c
    head = net.column_head[c]
    flow_i[f, NEXT] = head
    flow_i[f, PREV] = -1
    net.column_head[c] = f
    if head >= 0:
        flow_i[head, PREV] = f
    else:
        for e in range(net.ptr[c], net.ptr[c + 1]):
            r = net.entry_row[e]
            first = row_head[r]
            entry[e, E_NEXT] = first
            entry[e, E_PREV] = -1
            if first >= 0:
                entry[first, E_PREV] = e
            row_head[r] = e
            if net.row_i[r, LIVE] > 0:
                _attach(entry, net.column_live, e)
            n[N_BUSY] += 1
    if flow_i[f, F_SEEN] != n[N_REPAIRS]:
        flow_i[f, F_SEEN] = n[N_REPAIRS]
        net.flow_list[CHANGED, n[N_CHANGED]] = f
        n[N_CHANGED] += 1
    _busy(net, f, c, 1.0)


@bare
def close_flow(net, f):  # type: ignore[no-untyped-def]
    """Take the flow in slot ``f`` off the network."""
    flow_i, entry, row_head = net.flow_i, net.entry, net.row_head
    c = flow_i[f, COLUMN]
    _busy(net, f, c, -1.0)
    before, after = flow_i[f, PREV], flow_i[f, NEXT]
    if before >= 0:
        flow_i[before, NEXT] = after
    else:
        net.column_head[c] = after
    if after >= 0:
        flow_i[after, PREV] = before
    if before < 0 and after < 0:
        net.column_live[c] = -1
        for e in range(net.ptr[c], net.ptr[c + 1]):
            e_before, e_after = entry[e, E_PREV], entry[e, E_NEXT]
            if e_before >= 0:
                entry[e_before, E_NEXT] = e_after
            else:
                row_head[net.entry_row[e]] = e_after
            if e_after >= 0:
                entry[e_after, E_PREV] = e_before
            if row_head[net.entry_row[e]] < 0:
                for line in (POSSIBLE, LOAD, HELD):
                    net.row[net.entry_row[e], line] = 0.0  # the last one leaves no dust behind
            net.n[N_BUSY] -= 1
