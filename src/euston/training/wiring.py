"""The network as jobs use it: their routes lowered to columns and folded, with what changes in time.

Nothing here depends on schedules, chunks or prices, so one wiring serves every variant of a job that keeps
its placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from euston.clock import CapacityEvent
from euston.cluster import Parallel, Placement, Site
from euston.collectives.network_rates import SCALE_OUT_EFFICIENCY
from euston.devices.interconnect import RING_EFFICIENCY
from euston.errors import ConfigError
from euston.fabrics import Fabric, LinkKind
from euston.network import Columns, Folding, Lowered, Transfers, fold, lower
from euston.network.allocation import QueuePlan
from euston.training.conditions import Conditions, LinkFault
from euston.training.routes import Routes, Traits, grid, routes

__all__ = ["JobWiring", "Wiring", "wire"]

_SCALE_UP = (LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN)


@dataclass(frozen=True)
class JobWiring:
    """One job's part.

    Attributes
    ----------
    routes : Routes
    first : int
        Number of its first transfer among all jobs'.
    representative, count : int64[classes]
        A unit of each class, and how many units the class stands for.
    layout : Parallel
        What its routes depend on.
    """

    layout: Parallel
    routes: Routes
    first: int
    representative: NDArray[np.int64]
    count: NDArray[np.int64]


@dataclass(frozen=True)
class Wiring:
    """What a network engine needs of a site and the jobs on it.

    Attributes
    ----------
    lowered : Lowered
        Every transfer's column on links and bundles, for accounting.
    columns : Columns
        What is solved: rows that may bind, folded where that gains anything.
    column_of : int32[C]
        Column of ``columns`` that stands for each column of ``lowered``.
    capacity : float64[rows of columns]
        Bytes/s at the start.
    events : tuple of CapacityEvent
        What changes later, on rows of ``columns``.
    alone : float64[C]
        Bytes/s that a member of each column reaches when nobody else is there.
    failing : tuple of LinkFault
        Failures in the middle of the run of links that spread or hashed flows cross.
    queue_weights : float64[1 or rows of columns, Q], optional
        Weights of the queues of every row, where an allocation policy asks for queues.
    rounds : int
        Rounds of colour refinement, 0 without folding.
    guests : int32[G]
        Column of ``columns`` of every guest's transfer.
    """

    jobs: tuple[JobWiring, ...]
    lowered: Lowered
    columns: Columns
    column_of: NDArray[np.int32]
    capacity: NDArray[np.float64]
    events: tuple[CapacityEvent, ...]
    alone: NDArray[np.float64]
    failing: tuple[LinkFault, ...]
    rounds: int
    queue_weights: NDArray[np.float64] | None = None
    guests: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def fits(self, layouts: Sequence[Parallel], traits: Sequence[Traits]) -> bool:
        """Whether it serves jobs of these layouts (on the same placements): equal but for virtual stages."""
        asked = [(_layout(p), t) for p, t in zip(layouts, traits, strict=True)]
        return asked == [(job.layout, job.routes.traits) for job in self.jobs]


def _layout(parallel: Parallel) -> Parallel:
    """The layout without what routes do not depend on."""
    return replace(parallel, virtual=1, sequence=False, sharding="zero1")


def wire(
    jobs: Sequence[tuple[Parallel, Placement]],
    site: Site,
    conditions: Conditions,
    traits: Sequence[Traits] | None = None,
    plan: QueuePlan | None = None,
    guests: Transfers | None = None,
) -> Wiring:
    """Lower and fold the routes of jobs that share a site.

    Parameters
    ----------
    traits : sequence of Traits, optional
        What else the routes of each job depend on.
    plan : QueuePlan, optional
        Queues of the links.
    guests : Transfers, optional
        Coupled transfers that others send on the same fabric while the jobs run; none folds into another.

    Raises
    ------
    ConfigError
        When two jobs are placed on the same accelerators.
    RouteError
        When two of a job's ranks have no live path.
    """
    c, fabric = conditions, site.fabric
    found: list[Routes] = []
    given = traits or [Traits()] * len(jobs)
    for (layout, placement), trait in zip(jobs, given, strict=True):
        owners, roles = sum(r.grid.replicas for r in found), sum(r.roles for r in found)
        places = grid(layout, placement)
        found.append(routes(places, fabric.domain, first_owner=owners, first_role=roles, traits=trait))
    _disjoint(found)
    changing = c.changing(fabric)
    if plan is not None:
        changing |= plan.split(fabric)
    every = [r.transfers for r in found]
    if guests is not None:
        apart = sum(r.roles for r in found) + np.arange(len(guests))
        every.append(replace(guests, role=apart, owner=np.full(len(guests), -1, np.int32)))
    low = lower(
        Transfers.concatenate(every),
        fabric,
        c.balancing,
        capacity=c.capacity(fabric, 0.0) if c.links or hasattr(c.balancing, "delivered") else None,
        floor=c.floor(fabric) if c.links else None,
        split=changing if changing.any() else None,
    )
    efficiency = _delivered(fabric)
    capacity = low.capacity * efficiency
    events, row_label = c.capacity_events(fabric, low, efficiency)
    alone = _alone(low, fabric, efficiency, c)
    weights = None if plan is None else plan.on_rows(fabric)
    if weights is not None and len(weights) > 1:  # rows are alike only if their queues are
        both = np.column_stack((row_label, weights))
        row_label = np.unique(both, axis=0, return_inverse=True)[1].ravel().astype(np.float64)
    columns, column_of, folding = low.binding, np.arange(len(low.columns), dtype=np.int32), None
    if not c.contention:
        columns, events = (
            Columns(np.zeros(len(columns) + 1, np.int64), _NO_ROWS, _NO_SHARES, columns.rows),
            [],
        )
    if c.folding:
        folding = fold(
            columns,
            row_label=row_label,
            column_label=_label(low.transfers.role, alone),
            owner=low.transfers.owner,
            owner_label=c.owner_labels(site, [r.grid for r in found]),
        )
        if folding.ratio > 1.0:
            columns, column_of = folding.columns, folding.column_class
            capacity = capacity[folding.row_representative]
            events = _of_classes(events, folding)
            if weights is not None and len(weights) > 1:
                weights = weights[folding.row_representative]
        else:
            folding = None
    if c.contention:
        implied = columns.implied_rows(capacity)
        implied[[e.row for e in events]] = False
        columns = columns.without_rows(implied)
    first_transfer = np.cumsum([0, *map(len, every)])
    first_owner = np.cumsum([0] + [r.grid.replicas for r in found])
    return Wiring(
        jobs=tuple(
            JobWiring(
                _layout(jobs[j][0]),
                r,
                int(first_transfer[j]),
                *_replicas(folding, int(first_owner[j]), r.grid.replicas),
            )
            for j, r in enumerate(found)
        ),
        lowered=low,
        columns=columns,
        column_of=column_of,
        capacity=capacity,
        events=tuple(events),
        alone=alone,
        failing=_failing(c, fabric, low),
        rounds=folding.rounds if folding else 0,
        queue_weights=weights,
        guests=column_of[first_transfer[len(found)] :],
    )


_NO_ROWS, _NO_SHARES = np.zeros(0, np.int32), np.zeros(0)


def _disjoint(found: Sequence[Routes]) -> None:
    everyone = np.concatenate([r.grid.endpoint.ravel() for r in found])
    if np.unique(everyone).size != everyone.size:
        raise ConfigError("`jobs`: two jobs are placed on the same accelerators; give them different hosts")


def _delivered(fabric: Fabric) -> NDArray[np.float64]:
    """Share of a row's capacity that a collective library gets out of it, float64[rows]: less on NICs."""
    kind = np.concatenate((fabric.kind[fabric.bundle_start[:-1]], fabric.kind))
    return np.where(np.isin(kind, (LinkKind.NIC_UP, LinkKind.NIC_DOWN)), SCALE_OUT_EFFICIENCY, 1.0)


