"""Columns: usage vectors of fluid flows, interned once and reused by every flow that looks the same.

The fluid engine solves ``A x <= c``: a row is a link (or a bundle of equal links), a column is what one
unit of a flow's rate takes from each row, ``x`` is the rate of one member flow in bytes/s on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

from euston.errors import ConfigError

__all__ = ["Columns", "ColumnsBuilder"]


@njit(cache=True, no_cfunc_wrapper=True)
def _transpose(ptr, row, out_ptr, out):  # type: ignore[no-untyped-def]
    """Counting sort of the incidence; ``out_ptr`` comes in as the start of each list, one place on."""
    for c in range(ptr.size - 1):
        for i in range(ptr[c], ptr[c + 1]):
            r = row[i] + 1
            out[out_ptr[r]] = c
            out_ptr[r] += 1


def transpose(
    ptr: NDArray[np.int64], row: NDArray[np.int32], rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The lists turned round: for each row, who names it, in order. O(nnz); int64[rows + 1], int32[nnz]."""
    count = np.bincount(row, minlength=rows)
    # The kernel moves each start to its end, which is where the next list starts.
    out_ptr = np.concatenate(([0], np.cumsum(count) - count)).astype(np.int64)
    out = np.empty(row.size, np.int32)
    _transpose(ptr, row, out_ptr, out)
    return out_ptr, out


@dataclass(frozen=True)
class Columns:
    """A sparse, non-negative matrix stored by columns.

    Parameters
    ----------
    ptr : int64[C + 1]
        Column ``j`` owns entries ``ptr[j]:ptr[j + 1]``.
    row : int32[nnz]
        Row of each entry; a row appears at most once in a column.
    coefficient : float64[nnz]
        Bytes on that row per byte of the column's member rate (1 for a ring's link, 1/k for a spray over k).
    rows : int
        Number of rows of the system.
    """

    ptr: NDArray[np.int64]
    row: NDArray[np.int32]
    coefficient: NDArray[np.float64]
    rows: int

    def __post_init__(self) -> None:
        # One layout for the kernels: another (read-only, strided) would be compiled for again.
        for name, dtype in (("ptr", np.int64), ("row", np.int32), ("coefficient", np.float64)):
            object.__setattr__(self, name, np.require(getattr(self, name), dtype, ["C", "W"]))

    def __len__(self) -> int:
        return int(self.ptr.size - 1)

    def __repr__(self) -> str:
        return f"Columns({len(self):,} columns x {self.rows:,} rows, {self.row.size:,} entries)"

    @cached_property
    def by_row(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The transpose's structure: ``(row_ptr int64[rows + 1], column int32[nnz])``."""
        return transpose(self.ptr, self.row, self.rows)

    def column(self, j: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Rows and coefficients of column ``j``."""
        s = slice(self.ptr[j], self.ptr[j + 1])
        return self.row[s], self.coefficient[s]

    def load(self, amount: NDArray[np.float64]) -> NDArray[np.float64]:
        """``A @ amount``, float64[rows]: bytes (or bytes/s) per row when column ``j`` has ``amount[j]``."""
        weight = self.coefficient * np.repeat(amount, np.diff(self.ptr))
        return np.asarray(np.bincount(self.row, weights=weight, minlength=self.rows), np.float64)

    def without_rows(self, drop: NDArray[np.bool_]) -> Columns:
        """The same columns with the entries of ``drop``ped rows (bool[rows]) left out."""
        if not drop.any():
            return self
        keep = ~drop[self.row]
        taken = np.concatenate(([0], np.cumsum(keep)))
        return Columns(taken[self.ptr].astype(np.int64), self.row[keep], self.coefficient[keep], self.rows)

    def implied_rows(self, capacity: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Rows that hold whenever others do, bool[rows]: solving without them gives the same rates.

        Of rows that are multiples of each other only the tightest is needed; and a row that one column alone
        crosses is not, when another row of that column is as tight.
        """
        rows, nnz = self.rows, self.row.size
        drop = np.zeros(rows, bool)
        if not nnz:
            return drop
        column = np.repeat(np.arange(len(self), dtype=np.uint64), np.diff(self.ptr))
        largest = np.zeros(rows)
        np.maximum.at(largest, self.row, self.coefficient)
        # A row's pattern: a sum of well mixed words of its entries, relative to the largest.
        word = column * np.uint64(0x9E3779B97F4A7C15) ^ (self.coefficient / largest[self.row]).view(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
        pattern = np.zeros(rows, np.uint64)
        np.add.at(pattern, self.row, word ^ (word >> np.uint64(31)))
        used = np.flatnonzero(largest > 0)
        tight = np.divide(largest, capacity, out=np.full(rows, np.inf), where=capacity > 0)
        order = used[np.lexsort((-tight[used], pattern[used]))]
        drop[order[1:]] = pattern[order[1:]] == pattern[order[:-1]]
        # Among what is left: rows of one column, against the tightest row of that column.
        keep = ~drop[self.row]
        members = np.bincount(self.row[keep], minlength=rows)
        need = (
            self.coefficient
            * np.divide(1.0, capacity, out=np.full(rows, np.inf), where=capacity > 0)[self.row]
        )
        best = np.zeros(len(self))
        mine = column.astype(np.int64)
        shared = keep & (members[self.row] > 1)
        np.maximum.at(best, mine[shared], need[shared])
        alone = keep & (members[self.row] == 1)
        drop[self.row[alone & (need <= best[mine])]] = True
        return drop

    @classmethod
    def from_entries(
        cls,
        column: NDArray[np.int64],
        row: NDArray[np.int32],
        coefficient: NDArray[np.float64],
        *,
        columns: int,
        rows: int,
    ) -> Columns:
        """Columns from (column, row, coefficient) triples in any order; repeated pairs are summed."""
        key = column.astype(np.int64) * rows + row
        if not (key[1:] > key[:-1]).all():
            order = np.argsort(key, kind="stable")
            key, coefficient = key[order], coefficient[order]
        first = np.ones(key.size, bool)
        first[1:] = key[1:] != key[:-1]
        starts = np.flatnonzero(first)
        total = np.add.reduceat(coefficient, starts) if key.size else np.zeros(0)
        key = key[starts]
        ptr = np.searchsorted(key, np.arange(columns + 1, dtype=np.int64) * rows)
        return cls(ptr.astype(np.int64), (key % rows).astype(np.int32), total.astype(np.float64), rows)


class ColumnsBuilder:
    """Collects usage vectors one by one; equal ones get the same number (for small, hand-made systems)."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._index: dict[tuple[tuple[int, float], ...], int] = {}

    def add(self, usage: dict[int, float]) -> int:
        """Number of the column that takes ``usage[row]`` of each row.

        Raises
        ------
        ConfigError
            When a row does not exist or a coefficient is not a positive number.
        """
        for row, coefficient in usage.items():
            if not 0 <= row < self.rows:
                raise ConfigError(f"usage names row {row}; this system has rows 0 to {self.rows - 1}")
            if not 0 < coefficient < np.inf:
                raise ConfigError(
                    f"row {row} has coefficient {coefficient!r}; it must be positive and finite"
                )
        return self._index.setdefault(tuple(sorted(usage.items())), len(self._index))

    def build(self) -> Columns:
        """The collected columns."""
        vectors = list(self._index)
        lengths = np.array([len(v) for v in vectors], np.int64)
        flat = [entry for v in vectors for entry in v]
        return Columns(
            np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
            np.array([r for r, _ in flat], np.int32),
            np.array([c for _, c in flat], np.float64),
            self.rows,
        )
