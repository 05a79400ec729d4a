"""The best integer table of THC, by exact dynamic programming.

A worker rounds a coordinate z in [-t, t] stochastically to one of 2^b points v_k = -t + 2 t T[k] / g, T
integer, T[0] = 0, T[-1] = g. Between two neighbouring points a < b the variance at z is (b - z)(z - a), so
the error is a sum over neighbouring pairs, and the table a path of 2^b nodes from 0 to g: a shortest path
with a fixed number of steps. (THC, NSDI 2024, searches symmetric tables; the public tables for g = 16
repeat a value.)
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from euston.errors import ConfigError

__all__ = ["best_table", "clamp_error", "rounding_error", "second_moment", "truncation"]


def truncation(overflow: float) -> float:
    """The t with P(|z| > t) = `overflow` for z ~ N(0, 1).

    Raises
    ------
    ConfigError
        `overflow` is not between 0 and 1.
    """
    if not 0.0 < overflow < 1.0:
        raise ConfigError(f"`overflow`: {overflow}; a probability above 0 and below 1 sets the range")
    return float(-ndtri(overflow / 2.0))


def _moments(t: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Integrals of phi, z phi and z^2 phi from minus infinity to t."""
    density = np.exp(-0.5 * t * t) / np.sqrt(2.0 * np.pi)
    return ndtr(t), -density, ndtr(t) - t * density


def _costs(granularity: int, t: float) -> NDArray[np.float64]:
    """``cost[i, j]``: integral of phi(z) (v_j - z)(z - v_i) from v_i to v_j, float64[g + 1, g + 1]."""
    v = np.linspace(-t, t, granularity + 1)
    zeroth, first, second = _moments(v)
    low, high = v[:, None], v[None, :]
    m0 = zeroth[None, :] - zeroth[:, None]
    m1 = first[None, :] - first[:, None]
    m2 = second[None, :] - second[:, None]
    return (low + high) * m1 - m2 - low * high * m0


@cache
def best_table(bits: int, granularity: int, overflow: float) -> tuple[int, ...]:
    """The table of ``2**bits`` increasing integers from 0 to `granularity` with the least rounding error.

    Raises
    ------
    ConfigError
        Fewer grid points than levels, or bits outside 1 to 8.
    """
    levels = 1 << bits
    if not 1 <= bits <= 8:
        raise ConfigError(f"`bits`: {bits}; 1 to 8 can be packed")
    if granularity < levels - 1:
        raise ConfigError(
            f"`granularity`: {granularity} has fewer than the {levels} points that {bits} bits name; "
            f"at least {levels - 1} is needed"
        )
    cost = _costs(granularity, truncation(overflow))
    cost[np.tril_indices(granularity + 1)] = np.inf
    reached = np.full(granularity + 1, np.inf)
    reached[0] = 0.0
    came = []
    for _ in range(levels - 1):
        total = reached[:, None] + cost
        came.append(total.argmin(axis=0))
        reached = total.min(axis=0)
    path = [granularity]
    for previous in reversed(came):
        path.append(int(previous[path[-1]]))
    return tuple(reversed(path))


def rounding_error(table: tuple[int, ...] | NDArray[np.int64], overflow: float) -> float:
    """E of the stochastic rounding's variance for z ~ N(0, 1) within the range (and 0 beyond it)."""
    steps = np.asarray(table)
    cost = _costs(int(steps[-1]), truncation(overflow))
    different = steps[1:] > steps[:-1]
    return float(cost[steps[:-1][different], steps[1:][different]].sum())


def clamp_error(overflow: float) -> float:
    """E (|z| - t)^2 beyond the range: the squared bias of clamping for z ~ N(0, 1)."""
    t = truncation(overflow)
    density = np.exp(-0.5 * t * t) / np.sqrt(2.0 * np.pi)
    return float(2.0 * ((1.0 + t * t) * ndtr(-t) - t * density))


def second_moment(overflow: float) -> float:
    """E of the square of z ~ N(0, 1) clamped to the range."""
    t = truncation(overflow)
    density = np.exp(-0.5 * t * t) / np.sqrt(2.0 * np.pi)
    return float(1.0 - 2.0 * ndtr(-t) - 2.0 * t * density + 2.0 * t * t * ndtr(-t))
