"""Gradient coding: the exact sum although some workers never answer, for s + 1 times the work.

Tandon, Lei, Dimakis & Karampatziakis, ICML 2017. Data are cut into n parts; worker i computes the gradients
of the parts in row i of the encoding matrix B and sends their combination B[i] @ gradients. Whoever has the
combinations of a set F of workers finds weights a with a @ B[F] = (1, ..., 1), and a @ (what they sent) is
the sum over all parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError

__all__ = ["Decoding", "GradientCode"]

WORST_CONDITION = 1e8
"""Condition number of a decoding system above which a cyclic code is drawn again."""
_TRIES, _SAMPLED = 64, 256


@dataclass(frozen=True, eq=False)
class Decoding:
    """Weights of those that answered.

    Attributes
    ----------
    weights : float64[n]
        Of every worker's combination; 0 for those that did not answer.
    error : float
        ||weights @ B - 1||^2 / n: 0 where the sum is exact.
    """

    weights: NDArray[np.float64]
    error: float


@dataclass(frozen=True)
class GradientCode:
    """A code for n workers that tolerates s of them missing.

    Parameters
    ----------
    workers, stragglers : int
        n and s < n.
    kind : "auto" | "fractional" | "cyclic"
        Fractional repetition (groups of s + 1 workers hold the same s + 1 parts; s + 1 must divide n) or
        cyclic repetition (worker i holds parts i ... i + s); auto prefers the first.
    seed : int
        Of the random matrix behind a cyclic code.

    Raises
    ------
    ConfigError
        Counts out of range, fractional repetition where s + 1 does not divide n.
    """

    workers: int
    stragglers: int
    kind: Literal["auto", "fractional", "cyclic"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        n, s = self.workers, self.stragglers
        if n < 1:
            raise ConfigError(f"`workers`: {n}; at least 1")
        if not 0 <= s < n:
            raise ConfigError(f"`stragglers`: {s} of {n} workers; choose 0 to {n - 1}")
        if self.kind not in ("auto", "fractional", "cyclic"):
            raise ConfigError(f"`kind`: {self.kind!r}; auto, fractional or cyclic")
        if self.kind == "fractional" and n % (s + 1):
            raise ConfigError(f"`kind`: {s + 1} does not divide {n} workers; use cyclic")

    @property
    def load(self) -> int:
        """Parts that each worker computes: s + 1."""
        return self.stragglers + 1

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """The encoding matrix B, float64[n, n], workers by parts."""
        n, s = self.workers, self.stragglers
        if self.kind != "cyclic" and n % (s + 1) == 0:
            block = np.arange(n) // (s + 1)
            return (block[:, None] == block[None, :]).astype(np.float64)
        rng = np.random.Generator(np.random.Philox(self.seed))
        best, worst = np.eye(n), np.inf
        for _ in range(_TRIES):
            code = self._cyclic(rng)
            condition = self._condition(code, rng)
            if condition < worst:
                best, worst = code, condition
            if worst < WORST_CONDITION:
                break
        return best

    def _cyclic(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Algorithm 2 of the paper: rows in the null space of a random H with H 1 = 0."""
        n, s = self.workers, self.stragglers
        h = rng.standard_normal((s, n))
        h[:, -1] = -h[:, :-1].sum(axis=1)
        code = np.zeros((n, n))
        for i in range(n):
            others = (i + 1 + np.arange(s)) % n
            code[i, i] = 1.0
            code[i, others] = -np.linalg.solve(h[:, others], h[:, i]) if s else 0.0
        return code

    def _condition(self, code: NDArray[np.float64], rng: np.random.Generator) -> float:
        """Largest condition number of a system to solve, over sampled sets of missing workers."""
        n, s = self.workers, self.stragglers
        worst = 0.0
        for _ in range(_SAMPLED):
            alive = np.sort(rng.permutation(n)[: n - s])
            singular = np.linalg.svd(code[alive], compute_uv=False)
            kept = singular[singular > singular[0] * 1e-12]
            # rank n - s by construction: a smaller one shows as an infinite condition number
            worst = max(worst, np.inf if kept.size < n - s else float(singular[0] / kept[-1]))
        return worst

    def decode(self, alive: NDArray[np.bool_]) -> Decoding:
        """Weights for the workers that answered, bool[n].

        With more than s missing the sum is approximate: the least-squares weights, and their error.

        Raises
        ------
        ConfigError
            Another number of workers.
        """
        mask = np.asarray(alive, bool)
        if mask.shape != (self.workers,):
            raise ConfigError(f"`alive`: {mask.size} workers; the code has {self.workers}")
        ones = np.ones(self.workers)
        weights = np.zeros(self.workers)
        if mask.any():
            weights[mask] = np.linalg.lstsq(self.matrix[mask].T, ones, rcond=None)[0]
        error = float(((weights @ self.matrix - ones) ** 2).sum() / self.workers)
        return Decoding(weights, error)
