"""One kernel model for all tables: a formula with fitted constants, times a smooth field of what it leaves.

A `Family` says how a kind of kernel is priced on any machine; `fit` finds its constants on one table by least
squares on log time; `Model` prices: formula x exp(field) among the table's points, the formula away from
them, and the measured time itself at a point of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from euston.devices import _field
from euston.devices._field import Array

Columns = Mapping[str, Array]

#: How sure each price is, as indices of `euston.devices.base.PROVENANCES`.
MEASURED, INTERPOLATED, TRANSFERRED, ROOFLINE = 0, 1, 2, 3


class Machine(NamedTuple):
    """What a formula needs of an accelerator for one dtype: FLOP/s, B/s, units, bytes per input element."""

    peak: float
    bandwidth: float
    multiprocessors: int
    input_bytes: float


class Constant(NamedTuple):
    """One fitted constant: where the search starts and its bounds."""

    name: str
    start: float
    low: float
    high: float


@dataclass(frozen=True)
class Family:
    """How one kind of kernel is priced.

    Attributes
    ----------
    name : str
    columns : tuple of str
        What a shape consists of.
    constants : tuple of Constant
    formula : callable
        (machine, constants by name, variant, columns) -> seconds.
    features : callable
        (machine, columns) -> coordinates of the field, [N, D].
    variants : tuple of str
        Discrete choices of the formula (a set of tiles, a way to split); the one is kept under which the
        table is most likely.
    weight : callable
        columns -> weight of each row in the fit.
    starts : tuple of mapping
        Other places to start the search from.
    edge : bool
        Outside the table, whether the field of the nearest edge holds (else it fades to the formula).
    """

    name: str
    columns: tuple[str, ...]
    constants: tuple[Constant, ...]
    formula: Callable[[Machine, Mapping[str, float], str, Columns], Array]
    features: Callable[[Machine, Columns], Array]
    variants: tuple[str, ...] = ("",)
    weight: Callable[[Columns], Array] | None = None
    starts: tuple[Mapping[str, float], ...] = ()
    edge: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of one table (one device and dtype): `columns` by name and `seconds`, [N] each."""

    columns: Columns
    seconds: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, rows: NDArray[np.bool_]) -> Table:
        """The rows where `rows` holds."""
        return Table({name: column[rows] for name, column in self.columns.items()}, self.seconds[rows])


def digits(value: float) -> float:
    """Four significant digits: the same on every machine."""
    return float(f"{value:.4g}")


def quality(log_error: Array) -> dict[str, float]:
    """Median and 90th percentile of the absolute relative error, and its signed median."""
    relative = np.expm1(log_error)
    return {
        "median": round(float(np.median(np.abs(relative))), 4),
        "p90": round(float(np.quantile(np.abs(relative), 0.9)), 4),
        "bias": round(float(np.median(relative)), 4),
    }


def fit(family: Family, machine: Machine, table: Table) -> dict[str, Any]:
    """Constants, lengths and noise of a family on one table, as plain data (see `Model`)."""
    names = [c.name for c in family.constants]
    weight = np.ones(len(table)) if family.weight is None else family.weight(table.columns)
    chosen: tuple[float, str, dict[str, float], Array, float] | None = None
    for variant in family.variants:
        best: tuple[float, dict[str, float]] | None = None
        for start in ({}, *family.starts):
            found = least_squares(
                _error, [start.get(c.name, c.start) for c in family.constants],
                args=(family, machine, variant, table, weight),
                bounds=([c.low for c in family.constants], [c.high for c in family.constants]),
                x_scale=[max(abs(c.start), 1e-12) for c in family.constants], loss="soft_l1", f_scale=0.1,
                xtol=1e-8, ftol=1e-8, max_nfev=60,
            )  # fmt: skip
            if best is None or found.cost < best[0] * (1 - 1e-6):
                values = [digits(x) if x > 1e-3 else 0.0 for x in found.x]
                best = float(found.cost), dict(zip(names, values, strict=True))
        assert best is not None
        residual = np.log(table.seconds / family.formula(machine, best[1], variant, table.columns))
        lengths, noise, surprise = _field.fit(family.features(machine, table.columns), residual)
        if chosen is None or surprise < chosen[0]:
            chosen = surprise, variant, best[1], lengths, noise
    assert chosen is not None
    _, variant, constants, lengths, noise = chosen
    residual = np.log(table.seconds / family.formula(machine, constants, variant, table.columns))
    return {
        **constants,
        "variant": variant,
        "lengths": lengths.tolist(),
        "noise": noise,
        "rows": len(table),
        "formula_error": quality(-residual),
    }


