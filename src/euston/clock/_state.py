"""The executor's state: what a program is, what changes while it runs, and the heap of events.

State lives in NamedTuples of arrays so that the kernel can stop at any time and go on later; arrays of one
length are stacked, because compile time grows with the number of arrays a function takes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from euston.clock.program import TransferTable
from euston.errors import ConfigError
from euston.network._net import FLOW_COLUMNS, FLOW_I_COLUMNS, Queues, bare

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
STREAM, MOVES, FOLLOWER, SLOWS, SLOW_COUNT = LINE[:5]  # Fixed.op
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
    op: np.ndarray  # int32[5, N] stream, transfer, next on the stream, first of those it slows, how many
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
def put(heap, where, i, owner, time):  # type: ignore[no-untyped-def]
    """The event of ``owner`` is at ``time``, new or moved; at equal times the first put leads."""
    k = np.int64(where[owner])
    if k < 0:
        k = i[I_HEAP]
        i[I_HEAP] = k + 1
    _place(heap, where, i[I_HEAP], k, time, float(i[I_SEQ]), owner)
    i[I_SEQ] += 1


@bare
def drop(heap, where, i, owner):  # type: ignore[no-untyped-def]
    """``owner`` has no event any more."""
    k = np.int64(where[owner])
    if k >= 0:
        where[owner] = -1
        n = i[I_HEAP] - 1
        i[I_HEAP] = n
        if k < n:
            _place(heap, where, n, k, heap[n, TIME], heap[n, SEQ], np.int64(heap[n, OWNER]))


def plain(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The one layout that the kernel is compiled for."""
    return np.require(array, dtype, ["C", "W"])


def choices_of(transfers: TransferTable) -> Choices | None:
    """The kernel's form of the table's choices."""
    given = transfers.choices
    if given is None:
        return None
    columns, flows = len(transfers.columns), transfers.column.size
    routes = np.require(given.routes, np.int32, ["C", "W"])
    if given.count.shape != (flows,) or given.pair.shape != (flows,) or routes.shape[1:] != (columns,):
        raise ConfigError(f"choices must name {flows} flows and {columns} columns")
    last = transfers.column + given.count - 1
    inside = (given.count >= 1).all() and (not flows or last.max() < columns)
    if not inside or (routes.size and (routes.min() < -1 or routes.max() >= columns)):
        raise ConfigError("choices name columns that do not exist")
    pairs = int(given.pair.max(initial=0)) + 1
    pair_i = np.zeros((2, pairs), np.int64)
    pair_i[P_CHOICE] = -1
    return Choices(
        candidates=plain(given.count, np.int32),
        pair=plain(given.pair, np.int32),
        rule=np.array([given.rule], np.int64),
        gap=np.array([given.gap]),
        random=np.array([given.seed * 0x9E3779B97F4A7C15 % 2**64 | 1], np.uint64),
        pair_last=np.full(pairs, -np.inf),
        pair_i=pair_i,
        asked=np.zeros(transfers.columns.rows),
        routes=routes,
        epoch=np.zeros(1, np.int64),
    )


def queues_of(transfers: TransferTable) -> Queues | None:
    """The kernel's form of the table's queues."""
    given = transfers.queues
    if given is None:
        return None
    flows, rows = transfers.column.size, transfers.columns.rows
    phi = np.array(given.weights, np.float64, ndmin=2)
    if given.queue.shape != (flows,) or given.priority.shape != (flows,) or phi.shape[0] not in (1, rows):
        raise ConfigError(f"queues must name {flows} flows and weights of 1 or {rows} rows")
    inside = ((given.queue >= 0) & (given.queue < phi.shape[1])).all()
    if not inside or not (phi > 0).all():
        raise ConfigError(f"queues must be 0 to {phi.shape[1] - 1} with positive weights")
    return Queues(np.array(given.queue, np.int64), np.array(given.priority, np.int64), phi)
