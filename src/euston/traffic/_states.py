"""The routes of flows over time, as one system: every state of the links has rows and columns of its own.

When a link dies, routes change for everybody at one moment; so the columns of each state stand behind those
of the state before, on rows of their own, and a `RouteEvent` moves all flows from one block to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from euston.clock import CapacityEvent, Choices, Event, RouteEvent
from euston.errors import RouteError
from euston.fabrics import Fabric
from euston.network import Columns, Flows, Lowered, Transfers, lower
from euston.network._grouping import combine, group
from euston.network.allocation import QueuePlan
from euston.network.balancing import Balancing, delivered
from euston.network.faults import LinkFault, capacity_at, change_times, changing_bundles

__all__ = ["RouteState", "System", "route_states", "stack"]


@dataclass(frozen=True)
class RouteState:
    """Routes that hold from ``time`` on, and which flows have one."""

    time: float
    lowered: Lowered
    reachable: NDArray[np.bool_]


def route_states(
    flows: Flows,
    fabric: Fabric,
    balancing: Balancing,
    wire_bytes: NDArray[np.float64],
    faults: Sequence[LinkFault],
    plan: QueuePlan,
    seed: int,
) -> list[RouteState]:
    """Flows lowered once per set of links that are alive or slow, the first at time 0."""
    n = len(flows)
    transfers = Transfers(
        ptr=np.arange(n + 1),
        src=flows.src,
        dst=flows.dst,
        bytes=wire_bytes,
        coupled=np.zeros(n, bool),
        weight=flows.weight,
        rate_cap=flows.rate_cap,
        latency=np.zeros(n),
        owner=np.full(n, -1, np.int32),
        role=np.zeros(n, np.int64),
        kind=np.zeros(n, np.int32),
        kinds=("flow",),
    )
    split: NDArray[np.bool_] | None = changing_bundles(fabric, faults) | plan.split(fabric)
    floor = np.full(fabric.links, np.inf)
    times = change_times(faults)
    for time in times:
        floor = np.minimum(floor, capacity_at(fabric, faults, time))
    found: list[RouteState] = []
    for time in times:
        now = capacity_at(fabric, faults, time)
        reachable = np.ones(n, bool)
        if time > 0:
            reachable = _reachable(fabric, flows, now)
        kept = transfers if reachable.all() else _only(transfers, reachable)
        low = lower(kept, fabric, balancing, capacity=now, floor=floor, split=split, choose=True, seed=seed)
        split = low.split
        found.append(RouteState(time, low, reachable))
    if found[0].lowered.split is not split and (found[0].lowered.split != split).any():
        # A later state had to name single links: say so from the beginning, rows must mean the same.
        first = lower(
            transfers, fabric, balancing, capacity=capacity_at(fabric, faults, 0.0), floor=floor,
            split=split, choose=True, seed=seed,
        )  # fmt: skip
        found[0] = RouteState(0.0, first, found[0].reachable)
    return found


def _reachable(fabric: Fabric, flows: Flows, capacity: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which flows have a path over links that are alive, bool[F]: halves until the unreachable are alone."""
    alive = capacity > 0
    out = np.ones(len(flows), bool)
    if alive.all():
        return out
    open_ = [np.arange(len(flows))]
    choice = np.zeros(len(flows), np.uint64)
    while open_:
        who = open_.pop()
        try:
            fabric.route(flows.src[who], flows.dst[who], choice[who], network="auto", alive=alive)
        except RouteError:
            if who.size == 1:
                out[who] = False
            else:
                open_ += [who[: who.size // 2], who[who.size // 2 :]]
    return out


def _only(transfers: Transfers, keep: NDArray[np.bool_]) -> Transfers:
    members = {
        name: getattr(transfers, name)[keep]
        for name in (
            "src",
            "dst",
            "bytes",
            "coupled",
            "weight",
            "rate_cap",
            "latency",
            "owner",
            "role",
            "kind",
        )
    }
    return Transfers(ptr=np.arange(int(keep.sum()) + 1), kinds=transfers.kinds, **members)


def _pairs(transfers: Transfers) -> NDArray[np.int32]:
    """A number per pair of endpoints, int32[F]."""
    key = transfers.src.astype(np.int64) << 32 | transfers.dst
    return group(key)[1]


@dataclass(frozen=True)
class System:
    """All states as one system for the executor.

    Attributes
    ----------
    columns : Columns
        State ``e`` owns columns ``start[e]:start[e + 1]``.
    column : int32[F]
        The first column of each flow (in state 0).
    capacity : float64[rows]
    events : list of Event
    choices : Choices or None
    states : list of RouteState
    row_label : float64[rows]
        Equal for rows of one state with equal capacities all the time.
    row_state : int32[rows]
    queue_weights : float64[1 or rows, Q]
    """

    columns: Columns
    column: NDArray[np.int32]
    capacity: NDArray[np.float64]
    events: list[Event]
    choices: Choices | None
    states: list[RouteState]
    start: NDArray[np.int64]
    row_label: NDArray[np.float64]
    row_state: NDArray[np.int32]
    queue_weights: NDArray[np.float64]
    classes: int = 0

    @property
    def foldable(self) -> bool:
        """Whether no flow decides anything at its start."""
        return all(bool((state.lowered.count == 1).all()) for state in self.states)

    def union(self) -> Columns:
        """One column per flow with its entries in all states, for folding."""
        flow = np.concatenate([np.flatnonzero(state.reachable) for state in self.states])
        lengths = np.diff(self.columns.ptr)
        return Columns.from_entries(
            np.repeat(flow, lengths),
            self.columns.row,
            self.columns.coefficient,
            columns=self.column.size,
            rows=self.columns.rows,
        )

    def row_bytes(self, column_bytes: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.float64]:
        """Bytes on every row of the fabric, float64[rows], from those of the executor's columns."""
        total = np.zeros(self.states[0].lowered.columns.rows)
        for e, state in enumerate(self.states):
            mine = column_bytes[self.start[e] : self.start[e + 1]]
            if self.classes:
                mine = mine[of[state.reachable]]
            total += state.lowered.columns.load(mine)
        return total

    def folded(
        self, of: NDArray[np.int64], quotient: Columns, row_representative: NDArray[np.int64]
    ) -> System:
        """The system of classes: ``of`` int64[F], ``quotient`` the folded union of the columns."""
        first = group(of)[0]
        classes, states = first.size, len(self.states)
        state = self.row_state[row_representative]
        column = np.repeat(np.arange(classes), np.diff(quotient.ptr))
        columns = Columns.from_entries(
            state[quotient.row].astype(np.int64) * classes + column,
            quotient.row,
            quotient.coefficient,
            columns=states * classes,
            rows=quotient.rows,
        )
        routes = np.full((states, states * classes), -1, np.int32)
        for e, s in enumerate(self.states):
            routes[e, :classes] = np.where(s.reachable[first], e * classes + np.arange(classes), -1)
        place = np.full(self.capacity.size, -1, np.int64)
        place[row_representative] = np.arange(row_representative.size)
        events: list[Event] = [
            replace(event, row=int(place[event.row])) if isinstance(event, CapacityEvent) else event
            for event in self.events
            if not isinstance(event, CapacityEvent) or place[event.row] >= 0
        ]
        return replace(
            self,
            columns=columns,
            column=np.arange(classes, dtype=np.int32),
            capacity=self.capacity[row_representative],
            events=events,
            choices=None
            if states == 1
            else Choices(np.ones(classes, np.int32), np.arange(classes, dtype=np.int32), routes),
            start=np.arange(states + 1) * classes,
            queue_weights=self.queue_weights
            if len(self.queue_weights) == 1
            else self.queue_weights[row_representative],
            classes=classes,
        )


def stack(
    states: list[RouteState],
    fabric: Fabric,
    balancing: Balancing,
    faults: Sequence[LinkFault],
    utilisation: float,
    reconvergence: float,
    plan: QueuePlan,
) -> System:
    """The states of ``route_states`` as one system; routes follow a change ``reconvergence`` seconds late."""
    rows = fabric.rows
    split = states[0].lowered.split
    share = delivered(balancing, fabric) * utilisation
    times = change_times(faults)
    history = np.stack([fabric.row_capacity(capacity_at(fabric, faults, t) * share, split) for t in times])
    weights = plan.on_rows(fabric)
    alike = history if len(weights) == 1 else np.concatenate((history, weights.T))
    label = combine(*alike).astype(np.float64)
    parts = [state.lowered.binding for state in states]
    lengths = np.concatenate([np.diff(p.ptr) for p in parts])
    columns = Columns(
        np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        np.concatenate([p.row + e * rows for e, p in enumerate(parts)]).astype(np.int32),
        np.concatenate([p.coefficient for p in parts]),
        rows * len(states),
    )
    start = np.cumsum([0, *(len(p) for p in parts)])
    events: list[Event] = []
    for i, time in enumerate(times[1:], start=1):
        for row in np.flatnonzero(history[i] != history[i - 1]):
            events += [
                CapacityEvent(time, int(row) + e * rows, float(history[i, row])) for e in range(len(states))
            ]
    events += [RouteEvent(state.time + reconvergence, e) for e, state in enumerate(states) if state.time > 0]
    low = states[0].lowered
    choices = None
    if len(states) > 1 or (low.count > 1).any():
        routes = np.full((len(states), int(start[-1])), -1, np.int32)
        for e, state in enumerate(states):
            who = np.flatnonzero(state.reachable)
            here = state.lowered
            # Candidates that a later state has beyond the first one's are not used.
            count = np.minimum(here.count, low.count[who])
            number = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            routes[e, np.repeat(low.column[who], count) + number] = (
                start[e] + np.repeat(here.column, count) + number
            )
        choices = Choices(low.count, _pairs(low.transfers), routes, low.rule, low.gap, low.seed)
    return System(
        columns=columns,
        column=low.column,
        capacity=np.tile(history[0], len(states)),
        events=events,
        choices=choices,
        states=states,
        start=start,
        row_label=np.concatenate([label + e * (label.max(initial=0) + 1) for e in range(len(states))]),
        row_state=np.repeat(np.arange(len(states), dtype=np.int32), rows),
        queue_weights=weights if len(weights) == 1 else np.tile(weights, (len(states), 1)),
    )
