"""Divide by the probability of arriving: unbiased however unequal the senders are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation.base import Fill
from euston.errors import ConfigError

__all__ = ["HorvitzThompson"]


@dataclass(frozen=True)
class HorvitzThompson:
    """Sum of x_i / pi_i over n (Horvitz & Thompson, JASA 1952).

    Parameters
    ----------
    least : float
        Inclusion probabilities below it are taken as it: a sender that hardly ever arrives would otherwise
        be multiplied without bound when it does. What is cut off is bias, and `bias` shows it.
    """

    least: float = 0.05
    name: ClassVar[str] = "ht"
    fill: ClassVar[Fill] = "nothing"

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1:
            raise ConfigError(f"`least`: {self.least} is no probability above 0; 0.05 is usual")

    def scale(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `AggregationRule.scale`."""
        return 1.0 / np.maximum(inclusion, self.least)

    def divisor(self, count: NDArray[np.int64], senders: int) -> NDArray[np.float64]:
        """See `AggregationRule.divisor`."""
        return np.full(count.size, float(senders))

    def bias(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 where the probability is above ``least``."""
        return np.asarray(inclusion / np.maximum(inclusion, self.least))
