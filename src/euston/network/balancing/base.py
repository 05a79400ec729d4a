"""The protocol of load balancing: which links a member flow loads, and by how much.

A policy sees the structure of the fabric and the links that are alive; the fluid engine sees its answer
as fractions of the flow's rate on rows. Row ``b < fabric.bundles`` is a whole bundle of equal links,
evenly used; row ``fabric.bundles + l`` is the single link ``l``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric

__all__ = ["Balancing", "PathChoice", "PathMode", "Spread"]


class PathMode(IntEnum):
    """How the packet engine picks the entropy value of a packet."""

    ECMP = 0
    OBLIVIOUS = 1
    ROUND_ROBIN = 2
    FLOWLET = 3
    ADAPTIVE = 4
    REPS = 5
    BITMAP = 6
    MIXED = 7


class PathChoice(NamedTuple):
    """A balancing policy as the packet engine sees it.

    Attributes
    ----------
    mode : int
        A `PathMode`.
    entropies : int
        Entropy values a flow may use (queue pairs for ECMP).
    gap : float
        Seconds of silence after which a flowlet may take another path.
    """

    mode: int
    entropies: int = 1
    gap: float = 0.0


@dataclass(frozen=True)
class Spread:
    """Rows of member flows as CSR: flow ``i`` owns entries ``ptr[i]:ptr[i + 1]``.

    Attributes
    ----------
    ptr : int64[F + 1]
    row : int32[nnz]
    fraction : float64[nnz]
        Share of the flow's rate that crosses the row.
    split : bool[bundles]
        Bundles of which single links are used: whoever else uses them must name single links too.
    """

    ptr: NDArray[np.int64]
    row: NDArray[np.int32]
    fraction: NDArray[np.float64]
    split: NDArray[np.bool_]


class Balancing(Protocol):
    """A load-balancing policy."""

    @property
    def name(self) -> str:
        """Its name in scenario files."""

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
        """Rows and fractions of scale-out flows ``src[i] -> dst[i]`` (endpoints, int32[F]).

        ``alive``: bool[L] or None when all are; ``capacity``: float64[L] bytes/s as it is now; ``split``:
        bool[bundles], bundles of which single links must be named in any case (they will change one by one).
        Raises ``RouteError`` when a pair has no live path.
        """
