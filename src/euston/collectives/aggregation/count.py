"""Divide by the number that arrived: the mean over those that came, and so biased towards fast senders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation.base import Fill

__all__ = ["Count"]


@dataclass(frozen=True)
class Count:
    """Sum of what arrived over how many arrived.

    Unbiased where loss is independent of the sender. Where sender i arrives with probability pi_i it
    estimates the mean weighted by pi_i: a slow worker's data count less.
    """

    name: ClassVar[str] = "count"
    fill: ClassVar[Fill] = "nothing"

    def scale(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `AggregationRule.scale`."""
        return np.ones(inclusion.size)

    def divisor(self, count: NDArray[np.int64], senders: int) -> NDArray[np.float64]:
        """See `AggregationRule.divisor`."""
        return count.astype(np.float64)

    def bias(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """E[a_i / sum a] * n, exact: by the generating function of the sum of the others."""
        others = [_mean_inverse(np.delete(inclusion, i)) for i in range(inclusion.size)]
        return inclusion.size * inclusion * np.asarray(others)


def _mean_inverse(p: NDArray[np.float64]) -> float:
    """E[1 / (1 + S)], S a sum of independent Bernoulli(p): the integral of E[t^S] over t in (0, 1)."""
    # E[t^S] = prod (1 - p + p t) is a polynomial of degree n: Gauss-Legendre with n/2 + 1 nodes is exact
    nodes, weights = np.polynomial.legendre.leggauss(p.size // 2 + 1)
    t = 0.5 * (nodes + 1)
    return float(0.5 * weights @ np.prod(1 - p[:, None] + p[:, None] * t, axis=0))
