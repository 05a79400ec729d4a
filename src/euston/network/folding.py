"""Folding: equal columns become one class with a count, so that cost grows with classes, not with ranks.

Max-min rates are invariant under any equitable partition of the incidence between columns and rows: every
column of a class crosses the same row classes, every row of a class is crossed alike. Colour refinement
finds the coarsest such partition; owners (data-parallel replicas) are refined together with their columns,
so that everything a class of owners does happens at the same times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.errors import SimulationError
from euston.network._grouping import group
from euston.network.columns import Columns

__all__ = ["Folding", "fold", "fold_if"]


@njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _mix(x):  # type: ignore[no-untyped-def]
    """SplitMix64 finaliser (Steele et al. 2014): a bijection of 64-bit words that scatters well."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True)
def _refine(ptr, row, coefficient_key, row_colour, column_colour, owner, owner_colour):  # type: ignore[no-untyped-def]
    """One round. Neighbour colours are summed (a sum keeps multiplicities; an xor would cancel pairs)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    columns = column_colour.size
    owner_sum = np.zeros(owner_colour.size, np.uint64)
    row_sum = np.zeros(row_colour.size, np.uint64)
    for c in range(columns):
        total = np.uint64(0)
        for e in range(ptr[c], ptr[c + 1]):
            total += _mix(row_colour[row[e]] ^ coefficient_key[e])
        column_colour[c] = _mix(column_colour[c] * golden + total)
        if owner[c] >= 0:
            owner_sum[owner[c]] += _mix(column_colour[c] + golden)
    for o in range(owner_colour.size):
        owner_colour[o] = _mix(owner_colour[o] * golden + owner_sum[o])
    for c in range(columns):
        if owner[c] >= 0:
            column_colour[c] = _mix(column_colour[c] ^ _mix(owner_colour[owner[c]] + golden))
        for e in range(ptr[c], ptr[c + 1]):
            row_sum[row[e]] += _mix(column_colour[c] ^ coefficient_key[e])
    for r in range(row_colour.size):
        row_colour[r] = _mix(row_colour[r] * golden + row_sum[r])


@dataclass(frozen=True)
class Folding:
    """The partition and the system of its classes.

    Attributes
    ----------
    column_class : int32[C]
    row_class : int32[rows]
        -1 for rows that no column crosses.
    owner_class : int32[O]
    columns : Columns
        The quotient: coefficient (class of rows, class of columns) is what all columns of the class
        together take from one row of that class.
    row_representative : int64[row classes]
    owner_representative, owner_count : int64[owner classes]
    rounds : int
        Rounds of refinement until the partition stood still.
    """

    column_class: NDArray[np.int32]
    row_class: NDArray[np.int32]
    owner_class: NDArray[np.int32]
    columns: Columns
    row_representative: NDArray[np.int64]
    owner_representative: NDArray[np.int64]
    owner_count: NDArray[np.int64]
    rounds: int

    @property
    def ratio(self) -> float:
        """Columns per class of columns: 1 means that folding gained nothing."""
        return self.column_class.size / max(len(self.columns), 1)

    def unfold(self, per_class: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of row classes given back to every row (0 for unused rows), float64[rows]."""
        out = np.zeros(self.row_class.size)
        used = self.row_class >= 0
        out[used] = per_class[self.row_class[used]]
        return out


def fold(
    columns: Columns,
    *,
    row_label: NDArray[np.float64],
    column_label: NDArray[np.int64],
    owner: NDArray[np.int32] | None = None,
    owner_label: NDArray[np.int64] | None = None,
) -> Folding:
    """The coarsest equitable partition that respects the labels.

    Parameters
    ----------
    columns : Columns
    row_label : float64[rows]
        What tells rows apart to begin with: capacity (and a number per planned change of it).
    column_label : int64[C]
        What tells columns apart: size, weight, cap, latency and role, as a number per distinct combination.
    owner : int32[C], optional
        The replica each column belongs to, -1 for shared columns.
    owner_label : int64[O], optional
        What tells replicas apart (their speeds).

    Raises
    ------
    SimulationError
        When the found partition is not equitable (a collision of 64-bit hashes).
    """
    found = fold_if(
        columns,
        row_label=row_label,
        column_label=column_label,
        owner=owner,
        owner_label=owner_label,
        most=1.0,
    )
    assert found is not None
    return found


