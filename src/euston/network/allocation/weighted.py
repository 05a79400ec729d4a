"""Weighted max-min fairness between flows: one queue, every flow with a weight of its job or kind.

The weight is per flow: a job that opens twice as many flows gets twice as much. `PerJob` does not let it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import ClassVar

from euston.errors import ConfigError, at
from euston.fabrics import Fabric
from euston.network.allocation._names import find, refuse_unknown
from euston.network.allocation.base import Place, QueuePlan, Static, TransferInfo

__all__ = ["Weighted"]


@dataclass(frozen=True)
class Weighted:
    """One queue; flows share by weight.

    Parameters
    ----------
    weights : mapping
        Weight of every flow of a job, of a kind of transfers, or of ``job/kind``; it multiplies the flow's
        own. Flows not named weigh 1.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    name: ClassVar[str] = "weighted"
    dynamic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for who, weight in self.weights.items():
            if not (weight > 0 and isfinite(weight)):
                raise ConfigError(at(f"weights.{who}", f"{weight!r}; a weight must be positive and finite"))

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Static:
        """See `AllocationPolicy.begin`."""
        refuse_unknown({"weights": self.weights}, jobs, kinds)
        return Static(QueuePlan(), self._place)

    def _place(self, transfer: TransferInfo) -> Place:
        return Place(factor=find(self.weights, transfer, 1.0))
