"""Forwarding inside the server: a flow to another rail first goes to its neighbour on that rail.

The path is scale-up out and in to the accelerator of the sender's own host (or scale-up domain) that has the
destination's rail, and from its NIC on that rail's leaves to the destination (PXN in NCCL; the only way
between the rails of Wang et al., arXiv 2307.12169).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from euston.fabrics._clos_structure import ClosStructure
from euston.fabrics._legs import Legs, Part, Stage, legs_hashed, legs_live_paths, legs_route, legs_spread
from euston.fabrics.structure import Network, Spread, SwitchWord

__all__ = ["ForwardStructure"]


@dataclass(frozen=True, eq=False)
class ForwardStructure:
    """A Clos with rails on which flows change rails by the scale-up network only.

    Parameters
    ----------
    base : ClosStructure
    bundle_start : int64[B + 1]
        Of the fabric.
    nodes : int
    """

    base: ClosStructure
    bundle_start: NDArray[np.int64]
    nodes: int

    # ---- names -----------------------------------------------------------------------------------------

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""
        return [*self.base.describe(), "  flows between rails are forwarded over the scale-up network"]

    def node_name(self, node: int) -> str:
        """Outside name of a node that is not an endpoint."""
        return self.base.node_name(node)

    def link_name(self, link: int) -> str:
        """Outside name of a link."""
        return self.base.link_name(link)

    def link_index(self, name: str) -> int:
        """Number of a link; `FabricError` with the nearest name for an unknown one."""
        return self.base.link_index(name)

    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[L]."""
        return self.base.reverse()

    def bisection_bandwidth(self, capacity: NDArray[np.float64]) -> float:
        """As without forwarding, bytes/s: every rail is halved, and nobody needs another rail."""
        return self.base.bisection_bandwidth(capacity)

    # ---- paths -----------------------------------------------------------------------------------------

    @cached_property
    def _parts(self) -> list[Part]:
        return [Part(self.base, 0, 0, self.bundle_start, np.arange(self.nodes, dtype=np.int32))]

    def relay(self, src: NDArray[np.int32], dst: NDArray[np.int32]) -> NDArray[np.int32]:
        """Endpoint from whose NIC each flow leaves its host: the sender's own if the rail is the same."""
        unit, rails = self.base.rail_unit, self.base.rails
        rail, to_rail = src % unit * rails // unit, dst % unit * rails // unit
        there = src - src % unit + dst % unit
        return np.where(rail == to_rail, src, there).astype(np.int32)

    def _plan(
        self, src: NDArray[np.int32], dst: NDArray[np.int32], network: Network
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]] | None:
        """Relays, and who uses the scale-up network alone; None where nobody changes rails."""
        if network == "scale_up":
            return None
        shape = self.base.shape
        domain = shape.accelerators * shape.hosts_per_domain
        inside = (network == "auto") & (src // domain == dst // domain)
        relay = np.where(inside, src, self.relay(src, dst)).astype(np.int32)
        return None if (relay == src).all() else (relay, np.asarray(inside))

    def _legs(self, src: NDArray[np.int32], dst: NDArray[np.int32], network: Network) -> Legs | None:
        plan = self._plan(src, dst, network)
        if plan is None:
            return None
        relay, inside = plan
        up = np.flatnonzero(inside | (relay != src))
        out = np.flatnonzero(~inside & (src != dst))
        to = np.where(inside, dst, relay).astype(np.int32)
        none = np.zeros(up.size, np.int64), np.zeros(out.size, np.int64)
        return Legs(
            [
                Stage(up, none[0], src[up], to[up], "scale_up"),
                Stage(out, none[1], relay[out], dst[out], "scale_out"),
            ],
            np.zeros(src.size, bool),
        )

    def route(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        choice: NDArray[np.uint64],
        network: Network,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int32], int]:
        """One live path per flow; see `Fabric.route`."""
        legs = self._legs(src, dst, network)
        if legs is None:
            return self.base.route(src, dst, choice, network, alive, whole)
        return legs_route(legs, self._parts, choice, alive)

    def spread(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        network: Network,
        weight: NDArray[np.float64],
        irregular: NDArray[np.bool_],
        split: NDArray[np.bool_],
    ) -> tuple[Spread | None, int]:
        """All live paths at once; see `Fabric.spread`. ``split`` grows in place."""
        legs = self._legs(src, dst, network)
        if legs is None:
            return self.base.spread(src, dst, network, weight, irregular, split)
        return legs_spread(legs, self._parts, src.size, weight, irregular, split)

    def live_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many live paths each pair has; see `euston.fabrics.structure.CountsPaths`."""
        legs = self._legs(src, dst, "scale_out")
        if legs is None:
            return self.base.live_paths(src, dst, alive, whole)
        return legs_live_paths(legs, self._parts, src.size, alive)

    def live_scale_up_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many live paths each pair has within its scale-up domain."""
        return self.base.live_scale_up_paths(src, dst, alive, whole)

    def hashed_choice(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        word: SwitchWord,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.uint64]:
        """Hashes as without forwarding, from the relay on."""
        legs = self._legs(src, dst, "scale_out")
        if legs is None:
            return self.base.hashed_choice(src, dst, word, alive, whole)
        return legs_hashed(legs, self._parts, src.size, word, alive)

    def injection_bandwidth(self, capacity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes/s of each endpoint's own NIC, float64[endpoints]."""
        return self.base.injection_bandwidth(capacity)

    def why_unreachable(self, src: int, dst: int, network: Network, alive: NDArray[np.bool_]) -> str:
        """Half a sentence for `RouteError`."""
        s, d = np.array([src], np.int32), np.array([dst], np.int32)
        plan = self._plan(s, d, network)
        if plan is None:
            return self.base.why_unreachable(src, dst, network, alive)
        relay = int(plan[0][0])
        host, g = divmod(relay, self.base.shape.accelerators)
        via = f"forwarding by h{host}/g{g}: "
        if not self.base.live_scale_up_paths(s, plan[0], alive, alive)[0]:
            return via + self.base.why_unreachable(src, relay, "scale_up", alive)
        return via + self.base.why_unreachable(relay, dst, "scale_out", alive)
