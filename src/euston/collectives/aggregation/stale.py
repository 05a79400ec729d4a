"""Put a sender's packet of the step before in the place of a missing one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation.base import Fill

__all__ = ["Stale"]


@dataclass(frozen=True)
class Stale:
    """What is missing is what that sender said last; zero in the first step.

    Costs one vector of memory per sender. Biased towards old gradients by the share that is missing.
    """

    name: ClassVar[str] = "stale"
    fill: ClassVar[Fill] = "previous"

    def scale(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `AggregationRule.scale`."""
        return np.ones(inclusion.size)

    def divisor(self, count: NDArray[np.int64], senders: int) -> NDArray[np.float64]:
        """See `AggregationRule.divisor`."""
        return np.full(count.size, float(senders))

    def bias(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability of arriving: the rest is not this step's."""
        return inclusion.copy()
