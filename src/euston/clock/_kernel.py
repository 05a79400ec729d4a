"""The executor's kernel: programs and the fluid network advance together, event by event.

State lives in NamedTuples of arrays so that the kernel can stop at any time and go on later; arrays of one
length are stacked, because compile time grows with the number of arrays a function takes. Rates are
repaired incrementally (``euston.network._repair``): only flows whose rate changes are touched by an event.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from euston.network._repair import (
    CAPACITY,
    CHANGED,
    COLUMN,
    FLOW_COLUMNS,
    FLOW_I_COLUMNS,
    FREE_SLOT,
    GIVEN,
    LAMBDA,
    N_CHANGED,
    N_DIRTY,
    RATE,
    WEIGHT,
    attempt,
    bare,
    close_flow,
    open_flow,
    retire,
    set_capacity,
    settle,
)

# Constants are NumPy integers: plain ones are literal types to numba, each tried on its own; and lines of
# arrays are unsigned, for which no negative index has to be thought of. Both keep the first call short.
ZERO, ONE, NONE = np.array([0, 1, -1])
LINE = np.arange(11, dtype=np.uintp)

# Events closer than this (relative) are one moment: float dust, far below a nanosecond.
WINDOW = 1e-13

# Event types.
EV_CAPACITY, EV_SPEED, EV_FLOW, EV_CAPPED, EV_COMPUTE, EV_DONE, EV_RELEASE, EV_ROUTES = np.arange(8)

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
# Columns of ``Net.flow`` and ``Net.flow_i`` behind the solver's.
LEFT_BYTES, SINCE, FROM = np.arange(FLOW_COLUMNS, FLOW_COLUMNS + 3, dtype=np.uintp)
OP, CHOSEN = np.arange(FLOW_I_COLUMNS, FLOW_I_COLUMNS + 2, dtype=np.uintp)

# Rules by which a flow that starts takes one of its candidate columns (network.balancing.StartRule).
FIRST, LEAST_LOADED, RANDOM_AFTER_GAP, LEAST_LOADED_AFTER_GAP = np.arange(4)
P_BUSY, P_CHOICE = LINE[:2]  # Choices.pair_i
TIME, SEQ, OWNER = LINE[:3]  # columns of State.heap

# Helpers are called from kernels only: no Python wrappers to compile for them. What they take is small, and
# of one type each (operations and slots as int64): both keep the first call short.


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
    heap: np.ndarray  # float64[H, 4] 4-ary, by time and then sequence; what the event is about
    where: (
        np.ndarray
    )  # int32[S + A + N + E] place of the event of a stream, slot, operation, planned event; -1
    external_kind: np.ndarray  # int64[E]
    external_id: np.ndarray  # int64[E] row, stream, routes or operation of each planned event
    external_value: np.ndarray
    i: np.ndarray  # int64 counters
    now: np.ndarray  # float64[1]
    window: np.ndarray  # float64[2] seconds within which events are one moment, time constant of rising rates


class Choices(NamedTuple):
    """Columns that are found when a flow starts, and found again when routes change."""

    candidates: np.ndarray  # int32[F] candidates of each flow of the table: its column and those behind it
    pair: np.ndarray  # int32[F]
    rule: np.ndarray  # int64[1]
    gap: np.ndarray  # float64[1] seconds
    random: np.ndarray  # uint64[1] state of the generator
    pair_last: np.ndarray  # float64[P] when the pair sent last
    pair_i: np.ndarray  # int64[2, P] active flows, last choice
    asked: np.ndarray  # float64[R] weight of active flows over capacity
    routes: np.ndarray  # int32[E, C] the column that stands for a column while routes ``e`` hold, -1: none
    epoch: np.ndarray  # int64[1] which routes hold


@bare
def _place(heap, where, n, k, time, seq, owner):  # type: ignore[no-untyped-def]
    """An event goes to place ``k`` of the first ``n``, or to where it belongs from there."""
    while k > 0:
        up = (k - 1) >> 2
        if heap[up, TIME] < time or (heap[up, TIME] == time and heap[up, SEQ] < seq):
            break
        heap[k, TIME], heap[k, SEQ], heap[k, OWNER] = heap[up, TIME], heap[up, SEQ], heap[up, OWNER]
        where[np.int64(heap[k, OWNER])] = k
        k = up
    while 4 * k + 1 < n:
        least, first, first_seq = k, time, seq
        for child in range(4 * k + 1, min(4 * k + 5, n)):
            then = heap[child, TIME]
            if then < first or (then == first and heap[child, SEQ] < first_seq):
                least, first, first_seq = child, then, heap[child, SEQ]
        if least == k:
            break
        heap[k, TIME], heap[k, SEQ], heap[k, OWNER] = first, first_seq, heap[least, OWNER]
        where[np.int64(heap[k, OWNER])] = k
        k = least
    heap[k, TIME], heap[k, SEQ], heap[k, OWNER] = time, seq, owner
    where[owner] = k


@bare
def _put(heap, where, i, owner, time):  # type: ignore[no-untyped-def]
    """The event of ``owner`` is at ``time``, new or moved; at equal times the first put leads."""
    k = np.int64(where[owner])
    if k < 0:
        k = i[I_HEAP]
        i[I_HEAP] = k + 1
    _place(heap, where, i[I_HEAP], k, time, float(i[I_SEQ]), owner)
    i[I_SEQ] += 1


@bare
def _drop(heap, where, i, owner):  # type: ignore[no-untyped-def]
    """``owner`` has no event any more."""
    k = np.int64(where[owner])
    if k >= 0:
        where[owner] = -1
        n = i[I_HEAP] - 1
        i[I_HEAP] = n
        if k < n:
            _place(heap, where, n, k, heap[n, TIME], heap[n, SEQ], np.int64(heap[n, OWNER]))


@bare
def _set_pace(stream, stream_i, heap, where, i, s, t, speed, slowers, share):  # type: ignore[no-untyped-def]
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
        pace = speed * max(0.0, 1.0 - stream[SLOWED, s])
        left = stream[WORK_LEFT, s]
        if pace > 0.0 or left == 0.0:
            then = t + left / pace if left > 0.0 else t
            _put(heap, where, i, s, then)
        else:
            _drop(heap, where, i, s)


@bare
def _ask(net, asked, c, weight):  # type: ignore[no-untyped-def]
    """A flow with this weight comes to column ``c`` (or goes, with a negative one)."""
    for e in range(net.ptr[c], net.ptr[c + 1]):
        r = net.entry_row[e]
        asked[r] += net.coefficient[e] * weight / max(net.row[r, CAPACITY], 1.0)


@bare
def _choose(ch, net, first, k, t):  # type: ignore[no-untyped-def]
    """Which of the candidates of flow ``k`` of the table it takes at ``t``; 0 when all are dead."""
    rule, pair, count = ch.rule[0], ch.pair[k], ch.candidates[k]
    routes = ch.routes[ch.epoch[0]]
    if rule in (RANDOM_AFTER_GAP, LEAST_LOADED_AFTER_GAP):
        last = ch.pair_i[P_CHOICE, pair]
        goes_on = ch.pair_i[P_BUSY, pair] > 0 or t - ch.pair_last[pair] <= ch.gap[0]
        if goes_on and 0 <= last < count and routes[first + last] >= 0:
            return last
    best, least, alive = ZERO, np.inf, ZERO
    for j in range(count):
        c = routes[first + j]
        if c < 0:
            continue
        alive += 1
        if rule == FIRST:
            return np.int64(j)
        if rule == RANDOM_AFTER_GAP:
            # xorshift64*; the j-th live candidate replaces the choice with probability 1/j.
            x = ch.random[0]
            x ^= x >> np.uint64(12)
            x ^= x << np.uint64(25)
            x ^= x >> np.uint64(27)
            ch.random[0] = x
            draw = (x * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(33)
            if np.int64(draw) % alive == 0:
                best = np.int64(j)
            continue
        load = 0.0
        for e in range(net.ptr[c], net.ptr[c + 1]):
            r = net.entry_row[e]
            mine = ch.asked[r] if net.row[r, CAPACITY] > 0.0 else np.inf
            load = max(load, mine)
        if load < least:
            best, least = np.int64(j), load
    return best


@bare
def _find(ch, net, first, k, t):  # type: ignore[no-untyped-def]
    """The choice and the column that a flow of the table gets at ``t``; a dead one when nothing is alive."""
    j = _choose(ch, net, first, k, t)
    c = np.int64(ch.routes[ch.epoch[0], first + j])
    return j, c if c >= 0 else first + j


@bare
def _begin(fx, st, net, ch, op, t):  # type: ignore[no-untyped-def]
    """Start a ready operation at ``t``."""
    fixed, given, t_ptr, work = fx.op, fx.flow, fx.t_ptr, fx.work
    heap, where, i, stream, stream_i, ops = st.heap, st.where, st.i, st.stream, st.stream_i, st.op
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
        _set_pace(stream, stream_i, heap, where, i, s, t, stream[SPEED, s], slowers, share)
    if runs:
        return
    then = t + work[op]
    if kind == TRANSFER:
        repeats = work[op]
        capped = 0.0
        opened = ZERO
        for k in range(t_ptr[tr], t_ptr[tr + 1]):
            c = np.int64(fx.t_column[k])
            size = given[SIZE, k] * repeats
            j = ZERO
            if ch is not None:
                j, c = _find(ch, net, c, k, t)
            st.column_bytes[c] += size
            if size <= 0.0:
                continue
            if net.ptr[c] == net.ptr[c + 1]:
                # No shared row: the flow runs at its cap for certain and needs no solver.
                capped = max(capped, size / given[T_CAP, k])
                continue
            i[I_FREE] -= 1
            f = net.flow_list[FREE_SLOT, i[I_FREE]]
            net.flow_i[f, OP] = op
            net.flow[f, LEFT_BYTES] = size
            net.flow[f, SINCE] = t
            net.flow[f, FROM] = -1.0
            net.flow_i[f, GIVEN] = k
            if ch is not None:
                net.flow_i[f, CHOSEN] = j
                ch.pair_i[P_BUSY, ch.pair[k]] += 1
                ch.pair_i[P_CHOICE, ch.pair[k]] = j
                _ask(net, ch.asked, c, given[T_WEIGHT, k])
            open_flow(net, f, c, given[T_WEIGHT, k], given[T_CAP, k])
            opened += 1
        then = t + capped + fx.t_latency[tr] * repeats
        if opened > 0:
            if capped == 0.0:
                ops[LEFT, op] = opened
                return
            # The capped flows without rows end with a wait that counts as one more flow.
            ops[LEFT, op] = opened + 1
            then = t + capped
    _put(heap, where, i, stream.shape[1] + net.flow.shape[0] + op, then)


@bare
def _release(ops, i, op, by):  # type: ignore[no-untyped-def]
    """One thing less that ``op`` waits for; the last one is its blocker."""
    ops[WAITING, op] -= 1
    if ops[WAITING, op] == 0:
        ops[BLOCKER, op] = by
        ops[READY, i[I_READY]] = op
        i[I_READY] += 1


@bare
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


@bare
def _carried(flow, f, t, lag):  # type: ignore[no-untyped-def]
    """Bytes left of flow ``f`` at ``t``, and the rate it has reached by then."""
    rate, before, gone = flow[f, RATE], flow[f, FROM], t - flow[f, SINCE]
    done = rate * gone
    if before < rate and lag > 0.0:
        part = np.exp(-gone / lag)
        done -= (rate - before) * lag * (1.0 - part)
        before = rate - (rate - before) * part
    else:
        before = rate
    # What would have ended at this moment has: the death of a link that comes with it is too late.
    left = flow[f, LEFT_BYTES] - done
    return (left if left > rate * t * WINDOW else 0.0), before


@bare
def _ends_in(left, rate, before, lag):  # type: ignore[no-untyped-def]
    """Seconds until ``left`` bytes are through when the rate climbs from ``before`` towards ``rate``."""
    x = left / rate
    if before >= rate or lag == 0.0:
        return x
    # Newton on a convex function from its right side: it falls towards the root.
    gap = rate - before
    x += gap * lag / rate
    for _ in range(50):
        part = np.exp(-x / lag)
        step = (rate * x - gap * lag * (1.0 - part) - left) / (rate - gap * part)
        x -= step
        if step <= 1e-14 * x:
            break
    return max(x, 0.0)


@bare
def _rerate(net, heap, where, i, streams, lag, t):  # type: ignore[no-untyped-def]
    """The levels are known: new rates from ``t`` on, and new completion times of whoever has moved."""
    retire(net)
    flow, flow_list = net.flow, net.flow_list
    for k in range(net.n[N_CHANGED]):
        f = flow_list[CHANGED, k]
        rate = flow[f, LAMBDA] * flow[f, WEIGHT]
        if rate == flow[f, RATE] and rate > 0.0:
            continue  # its completion event still stands
        left, reached = _carried(flow, f, t, lag)
        flow[f, LEFT_BYTES] = left
        # A flow that starts sends at once what it may; one that gets more climbs there.
        reached = rate if flow[f, FROM] < 0.0 or lag == 0.0 else min(reached, rate)
        flow[f, SINCE] = t
        flow[f, RATE] = rate
        flow[f, FROM] = reached
        if rate > 0.0 or left == 0.0:
            then = t + _ends_in(left, rate, reached, lag) if left > 0.0 else t
            _put(heap, where, i, streams + f, then)
        else:
            _drop(heap, where, i, streams + f)
    settle(net)


@bare
def _reroute(fx, ch, net, column_bytes, lag, t):  # type: ignore[no-untyped-def]
    """Other routes hold from ``t`` on: flows whose column is no longer theirs take what is left elsewhere."""
    flow, flow_i = net.flow, net.flow_i
    for f in range(flow_i.shape[0]):
        if flow_i[f, OP] < 0:
            continue
        k, old = flow_i[f, GIVEN], flow_i[f, COLUMN]
        first = np.int64(fx.t_column[k])
        j = flow_i[f, CHOSEN]
        c = np.int64(ch.routes[ch.epoch[0], first + j])
        if c < 0:
            j, c = _find(ch, net, first, k, t)
        if c == old:
            continue
        left, _ = _carried(flow, f, t, lag)
        weight = flow[f, WEIGHT]
        close_flow(net, f)
        _ask(net, ch.asked, old, -weight)
        flow[f, LEFT_BYTES] = left
        flow[f, SINCE] = t
        flow[f, FROM] = -1.0
        flow_i[f, CHOSEN] = j
        ch.pair_i[P_CHOICE, ch.pair[k]] = j
        column_bytes[old] -= left
        column_bytes[c] += left
        open_flow(net, f, c, weight, fx.flow[T_CAP, k])
        _ask(net, ch.asked, c, weight)


@njit(cache=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")
def advance(fx, st, net, ch, whole, solved, until):  # type: ignore[no-untyped-def]
    """Run up to and including ``until``; stop right after the first batch that fills the outbox.

    Returns the time of the next event, inf when nothing will happen; nan when the caller has to solve a
    connected part (``network._repair.component``) and call again with ``solved``. That solver is seldom
    needed and long to compile: hence not from here. ``whole``: always ask for it, because links have queues.
    """
    fixed, heap, i, now, ops = fx.op, st.heap, st.i, st.now, st.op
    stream, stream_i, where = st.stream, st.stream_i, st.where
    external_id, external_value = st.external_id, st.external_value
    # Where the events of slots, of operations and of what was planned begin.
    slots = np.int64(stream.shape[1])
    operations = slots + net.flow.shape[0]
    externals = operations + fx.kind.size
    if solved:
        _rerate(net, heap, where, i, slots, st.window[1], now[0])
    while True:
        # Everything ready starts now.
        while i[I_READY] > 0:
            i[I_READY] -= 1
            _begin(fx, st, net, ch, np.int64(ops[READY, i[I_READY]]), now[0])
        if net.n[N_DIRTY] + net.n[N_CHANGED] > 0:
            if not attempt(net, whole):
                return np.nan
            _rerate(net, heap, where, i, slots, st.window[1], now[0])
        t = heap[0, TIME] if i[I_HEAP] > 0 else np.inf
        if i[I_OUT] > 0:
            return t
        if t > until or t == np.inf:
            if until != np.inf and until > now[0]:
                now[0] = until
            return t
        # One batch: all events within the window, and what they cause at once.
        edge = t + max(WINDOW * t, st.window[0])
        while t <= edge:
            owner = np.int64(heap[0, OWNER])
            _drop(heap, where, i, owner)
            if owner < slots:
                kind, x = EV_COMPUTE, owner
            elif owner < operations:
                kind, x = EV_FLOW, owner - slots
            elif owner < externals:
                x = owner - operations
                kind = EV_CAPPED if ops[LEFT, x] > 0 else EV_DONE
            else:
                x = owner - externals
                kind = st.external_kind[x]
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
                    op = net.flow_i[x, OP]
                    net.flow_i[x, OP] = NONE
                    if ch is not None:
                        pair = ch.pair[net.flow_i[x, GIVEN]]
                        ch.pair_i[P_BUSY, pair] -= 1
                        ch.pair_last[pair] = t
                        _ask(net, ch.asked, net.flow_i[x, COLUMN], -net.flow[x, WEIGHT])
                    close_flow(net, x)
                    net.flow_list[FREE_SLOT, i[I_FREE]] = x
                    i[I_FREE] += 1
                ops[LEFT, op] -= 1
                if ops[LEFT, op] == 0:
                    then = t + fx.t_latency[fixed[MOVES, op]] * fx.work[op]
                    _put(heap, where, i, operations + op, then)
            elif kind == EV_RELEASE:
                _release(ops, i, external_id[x], NONE)
            elif kind == EV_ROUTES:
                if ch is not None:
                    ch.epoch[0] = external_id[x]
                    _reroute(fx, ch, net, st.column_bytes, st.window[1], t)
            elif kind == EV_CAPACITY:
                set_capacity(net, external_id[x], external_value[x])
            else:
                s, speed = external_id[x], external_value[x]
            if done >= 0:
                st.when[END, done] = t
                _finish(fixed, fx.succ_ptr, fx.succ, fx.notify, ops, i, done)
                s = np.int64(fixed[SLOWS, done])
                if s >= 0:
                    slowers, share, speed = NONE, -fx.t_slow_share[fixed[MOVES, done]], stream[SPEED, s]
            if s >= 0:
                _set_pace(stream, stream_i, heap, where, i, s, t, speed, slowers, share)
            if t > now[0]:
                now[0] = t
            t = heap[0, TIME] if i[I_HEAP] > 0 else np.inf
