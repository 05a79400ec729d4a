"""Where experts lie when the popular ones have copies: DeepSeek's expert-parallel load balancer (EPLB).

Greedy twice: the expert with most load per copy gets the next copy; then copies, heaviest first, go to the
lightest rank that has a free place. With groups of experts that a token's choices stay within, groups are
packed onto nodes first, and copies are made and packed within each node (deepseek-ai/EPLB, README).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError

__all__ = ["ExpertPlacement", "in_order", "place_experts"]

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExpertPlacement:
    """Experts on ranks.

    Attributes
    ----------
    expert : int64[ranks, places]
        The expert that every place of a rank holds.
    copies : int64[experts]
        Places of each expert, at least one; its tokens are shared out evenly among them.
    """

    expert: _Ints
    copies: _Ints

    def load(self, weights: ArrayLike) -> _Floats:
        """Load of every rank when expert ``e`` has ``weights[e]``, float64[ranks]."""
        each = np.asarray(weights, np.float64) / self.copies
        return np.asarray(each[self.expert].sum(axis=1), np.float64)

    def moved(self, before: ExpertPlacement) -> int:
        """Copies of experts that a rank holds here and did not hold ``before``: what changing over sends."""
        sent = 0
        for now, then in zip(self.expert, before.expert, strict=True):
            had = np.bincount(then, minlength=self.copies.size)
            has = np.bincount(now, minlength=self.copies.size)
            sent += int(np.maximum(has - had, 0).sum())
        return sent


def in_order(experts: int, ranks: int) -> ExpertPlacement:
    """Consecutive experts share a rank; nobody has a copy.

    Raises
    ------
    ConfigError
        When the ranks do not divide the experts.
    """
    if ranks < 1 or experts % ranks:
        raise ConfigError(f"{experts} experts cannot be dealt evenly to {ranks} ranks")
    return ExpertPlacement(np.arange(experts).reshape(ranks, -1), np.ones(experts, np.int64))


def place_experts(
    weights: ArrayLike, ranks: int, redundant: int = 0, *, nodes: int = 1, groups: int = 1
) -> ExpertPlacement:
    """Copies of the popular experts, and every copy on a rank.

    Parameters
    ----------
    weights : float64[experts]
        Load of each expert, any scale.
    ranks : int
        They divide the experts and the redundant ones together.
    redundant : int
        Copies beside one of each expert.
    nodes, groups : int
        Groups of consecutive experts are kept on one of ``nodes`` nodes, where the nodes divide the groups;
        otherwise all ranks are one node.

    Raises
    ------
    ConfigError
        For numbers that do not divide, negative or missing loads.
    """
    load = np.asarray(weights, np.float64)
    if load.ndim != 1 or not load.size or not (np.isfinite(load).all() and (load >= 0).all()):
        raise ConfigError("weights must be one finite number >= 0 per expert")
    if redundant < 0 or ranks < 1 or (load.size + redundant) % ranks:
        raise ConfigError(
            f"{load.size} experts and {redundant} redundant ones cannot be dealt evenly to {ranks} ranks"
        )
    if groups < 1 or nodes < 1 or load.size % groups or ranks % nodes:
        raise ConfigError(f"{groups} groups of {load.size} experts on {nodes} nodes of {ranks} ranks: uneven")
    if groups % nodes or redundant % nodes:
        nodes = groups = 1
    of_group = load.reshape(groups, -1)
    on_node = _pack(of_group.sum(axis=1), nodes)
    members = np.arange(load.size).reshape(groups, -1)
    rows, copies = [], np.ones(load.size, np.int64)
    for held in on_node:
        mine = members[held].ravel()
        count = _replicate(load[mine], redundant // nodes)
        copies[mine] = count
        physical = np.repeat(mine, count)
        packs = _pack((load / copies)[physical], ranks // nodes)
        rows.append(physical[packs])
    return ExpertPlacement(np.concatenate(rows), copies)


def _replicate(load: _Floats, more: int) -> _Ints:
    """Copies of each expert: the next one always goes where the load per copy is largest."""
    count = np.ones(load.size, np.int64)
    for _ in range(more):
        count[int((load / count).argmax())] += 1
    return count


def _pack(load: _Floats, packs: int) -> _Ints:
    """Items in equally many per pack, heaviest first to the lightest pack with room; int64[packs, each]."""
    each = load.size // packs
    found = np.full((packs, each), -1, np.int64)
    filled, weight = np.zeros(packs, np.int64), np.zeros(packs)
    for item in np.argsort(-load, kind="stable"):
        pack = int(np.where(filled < each, weight, np.inf).argmin())
        found[pack, filled[pack]] = item
        filled[pack] += 1
        weight[pack] += load[item]
    return found