def _alone(
    low: Lowered, fabric: Fabric, delivered: NDArray[np.float64], c: Conditions
) -> NDArray[np.float64]:
    """Bytes/s that one member of each column reaches alone, float64[C]: what its tightest row delivers.

    Rows that are solved bring their faults themselves; without contention nothing is solved, and what a
    link has at the start counts.
    """
    capacity = low.capacity if not c.contention else fabric.row_capacity(None, low.split)
    kind = np.concatenate((fabric.kind[fabric.bundle_start[:-1]], fabric.kind))
    achieved = capacity * delivered * np.where(np.isin(kind, _SCALE_UP), RING_EFFICIENCY, 1.0)
    rate = achieved[low.columns.row] / low.columns.coefficient
    out = np.full(len(low.columns), np.inf)
    filled = np.diff(low.columns.ptr) > 0
    if rate.size:
        out[filled] = np.minimum.reduceat(rate, low.columns.ptr[:-1][filled])
    return out


def _label(role: NDArray[np.int64], alone: NDArray[np.float64]) -> NDArray[np.int64]:
    """A number per distinct (role, rate alone), int64[C]; rates that differ by rounding only are equal."""
    mantissa, exponent = np.frexp(np.where(np.isfinite(alone), alone, -1.0))
    rate = np.unique(np.ldexp(np.round(mantissa, 12), exponent), return_inverse=True)[1].ravel()
    return 1 + role + (int(role.max(initial=0)) + 1) * rate.astype(np.int64)


def _of_classes(events: Sequence[CapacityEvent], folding: Folding) -> list[CapacityEvent]:
    """The events of row classes: one for all equal rows."""
    of = folding.row_class
    mine = {CapacityEvent(e.time, int(of[e.row]), e.capacity) for e in events if of[e.row] >= 0}
    return sorted(mine, key=lambda e: (e.time, e.row))


def _replicas(
    folding: Folding | None, first: int, replicas: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(representative, count) of the classes of one job's replicas, by first appearance."""
    if folding is None:
        return np.arange(replicas, dtype=np.int64), np.ones(replicas, np.int64)
    mine = folding.owner_class[first : first + replicas]
    _, at, times = np.unique(mine, return_index=True, return_counts=True)
    order = np.argsort(at)
    return at[order].astype(np.int64), times[order].astype(np.int64)


def _failing(c: Conditions, fabric: Fabric, low: Lowered) -> tuple[LinkFault, ...]:
    """Later failures of links beside which there are others, where some flow uses them."""
    used = np.zeros(low.columns.rows, bool)
    used[low.columns.row] = True
    size = np.diff(fabric.bundle_start)
    return tuple(
        fault
        for fault in c.links
        if fault.at > 0
        and fault.factor == 0.0
        and size[fabric.bundle[fault.link]] > 1
        and used[fabric.bundles + fault.link]
    )
