"""In-network reduction: a switch adds what all ranks send, and sends the sum to all (NVLS, SHARP).

A rank's share of the buffer is read by the switch from everybody and written to everybody: M + M/n bytes
leave and enter each rank, where a ring moves 2(n-1)/n M. Over several scale-up domains the shards are reduced
on the rails between, chunk after chunk (NCCL's NVLSTree, with a ring instead of its tree). NCCL reckons with
0.85 of the links' rate on Hopper and 0.74 on Blackwell (tuning.cc, nvlsEfficiency).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.collectives.base import Group, Hop, Message, Stage, group_of, send, supported
from euston.collectives.rings import Ring
from euston.network import Transfer

__all__ = ["EFFICIENCY", "InNetwork"]

EFFICIENCY = {"hopper": 0.85, "blackwell": 0.74}


@dataclass(frozen=True)
class InNetwork:
    """All-reduce by the switches of scale-up domains.

    Attributes
    ----------
    efficiency : float
        Part of a rank's rate that is reached.
    chunks : int
        Messages per rank, when written one by one.
    """

    efficiency: float = EFFICIENCY["hopper"]
    chunks: int = 8
    name: str = "in-network"
    collectives: tuple[str, ...] = ("all_reduce",)

    def _inside(self, group: Group, size: float) -> list[Stage]:
        """Every rank of every domain sends and receives ``size`` bytes through its switch."""
        grid = group.grid()
        rate = group.inside.rate * self.efficiency
        of_domain = Group(
            group.ranks, group.domain, Hop(group.inside.latency, rate), group.between, group.tag
        )
        transfers = tuple(send(of_domain, row, np.roll(row, -1), size) for row in grid)
        return [Stage("through the switch", transfers)]

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """One stage: over several domains shards are on their way while others are still read (pipelined)."""
        supported(self, collective)
        grid = group.grid()
        hosts, g = grid.shape
        inside = self._inside(group, buffer_bytes * (1.0 + 1.0 / g)) if g > 1 else []
        if hosts == 1:
            return inside
        rails = [
            transfer
            for k in range(g)
            for stage in Ring().stages("all_reduce", self._rail(group, grid[:, k]), buffer_bytes / g)
            for transfer in stage.transfers
        ]
        return [Stage("switches and rails", (*(t for stage in inside for t in stage.transfers), *rails))]

    @staticmethod
    def _rail(group: Group, ranks: NDArray[np.int32]) -> Group:
        return group_of(ranks, between=group.between, tag=group.tag)

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """Chunk by chunk: read by the switch, round the rail, written by the switch."""
        supported(self, collective)
        grid = group.grid()
        hosts, g = grid.shape
        out: list[Message] = []
        last: dict[tuple[str, int, int], int] = {}  # the chunk before, by what and where

        def add(what: str, h: int, k: int, transfer: Transfer, after: tuple[int, ...]) -> int:
            before = last.get((what, h, k))
            out.append(Message(transfer, () if before is None else (before,), after))
            last[what, h, k] = len(out) - 1
            return len(out) - 1

        def switch(h: int, k: int, size: float, latency: float) -> Transfer:
            src, dst = grid[h, [k]], grid[h, [(k + 1) % g]]
            return send(group, src, dst, size / self.chunks, latency=latency, share=self.efficiency)

        for _ in range(self.chunks):
            if hosts == 1:
                for k in range(g):
                    latency = group.inside.latency
                    add("through", 0, k, switch(0, k, buffer_bytes * (1 + 1 / g), latency), ())
                continue
            at: dict[tuple[int, int], tuple[int, ...]] = {(h, k): () for h in range(hosts) for k in range(g)}
            if g > 1:
                read = {
                    key: add("read", *key, switch(*key, buffer_bytes, group.inside.latency), ()) for key in at
                }
                at = {key: (read[key],) for key in at}
            for step in range(2 * (hosts - 1)):
                now: dict[tuple[int, int], tuple[int, ...]] = {}
                for (h, k), after in at.items():
                    size = buffer_bytes / g / hosts / self.chunks
                    transfer = send(group, grid[[h], k], grid[[(h + 1) % hosts], k], size)
                    now[(h + 1) % hosts, k] = (add(f"rail {step}", h, k, transfer, after),)
                at = now
            if g > 1:
                for key, after in at.items():
                    add("write", *key, switch(*key, buffer_bytes / g, 0.0), after)
        return out
