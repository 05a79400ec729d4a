"""Ideal packet spraying: a flow loads all live shortest paths at once, evenly or by their capacity.

The fluid limit of random packet spraying and of per-packet adaptive routing; queueing noise is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric
from euston.network.balancing.base import Spread

__all__ = ["Spray"]


@dataclass(frozen=True)
class Spray:
    """Fractions 1/n over the n live shortest paths.

    Parameters
    ----------
    adaptive : bool
        Weigh paths by the capacity they have left after faults instead of evenly.
    """

    adaptive: bool = False
    name: str = "spray"

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
        """Whole bundles where all links are equal and evenly used; see ``Balancing.spread``."""
        s = fabric.spread(
            src,
            dst,
            alive=alive,
            capacity=capacity,
            adaptive_capacity=capacity if self.adaptive else None,
            split=split,
        )
        return Spread(s.ptr, s.row, s.fraction, s.split)
