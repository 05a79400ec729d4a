"""Weighted max-min fair rates of fluid flows, exact, with a certificate anyone can check.

An allocation is max-min fair if and only if it is feasible and every flow has a bottleneck: its own cap, or
a saturated row on which no other flow has a larger level (rate / weight) (Bertsekas & Gallager, 1992, 6.5.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError, unknown
from euston.network._fill import AUTO, CAPACITY, OWN_CAP, UNBOUNDED, fill
from euston.network.columns import Columns

__all__ = ["Allocation", "Method", "max_min"]

Method = Literal["auto", "rounds", "heap"]
_LIMIT = {"auto": AUTO, "rounds": 2**62, "heap": 0}


@dataclass(frozen=True)
class Allocation:
    """Rates of flows and what holds each of them.

    Attributes
    ----------
    rate : float64[F]
        Bytes/s of one member of each flow.
    bottleneck : int64[F]
        The row that holds the flow; -1 its own rate cap; -2 nothing (infinite rate: no row, no cap).
    rounds, pops : int
        Work done: rounds of local bottlenecks, then pops of the heap.
    """

    rate: NDArray[np.float64]
    bottleneck: NDArray[np.int64]
    columns: Columns
    column: NDArray[np.int64]
    capacity: NDArray[np.float64]
    weight: NDArray[np.float64]
    rate_cap: NDArray[np.float64]
    rounds: int
    pops: int

    def load(self) -> NDArray[np.float64]:
        """Bytes/s on every row, float64[rows]."""
        per_column = np.bincount(
            self.column, weights=np.where(np.isfinite(self.rate), self.rate, 0.0), minlength=len(self.columns)
        )
        return self.columns.load(np.asarray(per_column, np.float64))

    def certificate(self) -> float:
        """The worst relative violation of max-min optimality, at any size: 0 is a proof.

        Checks feasibility of every row and cap, that every flow's bottleneck is saturated, and that no flow
        on that row has a larger level.
        """
        rate, bottleneck = self.rate, self.bottleneck
        counts = np.diff(self.columns.ptr)[self.column]
        entry_flow = np.repeat(np.arange(self.column.size), counts)
        starts = np.repeat(self.columns.ptr[self.column], counts)
        offset = np.arange(entry_flow.size) - np.repeat(np.cumsum(counts) - counts, counts)
        entry_row = self.columns.row[starts + offset]
        # Nobody may be infinite whom something finite holds, and a flow is held by a row of its own.
        held = np.isfinite(self.rate_cap)
        held[entry_flow[np.isfinite(self.capacity[entry_row])]] = True
        on_own_row = np.zeros(self.column.size, bool)
        on_own_row[entry_flow[entry_row == bottleneck[entry_flow]]] = True
        at_row, own = bottleneck >= 0, bottleneck == OWN_CAP
        free = bottleneck == UNBOUNDED
        sound = (rate >= 0) & (np.isfinite(rate) == held) & (at_row | own | free) & (free == ~held)
        if not (sound & (on_own_row | ~at_row)).all():
            return float("inf")
        load = self.load()
        scale = np.where((self.capacity > 0) & np.isfinite(self.capacity), self.capacity, 1.0)
        over = np.where(np.isfinite(self.capacity), load - self.capacity, 0.0) / scale
        capped = np.isfinite(self.rate_cap)
        excess = rate[capped] / self.rate_cap[capped] - 1.0
        level = np.where(held, rate / self.weight, 0.0)
        top = np.zeros(self.columns.rows)
        np.maximum.at(top, entry_row, level[entry_flow])
        b, mine = bottleneck[at_row], level[at_row]
        live = self.capacity[b] > 0
        unused = (1.0 - load[b] / scale[b])[live]
        behind = ((top[b] - mine) / np.maximum(top[b], 1e-300))[live]
        parts = (over, excess, unused, behind, 1.0 - rate[own] / self.rate_cap[own])
        return max(float(np.max(part, initial=0.0)) for part in parts)


def max_min(
    columns: Columns,
    capacity: ArrayLike,
    *,
    column: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    rate_cap: ArrayLike | None = None,
    method: Method = "auto",
) -> Allocation:
    """The weighted max-min fair allocation of flows over rows.

    Parameters
    ----------
    columns : Columns
        The interned usage vectors.
    capacity : float64[rows]
        Bytes/s of each row; 0 is a dead link, whose flows get rate 0.
    column : int32[F], optional
        The column of each flow; by default one flow per column. Several flows may share a column.
    weight : float64[F], optional
        Positive weights, 1 by default.
    rate_cap : float64[F], optional
        Largest rate of each flow in bytes/s, infinite by default.
    method : {"auto", "rounds", "heap"}
        Rounds of local bottlenecks, bottlenecks in order from a heap, or what the depth of contention asks
        for. The rates are the same to rounding.

    Raises
    ------
    ConfigError
        For a capacity that is negative or not a number, a weight or cap that is not positive, a column that
        does not exist, an unknown method.
    """
    if method not in _LIMIT:
        raise ConfigError(unknown("method", method, list(_LIMIT)))
    cap = np.require(capacity, np.float64, ["C", "W"])
    if cap.shape != (columns.rows,):
        raise ConfigError(f"capacity has shape {cap.shape}; these columns need ({columns.rows},)")
    if not (cap >= 0).all():
        bad = int(np.flatnonzero(~(cap >= 0))[0])
        raise ConfigError(f"capacity of row {bad} is {cap[bad]}; it must be a number >= 0 in bytes/s")
    col = (
        np.arange(len(columns), dtype=np.int64)
        if column is None
        else np.require(column, np.int64, ["C", "W"])
    )
    w = np.ones(col.size) if weight is None else np.require(weight, np.float64, ["C", "W"])
    limit = np.full(col.size, np.inf) if rate_cap is None else np.require(rate_cap, np.float64, ["C", "W"])
    for name, values in (("weight", w), ("rate_cap", limit)):
        if values.shape != col.shape:
            raise ConfigError(f"{name} has shape {values.shape}; there are {col.size} flows")
        if not (values > 0).all():
            bad = int(np.flatnonzero(~(values > 0))[0])
            raise ConfigError(f"{name} of flow {bad} is {values[bad]}; it must be positive")
    if np.isinf(w).any():
        raise ConfigError(f"weight of flow {int(np.flatnonzero(np.isinf(w))[0])} is inf; it must be finite")
    outside = (col < 0) | (col >= len(columns))
    if outside.any():
        bad = int(np.flatnonzero(outside)[0])
        raise ConfigError(f"column of flow {bad} is {col[bad]}; there are columns 0 to {len(columns) - 1}")
    rate = np.zeros(col.size)
    bottleneck = np.full(col.size, UNBOUNDED, np.int64)
    rows = np.empty((4, columns.rows))
    rows[CAPACITY] = cap
    rounds, pops = fill(
        np.arange(col.size), col.size, col, w, limit, columns.ptr, columns.row, columns.coefficient,
        rows, rate, bottleneck, _LIMIT[method],
    )  # fmt: skip
    return Allocation(rate, bottleneck, columns, col, cap, w, limit, int(rounds), int(pops))
