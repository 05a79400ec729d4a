"""Strict priority levels: a level gets what those before it leave, at every link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from euston.errors import ConfigError, at
from euston.fabrics import Fabric
from euston.network.allocation._names import find, refuse_unknown
from euston.network.allocation.base import MAX_QUEUES, Place, QueuePlan, Static, TransferInfo

__all__ = ["StrictPriority"]


@dataclass(frozen=True)
class StrictPriority:
    """Levels by job or kind; max-min fairness inside a level.

    Parameters
    ----------
    levels : mapping
        Level of a job, of a kind of transfers, or of ``job/kind``; 0 goes first. Transfers not named come
        after all that are; when nothing is named, the priority that each is marked with counts.
    """

    levels: Mapping[str, int] = field(default_factory=dict)
    name: ClassVar[str] = "strict_priority"
    dynamic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for who, level in self.levels.items():
            if not 0 <= level < MAX_QUEUES - 1:
                raise ConfigError(at(f"levels.{who}", f"{level}; a level is 0 (first) to {MAX_QUEUES - 2}"))

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Static:
        """See `AllocationPolicy.begin`."""
        refuse_unknown({"levels": self.levels}, jobs, kinds)
        return Static(QueuePlan(), self._place)

    def _place(self, transfer: TransferInfo) -> Place:
        last = max(self.levels.values()) + 1 if self.levels else transfer.priority
        return Place(priority=find(self.levels, transfer, last))
