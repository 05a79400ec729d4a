"""What joined sites know: paths from a NIC over the site's fabric, gateway, WAN and gateway to the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError, unknown
from euston.fabrics._forward import ForwardStructure
from euston.fabrics._legs import Legs, Part, Stage, legs_hashed, legs_live_paths, legs_route, legs_spread
from euston.fabrics._wan_structure import WanStructure
from euston.fabrics.structure import Network, Spread, SwitchWord

if TYPE_CHECKING:
    from euston.fabrics.fabric import Fabric

__all__ = ["SitesStructure"]


@dataclass(frozen=True, eq=False)
class SitesStructure:
    """Sites on a WAN (implements `euston.fabrics.Structure`).

    Attributes
    ----------
    sites : tuple of Fabric
        In the order of the WAN's sites; each with its gateways' hosts, which are its last.
    wan : WanStructure
    parts : tuple of Part
        The sites, then the WAN.
    first : int64[S + 1]
        First endpoint of each site, and their number.
    gateways : tuple of int32[...]
        Endpoints of each site's own fabric that stand for its gateway, one per NIC of a gateway's host.
    """

    sites: tuple[Fabric, ...]
    wan: WanStructure
    parts: tuple[Part, ...]
    first: NDArray[np.int64]
    gateways: tuple[NDArray[np.int32], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sites."""
        return self.wan.sites

    # ---- names -----------------------------------------------------------------------------------------

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""
        lines = self.wan.describe()
        for i, (name, site) in enumerate(zip(self.names, self.sites, strict=True)):
            size = int(self.first[i + 1] - self.first[i])
            ports = self.gateways[i].size
            lines.append(f"  {name}: {size:,} accelerators on {site.name!r}, {ports} gateway ports")
            lines += [f"  {line}" for line in site.structure.describe()]
        return lines

    def _site(self, endpoint: int) -> tuple[int, int]:
        site = int(np.searchsorted(self.first, endpoint, side="right")) - 1
        return site, endpoint - int(self.first[site])

    def endpoint_name(self, endpoint: int) -> str:
        """``"paris/h17/g3"``."""
        site, local = self._site(endpoint)
        return f"{self.names[site]}/{self.sites[site].endpoint_name(local)}"

    @cached_property
    def _of_node(self) -> dict[int, tuple[int, int]]:
        """Site and its own number of every node of a site that is no endpoint."""
        return {
            int(node): (i, local)
            for i, (site, part) in enumerate(zip(self.sites, self.parts, strict=False))
            for local, node in enumerate(part.node)
            if self.first[-1] <= node < self.parts[-1].node[0] and local >= site.endpoints
        }

    def node_name(self, node: int) -> str:
        """Outside name of a node: ``"paris/tor/p0/t3"``; a site's gateway is ``"paris/gateway"``."""
        if node >= self.parts[-1].node[0]:
            return f"{self.names[node - int(self.parts[-1].node[0])]}/gateway"
        site, local = self._of_node[node]
        return f"{self.names[site]}/{self.sites[site].node_name(local)}"

    def link_name(self, link: int) -> str:
        """Outside name of a link: ``"paris/tor_up/p0/t3/a5"``, ``"wan/paris/lyon"``."""
        for i, site in enumerate(self.sites):
            if link < self.parts[i + 1].link0:
                return f"{self.names[i]}/{site.link_name(link - self.parts[i].link0)}"
        return self.wan.link_name(link - self.parts[-1].link0)

    def link_index(self, name: str) -> int:
        """Number of a link; `FabricError` with the nearest name for an unknown one."""
        word, _, rest = str(name).partition("/")
        if word == "wan":
            return self.parts[-1].link0 + self.wan.link_index(str(name))
        if word not in self.names:
            raise FabricError(f"unknown link {name!r}: {unknown('site', word, [*self.names, 'wan'])}")
        i = self.names.index(word)
        try:
            return self.parts[i].link0 + self.sites[i].link_index(rest)
        except FabricError as error:
            raise FabricError(f"{word}: {error}") from None

    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[L]."""
        back = [site.reverse for site in self.sites] + [self.wan.reverse()]
        shifted = [part.link0 + links for part, links in zip(self.parts, back, strict=True)]
        return np.concatenate(shifted).astype(np.int32)

    def bisection_bandwidth(self, capacity: NDArray[np.float64]) -> float:
        """Bytes/s over the WAN's smallest cut found that halves the endpoints by whole sites."""
        return self.wan.cut(capacity[self.parts[-1].links], np.diff(self.first))

    def domains(self) -> NDArray[np.int32]:
        """A number for each endpoint's scale-up domain, int32[endpoints]."""
        found, begin = [], 0
        for i, site in enumerate(self.sites):
            mine = site.domain[: int(self.first[i + 1] - self.first[i])]
            found.append(mine + begin)
            begin += site.node_kind.size
        return np.concatenate(found).astype(np.int32)

    def injection_bandwidth(self, capacity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes/s that each endpoint can send into its site's fabric, float64[endpoints]."""
        sizes = np.diff(self.first)
        return np.concatenate(
            [site.injection_bandwidth[:n] for site, n in zip(self.sites, sizes, strict=True)]
        )

    # ---- paths -----------------------------------------------------------------------------------------

    @cached_property
    def _domain(self) -> NDArray[np.int32]:
        return self.domains()

    def _legs(self, src: NDArray[np.int32], dst: NDArray[np.int32], network: Network) -> Legs:
        site = np.searchsorted(self.first, src, side="right") - 1
        to_site = np.searchsorted(self.first, dst, side="right") - 1
        local, to_local = src - self.first[site], dst - self.first[to_site]
        same, moves = site == to_site, src != dst
        inside = np.full(src.size, network == "scale_up")
        if network == "auto":
            inside = self._domain[src] == self._domain[dst]

        def direct(who: NDArray[np.bool_], net: Network) -> Stage:
            f = np.flatnonzero(who & same & moves)
            return Stage(f, site[f], local[f].astype(np.int32), to_local[f].astype(np.int32), net)

        f = np.flatnonzero(~same & (network != "scale_up"))
        out, leaving = self._at_gateways(f, site, local)
        back, arriving = self._at_gateways(f, to_site, to_local)
        across = np.full(f.size, len(self.sites), np.int64)
        stages = [
            direct(inside, "scale_up"),
            direct(~inside, "scale_out"),
            Stage(out, site[out], local[out].astype(np.int32), leaving, "scale_out"),
            Stage(f, across, site[f].astype(np.int32), to_site[f].astype(np.int32), "scale_out"),
            Stage(back, to_site[back], arriving, to_local[back].astype(np.int32), "scale_out"),
        ]
        return Legs([s for s in stages if s.flow.size], ~same & (network == "scale_up"))

    def _at_gateways(
        self, flow: NDArray[np.int64], site: NDArray[np.int64], local: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Every flow once for each port of its site's gateway (on the flow's rail), and that port."""
        many = np.array([g.size for g in self.gateways])
        begin = np.cumsum(many) - many
        count = many[site[flow]]
        out = np.repeat(flow, count)
        turn = np.arange(out.size) - np.repeat(np.cumsum(count) - count, count)
        gate = np.concatenate(self.gateways)[begin[site[out]] + turn]
        keep = np.ones(out.size, bool)
        for i, fabric in enumerate(self.sites):
            if isinstance(fabric.structure, ForwardStructure):  # its gateway has a port on every rail
                mine = site[out] == i
                keep[mine] = fabric.structure.relay(gate[mine], local[out[mine]]) == gate[mine]
        some = np.isin(out, out[keep])
        keep |= ~some
        return out[keep], gate[keep]

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
        return legs_route(self._legs(src, dst, network), self.parts, choice, alive)

    def spread(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        network: Network,
        weight: NDArray[np.float64],
        irregular: NDArray[np.bool_],
        split: NDArray[np.bool_],
    ) -> tuple[Spread | None, int]:
        """Evenly over the gateways' ports that can be reached, by weight over the tunnels."""
        return legs_spread(self._legs(src, dst, network), self.parts, src.size, weight, irregular, split)

    def live_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many live paths each pair has; see `euston.fabrics.structure.CountsPaths`."""
        return legs_live_paths(self._legs(src, dst, "scale_out"), self.parts, src.size, alive)

    def live_scale_up_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many live paths each pair has within its scale-up domain."""
        return legs_live_paths(self._legs(src, dst, "scale_up"), self.parts, src.size, alive)

    def hashed_choice(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        word: SwitchWord,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.uint64]:
        """Every switch hashes on its own; the sender picks a gateway, the gateway a tunnel."""
        return legs_hashed(self._legs(src, dst, "scale_out"), self.parts, src.size, word, alive)

    def why_unreachable(self, src: int, dst: int, network: Network, alive: NDArray[np.bool_]) -> str:
        """Half a sentence for `RouteError`."""
        (a, s), (b, d) = self._site(src), self._site(dst)
        if a != b and network == "scale_up":
            return "they are at different sites"
        mine = [alive[part.links] for part in self.parts]
        if a == b:
            return f"in {self.names[a]} " + self.sites[a].structure.why_unreachable(s, d, network, mine[a])
        if not self.wan.tunnels(a, b, mine[-1]):
            return "every tunnel between their sites crosses a link that is down"
        legs = self._legs(np.array([src], np.int32), np.array([dst], np.int32), "scale_out")
        first = Legs(legs.stages[:1], legs.stuck)
        cut_off = not legs_live_paths(first, self.parts, 1, alive)[0]
        i, end, gate = (a, s, int(self.gateways[a][0])) if cut_off else (b, d, int(self.gateways[b][0]))
        ends = (end, gate) if cut_off else (gate, end)
        why = self.sites[i].structure.why_unreachable(*ends, "scale_out", mine[i])
        return f"between it and the gateway of {self.names[i]} {why}"
