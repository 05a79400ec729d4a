"""Runs programs on the fluid network: the one component in which operations and flows meet.

``Executor`` can be advanced piece by piece by the conductor; ``execute`` runs a program to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.clock import _state as k
from euston.clock._kernel import advance
from euston.clock.conductor import Message
from euston.clock.events import CapacityEvent, Event, RouteEvent
from euston.clock.execution import Execution
from euston.clock.program import Kind, Program, TransferTable
from euston.errors import ConfigError, SimulationError
from euston.network import _net as n_
from euston.network._repair import component
from euston.network.columns import transpose

__all__ = ["Executor", "execute"]


def _guests(count: int) -> Program:
    """Transfers on no stream; which, and how often, is known when they are posted."""
    none = np.full(count, -1, np.int32)
    return Program(
        kind=np.full(count, Kind.TRANSFER, np.uint8), stream=none, work=np.zeros(count),
        transfer=np.zeros(count, np.int32), dep_ptr=np.zeros(count + 1, np.int64), dep=none[:0],
        label=np.zeros(count, np.int32), micro_batch=none, chunk=none, slows=none,
        slow_count=np.zeros(count, np.int32), notify=np.ones(count, bool), labels=("guest",), streams=(),
        stream_count=np.zeros(0, np.int64),
    )  # fmt: skip


def _check(transfers: TransferTable, capacity: NDArray[np.float64]) -> None:
    """Refuse transfers that the network can not carry in finite time, or that make no sense."""
    columns = transfers.columns
    bound = np.isfinite(capacity)[columns.row]
    column_of_entry = np.repeat(np.arange(len(columns)), np.diff(columns.ptr))
    bounded = np.bincount(column_of_entry, weights=bound, minlength=len(columns)) > 0
    endless = ~bounded[transfers.column] & np.isinf(transfers.rate_cap) & (transfers.size > 0)
    if endless.any():
        i = int(np.searchsorted(transfers.ptr, np.flatnonzero(endless)[0], side="right")) - 1
        raise ConfigError(f"{transfers.name(i)} uses no link and has no rate cap: its rate would be infinite")
    for name in ("size", "weight", "rate_cap", "latency", "slow_share"):
        values = getattr(transfers, name)
        good = values > 0 if name in ("weight", "rate_cap") else values >= 0
        if not (good & (np.isfinite(values) | (name == "rate_cap"))).all():
            raise ConfigError(
                f"transfers: {name} must be positive (sizes, times and shares: >= 0) and finite"
            )


class Executor:
    """A program and the network it runs on, as a component of the clock.

    Parameters
    ----------
    program : Program
    transfers : TransferTable
        The lowered transfers that the program's operations name.
    capacity : float64[rows]
        Bytes/s of each row at time 0.
    events : sequence of CapacityEvent, SpeedEvent or RouteEvent
        What changes while the program runs.
    speed : float64[S], optional
        Speed of each stream at time 0, 1 by default.
    held : sequence of int
        Operations that wait for a message from outside besides their dependencies.
    guests : int
        Transfers that can be posted at one time while the program runs (see ``post``).
    tol : float
        Relative change of a link's fair share that is let pass; 0 is exact (see ``network.Incremental``).
    window : float
        Seconds within which events count as one moment, with one repair; rounding is always allowed for.
    lag : float
        Time constant in seconds with which a running flow climbs to a larger rate; 0 is at once.
    listener, listener_process : str
        The component, and the process in it, that is told of the operations that notify.
    """

    name = "programs"

    def __init__(
        self,
        program: Program,
        transfers: TransferTable,
        capacity: ArrayLike,
        *,
        events: Sequence[Event] = (),
        speed: ArrayLike | None = None,
        held: Sequence[int] = (),
        guests: int = 0,
        tol: float = 0.0,
        window: float = 0.0,
        lag: float = 0.0,
        listener: str = "processes",
        listener_process: str = "main",
    ) -> None:
        self.listener, self.listener_process = listener, listener_process
        self.own = len(program)
        if guests:
            program = Program.concatenate([program, _guests(guests)])[0]
        self._idle = list(range(len(program) - 1, self.own - 1, -1))
        self.program = program
        self.transfers = transfers
        columns = transfers.columns
        n, streams, n_events = len(program), len(program.streams), len(events)
        cap = np.array(capacity, np.float64)
        if cap.shape != (columns.rows,) or not (cap >= 0).all():
            raise ConfigError(f"capacity must be {columns.rows} numbers >= 0, one per row")
        named = program.transfer[: self.own][program.kind[: self.own] == Kind.TRANSFER]
        if named.size and (named.min() < 0 or named.max() >= len(transfers)):
            raise ConfigError(
                f"the program names transfer {int(named.max())}; the table has {len(transfers)}"
            )
        _check(transfers, cap)
        # Whom each operation's end releases: the dependency lists reversed, and the next on its stream.
        succ_ptr, succ = transpose(k.plain(program.dep_ptr, np.int64), k.plain(program.dep, np.int32), n)
        next_in_stream = np.full(n, -1, np.int32)
        queued = np.argsort(program.stream, kind="stable")
        behind = program.stream[queued[1:]] == program.stream[queued[:-1]]
        behind &= program.stream[queued[1:]] >= 0
        next_in_stream[queued[:-1][behind]] = queued[1:][behind]
        waiting = np.diff(program.dep_ptr)
        waiting[queued[1:][behind]] += 1
        waiting[self.own :] = 1
        self._held: Counter[int] = Counter(int(op) for op in held)
        for op, times in self._held.items():
            if not 0 <= op < n:
                raise ConfigError(f"operation {op} is held; the program has {n}")
            waiting[op] += times
        # On a stream at most one transfer runs at a time; off streams all may.
        flows = np.diff(transfers.ptr)
        op_flows = np.zeros(n, np.int64)
        is_transfer = program.kind == Kind.TRANSFER
        op_flows[is_transfer] = flows[program.transfer[is_transfer]]
        op_flows[self.own :] = flows.max(initial=1)
        on_stream = program.stream >= 0
        per_stream = np.zeros(max(streams, 1), np.int64)
        np.maximum.at(per_stream, program.stream[on_stream], op_flows[on_stream])
        slots = int(per_stream.sum() + op_flows[~on_stream].sum()) + 1
        # A stream computes or has an operation's event; so has every operation without a stream.
        planned = n_events + len(held) + guests
        heap = 2 * streams + slots + int((~on_stream).sum()) + planned + 4
        slows = np.where(is_transfer, program.slows, -1)
        slow_count = np.where(slows >= 0, program.slow_count, 0)
        i32 = np.int32
        self._fixed = k.Fixed(
            kind=k.plain(program.kind, np.uint8),
            op=np.stack([program.stream, program.transfer, next_in_stream, slows, slow_count]).astype(i32),
            work=k.plain(program.work, np.float64),
            notify=k.plain(program.notify, np.bool_),
            succ_ptr=succ_ptr,
            succ=succ,
            t_ptr=k.plain(transfers.ptr, np.int64),
            t_column=k.plain(transfers.column, i32),
            flow=np.stack([transfers.size, transfers.weight, transfers.rate_cap]).astype(np.float64),
            t_latency=k.plain(transfers.latency, np.float64),
            t_slow_share=k.plain(transfers.slow_share, np.float64),
        )
        speeds = np.ones(streams) if speed is None else np.array(speed, np.float64)
        if speeds.shape != (streams,) or not ((speeds >= 0) & (speeds < np.inf)).all():
            raise ConfigError(f"speed must be {streams} finite numbers >= 0, one per stream")
        st = k.State(
            op=np.zeros((5, n), i32),
            when=np.full((2, n), np.nan),
            stream=np.zeros((4, streams)),
            stream_i=np.zeros((2, streams), np.int64),
            column_bytes=np.zeros(len(columns)),
            heap=np.zeros((heap, 4)),
            where=np.full(streams + slots + n + planned, -1, i32),
            external_kind=np.zeros(planned, np.int64),
            external_id=np.zeros(planned, np.int64),
            external_value=np.zeros(planned),
            i=np.zeros(k.COUNTERS, np.int64),
            now=np.zeros(1),
            window=np.zeros(2),
        )
        self._waiting = waiting
        st.op[k.WAITING] = waiting
        st.op[k.BLOCKER] = -1
        st.stream[k.SPEED] = speeds
        st.stream_i[k.RUNNING] = -1
        st.window[:] = window, lag
        st.i[k.I_FREE] = slots
        most = cap.copy()
        for event in events:
            if isinstance(event, CapacityEvent) and 0 <= event.row < most.size:
                most[event.row] = max(most[event.row], event.capacity)
        self._net = n_.net(columns, cap, slots, most=most, tol=tol)
        self._net.flow_list[n_.FREE_SLOT] = np.arange(slots - 1, -1, -1)
        self._choices = k.choices_of(transfers)
        self._queues = k.queues_of(transfers)
        roots = np.flatnonzero(waiting == 0)[::-1]
        st.op[k.READY, : roots.size] = roots
        st.i[k.I_READY] = roots.size
        st.i[k.I_DONE] = guests
        self._state = st
        self._next = 0.0 if roots.size else np.inf
        for e, event in enumerate(sorted(events, key=lambda event: event.time)):
            self._external(e, event)
        self._planned = n_events

    def _external(self, slot: int, event: Event) -> None:
        if isinstance(event, CapacityEvent):
            kind, ident, value, limit = k.EV_CAPACITY, event.row, event.capacity, self.transfers.columns.rows
        elif isinstance(event, RouteEvent):
            routes = 0 if self._choices is None else self._choices.routes.shape[0]
            kind, ident, value, limit = k.EV_ROUTES, event.routes, 0.0, routes
        else:
            kind, ident, value, limit = k.EV_SPEED, event.stream, event.speed, len(self.program.streams)
        if not 0 <= ident < limit or not 0 <= value < np.inf or not 0 <= event.time < np.inf:
            raise ConfigError(f"{event}: needs a time >= 0, a place in [0, {limit}) and a value >= 0")
        self._plan(slot, event.time, int(kind), ident, value)

    def _plan(self, slot: int, time: float, kind: int, ident: int, value: float) -> None:
        """Planned event number ``slot``, put into the kernel's heap."""
        st, i = self._state, self._state.i
        st.external_kind[slot], st.external_id[slot], st.external_value[slot] = kind, ident, value
        owner = st.where.size - st.external_id.size + slot
        at = int(i[k.I_HEAP])
        while at > 0 and time < st.heap[(at - 1) // 4, k.TIME]:
            st.heap[at] = st.heap[(at - 1) // 4]
            st.where[int(st.heap[at, k.OWNER])] = at
            at = (at - 1) // 4
        st.heap[at, :3] = (time, i[k.I_SEQ], owner)
        st.where[owner] = at
        i[k.I_SEQ] += 1
        i[k.I_HEAP] += 1
        self._next = min(self._next, time)

    @property
    def now(self) -> float:
        """Seconds of simulated time reached."""
        return float(self._state.now[0])

    @property
    def done(self) -> bool:
        """Whether every operation has ended."""
        return int(self._state.i[k.I_DONE]) == len(self.program)

    @property
    def when(self) -> NDArray[np.float64]:
        """Start and end of every operation so far, float64[2, N] (nan: not yet); changes as it runs."""
        return self._state.when

    def next_time(self) -> float:
        """When something happens next, inf if nothing will."""
        return self._next

    def advance(self, until: float, inbox: Sequence[Message] = ()) -> list[Message]:
        """Run up to ``until``, or right after the first operations that notify.

        Messages in ``inbox`` carry the number of a held operation, which may go from that time on. The
        messages returned carry the number of the operation that ended, to the ``listener``.

        Raises
        ------
        SimulationError
            When a message names an operation that is not held (any more).
        """
        for message in inbox:
            op = int(message.payload)
            if self._held[op] < 1:
                raise SimulationError(
                    f"{message.sender or 'a message'} released operation {op}, which is not held"
                )
            self._held[op] -= 1
            self._plan(self._planned, message.time, int(k.EV_RELEASE), op, 0.0)
            self._planned += 1
        return [Message(time, self.listener, (self.listener_process, op)) for time, op in self.run(until)]

    def run(self, until: float) -> list[tuple[float, int]]:
        """As ``advance``, without messages: (time, operation) of what notifies, guests among it."""
        st = self._state
        whole, solved = self._queues is not None, False
        while True:
            self._next = advance(self._fixed, st, self._net, self._choices, whole, solved, float(until))
            if self._next == self._next:
                break
            component(self._net, self._queues)
            solved = True
        n = int(st.i[k.I_OUT])
        st.i[k.I_OUT] = 0
        ended = sorted((float(st.when[k.END, op]), int(op)) for op in st.op[k.OUTBOX, :n])
        self._idle += [op for _, op in ended if op >= self.own]
        return ended

    def post(self, time: float, transfer: int, repeats: float = 1.0) -> int:
        """Send a transfer of the table beside the program, ``repeats`` times, from ``time`` on.

        Returns
        -------
        int
            Number of the operation that ``run`` names when it has ended; free for others from then on.

        Raises
        ------
        SimulationError
            When all guests are under way.
        """
        if not self._idle:
            most = len(self.program) - self.own
            raise SimulationError(f"more than {most} transfers are posted at one time")
        st, op = self._state, self._idle.pop()
        self._fixed.op[k.MOVES, op] = transfer
        self._fixed.work[op] = repeats
        st.op[k.WAITING, op] = 1
        st.when[:, op] = np.nan
        st.i[k.I_DONE] -= 1
        self._plan(st.external_id.size - len(self.program) + op, time, int(k.EV_RELEASE), op, 0.0)
        return op

    def again(self, first: int, last: int) -> None:
        """Operations ``first`` to ``last - 1``, which depend on no others, run once more from now on.

        Raises
        ------
        SimulationError
            When one of them has not ended.
        """
        st, mine = self._state, slice(first, last)
        if np.isnan(st.when[k.END, mine]).any():
            raise SimulationError(f"operations {first} to {last - 1} have not all ended")
        st.op[k.WAITING, mine] = self._waiting[mine]
        st.op[k.BLOCKER, mine] = -1
        st.when[:, mine] = np.nan
        roots = first + np.flatnonzero(self._waiting[mine] == 0)[::-1]
        ready = int(st.i[k.I_READY])
        st.op[k.READY, ready : ready + roots.size] = roots
        st.i[k.I_READY] += roots.size
        st.i[k.I_DONE] -= last - first
        self._next = self.now

    def requeue(
        self,
        *,
        flows: ArrayLike = (),
        queue: ArrayLike = (),
        priority: ArrayLike = (),
        weights: ArrayLike | None = None,
    ) -> None:
        """Flows of the table change queue or level, or queues their weights, from the present moment on.

        Parameters
        ----------
        flows : int[K]
            Numbers in the table, whether they run or not.
        queue, priority : int[K]
        weights : float64[1 or rows, Q], optional

        Raises
        ------
        SimulationError
            When the executor was made without queues.
        """
        if self._queues is None:
            raise SimulationError("these transfers have no queues to change")
        who = np.asarray(flows, np.int64)
        self._queues.queue[who] = np.asarray(queue, np.int64)
        self._queues.priority[who] = np.asarray(priority, np.int64)
        if weights is not None:
            self._queues.phi[:] = np.asarray(weights, np.float64)
        net = self._net
        rows = np.flatnonzero(net.row_i[:, n_.LIVE] > 0)
        net.row_i[rows, n_.R_DIRTY] = net.n[n_.N_REPAIRS]
        net.row_list[n_.DIRTY, : rows.size] = rows
        net.n[n_.N_DIRTY] = rows.size
        self._next = min(self._next, self.now)

    def progress(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Start and end of every operation so far (s, nan: not yet), and bytes that a member has left."""
        start, end = self._state.when.copy()
        slots, left = self._left()
        return start, end, np.bincount(self._net.flow_i[slots, k.OP], left, start.size).astype(float)

    def _left(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Slots of moving flows, and bytes that each of these has left."""
        net = self._net
        slots = np.delete(np.arange(len(net.flow_i)), net.flow_list[n_.FREE_SLOT, : self._state.i[k.I_FREE]])
        flow = net.flow[slots]
        return slots, np.maximum(flow[:, k.LEFT_BYTES] - flow[:, n_.RATE] * (self.now - flow[:, k.SINCE]), 0)

    def result(self) -> Execution:
        """What happened so far.

        Raises
        ------
        SimulationError
            When nothing can happen any more though operations are left; names the stuck transfers.
        """
        st = self._state
        if not self.done and self.next_time() == np.inf:
            raise SimulationError(self._stuck())
        start, end = st.when.copy()
        moved = st.column_bytes.copy()
        net, (slots, left) = self._net, self._left()
        np.subtract.at(moved, net.flow_i[slots, n_.COLUMN], left)
        return Execution(
            self.program,
            start,
            end,
            st.op[k.BLOCKER].copy(),
            self.transfers.columns.load(moved),
            moved,
            float(np.max(end, where=np.isfinite(end), initial=0.0)),
            int(st.i[k.I_EVENTS]),
            int(net.n[n_.N_REPAIRS]),
            int(net.n[n_.N_TOUCHED]),
            int(net.n[n_.N_FULL]),
            int(net.n[n_.N_UNSETTLED]),
        )

    def _stuck(self) -> str:
        st, program = self._state, self.program
        start, end = st.when
        open_ops = np.flatnonzero(np.isnan(end))
        started = open_ops[np.isfinite(start[open_ops])]
        moving = [i for i in started if program.kind[i] == Kind.TRANSFER]
        left = f"{open_ops.size} of {len(program)} operations never end"
        if moving:
            shown = ", ".join(
                f"{self.transfers.name(int(program.transfer[i]))} ({program.describe(int(i))})"
                for i in moving[:3]
            )
            more = f" and {len(moving) - 3} more" if len(moving) > 3 else ""
            return f"{left}: no capacity is left for {shown}{more}; a link on their path is dead"
        if started.size:
            return f"{left}: {program.describe(int(started[0]))} runs at speed 0"
        return f"{left}: {program.describe(int(open_ops[0]))} waits for something that is never released"


def execute(
    program: Program,
    transfers: TransferTable,
    capacity: ArrayLike,
    *,
    events: Sequence[Event] = (),
    speed: ArrayLike | None = None,
    tol: float = 0.0,
    window: float = 0.0,
    lag: float = 0.0,
) -> Execution:
    """Run ``program`` to its end; see ``Executor`` for the arguments.

    Raises
    ------
    SimulationError
        When the program can not end (a partition, a stopped stream); the stuck transfers are named.
    """
    executor = Executor(
        program, transfers, capacity, events=events, speed=speed, tol=tol, window=window, lag=lag
    )
    while not executor.done and executor.next_time() < np.inf:
        executor.advance(np.inf)
    return executor.result()
