"""Errors of plain quantisers on normal vectors, in closed form or by one-dimensional quadrature.

Formats that scale a group to its largest value are compared on z ~ N(0, 1): the only codecs whose error
does not depend on the data are the rotated ones, which make any vector look like this.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr, ndtri

__all__ = ["largest_quantiles", "level_error", "mean_square_of_largest"]


def largest_quantiles(n: int, points: int = 400) -> NDArray[np.float64]:
    """Max |z| of `n` normal values at equally likely quantiles, float64[points]."""
    u = (np.arange(points) + 0.5) / points
    # P(max <= m) = (2 Phi(m) - 1)^n, so Phi(-m) = (1 - u^(1/n)) / 2.
    return -ndtri(-np.expm1(np.log(u) / n) / 2.0)


@cache
def mean_square_of_largest(n: int) -> float:
    """E (max |z|)^2 of `n` normal values: the integral of 2 m (1 - P(max <= m))."""
    m = np.linspace(0.0, 12.0, 24_001)
    inside = np.exp(n * np.log1p(-2.0 * np.exp(log_ndtr(-m[1:]))))
    return float(np.trapezoid(np.concatenate(([0.0], 2.0 * m[1:] * (1.0 - inside))), m))


def level_error(levels: NDArray[np.float64]) -> tuple[float, float]:
    """E (z - q)^2 and E q^2, q the nearest of ascending `levels` to |z|, z ~ N(0, 1) up to the last."""
    edges = np.concatenate(([0.0], (levels[1:] + levels[:-1]) / 2, levels[-1:]))
    density = np.exp(-0.5 * edges**2) / np.sqrt(2.0 * np.pi)
    mass, first = np.diff(ndtr(edges)), -np.diff(density)
    second = mass - np.diff(edges * density)
    whole = ndtr(levels[-1]) - 0.5
    energy = (levels**2 * mass).sum() / whole
    return float((second - 2.0 * levels * first).sum() / whole + energy), float(energy)
