"""Adaptive routing: take the least loaded of some paths, once per flow or for every packet.

Two choices already make the largest load of m flows on m links log log m instead of log m (Azar et al. 1999;
Mitzenmacher 2001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network.balancing._paths import candidates
from euston.network.balancing.base import Candidates, PathChoice, PathMode, Spread, StartRule
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.spray import MANY_ENTROPIES, sprayed

__all__ = ["Adaptive"]


@dataclass(frozen=True)
class Adaptive:
    """The least loaded of ``paths`` paths.

    Parameters
    ----------
    per : {"flow", "packet"}
        ``flow``: a flow chooses when it starts, by the most loaded link of each path, and stays. Without a
        start in time (``spread``) that is the hashed path of ECMP. ``packet``: every packet chooses, by two
        queues of the first switch; as a fluid that is ideal spraying by capacity. The packet engine does
        that in either case.
    paths : int
        Paths that a flow compares.
    seed : int
        Of the paths compared.
    """

    per: Literal["flow", "packet"] = "flow"
    paths: int = 8
    seed: int = 0
    name: ClassVar[str] = "adaptive"

    def __post_init__(self) -> None:
        if self.per not in ("flow", "packet"):
            raise ConfigError(f"`per`: {self.per!r} is none of flow or packet")
        if self.paths < 1:
            raise ConfigError(f"`paths`: {self.paths} candidate paths; at least 1 is needed")

    @property
    def packet(self) -> PathChoice:
        """The shorter of two queues for every packet."""
        return PathChoice(PathMode.ADAPTIVE, MANY_ENTROPIES)

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
        """The hashed path (per flow), or all paths by capacity (per packet); see `Balancing.spread`."""
        if self.per == "packet":
            return sprayed(fabric, src, dst, adaptive=True, alive=alive, capacity=capacity, split=split)
        return Ecmp(seed=self.seed).spread(fabric, src, dst, alive=alive, capacity=capacity, split=split)

    def candidates(
        self,
        fabric: Fabric,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        *,
        alive: NDArray[np.bool_] | None,
        capacity: NDArray[np.float64],
        split: NDArray[np.bool_] | None = None,
        seed: int | None = None,
    ) -> Candidates | None:
        """Paths compared when a flow starts, the hashed one first; see `ChoosesAtStart.candidates`."""
        if self.per == "packet":
            return None
        own = self.seed if seed is None else seed
        first = Ecmp(seed=own).choices(fabric, src, dst, np.zeros(src.size, np.int32), alive=alive)
        return candidates(
            fabric, src, dst, first, self.paths,
            rule=StartRule.LEAST_LOADED, gap=0.0, seed=own, alive=alive, split=split,
        )  # fmt: skip
