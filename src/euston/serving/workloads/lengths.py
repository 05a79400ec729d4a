"""How long prompts and answers are: fixed, uniform, lognormal, Zipf, or drawn together from a trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.registry import Registry
from euston.serving.requests import Requests

__all__ = ["LENGTHS", "Empirical", "Fixed", "Lengths", "Lognormal", "Uniform", "Zipf"]


class Lengths(Protocol):
    """A distribution of numbers of tokens."""

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Tokens, int64[n], at least 1."""


def _check(good: bool, text: str) -> None:
    if not good:
        raise ConfigError(f"`lengths`: {text}")


@dataclass(frozen=True)
class Fixed:
    """Always the same."""

    tokens: int

    def __post_init__(self) -> None:
        _check(self.tokens >= 1, f"{self.tokens} tokens; at least 1")

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See `Lengths.draw`."""
        return np.full(n, self.tokens, np.int64)


@dataclass(frozen=True)
class Uniform:
    """Between ``ratio * tokens`` and ``tokens``: the random lengths of public benchmarks."""

    tokens: int
    ratio: float = 0.8

    def __post_init__(self) -> None:
        _check(self.tokens >= 1, f"{self.tokens} tokens; at least 1")
        _check(0 <= self.ratio <= 1, f"ratio {self.ratio} must be 0 to 1")

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See `Lengths.draw`."""
        return rng.integers(max(1, math.ceil(self.ratio * self.tokens)), self.tokens + 1, n)


@dataclass(frozen=True)
class Lognormal:
    """By median and 99th percentile, cut at ``most``."""

    p50: float
    p99: float
    most: int = 2**20

    def __post_init__(self) -> None:
        _check(0 < self.p50 <= self.p99, f"median {self.p50} and 99th percentile {self.p99} must rise from 0")
        _check(self.most >= 1, f"most {self.most}; at least 1")

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See `Lengths.draw`."""
        sigma = math.log(self.p99 / self.p50) / 2.3263478740408408
        drawn = np.rint(self.p50 * np.exp(sigma * rng.standard_normal(n)))
        return np.asarray(np.clip(drawn, 1, self.most), np.int64)


@dataclass(frozen=True)
class Zipf:
    """P(k) proportional to k^-exponent for k = least ... most."""

    exponent: float = 1.2
    least: int = 1
    most: int = 8192

    def __post_init__(self) -> None:
        _check(math.isfinite(self.exponent), f"exponent {self.exponent} is no number")
        _check(1 <= self.least <= self.most <= 2**24, f"{self.least} to {self.most} tokens is no range")

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See `Lengths.draw`."""
        k = np.arange(self.least, self.most + 1)
        share = np.cumsum(k.astype(np.float64) ** -self.exponent)
        found = np.searchsorted(share, rng.random(n) * share[-1], side="right")
        return k[np.minimum(found, k.size - 1)]


@dataclass(frozen=True, eq=False)
class Empirical:
    """Prompt and answer drawn together, as a trace has them."""

    requests: Requests

    def __post_init__(self) -> None:
        _check(len(self.requests) > 0, "the trace has no requests")

    def pairs(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Prompts and answers of n requests drawn with replacement."""
        which = rng.integers(0, len(self.requests), n)
        return self.requests.in_tok[which].astype(np.int64), self.requests.out_tok[which].astype(np.int64)


_HERE = "euston.serving.workloads.lengths"

LENGTHS = Registry(
    "serving.lengths",
    {
        "fixed": f"{_HERE}:Fixed",
        "uniform": f"{_HERE}:Uniform",
        "lognormal": f"{_HERE}:Lognormal",
        "zipf": f"{_HERE}:Zipf",
    },
    kind="distribution of lengths",
)
