"""The few statistics that results quote: percentiles, Jain's index and intervals over seeds, defined once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError

__all__ = ["Interval", "bootstrap", "jain", "nearest_rank", "percentiles"]


def nearest_rank(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value with at least ``percent`` % of all at or below it.

    NaN for no values.
    """
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[_rank(percent, len(ordered))]


def percentiles(values: ArrayLike, percents: Sequence[float]) -> list[float]:
    """Several nearest-rank percentiles of one array; NaN for no values."""
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    if not ordered.size:
        return [math.nan] * len(percents)
    return [float(ordered[_rank(percent, ordered.size)]) for percent in percents]


def _rank(percent: float, count: int) -> int:
    # 99.9 % of 1000 is rank 999, although 99.9 / 100 * 1000 is 999.0000000000001 in floating point
    return min(count - 1, max(0, math.ceil(round(percent * count / 100.0, 9)) - 1))


def jain(values: ArrayLike) -> float:
    """Jain's fairness index (sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has everything.

    NaN for no values; 1 when all are 0 (Jain, Chiu & Hawe 1984).
    """
    x = np.asarray(values, np.float64).ravel()
    if not x.size:
        return math.nan
    top = float(np.max(np.abs(x)))
    if top == 0.0:
        return 1.0
    x = x / top
    return float(x.sum() ** 2 / (x.size * np.square(x).sum()))


@dataclass(frozen=True)
class Interval:
    """A statistic over seeds with its confidence interval; the ends are NaN for a single value."""

    value: float
    low: float
    high: float
    level: float
    count: int


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], float] = np.median,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile-bootstrap confidence interval of ``statistic`` over independent runs (Efron 1979).

    Parameters
    ----------
    values : float[n]
        One number per seed.
    statistic : callable
        From an array to a number, taken along the last axis where it accepts ``axis``.

    Raises
    ------
    ConfigError
        For no values, or a level outside (0, 1).
    """
    x = np.asarray(values, np.float64).ravel()
    if not x.size or not np.isfinite(x).all():
        raise ConfigError("a confidence interval needs at least one finite value, one per seed")
    if not 0.0 < level < 1.0:
        raise ConfigError(f"`level`: {level} is not between 0 and 1; write 0.95 for 95 %")
    value = float(statistic(x))
    if x.size == 1:
        return Interval(value, math.nan, math.nan, level, 1)
    if float(np.ptp(x)) == 0.0:
        return Interval(value, value, value, level, x.size)
    from scipy import stats

    found = stats.bootstrap(
        (x,), statistic, confidence_level=level, n_resamples=resamples, method="percentile",
        random_state=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = found.confidence_interval
    return Interval(value, float(low), float(high), level, x.size)
