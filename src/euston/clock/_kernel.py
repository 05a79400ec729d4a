"""The executor's kernel: programs and the fluid network advance together, event by event.

State lives in NamedTuples of arrays so that the kernel can stop at any time and go on later; arrays of one
length are stacked, because compile time grows with the number of arrays a function takes. Rates are
repaired incrementally (``euston.network._repair``): only flows whose rate changes are touched by an event.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from euston.network._fill import CAPACITY
from euston.network._repair import (
    CHANGED,
    FLOW_I_LINES,
    FLOW_LINES,
    LAMBDA,
    N_CHANGED,
    N_DIRTY,
    RATE,
    WEIGHT,
    close_flow,
    mark,
    open_flow,
    repair,
    settle,
)

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
I_HEAP, I_SEQ, I_FREE, I_DONE, I_OUT, I_READY, I_EVENTS = LINE[:7]
COUNTERS = 7

# Lines of the stacked arrays.
STREAM, MOVES, FOLLOWER, SLOWS = LINE[:4]  # Fixed.op
SIZE, T_WEIGHT, T_CAP = LINE[:3]  # Fixed.flow
WAITING, BLOCKER, LEFT, READY, OUTBOX = LINE[:5]  # State.op
START, END = LINE[:2]  # State.when
WORK_LEFT, TOUCHED, SPEED, SLOWED = LINE[:4]  # State.stream
RUNNING, SLOWERS = LINE[:2]  # State.stream_i
LEFT_BYTES, SINCE = np.arange(FLOW_LINES, FLOW_LINES + 2, dtype=np.uintp)  # Net.flow, behind the solver's
OP, FREE_SLOT = np.arange(FLOW_I_LINES, FLOW_I_LINES + 2, dtype=np.uintp)  # Net.flow_i
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


class State(NamedTuple):
    """What changes besides the network: operations, streams, the event heap."""

    op: np.ndarray  # int32[5, N] open dependencies, last of them, open flows, ready stack, outbox
    when: np.ndarray  # float64[2, N] start, end
    stream: np.ndarray  # float64[4, S] work left of what runs, when that was true, speed, share lost
    stream_i: np.ndarray  # int64[2, S] running operation, transfers that slow it
    column_bytes: np.ndarray  # float64[C] started so far
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
def _begin(fx, st, net, op, t):  # type: ignore[no-untyped-def]
    """Start a ready operation at ``t``."""
    fixed, given, t_ptr, work = fx.op, fx.flow, fx.t_ptr, fx.work
    heap, i, version, stream, stream_i, ops = st.heap, st.i, st.version, st.stream, st.stream_i, st.op
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
            c = np.int64(fx.t_column[k])
            size = given[SIZE, k] * repeats
            st.column_bytes[c] += size
            if size <= 0.0:
                continue
            if net.ptr[c] == net.ptr[c + 1]:
                # No shared row: the flow runs at its cap for certain and needs no solver.
                capped = max(capped, size / given[T_CAP, k])
                continue
            i[I_FREE] -= 1
            f = net.flow_i[FREE_SLOT, i[I_FREE]]
            net.flow_i[OP, f] = op
            net.flow[LEFT_BYTES, f] = size
            net.flow[SINCE, f] = t
            open_flow(net, f, c, given[T_WEIGHT, k], given[T_CAP, k])
            opened += 1
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
def _rerate(net, heap, i, version, streams, t):  # type: ignore[no-untyped-def]
    """New rates from ``t`` on, and new completion times of the flows whose rate has changed."""
    repair(net)
    flow, flow_i = net.flow, net.flow_i
    for k in range(net.n[N_CHANGED]):
        f = flow_i[CHANGED, k]
        rate, before = flow[LAMBDA, f] * flow[WEIGHT, f], flow[RATE, f]
        if rate == before and rate > 0.0:
            continue  # its completion event still stands
        # What would have ended at this moment has: the death of a link that comes with it is too late.
        left = flow[LEFT_BYTES, f] - before * (t - flow[SINCE, f])
        left = left if left > before * t * WINDOW else 0.0
        flow[LEFT_BYTES, f] = left
        flow[SINCE, f] = t
        flow[RATE, f] = rate
        version[streams + f] += 1
        if rate > 0.0 or left == 0.0:
            then = t + left / rate if left > 0.0 else t
            _push(heap, i, version, then, EV_FLOW, f, streams + f)
    settle(net)


@njit(cache=True, no_cfunc_wrapper=True)
def advance(fx, st, net, until):  # type: ignore[no-untyped-def]
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
            _begin(fx, st, net, np.int64(ops[READY, i[I_READY]]), now[0])
        if net.n[N_DIRTY] > 0:
            _rerate(net, heap, i, version, stream.shape[1], now[0])
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
                    op = net.flow_i[OP, x]
                    close_flow(net, x)
                    net.flow_i[FREE_SLOT, i[I_FREE]] = x
                    i[I_FREE] += 1
                ops[LEFT, op] -= 1
                if ops[LEFT, op] == 0:
                    then = t + fx.t_latency[fixed[MOVES, op]] * fx.work[op]
                    _push(heap, i, version, then, EV_DONE, op, version.size - 1)
            elif kind == EV_RELEASE:
                _release(ops, i, x, NONE)
            elif kind == EV_CAPACITY:
                net.row[CAPACITY, external_id[x]] = external_value[x]
                mark(net, external_id[x])
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
