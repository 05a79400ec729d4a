"""How unevenly tokens fall on experts, and how many rows the slowest expert-parallel rank therefore gets.

Each of N = tokens x top_k assignments of a layer goes to expert e with probability w_e. A rank holds
`experts / ranks` of them; all ranks wait for the one with most rows. The expected largest count of a
multinomial has no closed form for unequal weights, so it is the mean over a fixed number of seeded draws; for
equal weights and many tokens it tends to that of as many normal values (Blom 1958).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, unknown

from .eplb import place_experts

__all__ = ["Balance", "Load"]

Kind = Literal["uniform", "multinomial", "zipf", "trace"]
Balancer = Literal["static", "eplb"]

#: Draws whose mean stands for the expected maximum: its standard error is below 1 % of the excess over the
#: mean for 8 ranks and more.
DRAWS = 64


class Load(NamedTuple):
    """Rows of the slowest rank, its busiest expert's, and the share of assignments that were dropped."""

    rows: float
    busiest: float
    dropped: float


@dataclass(frozen=True)
class Balance:
    """How tokens are dealt to experts.

    Attributes
    ----------
    kind : "uniform" | "multinomial" | "zipf" | "trace"
        Every expert exactly its share, as published benchmarks force it; equal weights but random counts;
        weights 1 / rank**alpha, dealt to experts in a seeded order; measured weights.
    alpha : float
        Exponent of Zipf's law.
    trace : tuple of float
        Tokens each expert got, as a measured run saw them (any scale).
    capacity_factor : float
        Experts take at most ceil(factor * tokens * top_k / experts) rows and drop the rest; 0 drops none.
    pad : bool
        With a capacity: every expert works on exactly that many rows.
    seed : int
    balancer : "static" | "eplb"
        Consecutive experts share a rank; or experts and copies are placed by what each is known to get
        (`euston.models.eplb`).
    redundant : int
        Copies beside one of each expert, for eplb; a copy gets an even share of its expert's tokens.
    """

    kind: Kind = "uniform"
    alpha: float = 0.0
    trace: tuple[float, ...] = ()
    capacity_factor: float = 0.0
    pad: bool = False
    seed: int = 0
    balancer: Balancer = "static"
    redundant: int = 0

    def check(self, experts: int | None = None, *, where: str = "balance") -> None:
        """Refuse what is no distribution over `experts`."""
        if self.kind not in get_args(Kind):
            raise ConfigError(f"`{where}.kind`: {unknown('balance', self.kind, get_args(Kind))}")
        for key in ("alpha", "capacity_factor"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"`{where}.{key}`: {value} must be zero or a positive number")
        if (self.kind == "trace") != bool(self.trace):
            raise ConfigError(f"`{where}.trace`: give tokens per expert with kind trace, and only then")
        if self.trace and not (min(self.trace) >= 0 and 0 < sum(self.trace) < math.inf):
            raise ConfigError(f"`{where}.trace`: must hold numbers of at least 0, not all 0")
        if self.balancer not in get_args(Balancer):
            raise ConfigError(f"`{where}.balancer`: {unknown('balancer', self.balancer, get_args(Balancer))}")
        if self.redundant < 0 or (self.redundant and self.balancer == "static"):
            raise ConfigError(
                f"`{where}.redundant`: {self.redundant}; at least 0, and above it with eplb only"
            )
        if self.balancer == "eplb" and self.capacity_factor:
            raise ConfigError(f"`{where}.capacity_factor`: eplb drops no tokens; leave it 0")
        if self.trace and experts is not None and len(self.trace) != experts:
            raise ConfigError(f"`{where}.trace`: {len(self.trace)} entries for {experts} experts")

    def load(self, assignments: float, experts: int, ranks: int) -> Load:
        """Rows of the slowest of `ranks` ranks when `assignments` are dealt to `experts`.

        Parameters
        ----------
        assignments : float
            Tokens of the whole expert-parallel group times the experts each visits.
        experts, ranks : int
            `ranks` divides `experts` and the redundant ones together.
        """
        self.check(experts)
        mean = assignments / ranks
        each = assignments / experts
        capacity = math.ceil(self.capacity_factor * each) if self.capacity_factor else math.inf
        if self.pad and capacity < math.inf:
            dropped = 0.0 if self.kind == "uniform" else _draw(self, round(assignments), experts, ranks)[2]
            return Load(float(capacity * experts // ranks), float(capacity), dropped)
        if self.kind == "uniform":
            kept = min(1.0, capacity / each) if each else 1.0
            return Load(mean * kept, each * kept, 1.0 - kept)
        return Load(*_draw(self, round(assignments), experts, ranks))


def _weights(balance: Balance, experts: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if balance.kind == "trace":
        weights = np.asarray(balance.trace, np.float64)
    elif balance.kind == "zipf":
        weights = rng.permutation(np.arange(1, experts + 1, dtype=np.float64) ** -balance.alpha)
    else:
        weights = np.ones(experts)
    return np.asarray(weights / weights.sum(), np.float64)


@lru_cache(maxsize=4096)
def _draw(balance: Balance, assignments: int, experts: int, ranks: int) -> tuple[float, float, float]:
    """Means over draws of (rows of the fullest rank, rows of its fullest expert, share dropped)."""
    rng = np.random.Generator(np.random.Philox(balance.seed))
    weights = _weights(balance, experts, rng)
    if balance.balancer == "eplb":
        placed = place_experts(weights, ranks, balance.redundant)
        weights = (weights / placed.copies)[placed.expert.ravel()]
    places = weights.size
    counts = rng.multinomial(assignments, weights, size=DRAWS).astype(np.float64)
    if balance.capacity_factor:
        capacity = math.ceil(balance.capacity_factor * assignments / experts)
        kept = np.minimum(counts, capacity)
    else:
        kept = counts
    by_rank = kept.reshape(DRAWS, ranks, places // ranks)
    rows = by_rank.sum(axis=2)
    fullest = rows.argmax(axis=1)
    busiest = by_rank[np.arange(DRAWS), fullest].max(axis=1)
    dropped = 1.0 - kept.sum() / counts.sum() if assignments else 0.0
    return float(rows.max(axis=1).mean()), float(busiest.mean()), float(dropped)
