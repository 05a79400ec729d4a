"""Takes vectors packet by packet, in any order, and gives their mean by a rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.collectives.aggregation.base import AggregationRule
from euston.compression import PacketsLost, SizeMismatch
from euston.errors import ConfigError

__all__ = ["Aggregate", "Aggregator", "Inclusion"]


@dataclass(frozen=True, eq=False)
class Aggregate:
    """The mean of what arrived.

    Attributes
    ----------
    mean : float32[d]
    contributors : int64[packets]
        Senders that a packet of the mean was made of.
    received : float64[senders]
        Share of each sender's packets that arrived.
    """

    mean: NDArray[np.float32]
    contributors: NDArray[np.int64]
    received: NDArray[np.float64]


class Inclusion:
    """Estimates with what probability each sender's packets arrive, from those that did.

    Parameters
    ----------
    senders : int
    memory : float
        Weight of the past per step, in [0, 1): 0.99 remembers about 100 steps.
    prior : float
        Steps of "all arrived" that it starts from, so that the first loss is no verdict.
    """

    def __init__(self, senders: int, *, memory: float = 0.99, prior: float = 1.0) -> None:
        if senders < 1:
            raise ConfigError(f"`senders`: {senders}; at least 1")
        if not 0 <= memory < 1:
            raise ConfigError(f"`memory`: {memory} must be in [0, 1); 0.99 remembers about 100 steps")
        if not prior > 0:
            raise ConfigError(f"`prior`: {prior} must be more than 0")
        self.memory = memory
        self._arrived = np.full(senders, float(prior))
        self._sent = np.full(senders, float(prior))

    def update(self, received: NDArray[np.float64]) -> None:
        """Tell the shares of one step, float64[senders]."""
        self._arrived = self.memory * self._arrived + received
        self._sent = self.memory * self._sent + 1.0

    @property
    def probability(self) -> NDArray[np.float64]:
        """The estimates, float64[senders]."""
        return self._arrived / self._sent


class Aggregator:
    """Sums packets as they come; duplicates change nothing.

    Parameters
    ----------
    rule : AggregationRule
    senders : int
    bounds : int64[packets + 1]
        Coordinates at which packets start, and the end: ``layout.coordinate`` of a codec, or equal pieces.
    inclusion : float64[senders], optional
        Probability of arriving of each sender's packets, for rules that weigh by it; 1 unless said.
    own : float32[d], optional
        The receiver's own vector, for rules that put it in for what is missing.
    previous : mapping of int to float32[d], optional
        Vectors of the step before by sender, for rules that use them.

    Notes
    -----
    Sums are kept in float64, so that the order of arrival changes the result by less than float32 shows.
    """

    def __init__(
        self,
        rule: AggregationRule,
        senders: int,
        bounds: NDArray[np.int64],
        *,
        inclusion: NDArray[np.float64] | None = None,
        own: NDArray[np.float32] | None = None,
        previous: Mapping[int, NDArray[np.float32]] | None = None,
    ) -> None:
        if rule.fill == "own" and own is None:
            raise ConfigError(f"`rule`: {rule.name} puts the receiver's own vector in; give `own`")
        self.rule, self.senders = rule, senders
        self.bounds = np.asarray(bounds, np.int64)
        self._sizes = np.diff(self.bounds)
        d = int(self.bounds[-1])
        probability = np.ones(senders) if inclusion is None else np.asarray(inclusion, np.float64)
        if probability.shape != (senders,):
            raise SizeMismatch(f"`inclusion`: {probability.size} probabilities for {senders} senders")
        self._scale = rule.scale(probability)
        self._sum = np.zeros(d)
        self.arrived = np.zeros((senders, self._sizes.size), bool)
        """Which packets have come, bool[senders, packets]."""
        self._own, self._previous = own, dict(previous or {})

    def add(self, sender: int, values: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> int:
        """Add those packets of ``values`` (float32[d]) that ``mask`` (bool[packets]) says; how many were new.

        Raises
        ------
        SizeMismatch
            Another size, or a sender that does not exist.
        """
        if not 0 <= sender < self.senders:
            raise SizeMismatch(f"sender {sender} of {self.senders}")
        if values.shape != self._sum.shape:
            raise SizeMismatch(
                f"sender {sender} has {values.size} coordinates where {self._sum.size} are right"
            )
        fresh = ~self.arrived[sender]
        if mask is not None:
            if mask.shape != fresh.shape:
                raise SizeMismatch(f"sender {sender}: a mask of {mask.size} packets; there are {fresh.size}")
            fresh &= mask
        self.arrived[sender] |= fresh
        if fresh.all():
            self._sum += self._scale[sender] * values.astype(np.float64)
        else:
            self._sum += self._scale[sender] * np.where(np.repeat(fresh, self._sizes), values, 0.0)
        return int(fresh.sum())

    def result(self) -> Aggregate:
        """The mean so far.

        Raises
        ------
        PacketsLost
            A packet came from nobody and the rule puts nothing in.
        """
        count = self.arrived.sum(axis=0)
        total = self._sum.copy()
        if self.rule.fill == "nothing":
            if (count == 0).any():
                lost = int((count == 0).sum())
                raise PacketsLost(f"{lost} of {count.size} packets came from no sender")
        elif self.rule.fill == "own":
            assert self._own is not None
            total += np.repeat(self.senders - count, self._sizes) * self._own.astype(np.float64)
        else:
            for sender, vector in self._previous.items():
                total += np.where(np.repeat(self.arrived[sender], self._sizes), 0.0, vector)
        divisor = self.rule.divisor(count, self.senders)
        mean = (total / np.repeat(divisor, self._sizes)).astype(np.float32)
        return Aggregate(mean, count, self.arrived.mean(axis=1) if count.size else np.ones(self.senders))
