"""Wait for everybody: plain synchronous training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.stragglers.base import StepOutcome, check_ready

__all__ = ["Wait"]


@dataclass(frozen=True)
class Wait:
    """The step is as long as its slowest worker."""

    name: ClassVar[str] = "wait"

    def step(self, ready: NDArray[np.float64], must: NDArray[np.bool_]) -> StepOutcome:
        """See `StragglerPolicy.step`."""
        times = check_ready(ready)
        n, m = times.shape
        return StepOutcome(
            float(times[:, -1].max()), np.full(n, m, np.int64), np.zeros(n, np.int64), float(n * m)
        )
