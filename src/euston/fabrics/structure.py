"""The words of the room: kinds of links and nodes, `Spread`, and what a topology family must supply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NETWORKS",
    "TIER_NAMES",
    "CountsPaths",
    "CountsScaleUpPaths",
    "HashesPerSwitch",
    "KnowsDomains",
    "KnowsInjection",
    "LinkKind",
    "NamesEndpoints",
    "Network",
    "NodeKind",
    "Spread",
    "Structure",
    "SwitchWord",
]

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
    LOCAL = 8
    GLOBAL = 9
    SWITCH = 10
    DIMENSION_1 = 11
    DIMENSION_2 = 12
    DIMENSION_3 = 13
    DIMENSION_4 = 14
    DIMENSION_5 = 15
    DIMENSION_6 = 16
    SCALE_UP_RISE = 17
    SCALE_UP_FALL = 18
    GATEWAY_OUT = 19
    GATEWAY_IN = 20
    WAN = 21
    OCS = 22


class NodeKind(IntEnum):
    """What stands at the end of a link."""

    ENDPOINT = 0
    NIC = 1
    SCALE_UP_SWITCH = 2
    TOR = 3
    AGG = 4
    CORE = 5
    SWITCH = 6
    SITE = 7


TIER_NAMES = {
    LinkKind.SCALE_UP_OUT: "scale-up out",
    LinkKind.SCALE_UP_IN: "scale-up in",
    LinkKind.NIC_UP: "NIC up",
    LinkKind.NIC_DOWN: "NIC down",
    LinkKind.TOR_UP: "ToR up",
    LinkKind.TOR_DOWN: "ToR down",
    LinkKind.AGG_UP: "agg up",
    LinkKind.AGG_DOWN: "agg down",
    LinkKind.LOCAL: "local",
    LinkKind.GLOBAL: "global",
    LinkKind.SWITCH: "between switches",
    LinkKind.DIMENSION_1: "dimension 1",
    LinkKind.DIMENSION_2: "dimension 2",
    LinkKind.DIMENSION_3: "dimension 3",
    LinkKind.DIMENSION_4: "dimension 4",
    LinkKind.DIMENSION_5: "dimension 5",
    LinkKind.DIMENSION_6: "dimension 6+",
    LinkKind.SCALE_UP_RISE: "scale-up rise",
    LinkKind.SCALE_UP_FALL: "scale-up fall",
    LinkKind.GATEWAY_OUT: "gateway out",
    LinkKind.GATEWAY_IN: "gateway in",
    LinkKind.WAN: "WAN",
    LinkKind.OCS: "OCS circuit",
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


SwitchWord = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.uint64]]
"""``word(flows, switches)``: what each of these flows hashes to at its switch (node number), uint64[n]."""


@runtime_checkable
class CountsPaths(Protocol):
    """A structure that can say how many paths there are."""

    def live_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Live scale-out paths of each pair, int64[F]: `Structure.route` counts ``choice`` modulo these."""


@runtime_checkable
class HashesPerSwitch(Protocol):
    """A structure whose paths branch at several switches, each of which decides for itself."""

    def hashed_choice(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        word: SwitchWord,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.uint64]:
        """The ``choice`` of the scale-out path on which every switch takes its live next hop number
        ``word % live next hops``, uint64[F]; anything where there is no live path.
        """


@runtime_checkable
class CountsScaleUpPaths(Protocol):
    """A structure with several paths within a scale-up domain; one is taken for granted elsewhere."""

    def live_scale_up_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Live scale-up paths of each pair, int64[F]: `Structure.route` counts ``choice`` modulo these."""


@runtime_checkable
class KnowsDomains(Protocol):
    """A structure whose scale-up domains are not each one switch."""

    def domains(self) -> NDArray[np.int32]:
        """A number for each endpoint, equal within a scale-up domain and nowhere else, int32[endpoints]."""


@runtime_checkable
class KnowsInjection(Protocol):
    """A structure whose endpoints have several ports, or whose paths need not begin at the sender's own."""

    def injection_bandwidth(self, capacity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes/s that each endpoint can send into the scale-out network, float64[endpoints]."""


@runtime_checkable
class NamesEndpoints(Protocol):
    """A structure whose endpoints are called otherwise than by host and accelerator."""

    def endpoint_name(self, endpoint: int) -> str:
        """Outside name of an endpoint."""
