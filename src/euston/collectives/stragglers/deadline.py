"""A deadline per step: whoever is not ready by then is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.stragglers.base import StepOutcome, check_ready
from euston.errors import ConfigError
from euston.units import PositiveDuration

__all__ = ["Deadline"]


@dataclass(frozen=True)
class Deadline:
    """Takes the workers that have all their micro-batches by ``seconds``; the first one if none has.

    Parameters
    ----------
    seconds : duration
    stale : bool
        Whether late gradients come with the next step.
    """

    seconds: PositiveDuration
    stale: bool = False
    name: ClassVar[str] = "deadline"

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ConfigError(f"`seconds`: {self.seconds} must be more than 0")

    def step(self, ready: NDArray[np.float64], must: NDArray[np.bool_]) -> StepOutcome:
        """See `StragglerPolicy.step`."""
        times = check_ready(ready)
        _, m = times.shape
        done = times[:, -1]
        chosen = (done <= self.seconds) | must
        if not chosen.any():
            chosen[int(done.argmin())] = True
        slowest = float(done[chosen].max())
        end = slowest if chosen.all() else max(slowest, self.seconds)
        late = (~chosen & np.isfinite(done)).astype(np.int64) * (m if self.stale else 0)
        included = chosen.astype(np.int64) * m
        return StepOutcome(end, included, late, float(included.sum()))
