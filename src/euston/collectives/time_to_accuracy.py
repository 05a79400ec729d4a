"""Time to accuracy: how many more steps a noisy mean of gradients needs, and what that is worth in seconds.

A codec or a loss adds noise of relative size v to the mean of gradients (v = E||m^ - m||^2 over the mean
square of the workers' gradients). Unbiased noise leaves the expected step alone and adds v to the variance
that stochastic gradients have anyway (Bottou, Curtis & Nocedal 2018, section 4), so that steps to a given
loss grow linearly in v while v is small: ``s(v) = 1 + slope * v``. The slope belongs to a model, its data and
its learning rate: `StepsCurve.fit` takes it from runs, with an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from euston.errors import ConfigError

__all__ = ["StepsCurve", "time_to_accuracy"]


@dataclass(frozen=True)
class StepsCurve:
    """Steps to a target over those with exact gradients.

    Parameters
    ----------
    slope : float
        Additional share of steps per unit of v.
    half_width : float
        Of the slope's 95 % interval; 0 where it is given, not fitted.
    largest : float
        Largest v that the runs had: beyond it the line is a guess.
    """

    slope: float
    half_width: float = 0.0
    largest: float = math.inf

    def __post_init__(self) -> None:
        if not math.isfinite(self.slope) or not self.half_width >= 0 or not self.largest > 0:
            raise ConfigError(
                f"`slope`: {self.slope} +- {self.half_width}, up to {self.largest}; finite is right"
            )

    @classmethod
    def fit(cls, v: ArrayLike, multiplier: ArrayLike) -> StepsCurve:
        """Least squares through (0, 1).

        Parameters
        ----------
        v : float64[runs]
            Noise of each run's mean gradients.
        multiplier : float64[runs]
            Its steps over those of the exact run with the same seed.

        Raises
        ------
        ConfigError
            Fewer than two runs with noise, lengths that differ, values that are not finite.
        """
        x, y = np.asarray(v, np.float64), np.asarray(multiplier, np.float64) - 1.0
        if x.shape != y.shape or x.ndim != 1:
            raise ConfigError(f"`v`: shape {x.shape} beside multipliers of shape {y.shape}; equal are right")
        if not (np.isfinite(x).all() and np.isfinite(y).all()) or (x < 0).any() or (x > 0).sum() < 2:
            raise ConfigError("`v`: at least two runs with noise are needed, all finite and not negative")
        square = float(x @ x)
        slope = float(x @ y) / square
        rest = y - slope * x
        deviation = math.sqrt(float(rest @ rest) / (x.size - 1) / square)
        return cls(slope, float(student.ppf(0.975, x.size - 1)) * deviation, float(x.max()))

    def multiplier(self, v: float) -> float:
        """s(v); not below 1, because noise saves no steps."""
        if not v >= 0:
            raise ConfigError(f"`v`: {v} must not be negative")
        return max(1.0, 1.0 + self.slope * v)


def time_to_accuracy(
    steps: float, compute: float, communication: float, curve: StepsCurve, v: float = 0.0
) -> float:
    """Seconds to the target: ``s(v) * steps * (compute + communication)``.

    Parameters
    ----------
    steps : float
        With exact gradients.
    compute, communication : float
        Seconds per step; of communication what computing does not hide.
    v : float
        Noise of the mean gradient, relative to the mean square of its parts.
    """
    for name, value in (("steps", steps), ("compute", compute), ("communication", communication)):
        if not (value >= 0 and math.isfinite(value)):
            raise ConfigError(f"`{name}`: {value} must not be negative")
    return curve.multiplier(v) * steps * (compute + communication)
