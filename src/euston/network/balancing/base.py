"""The protocol of load balancing: which links a member flow loads, and by how much.

A policy sees the structure of the fabric and the links that are alive; the fluid engine sees its answer
as fractions of the flow's rate on rows. Row ``b < fabric.bundles`` is a whole bundle of equal links,
evenly used; row ``fabric.bundles + l`` is the single link ``l``. The packet engine sees a `PathChoice`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric

__all__ = [
    "Balancing",
    "Candidates",
    "ChoosesAtStart",
    "PathChoice",
    "PathMode",
    "Spread",
    "StartRule",
    "delivered",
]


class PathMode(IntEnum):
    """How the packet engine picks the entropy value of a packet."""

    ECMP = 0
    """One value per queue pair, for good."""
    OBLIVIOUS = 1
    """A random value for every packet."""
    ROUND_ROBIN = 2
    """The next value for every packet, from a random start."""
    FLOWLET = 3
    """A random value, drawn again after ``gap`` seconds of silence."""
    ADAPTIVE = 4
    """For every packet the one of two random values that has the shorter queue at the first switch."""
    REPS = 5
    """Values whose acknowledgement came back unmarked are used again, once each; else a random one."""
    BITMAP = 6
    """Round robin over the values that carry no penalty for marks and losses."""
    MIXED = 7
    """Values that came back unmarked first, else as BITMAP."""
    UGAL = 8
    """ADAPTIVE on a fabric with UGAL candidates: for every packet a random minimal or a random Valiant path,
    by queue times hops (`euston.fabrics.ugal`)."""


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
        Share of the flow's rate that crosses the row; a row may stand more than once in a flow.
    split : bool[bundles]
        Bundles of which single links are used: whoever else uses them must name single links too.
    """

    ptr: NDArray[np.int64]
    row: NDArray[np.int32]
    fraction: NDArray[np.float64]
    split: NDArray[np.bool_]


class StartRule(IntEnum):
    """How a flow that starts takes one of its candidate paths.

    "After a gap": when the flow's pair of endpoints has sent nothing for ``gap`` seconds; else the flow goes
    where the pair's last flow went. The load of a path is that of its most loaded link.
    """

    FIRST = 0
    LEAST_LOADED = 1
    RANDOM_AFTER_GAP = 2
    LEAST_LOADED_AFTER_GAP = 3


@dataclass(frozen=True)
class Candidates:
    """Paths among which a flow chooses when it starts: flow ``f`` has candidates ``ptr[f]:ptr[f + 1]``.

    Attributes
    ----------
    spread : Spread
        One entry of its CSR per candidate, in order; a flow's first is what ECMP gives it.
    ptr : int64[F + 1]
    rule : int
        A `StartRule`.
    gap : float
        Seconds of silence that end a flowlet; 0 for rules without one.
    pair : int32[F]
        Equal for flows between the same two endpoints, whose last activity counts for the gap.
    seed : int
        Of what is drawn at random.
    """

    spread: Spread
    ptr: NDArray[np.int64]
    rule: int
    gap: float
    pair: NDArray[np.int32]
    seed: int


class Balancing(Protocol):
    """A load-balancing policy: a frozen dataclass whose fields are its settings in scenario files.

    Optional methods: ``candidates`` (see `ChoosesAtStart`), ``delivered`` (see the function of that name)
    and ``check(fabric, where)``, which refuses settings that do not fit a fabric before anything runs.
    """

    @property
    def name(self) -> str:
        """Its name in scenario files."""

    @property
    def packet(self) -> PathChoice:
        """The policy as the packet engine sees it; ``ConfigError`` for settings that packets do not know."""

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


@runtime_checkable
class ChoosesAtStart(Protocol):
    """A balancing policy that decides when a flow starts, from what the network carries at that moment."""

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
        """Candidate paths of scale-out flows; arguments as in `Balancing.spread`, ``seed`` the policy's own
        unless given. None when these settings leave nothing to decide at the start.
        """


def delivered(policy: Balancing, fabric: Fabric) -> NDArray[np.float64]:
    """Share of each link's capacity that flows under ``policy`` can fill, float64[L]; 1 for most policies.

    Whoever solves rates multiplies the capacities by it.
    """
    own = getattr(policy, "delivered", None)
    return np.ones(fabric.links) if own is None else np.asarray(own(fabric), np.float64)
