"""Fairness between jobs: a weighted queue for each, however many flows it opens.

The remedy when one job opens many flows: at every link a job gets its share, and its flows divide that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import ClassVar

import numpy as np

from euston.errors import ConfigError, at, unknown
from euston.fabrics import Fabric
from euston.network.allocation.base import MAX_QUEUES, Place, QueuePlan, Static, TransferInfo

__all__ = ["PerJob"]


@dataclass(frozen=True)
class PerJob:
    """One queue per job, in the order of the scenario.

    Parameters
    ----------
    weights : mapping
        Weights of the jobs' queues; a job that is not named has 1.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    name: ClassVar[str] = "per_job"
    dynamic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for job, weight in self.weights.items():
            if not (weight > 0 and isfinite(weight)):
                raise ConfigError(at(f"weights.{job}", f"{weight!r}; a weight must be positive and finite"))

    def check_jobs(self, jobs: Sequence[str]) -> None:
        """Refuse weights of jobs that are not there.

        Raises
        ------
        ConfigError
            Naming the first, with the nearest job.
        """
        for job in self.weights:
            if job not in jobs:
                raise ConfigError(at(f"weights.{job}", unknown("job", job, [one for one in jobs if one])))

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Static:
        """See `AllocationPolicy.begin`."""
        self.check_jobs(jobs)
        if len(jobs) > MAX_QUEUES:
            raise ConfigError(f"{len(jobs)} jobs need a queue each; there can be {MAX_QUEUES}")
        queue = {job: q for q, job in enumerate(jobs)}

        def place(transfer: TransferInfo) -> Place:
            if transfer.job not in queue:
                raise ConfigError(unknown("job", transfer.job, jobs))
            return Place(queue[transfer.job])

        return Static(QueuePlan(np.array([self.weights.get(job, 1.0) for job in jobs] or [1.0])), place)
