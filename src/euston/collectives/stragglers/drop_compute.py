"""DropCompute: a worker stops computing when its time is over and gives what it has (arXiv:2306.10598)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.collectives.stragglers.base import StepOutcome, check_ready
from euston.errors import ConfigError
from euston.units import PositiveDuration

__all__ = ["DropCompute", "best_threshold"]


@dataclass(frozen=True)
class DropCompute:
    """A worker ends with the micro-batch in which its elapsed compute passes ``threshold``.

    The sum is divided by the micro-gradients that are in it (all-reduced with the gradient as one more
    element), not by all there might have been.

    Parameters
    ----------
    threshold : duration
        tau; `best_threshold` finds the best for a measured trace.
    """

    threshold: PositiveDuration
    name: ClassVar[str] = "drop_compute"

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ConfigError(f"`threshold`: {self.threshold} must be more than 0")

    def step(self, ready: NDArray[np.float64], must: NDArray[np.bool_]) -> StepOutcome:
        """See `StragglerPolicy.step`."""
        times = check_ready(ready)
        n = times.shape[0]
        # micro-batch k is begun when k - 1 is ready, and is finished once begun
        began = np.concatenate((np.zeros((n, 1)), times[:, :-1]), axis=1)
        kept = ((began < self.threshold) & np.isfinite(times)) | (must[:, None] & np.isfinite(times))
        included = kept.sum(axis=1).astype(np.int64)
        ends = np.where(
            included > 0, np.take_along_axis(times, np.maximum(included - 1, 0)[:, None], 1)[:, 0], 0
        )
        return StepOutcome(float(ends.max()), included, np.zeros(n, np.int64), float(included.sum()))


def best_threshold(trace: NDArray[np.float64], communication: float = 0.0) -> tuple[float, float]:
    """The threshold with the most micro-gradients per second on a measured trace.

    Parameters
    ----------
    trace : float64[steps, n, M]
        Times at which micro-gradients were ready, s from the start of each step.
    communication : float
        Seconds that the exchange adds to every step.

    Returns
    -------
    threshold : float
        inf where dropping never pays.
    gain : float
        Micro-gradients per second over those without dropping; 1 at least.
    """
    times = np.asarray(trace, np.float64)
    if times.ndim != 3 or not np.isfinite(times).all():
        raise ConfigError(f"`trace`: shape {times.shape}; finite times of steps x workers x micro-batches")
    steps, n, m = times.shape
    base = n * m / (times[:, :, -1].max(axis=1).mean() + communication)
    began = np.concatenate((np.zeros((steps, n, 1)), times[:, :, :-1]), axis=2)
    best, gain = float("inf"), 1.0
    # what a threshold does changes only where a micro-batch begins
    for tau in np.unique(began[began > 0]):
        kept = (began <= tau).sum(axis=2)
        ends = np.take_along_axis(times, (kept - 1)[:, :, None], 2)[:, :, 0].max(axis=1)
        rate = kept.sum(axis=1).mean()
        found = rate / (ends.mean() + communication) / base
        if found > gain:
            best, gain = float(np.nextafter(tau, np.inf)), float(found)
    return best, gain
