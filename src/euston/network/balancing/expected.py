"""What hashing costs on average: balls in bins. For sanity checks; no engine uses these numbers."""

from __future__ import annotations

import numpy as np
from scipy import stats

from euston.errors import ConfigError

__all__ = ["expected_max_load", "idle_fraction"]


def _check(m: int, n: int) -> None:
    if m < 0 or n < 1:
        raise ConfigError(f"`n`: {m} flows on {n} links; there must be 0 flows or more and at least 1 link")


def idle_fraction(m: int, n: int) -> float:
    """Expected share of ``n`` equal links that ``m`` flows, each hashed to one of them, leave idle.

    ``(1 - 1/n)**m``; for a permutation over as many uplinks as hosts it is about 1/e.
    """
    _check(m, n)
    return float((1.0 - 1.0 / n) ** m)


def expected_max_load(m: int, n: int) -> float:
    """Expected number of flows on the fullest of ``n`` links, ``m`` flows each hashed to one of them.

    Exact up to rounding: loads are Poisson variables conditioned on their sum, so P(all <= k) is
    P(X <= k)^n * P(sum = m | all X <= k) / P(sum = m), and the sum of truncated ones is a power of their
    characteristic function (Levin 1981).
    """
    _check(m, n)
    if m == 0 or n == 1:
        return float(m)
    rate = m / n
    total = 0.0
    for k in range(m):
        terms = stats.poisson.pmf(np.arange(k + 1), rate)
        below = terms.sum()
        # The n-fold convolution has n * k + 1 terms; a transform of that length keeps them apart.
        spectrum = np.fft.rfft(terms / below, n=n * k + 1)
        hit = np.fft.irfft(spectrum**n, n=n * k + 1)[m] if n * k >= m else 0.0
        chance = below**n * max(hit, 0.0) / stats.poisson.pmf(m, m)
        if chance > 1.0 - 1e-12:
            break
        total += 1.0 - chance
    return total
