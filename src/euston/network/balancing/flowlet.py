"""Flowlet switching: after a pause long enough that packets cannot overtake each other a flow may move.

CONGA sends the new flowlet to the least loaded path (Alizadeh et al., SIGCOMM 2014), LetFlow to a random one
(Vanini et al., NSDI 2017). RDMA flows do not pause while they run: such a flow stays where it started.
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
from euston.units import PositiveDuration

__all__ = ["Flowlet"]


@dataclass(frozen=True)
class Flowlet:
    """A flow between endpoints that were silent for ``gap`` takes a new path; others follow the last one.

    ``spread``, for flows that are never silent, is therefore exactly that of `Ecmp` with the same seed.

    Parameters
    ----------
    scheme : {"letflow", "conga"}
        ``letflow``: a random one of the candidate paths. ``conga``: the one whose most loaded link has the
        least load.
    gap : duration
        Silence that ends a flowlet, typically 100 to 500 us (CONGA's is 500 us).
    paths : int
        Candidate paths of a pair of endpoints.
    seed : int
        Of the hash and the draws.
    """

    scheme: Literal["letflow", "conga"] = "letflow"
    gap: PositiveDuration = 500e-6
    paths: int = 8
    seed: int = 0
    name: ClassVar[str] = "flowlet"

    def __post_init__(self) -> None:
        if self.scheme not in ("letflow", "conga"):
            raise ConfigError(f"`scheme`: {self.scheme!r} is none of letflow or conga")
        if not 0 < self.gap < np.inf:
            raise ConfigError(f"`gap`: {self.gap:g} s is no pause; it must be positive, e.g. 500 us")
        if self.paths < 1:
            raise ConfigError(f"`paths`: {self.paths} candidate paths; at least 1 is needed")

    @property
    def packet(self) -> PathChoice:
        """A random one of ``paths`` values after every gap.

        Raises
        ------
        ConfigError
            For ``conga``: packets do not know the load of whole paths.
        """
        if self.scheme == "conga":
            raise ConfigError(
                "`policies.balancing.scheme`: conga needs the load of whole paths, which packets do not "
                "carry; use letflow, or run.network: fluid"
            )
        return PathChoice(PathMode.FLOWLET, self.paths, self.gap)

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
        """The hashed path of ECMP, where a flow without pauses stays; see `Balancing.spread`."""
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
    ) -> Candidates:
        """Paths that a flowlet may take, the hashed one first; see `ChoosesAtStart.candidates`."""
        own = self.seed if seed is None else seed
        first = Ecmp(seed=own).choices(fabric, src, dst, np.zeros(src.size, np.int32), alive=alive)
        letflow = self.scheme == "letflow"
        rule = StartRule.RANDOM_AFTER_GAP if letflow else StartRule.LEAST_LOADED_AFTER_GAP
        return candidates(
            fabric, src, dst, first, self.paths,
            rule=rule, gap=self.gap, seed=own, alive=alive, split=split,
        )  # fmt: skip
