"""Process groups of a job's ranks, as its collectives meet in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.cluster import Parallel, Placement
from euston.training.routes import Grid

__all__ = ["Groups"]


class Groups:
    """Which ranks meet in which collective; groups get numbers as names when they are first asked for.

    Parameters
    ----------
    both_ways : bool
        Opposite stages share their gradients (DualPipe).
    """

    def __init__(self, parallel: Parallel, placement: Placement, grid: Grid, both_ways: bool) -> None:
        number = np.full(int(placement.endpoint.max()) + 1, -1, np.int64)
        number[placement.endpoint] = np.arange(placement.endpoint.size)
        self.rank: NDArray[np.int64] = number[grid.split()]  # [unit, stage, member, context, tensor]
        self.parallel, self.both_ways = parallel, both_ways
        self.expert = None if grid.expert is None else number[grid.expert]
        self.expert_data = None if grid.expert_data is None else number[grid.expert_data]
        at = np.empty((parallel.world, 5), np.int64)
        at[self.rank.ravel()] = np.stack(np.unravel_index(np.arange(self.rank.size), self.rank.shape), axis=1)
        self.at = at
        self.named: dict[str, list[int]] = {}
        self._names: dict[tuple[int, ...], str] = {}
        self._of: dict[str, dict[int, tuple[int, ...]]] = {}

    def unit_and_stage(self, rank: int) -> tuple[int, int]:
        """Unit and pipeline stage of a rank."""
        return int(self.at[rank, 0]), int(self.at[rank, 1])

    def peer(self, rank: int, stage: int) -> int:
        """The rank at the same place of another stage."""
        u, _, d, c, t = self.at[rank]
        return int(self.rank[u, stage, d, c, t])

    def world(self) -> str:
        """The name of the group of all ranks."""
        return self._name(tuple(range(self.parallel.world)))

    def of(self, kind: str, rank: int) -> tuple[str, tuple[int, ...]]:
        """Name and ranks of a rank's group of one kind of `routes.Routes.lanes`, or ``tied``."""
        if kind not in self._of:
            self._of[kind] = {
                int(one): tuple(int(r) for r in group) for group in self._groups(kind) for one in group
            }
        members = self._of[kind][rank]
        return self._name(members), members

    def _name(self, members: tuple[int, ...]) -> str:
        key = tuple(sorted(members))
        if key not in self._names:
            self._names[key] = str(len(self._names))
            self.named[self._names[key]] = list(members)
        return self._names[key]

    def _groups(self, kind: str) -> list[NDArray[np.int64]]:
        rank, p = self.rank, self.rank.shape[1]
        if kind == "tensor":
            return list(rank.reshape(-1, rank.shape[-1]))
        if kind == "context":
            return list(np.swapaxes(rank, 3, 4).reshape(-1, rank.shape[3]))
        if kind == "tied":
            return list(np.stack([rank[:, 0].ravel(), rank[:, -1].ravel()], axis=1))
        if kind == "expert":
            assert self.expert is not None
            return list(self.expert.reshape(-1, self.expert.shape[-1]))
        if kind == "expert_data":
            assert self.expert_data is not None
            same = list(self.expert_data)
            return [row for groups in self._pairs(same) for row in groups]
        by_stage = [rank[:, s].reshape(-1, rank.shape[-1]).T for s in range(p)]
        found = self._pairs(by_stage)
        shard = self.parallel.shard
        if shard and shard < found[0].shape[1]:
            cut = [groups.reshape(groups.shape[0], -1, shard) for groups in found]
            if kind == "copy":
                cut = [np.swapaxes(groups, 1, 2) for groups in cut]
            found = [groups.reshape(-1, groups.shape[-1]) for groups in cut]
        return [row for groups in found for row in groups]

    def _pairs(self, by_stage: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        if not self.both_ways:
            return by_stage
        return [np.concatenate(pair, axis=1) for pair in zip(by_stage, by_stage[::-1], strict=True)]
