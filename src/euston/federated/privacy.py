"""Differential privacy of whole clients: clipped updates, Gaussian noise at the aggregator, exact accounting.

The aggregator is trusted: it sees single updates. Secure aggregation is not offered, because Flower's Message
API has none. No amplification by sampling is claimed. Noise is drawn in double precision, which leaves the
attack of Mironov (2012) on floating-point noise open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

__all__ = ["clipped", "epsilon", "noise"]

Floats = NDArray[np.float32]


def update_norm(difference: Floats, slices: Sequence[slice]) -> float:
    """Euclidean norm of the fragment's part of a vector."""
    # no np.dot: its threads would fight with torch's, and its sums depend on how many there are
    return math.sqrt(math.fsum(float(np.square(difference[s], dtype=np.float64).sum()) for s in slices))


def clipped(view: Floats, new: Floats, slices: Sequence[slice], most: float) -> Floats:
    """`new` moved towards `view` so that the fragment's update has a norm of at most `most`."""
    size = update_norm(view - new, slices)
    if size <= most:
        return new
    out = new.copy()
    for s in slices:
        out[s] = view[s] - (view[s] - new[s]) * np.float32(most / size)
    return out


def noise(size: int, deviation: float, key: int, round_: int) -> NDArray[np.float64]:
    """Gaussian noise of a round from a secret key, so that a resumed run adds the same."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((key, 0xD9, round_))))
    return random.normal(0.0, deviation, size)


def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """Privacy loss of `rounds` sums of clipped updates with Gaussian noise, each over the same clients.

    Exact: n Gaussian mechanisms compose to one with sensitivity ratio ``mu = sqrt(n) / z`` (Dong, Roth & Su
    2022), and ``delta = Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu)`` (Balle & Wang 2018, Theorem 8).

    Examples
    --------
    >>> round(epsilon(1.0, 1, 1e-5), 3)
    4.377
    """
    mu = math.sqrt(rounds) / noise_multiplier

    def excess(eps: float) -> float:
        second = math.exp(eps + float(norm.logcdf(-mu / 2 - eps / mu)))
        return float(norm.cdf(mu / 2 - eps / mu)) - second - delta

    if excess(0.0) <= 0.0:
        return 0.0
    high = 1.0
    while excess(high) > 0.0:
        high *= 2.0
    return float(brentq(excess, 0.0, high, xtol=1e-10))
