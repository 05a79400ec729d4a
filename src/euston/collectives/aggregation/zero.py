"""Leave what is missing zero and divide by all: what naive code does, shrunk by the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation.base import Fill

__all__ = ["Zero"]


@dataclass(frozen=True)
class Zero:
    """Sum of what arrived over the number of senders; for comparison."""

    name: ClassVar[str] = "zero"
    fill: ClassVar[Fill] = "nothing"

    def scale(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `AggregationRule.scale`."""
        return np.ones(inclusion.size)

    def divisor(self, count: NDArray[np.int64], senders: int) -> NDArray[np.float64]:
        """See `AggregationRule.divisor`."""
        return np.full(count.size, float(senders))

    def bias(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability of arriving."""
        return inclusion.copy()
