"""The words of the room: kinds of links and nodes, `Spread`, and what a topology family must supply."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["NETWORKS", "TIER_NAMES", "LinkKind", "Network", "NodeKind", "Spread", "Structure"]

Network = Literal["scale_out", "scale_up", "auto"]
NETWORKS: tuple[Network, ...] = ("scale_out", "scale_up", "auto")


class LinkKind(IntEnum):
    """Where a directed link stands in the fabric."""

    SCALE_UP_OUT = 0
    SCALE_UP_IN = 1
    NIC_UP = 2
    NIC_DOWN = 3
    TOR_UP = 4
    TOR_DOWN = 5
    AGG_UP = 6
    AGG_DOWN = 7


class NodeKind(IntEnum):
    """What stands at the end of a link."""

    ENDPOINT = 0
    NIC = 1
    SCALE_UP_SWITCH = 2
    TOR = 3
    AGG = 4
    CORE = 5


TIER_NAMES = {
    LinkKind.SCALE_UP_OUT: "scale-up out",
    LinkKind.SCALE_UP_IN: "scale-up in",
    LinkKind.NIC_UP: "NIC up",
    LinkKind.NIC_DOWN: "NIC down",
    LinkKind.TOR_UP: "ToR up",
    LinkKind.TOR_DOWN: "ToR down",
    LinkKind.AGG_UP: "agg up",
    LinkKind.AGG_DOWN: "agg down",
}


@dataclass(frozen=True, eq=False)
class Spread:
    """Ideal spraying of F flows, as a CSR over rows.

    Row ``r < B`` is a whole bundle (the flow spreads evenly over its links), row ``r >= B`` is link
    ``r - B``.

    Attributes
    ----------
    ptr : int64[F + 1]
        Flow ``f`` owns entries ``ptr[f]:ptr[f + 1]``; a flow to itself crosses nothing and owns none.
    row : int32[nnz]
    fraction : float64[nnz]
        Share of the flow's bytes that crosses the row, in (0, 1].
    split : bool[B]
        Bundles whose links are rows of their own, for every flow of the call. Rows of two calls may stand in
        one system only when both have the same ``split``: pass it on with ``spread(..., split=...)``.
    """

    ptr: NDArray[np.int64]
    row: NDArray[np.int32]
    fraction: NDArray[np.float64]
    split: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.ptr.size - 1)

    def __repr__(self) -> str:
        split = int(self.split.sum())
        return f"Spread({len(self):,} flows, {self.row.size:,} entries, {split:,} bundles split)"


class Structure(Protocol):
    """What a family of topologies supplies: names and paths in closed form, nothing stored per pair."""

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""

    def node_name(self, node: int) -> str:
        """Outside name of a node."""

    def link_name(self, link: int) -> str:
        """Outside name of a link."""

    def link_index(self, name: str) -> int:
        """Number of a link; `FabricError` with the nearest name for an unknown one."""

    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[L]."""

    def bisection_bandwidth(self, capacity: NDArray[np.float64]) -> float:
        """Bytes/s that one half of the endpoints can send to the other over the scale-out network."""

    def route(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        choice: NDArray[np.uint64],
        network: Network,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int32], int]:
        """Paths int32[F, K] padded with -1, and the first flow without a live path (-1: none)."""

    def spread(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        network: Network,
        weight: NDArray[np.float64],
        irregular: NDArray[np.bool_],
        split: NDArray[np.bool_],
    ) -> tuple[Spread | None, int]:
        """Spread over all live shortest paths, and the first flow without one (-1: none)."""

    def why_unreachable(self, src: int, dst: int, network: Network, alive: NDArray[np.bool_]) -> str:
        """Half a sentence for `RouteError`."""
