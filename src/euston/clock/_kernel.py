"""The executor's kernel: programs and the fluid network advance together, event by event.

State lives in NamedTuples of arrays so that the kernel can stop at any time and go on later; arrays of one
length are stacked, because compile time grows with the number of arrays a function takes. Rates are
repaired only in the connected part of the active flows that an event touched; the rest stays exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from euston.network._fill import fill

# Event types.
EV_CAPACITY, EV_SPEED, EV_FLOW, EV_CAPPED, EV_COMPUTE, EV_DONE, EV_RELEASE = range(7)

# Kinds of operations, as in ``program.Kind``.
COMPUTE, TRANSFER, WAIT, JOIN = range(4)

# Counters in ``State.i``.
I_HEAP, I_SEQ, I_FREE, I_DONE, I_SOLVES, I_ROUNDS, I_REPAIRED, I_OUT, I_READY, I_EVENTS, I_DIRTY = range(11)
COUNTERS = 11

# Lines of the stacked arrays.
STREAM, MOVES, FOLLOWER, SLOWS = range(4)  # Fixed.op
SIZE, T_WEIGHT, T_CAP = range(3)  # Fixed.flow
WAITING, BLOCKER, LEFT, READY, OUTBOX = range(5)  # State.op
START, END = range(2)  # State.when
WORK_LEFT, TOUCHED, SPEED, SLOWED = range(4)  # State.stream
RUNNING, S_VERSION, SLOWERS = range(3)  # State.stream_i
WEIGHT, CAP, LEFT_BYTES, RATE, BEFORE, TIME = range(6)  # State.flow
OP, COLUMN, F_VERSION, NEXT, PREV, F_MARK, FREE_SLOT, F_LIST, BOTTLENECK = range(9)  # State.flow_i
CAPACITY, FREE, DEMAND, LOW = range(4)  # State.row
R_MARK, R_LIST, DIRTY = range(3)  # State.row_i
SEQ, TYPE, ID, H_VERSION = range(4)  # State.heap_i


# Helpers are called from kernels only: no Python wrappers to compile for them.
_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Fixed(NamedTuple):
    """What does not change while a program runs."""

    kind: np.ndarray  # uint8[N]
    op: np.ndarray  # int32[4, N] stream, transfer, next operation on the stream, stream that it slows
    work: np.ndarray  # float64[N]
    notify: np.ndarray  # bool[N]
    succ_ptr: np.ndarray
    succ: np.ndarray
    t_ptr: np.ndarray
    t_column: np.ndarray
    flow: np.ndarray  # float64[3, F] size, weight, rate cap
    t_latency: np.ndarray
    t_slow_share: np.ndarray
    ptr: np.ndarray
    row: np.ndarray
    coefficient: np.ndarray
    row_ptr: np.ndarray
    row_column: np.ndarray


class State(NamedTuple):
    """What changes: operations, streams, active flows (slots), rows, the event heap."""

    op: np.ndarray  # int32[5, N] open dependencies, last of them, open flows, ready stack, outbox
    when: np.ndarray  # float64[2, N] start, end
    stream: (
        np.ndarray
    )  # float64[4, S] work left of the running operation and when that was true, speed, share lost
    stream_i: np.ndarray  # int64[3, S] running operation, version of its event, transfers that slow it
    flow: np.ndarray  # float64[6, A]
    flow_i: np.ndarray  # int64[9, A]
    column_head: np.ndarray  # int32[C] first active flow
    column_bytes: np.ndarray  # float64[C] started so far
    row: np.ndarray  # float64[4, R] capacity and the solver's scratch
    row_i: np.ndarray  # int64[3, R]
    heap_time: np.ndarray  # float64[H]
    heap_i: np.ndarray  # int64[4, H]
    external_id: np.ndarray  # row or stream of each planned event
    external_value: np.ndarray
    i: np.ndarray  # int64 counters
    now: np.ndarray  # float64[1]


@njit(cache=True)
def successors(dep_ptr, dep, stream, streams):  # type: ignore[no-untyped-def]
    """Reverse the dependency lists and chain the streams: (succ_ptr, succ, next_in_stream, waiting)."""
    n = dep_ptr.size - 1
    ptr = np.zeros(n + 1, np.int64)
    for e in range(dep.size):
        ptr[dep[e] + 1] += 1
    for i in range(n):
        ptr[i + 1] += ptr[i]
    at = ptr[:-1].copy()
    succ = np.empty(dep.size, np.int32)
    waiting = np.zeros(n, np.int32)
    for i in range(n):
        for e in range(dep_ptr[i], dep_ptr[i + 1]):
            succ[at[dep[e]]] = i
            at[dep[e]] += 1
        waiting[i] = dep_ptr[i + 1] - dep_ptr[i]
    nxt = np.full(n, -1, np.int32)
    last = np.full(streams, -1, np.int32)
    for i in range(n):
        s = stream[i]
        if s >= 0:
            if last[s] >= 0:
                nxt[last[s]] = i
                waiting[i] += 1
            last[s] = i
    return ptr, succ, nxt, waiting


@_helper
def _before(st, a, b):  # type: ignore[no-untyped-def]
    if st.heap_time[a] != st.heap_time[b]:
        return st.heap_time[a] < st.heap_time[b]
    return st.heap_i[SEQ, a] < st.heap_i[SEQ, b]


@_helper
def _swap(st, a, b):  # type: ignore[no-untyped-def]
    st.heap_time[a], st.heap_time[b] = st.heap_time[b], st.heap_time[a]
    st.heap_i[SEQ, a], st.heap_i[SEQ, b] = st.heap_i[SEQ, b], st.heap_i[SEQ, a]
    st.heap_i[TYPE, a], st.heap_i[TYPE, b] = st.heap_i[TYPE, b], st.heap_i[TYPE, a]
    st.heap_i[ID, a], st.heap_i[ID, b] = st.heap_i[ID, b], st.heap_i[ID, a]
    st.heap_i[H_VERSION, a], st.heap_i[H_VERSION, b] = st.heap_i[H_VERSION, b], st.heap_i[H_VERSION, a]


@_helper
def _stale(st, k):  # type: ignore[no-untyped-def]
    if st.heap_i[TYPE, k] == EV_FLOW:
        return st.flow_i[F_VERSION, st.heap_i[ID, k]] != st.heap_i[H_VERSION, k]
    if st.heap_i[TYPE, k] == EV_COMPUTE and st.heap_i[H_VERSION, k] >= 0:
        return st.stream_i[S_VERSION, st.heap_i[ID, k]] != st.heap_i[H_VERSION, k]
    return False


@_helper
def _sift_down(st, k, n):  # type: ignore[no-untyped-def]
    while True:
        child = 2 * k + 1
        if child >= n:
            return
        if child + 1 < n and _before(st, child + 1, child):
            child += 1
        if not _before(st, child, k):
            return
        _swap(st, child, k)
        k = child


@_helper
def _push(st, time, kind, ident, version):  # type: ignore[no-untyped-def]
    n = st.i[I_HEAP]
    st.heap_time[n] = time
    st.heap_i[SEQ, n] = st.i[I_SEQ]
    st.heap_i[TYPE, n] = kind
    st.heap_i[ID, n] = ident
    st.heap_i[H_VERSION, n] = version
    st.i[I_SEQ] += 1
    st.i[I_HEAP] = n + 1
    while n > 0:
        parent = (n - 1) // 2
        if not _before(st, n, parent):
            break
        _swap(st, n, parent)
        n = parent


@_helper
def _sweep(st):  # type: ignore[no-untyped-def]
    """Drop stale events: what is left is bounded by running operations, active flows and planned events."""
    kept = 0
    for k in range(st.i[I_HEAP]):
        if not _stale(st, k):
            _swap(st, k, kept)
            kept += 1
    st.i[I_HEAP] = kept
    for k in range(kept // 2 - 1, -1, -1):
        _sift_down(st, k, kept)


@_helper
def _pop(st):  # type: ignore[no-untyped-def]
    n = st.i[I_HEAP] - 1
    _swap(st, 0, n)
    st.i[I_HEAP] = n
    _sift_down(st, 0, n)
    return n


@_helper
def _next_event(st):  # type: ignore[no-untyped-def]
    """Time of the next real event, inf when there is none."""
    while st.i[I_HEAP] > 0 and _stale(st, 0):
        _pop(st)
    return st.heap_time[0] if st.i[I_HEAP] > 0 else np.inf


@_helper
def _mark_rows(fx, st, column, stamp):  # type: ignore[no-untyped-def]
    for e in range(fx.ptr[column], fx.ptr[column + 1]):
        r = fx.row[e]
        if st.row_i[R_MARK, r] != stamp:
            st.row_i[R_MARK, r] = stamp
            st.row_i[DIRTY, st.i[I_DIRTY]] = r
            st.i[I_DIRTY] += 1


@_helper
def _pace(st, s):  # type: ignore[no-untyped-def]
    """Work per second on stream ``s``: its speed less what running transfers take from it."""
    return st.stream[SPEED, s] * max(0.0, 1.0 - st.stream[SLOWED, s])


@_helper
def _reschedule(st, s, t):  # type: ignore[no-untyped-def]
    """The running operation of stream ``s`` after its speed may have changed at ``t``; call ``_sync`` first."""
    st.stream_i[S_VERSION, s] += 1
    pace = _pace(st, s)
    if pace > 0.0:
        _push(st, t + st.stream[WORK_LEFT, s] / pace, EV_COMPUTE, s, st.stream_i[S_VERSION, s])


@_helper
def _sync(st, s, t):  # type: ignore[no-untyped-def]
    st.stream[WORK_LEFT, s] -= _pace(st, s) * (t - st.stream[TOUCHED, s])
    if st.stream[WORK_LEFT, s] < 0.0:
        st.stream[WORK_LEFT, s] = 0.0
    st.stream[TOUCHED, s] = t


@_helper
def _take_share(fx, st, op, sign, t):  # type: ignore[no-untyped-def]
    s = fx.op[SLOWS, op]
    if s < 0:
        return
    if st.stream_i[RUNNING, s] >= 0:
        _sync(st, s, t)
    st.stream_i[SLOWERS, s] += sign
    if st.stream_i[SLOWERS, s] == 0:
        st.stream[SLOWED, s] = 0.0  # no dust left behind
    else:
        st.stream[SLOWED, s] += sign * fx.t_slow_share[fx.op[MOVES, op]]
    if st.stream_i[RUNNING, s] >= 0:
        _reschedule(st, s, t)


@_helper
def _begin(fx, st, op, t, stamp):  # type: ignore[no-untyped-def]
    """Start a ready operation at ``t``."""
    st.when[START, op] = t
    kind = fx.kind[op]
    if kind == COMPUTE and fx.op[STREAM, op] >= 0:
        s = fx.op[STREAM, op]
        st.stream_i[RUNNING, s] = op
        st.stream[WORK_LEFT, s] = fx.work[op]
        st.stream[TOUCHED, s] = t
        _reschedule(st, s, t)
        return
    delay = fx.work[op]
    if kind == TRANSFER:
        tr = fx.op[MOVES, op]
        repeats = fx.work[op]
        latency = fx.t_latency[tr] * repeats
        delay = latency
        _take_share(fx, st, op, 1, t)
        opened = 0
        for k in range(fx.t_ptr[tr], fx.t_ptr[tr + 1]):
            c = fx.t_column[k]
            size = fx.flow[SIZE, k] * repeats
            st.column_bytes[c] += size
            if size <= 0.0:
                continue
            if fx.ptr[c] == fx.ptr[c + 1]:
                # No shared row: the flow runs at its cap for certain and needs no solver.
                delay = max(delay, latency + size / fx.flow[T_CAP, k])
                continue
            st.i[I_FREE] -= 1
            f = st.flow_i[FREE_SLOT, st.i[I_FREE]]
            st.flow_i[OP, f] = op
            st.flow_i[COLUMN, f] = c
            st.flow[WEIGHT, f] = fx.flow[T_WEIGHT, k]
            st.flow[CAP, f] = fx.flow[T_CAP, k]
            st.flow[LEFT_BYTES, f] = size
            st.flow[RATE, f] = 0.0
            st.flow[TIME, f] = t
            head = st.column_head[c]
            st.flow_i[NEXT, f] = head
            st.flow_i[PREV, f] = -1
            if head >= 0:
                st.flow_i[PREV, head] = f
            st.column_head[c] = f
            opened += 1
            _mark_rows(fx, st, c, stamp)
        st.op[LEFT, op] = opened
        if opened > 0:
            # The capped flows without rows end with a wait that counts as one more flow.
            if delay > latency:
                st.op[LEFT, op] += 1
                _push(st, t + delay - latency, EV_CAPPED, op, 0)
            return
    _push(st, t + delay, EV_DONE, op, 0)


@_helper
def _finish(fx, st, op, t):  # type: ignore[no-untyped-def]
    """Operation ``op`` is done at ``t``: release what waited for it."""
    st.when[END, op] = t
    st.i[I_DONE] += 1
    if fx.kind[op] == TRANSFER:
        _take_share(fx, st, op, -1, t)
    if fx.notify[op]:
        st.op[OUTBOX, st.i[I_OUT]] = op
        st.i[I_OUT] += 1
    for e in range(fx.succ_ptr[op], fx.succ_ptr[op + 1]):
        _release(st, fx.succ[e], op)
    if fx.op[FOLLOWER, op] >= 0:
        _release(st, fx.op[FOLLOWER, op], op)


@_helper
def _release(st, op, by):  # type: ignore[no-untyped-def]
    st.op[WAITING, op] -= 1
    if st.op[WAITING, op] == 0:
        st.op[BLOCKER, op] = by
        st.op[READY, st.i[I_READY]] = op
        st.i[I_READY] += 1


@_helper
def _close(fx, st, f):  # type: ignore[no-untyped-def]
    """Take a finished flow off the network."""
    c = st.flow_i[COLUMN, f]
    st.flow_i[F_VERSION, f] += 1
    if st.flow_i[PREV, f] >= 0:
        st.flow_i[NEXT, st.flow_i[PREV, f]] = st.flow_i[NEXT, f]
    else:
        st.column_head[c] = st.flow_i[NEXT, f]
    if st.flow_i[NEXT, f] >= 0:
        st.flow_i[PREV, st.flow_i[NEXT, f]] = st.flow_i[PREV, f]
    st.flow_i[FREE_SLOT, st.i[I_FREE]] = f
    st.i[I_FREE] += 1
    _mark_rows(fx, st, c, st.i[I_SOLVES])


@_helper
def _repair(fx, st, t):  # type: ignore[no-untyped-def]
    """Max-min again for every active flow connected with a dirty row, and new completion times."""
    n_rows = st.i[I_DIRTY]
    stamp = st.i[I_SOLVES]  # the stamp with which the dirty rows were marked
    for k in range(n_rows):
        st.row_i[R_LIST, k] = st.row_i[DIRTY, k]
    n_flows = 0
    k = 0
    while k < n_rows:
        r = st.row_i[R_LIST, k]
        k += 1
        for e in range(fx.row_ptr[r], fx.row_ptr[r + 1]):
            f = st.column_head[fx.row_column[e]]
            while f >= 0:
                if st.flow_i[F_MARK, f] != stamp:
                    st.flow_i[F_MARK, f] = stamp
                    st.flow_i[F_LIST, n_flows] = f
                    n_flows += 1
                    c = st.flow_i[COLUMN, f]
                    for g in range(fx.ptr[c], fx.ptr[c + 1]):
                        q = fx.row[g]
                        if st.row_i[R_MARK, q] != stamp:
                            st.row_i[R_MARK, q] = stamp
                            st.row_i[R_LIST, n_rows] = q
                            n_rows += 1
                f = st.flow_i[NEXT, f]
    st.i[I_DIRTY] = 0
    st.i[I_SOLVES] += 1
    st.i[I_REPAIRED] += n_flows
    if n_flows == 0:
        return
    chosen = st.flow_i[F_LIST][:n_flows]
    for k in range(n_flows):
        f = chosen[k]
        st.flow[LEFT_BYTES, f] -= st.flow[RATE, f] * (t - st.flow[TIME, f])
        if st.flow[LEFT_BYTES, f] < 0.0:
            st.flow[LEFT_BYTES, f] = 0.0
        st.flow[TIME, f] = t
        st.flow[BEFORE, f] = st.flow[RATE, f]
    st.i[I_ROUNDS] += fill(
        chosen, st.flow_i[COLUMN], st.flow[WEIGHT], st.flow[CAP], fx.ptr, fx.row, fx.coefficient, st.row[CAPACITY],
        st.row[FREE], st.row[DEMAND], st.row[LOW], st.flow[RATE], st.flow_i[BOTTLENECK],
    )  # fmt: skip
    for k in range(n_flows):
        f = chosen[k]
        if st.flow[RATE, f] == st.flow[BEFORE, f] and st.flow[RATE, f] > 0.0:
            continue  # its completion event still stands
        st.flow_i[F_VERSION, f] += 1
        if st.flow[RATE, f] > 0.0:
            _push(st, t + st.flow[LEFT_BYTES, f] / st.flow[RATE, f], EV_FLOW, f, st.flow_i[F_VERSION, f])


@njit(cache=True)
def advance(fx, st, until, window):  # type: ignore[no-untyped-def]
    """Run up to and including ``until``; stop right after the first batch that fills the outbox.

    ``window`` is the relative time within which events count as simultaneous. Returns the time of the next
    event, inf when nothing will happen.
    """
    while True:
        if st.i[I_HEAP] > 2 * (st.heap_time.size // 5):
            _sweep(st)
        # Everything ready starts now; that may end at once and make more ready.
        t = st.now[0]
        while st.i[I_READY] > 0:
            st.i[I_READY] -= 1
            _begin(fx, st, st.op[READY, st.i[I_READY]], t, st.i[I_SOLVES])
        if st.i[I_DIRTY] > 0:
            _repair(fx, st, t)
        if st.i[I_OUT] > 0:
            return _next_event(st)
        t = _next_event(st)
        if t > until or t == np.inf:
            if until != np.inf and until > st.now[0]:
                st.now[0] = until
            return t
        edge = t + window * t
        while _next_event(st) <= edge:
            k = _pop(st)
            st.i[I_EVENTS] += 1
            t = st.heap_time[k]
            kind = st.heap_i[TYPE, k]
            x = st.heap_i[ID, k]
            if kind == EV_COMPUTE:
                op = st.stream_i[RUNNING, x]
                st.stream_i[RUNNING, x] = -1
                st.stream_i[S_VERSION, x] += 1
                _finish(fx, st, op, t)
            elif kind == EV_FLOW or kind == EV_CAPPED:
                op = x
                if kind == EV_FLOW:
                    op = st.flow_i[OP, x]
                    _close(fx, st, x)
                st.op[LEFT, op] -= 1
                if st.op[LEFT, op] == 0:
                    _push(st, t + fx.t_latency[fx.op[MOVES, op]] * fx.work[op], EV_DONE, op, 0)
            elif kind == EV_DONE:
                _finish(fx, st, x, t)
            elif kind == EV_RELEASE:
                _release(st, x, -1)
            elif kind == EV_CAPACITY:
                r = st.external_id[x]
                st.row[CAPACITY, r] = st.external_value[x]
                if st.row_i[R_MARK, r] != st.i[I_SOLVES]:
                    st.row_i[R_MARK, r] = st.i[I_SOLVES]
                    st.row_i[DIRTY, st.i[I_DIRTY]] = r
                    st.i[I_DIRTY] += 1
            else:
                s = st.external_id[x]
                if st.stream_i[RUNNING, s] >= 0:
                    _sync(st, s, t)
                st.stream[SPEED, s] = st.external_value[x]
                if st.stream_i[RUNNING, s] >= 0:
                    _reschedule(st, s, t)
            if t > st.now[0]:
                st.now[0] = t
