"""Mixed: recycled good entropy values first, the penalty bitmap when there are none.

The default of the public Ultra Ethernet simulator (htsim_uec); as a fluid it is ideal spraying by the
capacity that paths have left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network.balancing.base import PathChoice, PathMode, Spread
from euston.network.balancing.spray import DEFAULT_ENTROPIES, sprayed

__all__ = ["Mixed"]


@dataclass(frozen=True)
class Mixed:
    """REPS and bitmap together; what tells it from `spray` with ``adaptive`` shows in packets only.

    Parameters
    ----------
    entropies : int
        Entropy values a flow may use (packets).
    """

    entropies: int = DEFAULT_ENTROPIES
    name: ClassVar[str] = "mixed"

    def __post_init__(self) -> None:
        if self.entropies < 1:
            raise ConfigError(f"`entropies`: {self.entropies} values; at least 1 is needed")

    @property
    def packet(self) -> PathChoice:
        """Values that came back unmarked first, else the next one without a penalty."""
        return PathChoice(PathMode.MIXED, self.entropies)

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
        """All live shortest paths by the capacity they have left; see `Balancing.spread`."""
        return sprayed(fabric, src, dst, adaptive=True, alive=alive, capacity=capacity, split=split)
