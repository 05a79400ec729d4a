"""Max-min fairness between flows: one queue, no priorities; what FIFO switches and a fair transport give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from euston.fabrics import Fabric
from euston.network.allocation.base import Place, QueuePlan, Static, TransferInfo

__all__ = ["MaxMin"]


def _one_queue(transfer: TransferInfo) -> Place:
    return Place()


@dataclass(frozen=True)
class MaxMin:
    """All flows in one queue, by their own weights; marks of queues and priorities are not looked at."""

    name: ClassVar[str] = "max_min"
    dynamic: ClassVar[bool] = False

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Static:
        """See `AllocationPolicy.begin`."""
        return Static(QueuePlan(), _one_queue)
