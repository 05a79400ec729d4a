"""The executor's kernel: programs and the fluid network advance together, event by event.

State lives in NamedTuples of arrays so that the kernel can stop at any time and go on later; arrays of one
length are stacked, because compile time grows with the number of arrays a function takes. Rates are
repaired only in the connected part of the active flows that an event touched; the rest stays exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from euston.network._fill import CAPACITY, fill

# Constants are NumPy integers: plain ones are literal types to numba, each tried on its own; and lines of
# arrays are unsigned, for which no negative index has to be thought of. Both keep the first call short.
ZERO, ONE, NONE = np.array([0, 1, -1])
LINE = np.arange(11, dtype=np.uintp)

# Events closer than this (relative) are one moment: float dust, far below a nanosecond.
WINDOW = 1e-13

# Event types.
EV_CAPACITY, EV_SPEED, EV_FLOW, EV_CAPPED, EV_COMPUTE, EV_DONE, EV_RELEASE = np.arange(7)

# Kinds of operations, as in ``program.Kind``.
COMPUTE, TRANSFER, WAIT, JOIN = np.arange(4)

# Counters in ``State.i``.
I_HEAP, I_SEQ, I_FREE, I_DONE, I_SOLVES, I_ROUNDS, I_REPAIRED, I_OUT, I_READY, I_EVENTS, I_DIRTY = LINE
COUNTERS = 11

# Lines of the stacked arrays.
STREAM, MOVES, FOLLOWER, SLOWS = LINE[:4]  # Fixed.op
SIZE, T_WEIGHT, T_CAP = LINE[:3]  # Fixed.flow
WAITING, BLOCKER, LEFT, READY, OUTBOX = LINE[:5]  # State.op
START, END = LINE[:2]  # State.when
WORK_LEFT, TOUCHED, SPEED, SLOWED = LINE[:4]  # State.stream
RUNNING, SLOWERS = LINE[:2]  # State.stream_i
WEIGHT, CAP, LEFT_BYTES, RATE, BEFORE, SINCE = LINE[:6]  # State.flow
OP, COLUMN, NEXT, PREV, F_MARK, FREE_SLOT, F_LIST, F_LIVE, BOTTLENECK = LINE[:9]  # State.flow_i
R_MARK, R_LIST, DIRTY = LINE[:3]  # State.row_i
TIME, SEQ, TYPE, ID, OWNER, VERSION = LINE[:6]  # fields of an event in State.heap

# Helpers are called from kernels only: no Python wrappers to compile for them. What they take is small, and
# of one type each (operations and slots as int64): both keep the first call short.
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
    stream: np.ndarray  # float64[4, S] work left of what runs, when that was true, speed, share lost
    stream_i: np.ndarray  # int64[2, S] running operation, transfers that slow it
    flow: np.ndarray  # float64[6, A]
    flow_i: np.ndarray  # int64[9, A]
    column_head: np.ndarray  # int64[C] first active flow
    column_bytes: np.ndarray  # float64[C] started so far
    row: np.ndarray  # float64[4, R] as in ``_fill``
    row_i: np.ndarray  # int64[3, R]
    heap: (
        np.ndarray
    )  # float64[H, 6] time, sequence, type, what it is about, its owner and the owner's version
    version: np.ndarray  # int64[S + A + 1] of streams, then slots, then 0: the owner of what never goes stale
    external_id: np.ndarray  # int64[E] row or stream of each planned event
    external_value: np.ndarray
    i: np.ndarray  # int64 counters
    now: np.ndarray  # float64[1]


@_helper
def _push(heap, i, version, time, kind, ident, owner):  # type: ignore[no-untyped-def]
    """A new event, which stands while its owner keeps its version; at equal times the first pushed leads."""
    n = i[I_HEAP]
    i[I_HEAP] = n + 1
    while n > 0 and time < heap[(n - 1) >> 1, TIME]:
        for field in range(6):
            heap[n, field] = heap[(n - 1) >> 1, field]
        n = (n - 1) >> 1
    heap[n, TIME] = time
    heap[n, SEQ] = i[I_SEQ]
    heap[n, TYPE] = kind
    heap[n, ID] = ident
    heap[n, OWNER] = owner
    heap[n, VERSION] = version[owner]
    i[I_SEQ] += 1


@_helper
def _sift_down(heap, k, n):  # type: ignore[no-untyped-def]
    """Event ``k`` of the first ``n`` may be later than its children: put it where it belongs."""
    while 2 * k + 1 < n:
        first = 2 * k + 1
        if first + 1 < n and (
            heap[first + 1, TIME] < heap[first, TIME]
            or (heap[first + 1, TIME] == heap[first, TIME] and heap[first + 1, SEQ] < heap[first, SEQ])
        ):
            first += 1
        if heap[k, TIME] < heap[first, TIME] or (
            heap[k, TIME] == heap[first, TIME] and heap[k, SEQ] < heap[first, SEQ]
        ):
            return
        for field in range(6):
            heap[k, field], heap[first, field] = heap[first, field], heap[k, field]
        k = first


@_helper
def _next_event(heap, i, version):  # type: ignore[no-untyped-def]
    """Time of the next event that still stands, inf when there is none."""
    while i[I_HEAP] > 0:
        if version[int(heap[0, OWNER])] == heap[0, VERSION]:
            return heap[0, TIME]
        n = i[I_HEAP] - 1
        i[I_HEAP] = n
        for field in range(6):
            heap[0, field] = heap[n, field]
        _sift_down(heap, ZERO, n)
    return np.inf


@_helper
def _sweep(heap, i, version):  # type: ignore[no-untyped-def]
    """Drop stale events: what is left is bounded by running operations, active flows and planned events."""
    kept = ZERO
    for k in range(i[I_HEAP]):
        if version[int(heap[k, OWNER])] == heap[k, VERSION]:
            for field in range(6):
                heap[kept, field] = heap[k, field]
            kept += 1
    i[I_HEAP] = kept
    for k in range(kept // 2 - 1, -1, -1):
        _sift_down(heap, k, kept)


@_helper
def _mark_row(row_i, i, r):  # type: ignore[no-untyped-def]
    """Row ``r`` needs new rates; the stamp is the number of the repair to come."""
    if row_i[R_MARK, r] != i[I_SOLVES]:
        row_i[R_MARK, r] = i[I_SOLVES]
        row_i[DIRTY, i[I_DIRTY]] = r
        i[I_DIRTY] += 1


@_helper
def _set_pace(stream, stream_i, heap, i, version, s, t, speed, slowers, share):  # type: ignore[no-untyped-def]
    """From ``t`` on stream ``s`` has ``speed``, and ``slowers`` more transfers take ``share`` more of it."""
    running = stream_i[RUNNING, s] >= 0
    if running:
        pace = stream[SPEED, s] * max(0.0, 1.0 - stream[SLOWED, s])
        left = stream[WORK_LEFT, s] - pace * (t - stream[TOUCHED, s])
        # What would have ended at this moment has: a change of speed that comes with it is too late.
        stream[WORK_LEFT, s] = left if left > pace * t * WINDOW else 0.0
        stream[TOUCHED, s] = t
    stream_i[SLOWERS, s] += slowers
    # The last one leaves no dust behind.
    stream[SLOWED, s] = stream[SLOWED, s] + share if stream_i[SLOWERS, s] > 0 else 0.0
    stream[SPEED, s] = speed
    if running:
        version[s] += 1
        pace = speed * max(0.0, 1.0 - stream[SLOWED, s])
        left = stream[WORK_LEFT, s]
        if pace > 0.0 or left == 0.0:
            then = t + left / pace if left > 0.0 else t
            _push(heap, i, version, then, EV_COMPUTE, s, s)


@_helper
def _begin(fx, st, op, t):  # type: ignore[no-untyped-def]
    """Start a ready operation at ``t``."""
    fixed, given, ptr, t_ptr, work = fx.op, fx.flow, fx.ptr, fx.t_ptr, fx.work
    heap, i, version, stream, stream_i = st.heap, st.i, st.version, st.stream, st.stream_i
    flow, flow_i, column_head, ops = st.flow, st.flow_i, st.column_head, st.op
    st.when[START, op] = t
    kind, tr = fx.kind[op], fixed[MOVES, op]
    s = np.int64(fixed[SLOWS, op])
    slowers, share = ZERO, 0.0
    runs = kind == COMPUTE and fixed[STREAM, op] >= 0
    if runs:
        s = np.int64(fixed[STREAM, op])
        stream_i[RUNNING, s] = op
        stream[WORK_LEFT, s] = work[op]
        stream[TOUCHED, s] = t
    elif s >= 0:
        slowers, share = ONE, fx.t_slow_share[tr]
    if s >= 0:
        _set_pace(stream, stream_i, heap, i, version, s, t, stream[SPEED, s], slowers, share)
    if runs:
        return
    then, event = t + work[op], EV_DONE
    if kind == TRANSFER:
        repeats = work[op]
        capped = 0.0
        opened = ZERO
        for k in range(t_ptr[tr], t_ptr[tr + 1]):
            c = fx.t_column[k]
            size = given[SIZE, k] * repeats
            st.column_bytes[c] += size
            if size <= 0.0:
                continue
            if ptr[c] == ptr[c + 1]:
                # No shared row: the flow runs at its cap for certain and needs no solver.
                capped = max(capped, size / given[T_CAP, k])
                continue
            i[I_FREE] -= 1
            f = flow_i[FREE_SLOT, i[I_FREE]]
            flow_i[OP, f] = op
            flow_i[COLUMN, f] = c
            flow[WEIGHT, f] = given[T_WEIGHT, k]
            flow[CAP, f] = given[T_CAP, k]
            flow[LEFT_BYTES, f] = size
            flow[RATE, f] = 0.0
            flow[SINCE, f] = t
            head = column_head[c]
            flow_i[NEXT, f] = head
            flow_i[PREV, f] = -1
            if head >= 0:
                flow_i[PREV, head] = f
            column_head[c] = f
            opened += 1
            for e in range(ptr[c], ptr[c + 1]):
                _mark_row(st.row_i, i, np.int64(fx.row[e]))
        then = t + capped + fx.t_latency[tr] * repeats
        if opened > 0:
            if capped == 0.0:
                ops[LEFT, op] = opened
                return
            # The capped flows without rows end with a wait that counts as one more flow.
            ops[LEFT, op] = opened + 1
            then, event = t + capped, EV_CAPPED
    _push(heap, i, version, then, event, op, version.size - 1)


@_helper
def _release(ops, i, op, by):  # type: ignore[no-untyped-def]
    """One thing less that ``op`` waits for; the last one is its blocker."""
    ops[WAITING, op] -= 1
    if ops[WAITING, op] == 0:
        ops[BLOCKER, op] = by
        ops[READY, i[I_READY]] = op
        i[I_READY] += 1


@_helper
def _finish(fixed, succ_ptr, succ, notify, ops, i, op):  # type: ignore[no-untyped-def]
    """Operation ``op`` is done: tell of it, and release what waited for it."""
    i[I_DONE] += 1
    if notify[op]:
        ops[OUTBOX, i[I_OUT]] = op
        i[I_OUT] += 1
    for e in range(succ_ptr[op], succ_ptr[op + 1]):
        _release(ops, i, np.int64(succ[e]), op)
    if fixed[FOLLOWER, op] >= 0:
        _release(ops, i, np.int64(fixed[FOLLOWER, op]), op)


@_helper
def _close(column_head, flow_i, row_i, i, ptr, row, f):  # type: ignore[no-untyped-def]
    """Take a finished flow off the network."""
    c = flow_i[COLUMN, f]
    before, after = flow_i[PREV, f], flow_i[NEXT, f]
    if before >= 0:
        flow_i[NEXT, before] = after
    else:
        column_head[c] = after
    if after >= 0:
        flow_i[PREV, after] = before
    flow_i[FREE_SLOT, i[I_FREE]] = f
    i[I_FREE] += 1
    for e in range(ptr[c], ptr[c + 1]):
        _mark_row(row_i, i, np.int64(row[e]))


@_helper
def _repair(fx, st, t):  # type: ignore[no-untyped-def]
    """Max-min again for every active flow connected with a dirty row, and new completion times."""
    ptr, row, row_ptr = fx.ptr, fx.row, fx.row_ptr
    flow, flow_i, i, rows, row_i, version = st.flow, st.flow_i, st.i, st.row, st.row_i, st.version
    stamp = i[I_SOLVES]  # with which the dirty rows were marked
    n_rows = i[I_DIRTY]
    for k in range(n_rows):
        row_i[R_LIST, k] = row_i[DIRTY, k]
    n_flows = ZERO
    k = 0
    while k < n_rows:
        r = row_i[R_LIST, k]
        k += 1
        for e in range(row_ptr[r], row_ptr[r + 1]):
            f = st.column_head[fx.row_column[e]]
            while f >= 0:
                if flow_i[F_MARK, f] != stamp:
                    flow_i[F_MARK, f] = stamp
                    flow_i[F_LIST, n_flows] = f
                    n_flows += 1
                    c = flow_i[COLUMN, f]
                    for g in range(ptr[c], ptr[c + 1]):
                        q = row[g]
                        if row_i[R_MARK, q] != stamp:
                            row_i[R_MARK, q] = stamp
                            row_i[R_LIST, n_rows] = q
                            n_rows += 1
                f = flow_i[NEXT, f]
    i[I_DIRTY] = 0
    i[I_SOLVES] += 1
    i[I_REPAIRED] += n_flows
    for k in range(n_flows):
        f = flow_i[F_LIST, k]
        flow_i[F_LIVE, k] = f
        left = flow[LEFT_BYTES, f] - flow[RATE, f] * (t - flow[SINCE, f])
        # What would have ended at this moment has: the death of a link that comes with it is too late.
        flow[LEFT_BYTES, f] = left if left > flow[RATE, f] * t * WINDOW else 0.0
        flow[SINCE, f] = t
        flow[BEFORE, f] = flow[RATE, f]
    i[I_ROUNDS] += fill(
        flow_i[F_LIVE], n_flows, flow_i[COLUMN], flow[WEIGHT], flow[CAP], ptr, row, fx.coefficient, rows,
        flow[RATE], flow_i[BOTTLENECK],
    )  # fmt: skip
    streams = st.stream.shape[1]
    for k in range(n_flows):
        f = flow_i[F_LIST, k]
        rate, left = flow[RATE, f], flow[LEFT_BYTES, f]
        if rate == flow[BEFORE, f] and rate > 0.0:
            continue  # its completion event still stands
        version[streams + f] += 1
        if rate > 0.0 or left == 0.0:
            then = t + left / rate if left > 0.0 else t
            _push(st.heap, i, version, then, EV_FLOW, f, streams + f)


@njit(cache=True, no_cfunc_wrapper=True)
def advance(fx, st, until):  # type: ignore[no-untyped-def]
    """Run up to and including ``until``; stop right after the first batch that fills the outbox.

    Returns the time of the next event, inf when nothing will happen.
    """
    fixed, heap, i, now, ops = fx.op, st.heap, st.i, st.now, st.op
    stream, stream_i, version = st.stream, st.stream_i, st.version
    external_id, external_value = st.external_id, st.external_value
    while True:
        if i[I_HEAP] > 2 * (heap.shape[0] // 5):
            _sweep(heap, i, version)
        # Everything ready starts now.
        while i[I_READY] > 0:
            i[I_READY] -= 1
            _begin(fx, st, np.int64(ops[READY, i[I_READY]]), now[0])
        if i[I_DIRTY] > 0:
            _repair(fx, st, now[0])
        t = _next_event(heap, i, version)
        if i[I_OUT] > 0:
            return t
        if t > until or t == np.inf:
            if until != np.inf and until > now[0]:
                now[0] = until
            return t
        # One batch: all events within the window, and what they cause at once.
        edge = t + WINDOW * t
        while t <= edge:
            kind = int(heap[0, TYPE])
            x = int(heap[0, ID])
            heap[0, VERSION] = NONE  # taken: stale from here on
            i[I_EVENTS] += 1
            done, s = NONE, NONE
            slowers, share, speed = ZERO, 0.0, 0.0
            if kind == EV_COMPUTE:
                done = stream_i[RUNNING, x]
                stream_i[RUNNING, x] = NONE
            elif kind == EV_DONE:
                done = x
            elif kind in (EV_FLOW, EV_CAPPED):
                op = x
                if kind == EV_FLOW:
                    op = st.flow_i[OP, x]
                    _close(st.column_head, st.flow_i, st.row_i, i, fx.ptr, fx.row, x)
                ops[LEFT, op] -= 1
                if ops[LEFT, op] == 0:
                    then = t + fx.t_latency[fixed[MOVES, op]] * fx.work[op]
                    _push(heap, i, version, then, EV_DONE, op, version.size - 1)
            elif kind == EV_RELEASE:
                _release(ops, i, x, NONE)
            elif kind == EV_CAPACITY:
                st.row[CAPACITY, external_id[x]] = external_value[x]
                _mark_row(st.row_i, i, external_id[x])
            else:
                s, speed = external_id[x], external_value[x]
            if done >= 0:
                st.when[END, done] = t
                _finish(fixed, fx.succ_ptr, fx.succ, fx.notify, ops, i, done)
                s = np.int64(fixed[SLOWS, done])
                if s >= 0:
                    slowers, share, speed = NONE, -fx.t_slow_share[fixed[MOVES, done]], stream[SPEED, s]
            if s >= 0:
                _set_pace(stream, stream_i, heap, i, version, s, t, speed, slowers, share)
            if t > now[0]:
                now[0] = t
            t = _next_event(heap, i, version)
