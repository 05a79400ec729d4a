"""Ideal packet spraying: a flow loads all live shortest paths at once, evenly or by their capacity.

The fluid limit of random packet spraying and of per-packet adaptive routing; queueing noise is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric
from euston.network.balancing.base import PathChoice, PathMode, Spread

__all__ = ["MANY_ENTROPIES", "DEFAULT_ENTROPIES", "Spray", "sprayed"]

MANY_ENTROPIES = 2**12
"""Far more than a pair has paths, so that all are used alike; headers have room for 2^16."""

DEFAULT_ENTROPIES = 64
"""Values a flow uses unless said: those of our reference runs of the public Ultra Ethernet simulator."""


def sprayed(
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    *,
    adaptive: bool,
    alive: NDArray[np.bool_] | None,
    capacity: NDArray[np.float64],
    split: NDArray[np.bool_] | None,
) -> Spread:
    """Whole bundles where all links are equal and evenly used; arguments as in `Balancing.spread`.

    ``adaptive``: paths in proportion to the capacity they have left instead of evenly.
    """
    found = fabric.spread(
        src,
        dst,
        alive=alive,
        capacity=capacity,
        adaptive_capacity=capacity if adaptive else None,
        split=split,
    )
    return Spread(found.ptr, found.row, found.fraction, found.split)


@dataclass(frozen=True)
class Spray:
    """Fractions 1/n over the n live shortest paths.

    Parameters
    ----------
    adaptive : bool
        Weigh paths by the capacity they have left after faults instead of evenly. In packets: the less
        loaded of two random paths for every packet (Mitzenmacher 2001) instead of one.
    """

    adaptive: bool = False
    name: ClassVar[str] = "spray"

    @property
    def packet(self) -> PathChoice:
        """A random path for every packet, or the less loaded of two."""
        if self.adaptive:
            return PathChoice(PathMode.ADAPTIVE, MANY_ENTROPIES)
        return PathChoice(PathMode.OBLIVIOUS, MANY_ENTROPIES)

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
        """All live shortest paths at once; see `Balancing.spread`."""
        return sprayed(fabric, src, dst, adaptive=self.adaptive, alive=alive, capacity=capacity, split=split)
