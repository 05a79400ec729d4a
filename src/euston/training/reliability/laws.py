"""Lifetimes of one unit: exponential, Weibull, and mixtures of both (a bathtub); ages are seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError

__all__ = ["Exponential", "Law", "Mixture", "Weibull", "bathtub"]


class Law(Protocol):
    """The distribution of a unit's lifetime."""

    @property
    def mean(self) -> float:
        """Mean lifetime in seconds."""

    def survival(self, age: float) -> float:
        """Probability of living past ``age`` seconds."""

    def left(self, rng: np.random.Generator, count: int, age: float = 0.0) -> NDArray[np.float64]:
        """Seconds left to ``count`` units of this age, float64[count]."""


@dataclass(frozen=True)
class Exponential:
    """A unit that does not age: failures at a constant rate."""

    mean: float

    def __post_init__(self) -> None:
        _above_zero("mean", self.mean)

    def survival(self, age: float) -> float:
        """Probability of living past ``age`` seconds."""
        return math.exp(-age / self.mean)

    def left(self, rng: np.random.Generator, count: int, age: float = 0.0) -> NDArray[np.float64]:
        """Seconds left to ``count`` units of this age, float64[count]."""
        return self.mean * rng.standard_exponential(count)


@dataclass(frozen=True)
class Weibull:
    """Survival ``exp(-(t/scale)^shape)``: a shape below 1 fails early, one above 1 wears out.

    Build it from the mean with `with_mean`.
    """

    scale: float
    shape: float

    def __post_init__(self) -> None:
        _above_zero("scale", self.scale)
        _above_zero("shape", self.shape)

    @classmethod
    def with_mean(cls, mean: float, shape: float) -> Weibull:
        """The Weibull law of that mean lifetime."""
        _above_zero("shape", shape)
        return cls(mean / math.gamma(1.0 + 1.0 / shape), shape)

    @property
    def mean(self) -> float:
        """Mean lifetime in seconds."""
        return self.scale * math.gamma(1.0 + 1.0 / self.shape)

    def survival(self, age: float) -> float:
        """Probability of living past ``age`` seconds."""
        return math.exp(-((age / self.scale) ** self.shape))

    def left(self, rng: np.random.Generator, count: int, age: float = 0.0) -> NDArray[np.float64]:
        """Seconds left to ``count`` units of this age, float64[count]."""
        # invert S(age + x) / S(age) = exp(-e), e standard exponential
        spent = (age / self.scale) ** self.shape
        left = self.scale * (spent + rng.standard_exponential(count)) ** (1.0 / self.shape) - age
        return np.asarray(np.maximum(left, 0.0))


@dataclass(frozen=True)
class Mixture:
    """Units of several makes: each life follows one of the laws, drawn with these weights."""

    weights: tuple[float, ...]
    laws: tuple[Law, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.laws) or not self.laws:
            raise ConfigError("a mixture needs one weight for each of its laws")
        if any(w < 0 for w in self.weights) or not math.isclose(sum(self.weights), 1.0, rel_tol=1e-9):
            raise ConfigError(f"weights of a mixture must be 0 or more and sum to 1, not {self.weights}")

    @property
    def mean(self) -> float:
        """Mean lifetime in seconds."""
        return sum(w * law.mean for w, law in zip(self.weights, self.laws, strict=True))

    def survival(self, age: float) -> float:
        """Probability of living past ``age`` seconds."""
        return sum(w * law.survival(age) for w, law in zip(self.weights, self.laws, strict=True))

    def left(self, rng: np.random.Generator, count: int, age: float = 0.0) -> NDArray[np.float64]:
        """Seconds left to ``count`` units of this age, float64[count]."""
        # which make a unit is of, given that it has lived so long (Bayes)
        weight = np.array([w * law.survival(age) for w, law in zip(self.weights, self.laws, strict=True)])
        make = rng.choice(len(self.laws), size=count, p=weight / weight.sum())
        drawn = np.stack([law.left(rng, count, age) for law in self.laws])
        return np.asarray(drawn[make, np.arange(count)])


def bathtub(
    mean: float, weak_share: float, weak_mean: float, *, weak_shape: float = 0.5, wear_shape: float = 3.0
) -> Mixture:
    """Early failures of a weak share of the units, wear-out of the others: a hazard that falls, then rises.

    Raises
    ------
    ConfigError
        For shapes that do not make a bathtub (early below 1, wear above 1) or a share outside (0, 1).
    """
    if not 0 < weak_share < 1:
        raise ConfigError(f"`weak_share`: {weak_share} is not between 0 and 1")
    if not weak_shape < 1 < wear_shape:
        raise ConfigError(
            f"`shape`: a bathtub needs an early shape below 1 and a wear-out shape above 1, "
            f"not {weak_shape} and {wear_shape}"
        )
    laws: Sequence[Law] = (Weibull.with_mean(weak_mean, weak_shape), Weibull.with_mean(mean, wear_shape))
    return Mixture((weak_share, 1.0 - weak_share), tuple(laws))


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"`{name}`: {value} must be a finite number above 0")
