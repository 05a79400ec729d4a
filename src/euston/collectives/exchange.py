"""All-to-alls: everybody to everybody directly, or in two hops by way of the rails.

Every rank sends M/n to each other one, all at once or in rounds. In two hops a rank first sends what is for
another scale-up domain to the rank of its own number there, which passes it on inside (DeepEP): M (N-1)/N on
each NIC, and M (g-1)/g inside domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from euston.collectives.base import Group, Message, Stage, Steps, in_steps, send, supported
from euston.collectives.edges import pairs, rail_pairs
from euston.errors import ConfigError

__all__ = ["Direct", "Pairwise", "TwoLevel"]


@dataclass(frozen=True)
class Direct:
    """All pairs at once, as grouped sends and receives are posted (NCCL): one latency."""

    name: str = "direct"
    collectives: tuple[str, ...] = ("all_to_all",)

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """One transfer of all pairs."""
        supported(self, collective)
        n = len(group)
        found = pairs(group.ranks[None])
        transfer = send(group, found.src[0], found.dst[0], buffer_bytes / n, share=1.0 / (n - 1))
        return [Stage("all pairs", (transfer,))]

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """Every pair's, none waiting for another."""
        supported(self, collective)
        n = len(group)
        found = pairs(group.ranks[None])
        ends = zip(found.src[0][:, None], found.dst[0][:, None], strict=True)
        return [Message(send(group, a, b, buffer_bytes / n, share=1.0 / (n - 1))) for a, b in ends]


@dataclass(frozen=True)
class Pairwise:
    """n-1 rounds: in round k rank i sends to rank i + k. (n-1) latencies."""

    name: str = "pairwise"
    collectives: tuple[str, ...] = ("all_to_all",)

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """One transfer per round."""
        supported(self, collective)
        n, ranks = len(group), group.ranks
        return [
            Stage(f"round {k}", (send(group, ranks, np.roll(ranks, -k), buffer_bytes / n),))
            for k in range(1, n)
        ]

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """One message per rank and round."""
        supported(self, collective)
        n, ranks = len(group), group.ranks
        return in_steps([
            [send(group, ranks[i : i + 1], ranks[[(i + k) % n]], buffer_bytes / n) for i in range(n)]
            for k in range(1, n)
        ])  # fmt: skip


@dataclass(frozen=True)
class TwoLevel:
    """All-to-all over rails, then inside scale-up domains."""

    name: str = "two-level"
    collectives: tuple[str, ...] = ("all_to_all",)

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """Two transfers that follow each other."""
        supported(self, collective)
        hosts, g = group.grid().shape
        between, inside = rail_pairs(group.ranks[None], _lookup(group))
        if hosts > 1 and g > 1 and (between is None or inside is None):
            raise ConfigError("`algorithm`: two-level needs as many ranks in every scale-up domain")
        out = []
        if between is not None:
            transfer = send(
                group, between.src[0], between.dst[0], buffer_bytes / hosts, share=between.share,
                latency=(hosts - 1) * group.between.latency,
            )  # fmt: skip
            out.append(Stage("on rails", (transfer,)))
        if inside is not None:
            transfer = send(
                group, inside.src[0], inside.dst[0], buffer_bytes / g, share=inside.share,
                latency=(g - 1) * group.inside.latency,
            )  # fmt: skip
            out.append(Stage("inside domains", (transfer,)))
        return out

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """Rounds of a shift on rails, then inside."""
        supported(self, collective)
        grid = group.grid()
        hosts, g = grid.shape
        out: Steps = []
        for k in range(1, hosts):
            to = np.roll(grid, -k, axis=0)
            out.append([
                send(group, grid[h, i : i + 1], to[h, i : i + 1], buffer_bytes / hosts)
                for h in range(hosts) for i in range(g)
            ])  # fmt: skip
        for k in range(1, g):
            to = np.roll(grid, -k, axis=1)
            out.append([
                send(group, grid[h, i : i + 1], to[h, i : i + 1], buffer_bytes / g)
                for h in range(hosts) for i in range(g)
            ])  # fmt: skip
        return in_steps(out)


def _lookup(group: Group) -> np.ndarray:
    """Domain of every endpoint up to the largest of the group."""
    table = np.full(int(group.ranks.max()) + 1, -1, np.int32)
    table[group.ranks] = group.domain
    return table
