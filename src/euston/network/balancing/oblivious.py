"""Oblivious packet spraying: every packet takes a random live path, whatever that path has left.

Evenly over the paths that routing shows: a dead link's paths are withdrawn, a slow link behind the next hop
is not noticed (Dixit et al., INFOCOM 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric, NodeKind
from euston.network.balancing.base import PathChoice, PathMode, Spread
from euston.network.balancing.spray import DEFAULT_ENTROPIES, sprayed

__all__ = ["Oblivious"]

_HOST_SIDE = (NodeKind.ENDPOINT, NodeKind.NIC, NodeKind.SCALE_UP_SWITCH)


@dataclass(frozen=True)
class Oblivious:
    """Fractions 1/n over the n live shortest paths, on links between switches that fill up to 1 - penalty.

    Parameters
    ----------
    penalty : float
        Share of the capacity between switches that random choice wastes (queues that run empty while others
        grow), 0 to below 1. Calibrate it on the packet engine; 0, no such effect, unless said.
    entropies : int
        Entropy values a flow draws from (packets).
    """

    penalty: float = 0.0
    entropies: int = DEFAULT_ENTROPIES
    name: ClassVar[str] = "oblivious"

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < 1:
            raise ConfigError(
                f"`penalty`: {self.penalty:g} is no share of a capacity; it must be 0 to below 1"
            )
        if self.entropies < 1:
            raise ConfigError(f"`entropies`: {self.entropies} values; at least 1 is needed")

    @property
    def packet(self) -> PathChoice:
        """A random entropy value for every packet."""
        return PathChoice(PathMode.OBLIVIOUS, self.entropies)

    def delivered(self, fabric: Fabric) -> NDArray[np.float64]:
        """1 - penalty on links between switches, 1 elsewhere; see `euston.network.balancing.delivered`."""
        switch = ~np.isin(fabric.node_kind, _HOST_SIDE)
        sprayed_stage = switch[fabric.link_src] & switch[fabric.link_dst]
        return np.where(sprayed_stage, 1.0 - self.penalty, 1.0)

    def spread(
        self,
        fabric: Fabric,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        *,
        alive: NDArray[np.bool_] | None,
        capacity: NDArray[np.float64],
        split: NDArray[np.bool_] | None = None,
    ) -> Spread:
        """All live shortest paths alike; see `Balancing.spread`."""
        return sprayed(fabric, src, dst, adaptive=False, alive=alive, capacity=capacity, split=split)
