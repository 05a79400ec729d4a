"""DRB: packets go round robin over all paths, from a random start (Cao et al., CoNEXT 2013).

What spraying is without its randomness; as a fluid it is ideal spraying.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric
from euston.network.balancing.base import PathChoice, PathMode, Spread
from euston.network.balancing.spray import MANY_ENTROPIES, sprayed

__all__ = ["Drb"]


@dataclass(frozen=True)
class Drb:
    """Fractions 1/n over the n live shortest paths; packet after packet on the next of them."""

    name: ClassVar[str] = "drb"

    @property
    def packet(self) -> PathChoice:
        """The next entropy value for every packet."""
        return PathChoice(PathMode.ROUND_ROBIN, MANY_ENTROPIES)

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