def fold_if(
    columns: Columns,
    *,
    row_label: NDArray[np.float64],
    column_label: NDArray[np.int64],
    owner: NDArray[np.int32] | None = None,
    owner_label: NDArray[np.int64] | None = None,
    most: float,
) -> Folding | None:
    """As `fold`, but None as soon as more than ``most`` classes per column are certain: no gain, no work."""
    own = np.full(len(columns), -1, np.int32) if owner is None else np.asarray(owner, np.int32)
    n_owners = int(own.max(initial=-1)) + 1
    labels = np.zeros(n_owners, np.int64) if owner_label is None else np.asarray(owner_label, np.int64)
    row_colour = group(np.asarray(row_label, np.float64))[1].astype(np.uint64)
    column_colour = np.asarray(column_label, np.int64).astype(np.uint64)
    owner_colour = labels.astype(np.uint64)
    key = group(columns.coefficient)[1].astype(np.uint64)
    key = (key + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
    used = np.zeros(columns.rows, bool)
    used[columns.row] = True
    before, rounds = -1, 0
    while True:
        _refine(columns.ptr, columns.row, key, row_colour, column_colour, own, owner_colour)
        rounds += 1
        distinct = np.unique(column_colour).size
        if distinct > most * len(columns):
            return None
        now = np.unique(row_colour[used]).size + distinct + np.unique(owner_colour).size
        if now == before:
            break
        before = now
    _, column_class, _ = group(column_colour)
    owner_first, owner_class, owner_count = group(owner_colour)
    row_class = np.full(columns.rows, -1, np.int32)
    row_first, row_class[used], _ = group(row_colour[used])
    row_first = np.flatnonzero(used)[row_first]
    n_classes = int(column_class.max(initial=-1)) + 1
    _verify(columns, column_class, row_class, n_classes, row_first.size)
    # The quotient, read off one row of each class.
    is_first = np.full(columns.rows, -1, np.int64)
    is_first[row_first] = np.arange(row_first.size)
    keep = is_first[columns.row] >= 0
    entry_column = np.repeat(np.arange(len(columns)), np.diff(columns.ptr))[keep]
    quotient = Columns.from_entries(
        column_class[entry_column].astype(np.int64),
        is_first[columns.row[keep]].astype(np.int32),
        columns.coefficient[keep],
        columns=n_classes,
        rows=row_first.size,
    )
    return Folding(
        column_class, row_class, owner_class, quotient, row_first, owner_first, owner_count, rounds
    )


def _verify(
    columns: Columns,
    column_class: NDArray[np.int32],
    row_class: NDArray[np.int32],
    n_columns: int,
    n_rows: int,
) -> None:
    """Check equitability with random class weights: unequal neighbourhoods give unequal sums."""
    rng = np.random.default_rng(0)
    of_class = rng.uniform(1, 2, n_columns)[column_class]
    load = columns.load(of_class)
    seen = row_class >= 0
    cross = np.repeat(np.arange(len(columns)), np.diff(columns.ptr))
    weight = rng.uniform(1, 2, n_rows)[row_class[columns.row]] * columns.coefficient
    across = np.bincount(cross, weights=weight, minlength=len(columns))
    for sums, classes, n in ((load[seen], row_class[seen], n_rows), (across, column_class, n_columns)):
        low, high = np.full(n, np.inf), np.full(n, -np.inf)
        np.minimum.at(low, classes, sums)
        np.maximum.at(high, classes, sums)
        if n and float(np.max((high - low) / np.maximum(high, 1e-300))) > 1e-9:
            raise SimulationError("folding met a hash collision; run again with folding off")
