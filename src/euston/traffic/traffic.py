"""What generators hand over: the flows, what is known about them, and the collectives they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from euston.network.flows import Flows

__all__ = ["BUS_FACTOR", "Collective", "Traffic", "dependent"]

BUS_FACTOR = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1, "all_to_all": 1}
"""Bus over algorithm bandwidth of a collective, in units of (n-1)/n (nccl-tests, PERFORMANCE.md)."""


@dataclass(frozen=True)
class Collective:
    """One collective of a program; its flows have its index as their group.

    Attributes
    ----------
    name : str
    kind : str
        ``all_reduce``, ``reduce_scatter``, ``all_gather``, ``all_to_all`` or ``send``.
    algorithm : str
    ranks : int
    bytes : int
        M, the full buffer of a rank (nccl-tests).
    """

    name: str
    kind: str
    algorithm: str
    ranks: int
    bytes: int

    @property
    def bus_factor(self) -> float:
        """Bus over algorithm bandwidth: 2(n-1)/n for an all-reduce, (n-1)/n for the others, 1 for p2p."""
        if self.kind not in BUS_FACTOR:
            return 1.0
        return BUS_FACTOR[self.kind] * (self.ranks - 1) / self.ranks


@dataclass(frozen=True, eq=False)
class Traffic:
    """Flows and what a result should say about them.

    Attributes
    ----------
    flows : Flows
    about : dict
        Plain data: pattern, load and where it is defined, distribution and its mean, ...
    collectives : tuple of Collective
        By group of the flows; empty when they belong to none.
    """

    flows: Flows
    about: dict[str, Any] = field(default_factory=dict)
    collectives: tuple[Collective, ...] = ()

    def __len__(self) -> int:
        return len(self.flows)

    def __repr__(self) -> str:
        return f"Traffic({self.about.get('pattern', '')}: {self.flows!r})"


def dependent(flows: Flows, after: Sequence[Sequence[int]], delay: Sequence[float]) -> Flows:
    """``flows`` that wait for earlier ones of the list, without the search for circles that others need.

    ``delay`` float[F] is the time between the last end and the start; of a flow that waits for none it is the
    start.
    """
    count = np.fromiter(map(len, after), np.int64, len(flows))
    flat = np.fromiter(chain.from_iterable(after), np.int32, int(count.sum()))
    own = np.repeat(np.arange(len(flows)), count)
    if (flat >= own).any() or (flat.min(initial=0) < 0):
        raise AssertionError("a flow was written before one that it waits for")
    first, wait = count == 0, np.asarray(delay, np.float64)
    return replace(
        flows,
        start=np.where(first, wait, 0.0),
        delay=np.where(first, 0.0, wait),
        after_ptr=np.concatenate(([0], np.cumsum(count))).astype(np.int64),
        after=flat,
    )
