"""Backup workers: the first k of n make the step (Chen et al., arXiv:1604.00981)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.stragglers.base import StepOutcome, check_ready
from euston.errors import ConfigError

__all__ = ["KOfN"]


@dataclass(frozen=True)
class KOfN:
    """Takes the first k workers, divides by k.

    Parameters
    ----------
    k : int
        Workers to wait for; more where some must be waited for.
    stale : bool
        Whether the others' gradients come with the next step (eager or partial all-reduce) or are dropped.
    """

    k: int
    stale: bool = False
    name: ClassVar[str] = "k_of_n"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"`k`: {self.k}; at least 1 worker")

    def step(self, ready: NDArray[np.float64], must: NDArray[np.bool_]) -> StepOutcome:
        """See `StragglerPolicy.step`; ties go to the lower number."""
        times = check_ready(ready)
        n, m = times.shape
        if self.k > n:
            raise ConfigError(f"`k`: {self.k} of {n} workers")
        first = np.argsort(times[:, -1], kind="stable")[: self.k]
        chosen = must.copy()
        chosen[first] = True
        late = (~chosen & np.isfinite(times[:, -1])).astype(np.int64) * (m if self.stale else 0)
        included = chosen.astype(np.int64) * m
        return StepOutcome(float(times[chosen, -1].max()), included, late, float(included.sum()))
