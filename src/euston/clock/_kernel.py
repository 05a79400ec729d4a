"""The executor's kernel: programs and the fluid network advance together, event by event.

Rates are repaired incrementally (``euston.network._repair``): only flows whose rate changes are touched by an
event. Helpers are called from kernels only: no Python wrappers to compile for them. What they take is small,
and of one type each (operations and slots as int64): both keep the first call short.
"""

from __future__ import annotations  # noqa: I001 - the layout's names in rows

import numpy as np
from numba import njit

from euston.clock._state import (
    BLOCKER, CHOSEN, COMPUTE, END, EV_CAPACITY, EV_CAPPED, EV_COMPUTE, EV_DONE, EV_FLOW, EV_RELEASE,
    EV_ROUTES, FIRST, FOLLOWER, FROM, I_DONE, I_EVENTS, I_FREE, I_HEAP, I_OUT, I_READY,
    LEAST_LOADED_AFTER_GAP, LEFT, LEFT_BYTES, MOVES, NONE, ONE, OP, OUTBOX, OWNER, P_BUSY, P_CHOICE,
    RANDOM_AFTER_GAP, READY, RUNNING, SINCE, SIZE, SLOWED, SLOWERS, SLOWS, SLOW_COUNT, SPEED, START,
    STREAM, TIME, TOUCHED, TRANSFER, T_CAP, T_WEIGHT, WAITING, WINDOW, WORK_LEFT, ZERO, drop, put,
)  # fmt: skip
from euston.network._net import (
    CAPACITY, CHANGED, COLUMN, FREE_SLOT, GIVEN, LAMBDA, N_CHANGED, N_DIRTY, RATE, WEIGHT, bare,
    close_flow, open_flow, set_capacity,
)  # fmt: skip
from euston.network._repair import attempt, retire, settle


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
            put(heap, where, i, s, then)
        else:
            drop(heap, where, i, s)


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
    behind = s + fixed[SLOW_COUNT, op]
    slowers, share = ZERO, 0.0
    runs = kind == COMPUTE and fixed[STREAM, op] >= 0
    if runs:
        s = np.int64(fixed[STREAM, op])
        behind = s + 1
        stream_i[RUNNING, s] = op
        stream[WORK_LEFT, s] = work[op]
        stream[TOUCHED, s] = t
    elif s >= 0:
        slowers, share = ONE, fx.t_slow_share[tr]
    for x in range(s, behind):
        _set_pace(stream, stream_i, heap, where, i, x, t, stream[SPEED, x], slowers, share)
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
    put(heap, where, i, stream.shape[1] + net.flow.shape[0] + op, then)


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
            put(heap, where, i, streams + f, then)
        else:
            drop(heap, where, i, streams + f)
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
            drop(heap, where, i, owner)
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
            done, s, behind = NONE, ZERO, ZERO
            slowers, share, speed = ZERO, 0.0, np.nan
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
                    put(heap, where, i, operations + op, then)
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
                behind = s + 1
            if done >= 0:
                st.when[END, done] = t
                _finish(fixed, fx.succ_ptr, fx.succ, fx.notify, ops, i, done)
                s = np.int64(fixed[SLOWS, done])
                behind = s + fixed[SLOW_COUNT, done]
                if behind > s:
                    slowers, share = NONE, -fx.t_slow_share[fixed[MOVES, done]]
            for y in range(s, behind):
                pace = stream[SPEED, y] if speed != speed else speed
                _set_pace(stream, stream_i, heap, where, i, y, t, pace, slowers, share)
            if t > now[0]:
                now[0] = t
            t = heap[0, TIME] if i[I_HEAP] > 0 else np.inf
