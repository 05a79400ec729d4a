"""Hierarchical max-min fair rates: weighted queues at every link, flows inside queues, strict priorities.

The fluid limit of deficit round robin under strict priority. At link ``l`` queue ``q`` of weight ``phi[l,q]``
may take ``phi[l,q]`` times the link's level, and the level is such that together they fill what higher
priorities leave; inside a queue flows share by their own weights. What a flow cannot use goes first to the
others of its queue, then to the other queues: generalised processor sharing (Parekh & Gallager, IEEE/ACM ToN
1993) with queues as its sessions and flows inside them.

An allocation is one if and only if it is feasible and every flow is at its cap or has a bottleneck: a link
that its and higher priorities fill, where no flow of its queue has a larger rate/weight and no queue of its
priority a larger total/phi. With one queue there is exactly one. With several there may be more, of which
one is found: two flows over the same two links, in queues weighted 1:3 at one and 3:1 at the other, may split
them in any ratio between these. Rarely there is none that rates would settle on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError
from euston.network._fill import AUTO, CAPACITY, OWN_CAP, UNBOUNDED
from euston.network._hierarchical_kernel import fill_queues
from euston.network.columns import Columns

__all__ = ["TOLERANCE", "QueueAllocation", "hierarchical_max_min"]

TOLERANCE = 1e-13
"""Relative change of a share that no other link is told of, by default."""


@dataclass(frozen=True, eq=False)
class QueueAllocation:
    """Rates of flows in weighted queues, and what holds each of them.

    Attributes
    ----------
    rate : float64[F]
        Bytes/s of one member of each flow.
    bottleneck : int64[F]
        The row that holds the flow; -1 its own rate cap; -2 nothing (infinite rate: no row, no cap).
    queue, priority : int64[F]
    phi : float64[1 or rows, queues]
        Queue weights.
    answers : int
        Work done: how often rows shared out their capacity.
    settled : bool
        Whether no row would answer differently any more. If not (three links on which queues of opposed
        weights hold each other in a circle), the rates are feasible and leave no capacity unused, but queues
        miss their shares: see `certificate`.
    """

    rate: NDArray[np.float64]
    bottleneck: NDArray[np.int64]
    columns: Columns
    column: NDArray[np.int64]
    capacity: NDArray[np.float64]
    weight: NDArray[np.float64]
    rate_cap: NDArray[np.float64]
    queue: NDArray[np.int64]
    priority: NDArray[np.int64]
    phi: NDArray[np.float64]
    answers: int
    settled: bool

    def load(self) -> NDArray[np.float64]:
        """Bytes/s on every row, float64[rows]."""
        moving = np.where(np.isfinite(self.rate), self.rate, 0.0)
        per_column = np.bincount(self.column, weights=moving, minlength=len(self.columns))
        return self.columns.load(np.asarray(per_column, np.float64))

    def queue_load(self) -> NDArray[np.float64]:
        """Bytes/s of every queue on every row, float64[rows, queues]; all priorities together."""
        flow, row, take = self._entries()
        total = np.zeros((self.columns.rows, self.phi.shape[1]))
        np.add.at(total, (row, self.queue[flow]), take)
        return total

    def _entries(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """Flow, row and bytes/s of every entry of every flow."""
        counts = np.diff(self.columns.ptr)[self.column]
        flow = np.repeat(np.arange(self.column.size), counts)
        starts = np.repeat(self.columns.ptr[self.column], counts)
        entry = starts + np.arange(flow.size) - np.repeat(np.cumsum(counts) - counts, counts)
        rate = np.where(np.isfinite(self.rate), self.rate, 0.0)[flow]
        return flow, self.columns.row[entry], self.columns.coefficient[entry] * rate

    def certificate(self) -> float:
        """The worst relative violation of the two-level optimality condition, at any size: 0 is a proof.

        Checks feasibility of every row and cap, and for every flow that its bottleneck is filled by its and
        higher priorities, that no flow of its queue there has a larger rate/weight, and no queue of its
        priority a larger total/phi.
        """
        rate, bottleneck = self.rate, self.bottleneck
        flow, row, take = self._entries()
        flows, rows = rate.size, self.columns.rows
        # Nobody may be infinite whom something finite holds, and a flow is held by a row of its own.
        held = np.isfinite(self.rate_cap)
        held[flow[np.isfinite(self.capacity[row])]] = True
        on_own_row = np.zeros(flows, bool)
        on_own_row[flow[row == bottleneck[flow]]] = True
        at_row, own = bottleneck >= 0, bottleneck == OWN_CAP
        sound = (rate >= 0) & (np.isfinite(rate) == held) & (at_row | own | ~held)
        sound &= (bottleneck == UNBOUNDED) == ~held
        if not (sound & (on_own_row | ~at_row)).all():
            return float("inf")
        finite = np.isfinite(self.capacity)
        scale = np.where((self.capacity > 0) & finite, self.capacity, 1.0)
        excess = (np.where(held, rate, 0.0) / self.rate_cap)[np.isfinite(self.rate_cap)] - 1.0
        parts = [np.where(finite, self.load() - self.capacity, 0.0) / scale, excess]
        parts.append(1.0 - rate[own] / self.rate_cap[own])
        level = np.where(held, rate, 0.0) / self.weight
        below = np.zeros(rows)  # bytes/s of this and higher priorities
        for priority in np.unique(self.priority):
            mine = self.priority[flow] == priority
            f, r, q = flow[mine], row[mine], self.queue[flow[mine]]
            below += np.bincount(r, weights=take[mine], minlength=rows)
            shape = (rows, self.phi.shape[1])
            top, total = np.zeros(shape), np.zeros(shape)
            np.maximum.at(top, (r, q), level[f])
            np.add.at(total, (r, q), take[mine])
            per_phi = total / self.phi
            most = per_phi.max(axis=1, initial=0.0)
            here = np.flatnonzero(at_row & (self.priority == priority))
            b, q = bottleneck[here], self.queue[here]
            alive = self.capacity[b] > 0
            parts.append((1.0 - below[b] / scale[b])[alive])
            behind = (top[b, q] - level[here]) / np.maximum(top[b, q], 1e-300)
            short = (most[b] - per_phi[b, q]) / np.maximum(most[b], 1e-300)
            parts += [behind[alive], short[alive]]
        return max(float(np.max(part, initial=0.0)) for part in parts)


def hierarchical_max_min(
    columns: Columns,
    capacity: ArrayLike,
    *,
    queue: ArrayLike,
    phi: ArrayLike,
    column: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    rate_cap: ArrayLike | None = None,
    priority: ArrayLike | None = None,
    tol: float = TOLERANCE,
) -> QueueAllocation:
    """The hierarchical max-min fair allocation of flows in weighted queues.

    Parameters
    ----------
    columns : Columns
        The interned usage vectors.
    capacity : float64[rows]
        Bytes/s of each row; 0 is a dead link, whose flows get rate 0.
    queue : int[F]
        The queue of each flow, from 0.
    phi : float64[queues] or float64[rows, queues]
        Positive queue weights, the same at all rows or per row.
    column : int[F], optional
        The column of each flow; by default one flow per column. Several flows may share a column.
    weight : float64[F], optional
        Positive weights of flows inside their queues, 1 by default.
    rate_cap : float64[F], optional
        Largest rate of each flow in bytes/s, infinite by default.
    priority : int[F], optional
        Strict priority levels; the lowest number goes first, and each level gets what those before it leave.
    tol : float
        Relative change of a share that no other row is told of.

    Raises
    ------
    ConfigError
        For arrays whose lengths do not fit, a capacity that is negative or not a number, a weight, queue
        weight or cap that is not positive, a queue without a weight, a column that does not exist.
    """
    cap = np.require(capacity, np.float64, ["C", "W"])
    if cap.shape != (columns.rows,):
        raise ConfigError(f"capacity has shape {cap.shape}; these columns need ({columns.rows},)")
    _refuse(~(cap >= 0), "capacity of row", cap, "it must be a number >= 0 in bytes/s")
    col = np.require(np.arange(len(columns)) if column is None else column, np.int64, ["C", "W"])
    _refuse((col < 0) | (col >= len(columns)), "column of flow", col, f"there are {len(columns)} columns")
    w = _per_flow("weight", np.ones(col.size) if weight is None else weight, col.size, np.float64)
    _refuse(~((w > 0) & (w < np.inf)), "weight of flow", w, "it must be positive and finite")
    limit = _per_flow(
        "rate_cap", np.full(col.size, np.inf) if rate_cap is None else rate_cap, col.size, np.float64
    )
    _refuse(~(limit > 0), "rate_cap of flow", limit, "it must be positive")
    shares = np.array(phi, np.float64, order="C", ndmin=2)
    if shares.ndim != 2 or shares.shape[0] not in (1, columns.rows) or shares.shape[1] == 0:
        raise ConfigError(
            f"phi has shape {np.shape(phi)}; these columns need (queues,) or ({columns.rows}, queues)"
        )
    flat = shares.ravel()
    _refuse(~((flat > 0) & (flat < np.inf)), "queue weight", flat, "it must be positive and finite")
    q = _per_flow("queue", queue, col.size, np.int64)
    _refuse((q < 0) | (q >= shares.shape[1]), "queue of flow", q, f"there are weights of {shares.shape[1]}")
    level = _per_flow("priority", np.zeros(col.size) if priority is None else priority, col.size, np.int64)
    _refuse(level < 0, "priority of flow", level, "it must be 0 or more; 0 goes first")
    if not 0 <= tol < 1:
        raise ConfigError(f"tol is {tol}; it must be at least 0 and below 1")
    rate, bottleneck = np.zeros(col.size), np.full(col.size, UNBOUNDED, np.int64)
    rows = np.empty((4, columns.rows))
    rows[CAPACITY] = cap
    answers = int(
        fill_queues(
            np.arange(col.size), col.size, col, w, limit, q, level, columns.ptr, columns.row,
            columns.coefficient, rows, shares, rate, bottleneck, int(AUTO), float(tol), False,
        )
    )  # fmt: skip
    return QueueAllocation(
        rate, bottleneck, columns, col, cap, w, limit, q, level, shares, abs(answers), answers >= 0
    )


def _per_flow(name: str, values: ArrayLike, flows: int, dtype: type) -> NDArray[Any]:
    array = np.require(values, dtype, ["C", "W"])
    if array.shape != (flows,):
        raise ConfigError(f"{name} has shape {array.shape}; there are {flows} flows")
    return array


def _refuse(bad: NDArray[np.bool_], what: str, values: NDArray[Any], want: str) -> None:
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ConfigError(f"{what} {i} is {values[i]}; {want}")
