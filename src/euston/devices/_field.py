"""A smooth field over scattered points: what a formula leaves of a kernel table, between the table's points.

Kriging with a Matern 3/2 covariance: the value at a point is a sum over measured points, weighted by distance
in units of one length per coordinate; far from all of them it fades to zero, i.e. to the formula. The lengths
and the share of noise are those of the largest likelihood (Rasmussen & Williams 2006, section 5.4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Array = NDArray[np.float64]

#: Points that the lengths are found on; more change them little and cost with their cube.
SAMPLE = 300
#: Bounds of a length (coordinates are logarithms: e**-2 is 14 %, e**2.7 is a factor of 3 million) and of the
#: noise's share of the variance.
LENGTHS = (math.exp(-2.0), math.exp(2.7))
NOISE = (1e-3, 1.0)
#: A query within this many lengths of a measured point counts as among them.
NEAR = 1.0
#: Pairs of a query and a point handled at a time: what a core's cache holds.
BLOCK = 32_768


@dataclass(frozen=True)
class Field:
    """A fitted field.

    Attributes
    ----------
    points : Array
        Coordinates over lengths, [N, D].
    weights : Array
        [N].
    lengths : Array
        [D].
    low, high : Array
        Box of the points, [D], in plain coordinates.
    """

    points: Array
    weights: Array
    lengths: Array
    low: Array
    high: Array

    def at(self, queries: Array, clip: bool = False) -> tuple[Array, NDArray[np.bool_]]:
        """Values at `queries` [Q, D], and whether each lies among the points (in their box and near one).

        With `clip`, a query outside the box takes the value of the box's nearest edge.
        """
        inside = np.all((queries >= self.low - 1e-9) & (queries <= self.high + 1e-9), axis=1)
        scaled = (np.clip(queries, self.low, self.high) if clip else queries) / self.lengths
        value, near = np.empty(len(scaled)), np.empty(len(scaled), dtype=np.bool_)
        step = max(1, BLOCK // max(len(self.points), 1))
        squares = (self.points**2).sum(axis=1)
        for start in range(0, len(scaled), step):
            part = scaled[start : start + step]
            distance = part @ (-2.0 * self.points.T)
            distance += squares
            distance += (part**2).sum(axis=1)[:, None]
            np.maximum(distance, 0.0, out=distance)
            near[start : start + step] = distance.min(axis=1) <= NEAR**2
            distance *= 3.0
            np.sqrt(distance, out=distance)
            covariance = np.exp(-distance)
            distance += 1.0
            covariance *= distance
            value[start : start + step] = covariance @ self.weights
        return value, inside & near


def make(points: Array, values: Array, lengths: Array, noise: float) -> Field:
    """The field through `values` [N] at `points` [N, D] with given lengths [D] and share of noise."""
    scaled = points / lengths
    covariance = _covariance(((scaled[:, None, :] - scaled[None]) ** 2).sum(axis=2))
    covariance[np.diag_indices(len(values))] += noise
    weights = cho_solve(cho_factor(covariance), values)
    return Field(scaled, weights, lengths, points.min(axis=0), points.max(axis=0))


def fit(points: Array, values: Array) -> tuple[Array, float, float]:
    """Lengths [D] and share of noise of the largest likelihood, and its negative log (to compare formulas).

    At most `SAMPLE` points are used, drawn evenly.
    """
    if len(values) > SAMPLE:
        kept = np.sort(np.random.Generator(np.random.Philox(0)).permutation(len(values))[:SAMPLE])
        points, values = points[kept], values[kept]
    squares = (points.T[:, :, None] - points.T[:, None, :]) ** 2
    dimensions = points.shape[1]
    start = np.log([1.5] * dimensions + [0.05])
    bounds = [(math.log(LENGTHS[0]), math.log(LENGTHS[1]))] * dimensions
    found = minimize(
        _likelihood, start, args=(values, squares), jac=True, method="L-BFGS-B",
        bounds=[*bounds, (math.log(NOISE[0]), math.log(NOISE[1]))], options={"maxiter": 30},
    )  # fmt: skip
    lengths = np.array([float(f"{x:.2g}") for x in np.exp(found.x[:-1])])
    return lengths, float(f"{math.exp(found.x[-1]):.2g}"), float(found.fun)


def _covariance(squares: Array) -> Array:
    distance = np.sqrt(3.0 * np.maximum(squares, 0.0))
    result: Array = (1.0 + distance) * np.exp(-distance)
    return result


def _likelihood(logs: Array, values: Array, squares: Array) -> tuple[float, Array]:
    """Negative log likelihood (its scale profiled out) and its gradient by the logs of lengths and noise."""
    inverse_squares, noise, n = np.exp(-2.0 * logs[:-1]), math.exp(logs[-1]), len(values)
    distance = np.sqrt(3.0 * np.maximum(np.tensordot(inverse_squares, squares, 1), 0.0))
    decay = np.exp(-distance)
    covariance = (1.0 + distance) * decay
    covariance[np.diag_indices(n)] += noise
    factor = cho_factor(covariance, lower=True)
    inverse = cho_solve(factor, np.eye(n))
    solved = inverse @ values
    scale = max(float(values @ solved) / n, 1e-300)
    outer = 0.5 * (inverse - np.outer(solved, solved) / scale)
    weighted = outer * (3.0 * decay)
    slopes = [float((weighted * squares[d]).sum()) * inverse_squares[d] for d in range(len(inverse_squares))]
    value = 0.5 * n * math.log(scale) + float(np.log(np.diag(factor[0])).sum())
    return value, np.array([*slopes, float(np.trace(outer)) * noise])
