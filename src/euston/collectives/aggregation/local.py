"""Put the receiver's own packet in the place of a missing one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation.base import Fill

__all__ = ["Local"]


@dataclass(frozen=True)
class Local:
    """What is missing is taken to be like the receiver's own.

    Costs no memory; every receiver gets another result, and its own data weigh more.
    """

    name: ClassVar[str] = "local"
    fill: ClassVar[Fill] = "own"

    def scale(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `AggregationRule.scale`."""
        return np.ones(inclusion.size)

    def divisor(self, count: NDArray[np.int64], senders: int) -> NDArray[np.float64]:
        """See `AggregationRule.divisor`."""
        return np.full(count.size, float(senders))

    def bias(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability of arriving: the rest is not this step's."""
        return inclusion.copy()