def _error(
    values: Array, family: Family, machine: Machine, variant: str, table: Table, weight: Array
) -> Array:
    constants = {c.name: float(v) for c, v in zip(family.constants, values, strict=True)}
    predicted = family.formula(machine, constants, variant, table.columns)
    result: Array = weight * np.log(predicted / table.seconds)
    return result


class Model:
    """A family on one table's device.

    Parameters
    ----------
    family, machine
        Kind of kernel, and the machine that the table was measured on.
    constants
        As `fit` gives them.
    table
        The measured rows.
    """

    def __init__(self, family: Family, machine: Machine, constants: Mapping[str, Any], table: Table) -> None:
        self.family, self.machine, self.constants, self.table = family, machine, constants, table
        self.variant = str(constants["variant"])

    def formula(
        self, columns: Columns, machine: Machine | None = None, extra: Mapping[str, float] | None = None
    ) -> Array:
        """Seconds by the formula alone, on the table's machine or another one."""
        constants = {**self.constants, **extra} if extra else self.constants
        return self.family.formula(machine or self.machine, constants, self.variant, columns)

    def left(self, columns: Columns, machine: Machine | None = None) -> tuple[Array, NDArray[np.int8]]:
        """What the formula leaves (a logarithm), and how sure a price with it is."""
        value, inside = self._field.at(
            self.family.features(machine or self.machine, columns), self.family.edge
        )
        return value, np.where(inside, INTERPOLATED, ROOFLINE).astype(np.int8)

    def seconds(
        self,
        columns: Columns,
        machine: Machine | None = None,
        exact: bool = True,
        extra: Mapping[str, float] | None = None,
    ) -> tuple[Array, NDArray[np.int8]]:
        """Seconds and how sure each is (`MEASURED`, `INTERPOLATED` or `ROOFLINE`), [N] each.

        On another `machine` the formula takes its figures and the field stays: a shape keeps its arithmetic
        intensity, and what kernels of that shape lose to tiles, splits and launches.
        """
        left, sure = self.left(columns, machine)
        seconds = self.formula(columns, machine, extra) * np.exp(left)
        if exact and (machine is None or machine == self.machine):
            known = self._known
            keys = zip(*(columns[name].tolist() for name in self.family.columns), strict=True)
            for i, key in enumerate(keys):
                found = known.get(key)
                if found is not None:
                    seconds[i], sure[i] = found, MEASURED
        return seconds, sure

    @cached_property
    def _field(self) -> _field.Field:
        base = self.formula(self.table.columns)
        return _field.make(
            self.family.features(self.machine, self.table.columns),
            np.log(self.table.seconds / base),
            np.asarray(self.constants["lengths"], dtype=np.float64),
            float(self.constants["noise"]),
        )

    @cached_property
    def _known(self) -> dict[tuple[float, ...], float]:
        """Measured times by shape; a shape measured twice (in other circumstances) has the geometric mean."""
        found: dict[tuple[float, ...], list[float]] = {}
        keys = zip(*(self.table.columns[name].tolist() for name in self.family.columns), strict=True)
        for key, seconds in zip(keys, self.table.seconds.tolist(), strict=True):
            found.setdefault(key, []).append(seconds)
        return {key: float(np.exp(np.mean(np.log(values)))) for key, values in found.items()}


def columns_of(family: Family, *values: float | Array | Sequence[float]) -> dict[str, Array]:
    """Arrays of one shape by the family's column names."""
    arrays = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in values))
    return {name: np.atleast_1d(a) for name, a in zip(family.columns, arrays, strict=True)}


def smooth_max(a: Array, b: Array, sharpness: float) -> Array:
    """(a^p + b^p)^(1/p): the larger of two times that overlap less than perfectly."""
    big = np.maximum(np.maximum(a, b), 1e-30)
    result: Array = big * ((a / big) ** sharpness + (b / big) ** sharpness) ** (1.0 / sharpness)
    return result
