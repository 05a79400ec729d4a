"""Recursive halving and doubling (Rabenseifner 2004; Thakur et al. 2005): few steps for medium sizes.

Reduce-scatter by halving exchanges M/2, M/4, ... with the rank at distance n/2, n/4, ...; all-gather by
doubling runs backwards. An all-reduce is both: 2 log2(n) latencies and 2M(n-1)/n bytes. Other numbers than
powers of two first fold the surplus ranks onto partners, which costs 2 more steps of M bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.collectives.base import Group, Message, Stage, in_steps, send, supported

__all__ = ["HalvingDoubling"]

Exchange = tuple[str, NDArray[np.int32], NDArray[np.int32], float]


@dataclass(frozen=True)
class HalvingDoubling:
    """Recursive halving (reduce-scatter), recursive doubling (all-gather), both (all-reduce)."""

    name: str = "halving-doubling"
    collectives: tuple[str, ...] = ("all_reduce", "all_gather", "reduce_scatter")

    def _exchanges(self, collective: str, group: Group, m: float) -> list[Exchange]:
        supported(self, collective)
        ranks, n = group.ranks, len(group)
        power = 1 << (n.bit_length() - 1)
        core, surplus = ranks[:power], ranks[power:]
        partners = core[: surplus.size]
        halving: list[Exchange] = []
        doubling: list[Exchange] = []
        distance, size = power // 2, m / 2
        while distance:
            other = core[np.arange(power) ^ distance]
            halving.append((f"halving {distance}", core, other, size))
            doubling.insert(0, (f"doubling {distance}", core, other, size))
            distance, size = distance // 2, size / 2
        out: list[Exchange] = []
        if collective != "all_gather":
            out += [("fold", surplus, partners, m)] if surplus.size else []
            out += halving
        elif surplus.size:
            out.append(("fold", surplus, partners, m / n))
        if collective != "reduce_scatter":
            out += doubling
            out += [("unfold", partners, surplus, m)] if surplus.size else []
        elif surplus.size:
            out.append(("unfold", partners, surplus, m / n))
        return out

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """One transfer per step, all its pairs together."""
        return [
            Stage(name, (send(group, src, dst, size),))
            for name, src, dst, size in self._exchanges(collective, group, buffer_bytes)
        ]

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """One message per rank and step."""
        return in_steps([
            [send(group, src[i : i + 1], dst[i : i + 1], size) for i in range(src.size)]
            for _, src, dst, size in self._exchanges(collective, group, buffer_bytes)
        ])  # fmt: skip
