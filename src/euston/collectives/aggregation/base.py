"""The protocol of aggregation rules: what the mean of many vectors is when some of their packets are missing.

A rule is linear, packet by packet. With ``a[i, j]`` whether packet j of sender i arrived, the result is::

    mean[j] = (sum over i of scale[i] * a[i, j] * x[i, j]  +  what is put in for the missing) / divisor[j]

so a receiver adds as packets come and divides once. What is put in is nothing, each sender's vector of the
step before, or the receiver's own vector.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["AggregationRule", "Fill"]

Fill = Literal["nothing", "previous", "own"]


class AggregationRule(Protocol):
    """One way to take the mean of what arrived: a frozen dataclass whose fields are its settings."""

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def fill(self) -> Fill:
        """What stands in for a packet that is missing."""

    def scale(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """Factor of every sender's packets, float64[n].

        ``inclusion``: float64[n], the probability that a packet of each sender arrives (`Inclusion` estimates
        it).
        """

    def divisor(self, count: NDArray[np.int64], senders: int) -> NDArray[np.float64]:
        """What the sum of every packet is divided by, float64[packets].

        ``count``: int64[packets], senders whose packet arrived; 0 never reaches a rule that divides by it.
        """

    def bias(self, inclusion: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weight of every sender's vector in the expected result times n, float64[n]; 1 is unbiased.

        To first order in the loss: exact for rules whose divisor is constant. Where the fill is not
        ``nothing`` the missing part is counted as what is put in, not as the sender's.
        """
