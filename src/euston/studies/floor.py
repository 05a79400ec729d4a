"""How small the errors of any predictor can be that gives equal facts one prediction.

Published runs of one configuration differ by their software's release, their machines and their day. A
predictor that is told none of these has one number for all of them, however good it is.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from euston.statistics import nearest_rank

__all__ = ["Floor", "floor"]


@dataclass(frozen=True)
class Floor:
    """Least errors, each by the predictor that is best for it.

    Attributes
    ----------
    n, groups : int
        Figures, and different sets of facts among them.
    median, p90 : float
        Least median and 90th percentile (nearest rank) of the absolute relative error.
    widest : tuple of (facts, smallest, largest)
        Sets of facts with more than one figure, those that differ most first.
    """

    n: int
    groups: int
    median: float
    p90: float
    widest: tuple[tuple[Hashable, float, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON data: ratios in place of facts."""
        ratios = [high / low for _, low, high in self.widest]
        return {
            "n": self.n, "groups": self.groups, "median": self.median, "p90": self.p90, "ratios": ratios,
        }  # fmt: skip


def floor(figures: Sequence[tuple[Hashable, float]]) -> Floor:
    """The floor of (facts, published figure) pairs; figures are positive.

    A prediction x is within e of a figure p where p (1 - e) <= x <= p (1 + e). Intervals on a line have a
    point in common where every two have, and two of figures a < b do from e = (b - a) / (b + a) on. So the
    least error of which the k best figures are within is one of these numbers, or 0.

    Raises
    ------
    ValueError
        No figure, or one that is not positive.
    """
    if not figures or any(not (math.isfinite(p) and p > 0) for _, p in figures):
        raise ValueError("`figures`: at least one, and all positive")
    grouped: dict[Hashable, list[float]] = {}
    for facts, figure in figures:
        grouped.setdefault(facts, []).append(figure)
    values = [sorted(found) for found in grouped.values()]
    apart = {0.0} | {
        (b - a) / (b + a) for found in values for i, a in enumerate(found) for b in found[i + 1 :]
    }
    steps = sorted(apart)
    ranks = list(range(1, len(figures) + 1))

    def least(percent: float) -> float:
        wanted = int(nearest_rank([float(rank) for rank in ranks], percent))
        low, high = 0, len(steps) - 1
        while low < high:
            middle = (low + high) // 2
            if sum(_within(found, steps[middle]) for found in values) >= wanted:
                high = middle
            else:
                low = middle + 1
        return steps[low]

    wide = [(facts, min(found), max(found)) for facts, found in grouped.items() if len(found) > 1]
    wide.sort(key=lambda one: one[1] / one[2])
    return Floor(len(figures), len(grouped), least(50), least(90), tuple(wide))


def _within(values: list[float], error: float) -> int:
    """Most of the sorted values that one prediction is within `error` of."""
    most, first = 0, 0
    reach = (1.0 + error) / (1.0 - error) if error < 1.0 else math.inf
    for last, value in enumerate(values):
        while value > values[first] * reach * (1.0 + 1e-12):
            first += 1
        most = max(most, last - first + 1)
    return most
