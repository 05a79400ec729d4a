"""The protocol of straggler policies: whom a synchronous step waits for, and how the rest is counted.

A step of n workers with M micro-batches each: worker i has the gradient of micro-batch m at ``ready[i, m]``
seconds after the step's start and can then send. A policy says when the exchange begins, how many
micro-gradients of each worker are in it, and what becomes of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError

__all__ = ["History", "StepOutcome", "StragglerPolicy", "check_ready"]


@dataclass(frozen=True, eq=False)
class StepOutcome:
    """One step.

    Attributes
    ----------
    time : float
        When the exchange can begin, s.
    included : int64[n]
        Micro-gradients of this step that each worker contributes.
    late : int64[n]
        Micro-gradients that are finished later and come with the next step (stale by one).
    weight : float
        What the sum of micro-gradients is divided by.
    """

    time: float
    included: NDArray[np.int64]
    late: NDArray[np.int64]
    weight: float


class StragglerPolicy(Protocol):
    """A frozen dataclass whose fields are its settings."""

    @property
    def name(self) -> str:
        """Its name in the registry."""

    def step(self, ready: NDArray[np.float64], must: NDArray[np.bool_]) -> StepOutcome:
        """Decide one step.

        ``ready``: float64[n, M], non-decreasing in m, inf for what never comes. ``must``: bool[n], workers
        that have been skipped too often (`History`) and are waited for.
        """


class History:
    """Who was skipped how often: a worker that is always slow must not be starved silently.

    Parameters
    ----------
    workers : int
    most : int
        Steps in a row without any contribution after which a worker is waited for.
    """

    def __init__(self, workers: int, most: int = 5) -> None:
        if most < 1:
            raise ConfigError(f"`max_consecutive_skips`: {most}; at least 1")
        self.most = most
        self.skipped = np.zeros(workers, np.int64)
        """Steps in a row without a contribution, int64[n]."""
        self.steps = 0
        self._share = np.zeros(workers)

    @property
    def must(self) -> NDArray[np.bool_]:
        """Workers to wait for now."""
        return self.skipped >= self.most

    @property
    def inclusion(self) -> NDArray[np.float64]:
        """Mean share of each worker's micro-gradients that were counted, float64[n]: the fairness pi_i."""
        return self._share / max(self.steps, 1)

    def update(self, outcome: StepOutcome, micro_batches: int) -> None:
        """Note one step."""
        counted = outcome.included + outcome.late
        self.skipped = np.where(counted > 0, 0, self.skipped + 1)
        self._share += counted / micro_batches
        self.steps += 1


def check_ready(ready: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times of micro-gradients as float64[n, M].

    Raises
    ------
    ConfigError
        Not two-dimensional, empty, NaN, or decreasing within a worker.
    """
    times = np.asarray(ready, np.float64)
    if times.ndim != 2 or not times.size:
        raise ConfigError(f"`ready`: shape {times.shape}; workers by micro-batches are needed")
    if np.isnan(times).any() or (times[:, 1:] < times[:, :-1]).any():
        raise ConfigError("`ready`: times must not decrease within a worker, nor be NaN")
    return times
