"""Max-min rates kept up to date while flows come and go: the solver behind the executor, on its own.

For controllers, studies and tests that want rates after each change without running a program.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError
from euston.network import _net as k
from euston.network._fill import OWN_CAP, SLACK, UNBOUNDED
from euston.network._repair import attempt, component, retire, settle
from euston.network.columns import Columns
from euston.network.fluid import Allocation

__all__ = ["Incremental"]


@njit(cache=True, no_cfunc_wrapper=True)
def _change(net, closed, opened, column, weight, cap, rows, capacity):  # type: ignore[no-untyped-def]
    for f in closed:
        k.close_flow(net, f)
    for j in range(opened.size):
        k.open_flow(net, opened[j], column[j], weight[j], cap[j])
    for j in range(rows.size):
        k.set_capacity(net, rows[j], capacity[j])
    return attempt(net, False)


@njit(cache=True, no_cfunc_wrapper=True)
def _finish(net):  # type: ignore[no-untyped-def]
    retire(net)
    moved = net.n[k.N_CHANGED]
    for j in range(moved):
        f = net.flow_list[k.CHANGED, j]
        net.flow[f, k.RATE] = net.flow[f, k.LAMBDA] * net.flow[f, k.WEIGHT]
    settle(net)
    return moved


class Incremental:
    """Rates of a changing set of flows.

    Parameters
    ----------
    columns : Columns
    capacity : float64[rows]
        Bytes/s.
    slots : int
        Most flows at one time.
    most : float64[rows], optional
        Largest capacity each row will ever get; the given ones unless said.
    tol : float
        Relative change of a row's level that is let pass: 0 is exact, 1e-3 is about ten times less work
        where contention is dense. Errors of single rates can be a few times as large.
    """

    def __init__(
        self,
        columns: Columns,
        capacity: ArrayLike,
        slots: int,
        *,
        most: ArrayLike | None = None,
        tol: float = 0.0,
    ) -> None:
        cap = np.array(capacity, np.float64)
        if cap.shape != (columns.rows,) or not (cap >= 0).all():
            raise ConfigError(f"capacity must be {columns.rows} numbers >= 0, one per row")
        if not 0 <= tol < 1:
            raise ConfigError(f"tol is {tol}; it must be at least 0 and below 1")
        self.columns = columns
        top = cap if most is None else np.maximum(cap, np.asarray(most, np.float64))
        self._net = k.net(columns, cap, slots, most=top, tol=tol)
        self._free = list(range(slots - 1, -1, -1))
        self._active = np.zeros(slots, bool)

    def change(
        self,
        *,
        close: ArrayLike = (),
        column: ArrayLike = (),
        weight: ArrayLike = 1.0,
        rate_cap: ArrayLike = np.inf,
        rows: ArrayLike = (),
        capacity: ArrayLike = (),
    ) -> NDArray[np.int64]:
        """Close flows (slots), open one on each of ``column``, set capacities of rows: one repair for all.

        Returns
        -------
        int64[opened]
            Slots of the new flows.

        Raises
        ------
        ConfigError
            For slots that are not open, columns or rows that do not exist, more flows than slots.
        """
        shut = np.asarray(close, np.int64).ravel()
        cols = np.asarray(column, np.int64).ravel()
        changed = np.asarray(rows, np.int64).ravel()
        caps = np.asarray(capacity, np.float64).ravel()
        known = ((shut >= 0) & (shut < self._active.size)).all()
        if not known or not (self._active[shut].all() and np.unique(shut).size == shut.size):
            raise ConfigError("close names a slot that holds no flow, or one twice")
        if cols.size and not ((cols >= 0) & (cols < len(self.columns))).all():
            raise ConfigError(f"column must be 0 to {len(self.columns) - 1}")
        if changed.size != caps.size or not ((changed >= 0) & (changed < self.columns.rows)).all():
            raise ConfigError("rows and capacity must be of one length, rows existing ones")
        if not ((caps >= 0) & (caps <= np.inf)).all():
            raise ConfigError("capacity must be >= 0 bytes/s")
        w = np.array(np.broadcast_to(np.asarray(weight, np.float64), cols.shape))
        limit = np.array(np.broadcast_to(np.asarray(rate_cap, np.float64), cols.shape))
        if not ((w > 0) & (w < np.inf)).all() or not (limit > 0).all():
            raise ConfigError("weight must be positive and finite, rate_cap positive")
        if cols.size > len(self._free) + shut.size:
            raise ConfigError(f"{cols.size} flows for {len(self._free) + shut.size} free slots")
        self._free.extend(shut.tolist())
        self._active[shut] = False
        slots = np.array([self._free.pop() for _ in range(cols.size)], np.int64)
        self._active[slots] = True
        if not _change(self._net, shut, slots, cols, w, limit, changed, caps):
            component(self._net, None)
        _finish(self._net)
        return slots

    @property
    def rate(self) -> NDArray[np.float64]:
        """Bytes/s of every slot, float64[slots]; 0 where there is no flow."""
        return np.where(self._active, self._net.flow[:, k.RATE], 0.0)

    @property
    def repairs(self) -> int:
        """Changes handled."""
        return int(self._net.n[k.N_REPAIRS])

    @property
    def touched(self) -> int:
        """Flows that repairs looked at as moved, in all."""
        return int(self._net.n[k.N_TOUCHED])

    @property
    def full(self) -> int:
        """Repairs that solved a whole component, because locality was not to be had."""
        return int(self._net.n[k.N_FULL])

    def allocation(self) -> Allocation:
        """The present state as an `Allocation` of the active flows, with its certificate."""
        net = self._net
        slots = np.flatnonzero(self._active)
        column = net.flow_i[slots, k.COLUMN]
        rate, weight, cap = (net.flow[slots, line] for line in (k.RATE, k.WEIGHT, k.CAP))
        # What the path alone allows is kept as a cap too (see ``_net.open_flow``).
        cap = np.where(cap < net.fastest[column], cap, np.inf)
        level = rate / weight
        bottleneck = np.full(slots.size, UNBOUNDED, np.int64)
        slack = 1 + 10 * max(SLACK, float(net.tol[0]))
        for j in range(slots.size):
            mine, share = self.columns.column(int(column[j]))
            levels = net.row[mine, k.LEVEL]
            own = net.row[mine, k.CAPACITY] / share
            if mine.size and levels.min() <= level[j] * slack:
                bottleneck[j] = mine[levels.argmin()]
            elif mine.size and own.min() <= rate[j] * slack:
                bottleneck[j] = mine[own.argmin()]  # alone on the narrowest link of its path
            elif np.isfinite(cap[j]):
                bottleneck[j] = OWN_CAP
        return Allocation(
            rate, bottleneck, self.columns, column, net.row[:, k.CAPACITY].copy(), weight, cap, 0, 0
        )
