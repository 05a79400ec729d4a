"""What every graph of switches knows: names, the reverse link, routes and shares between its endpoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError, unknown
from euston.fabrics import _graph_hash
from euston.fabrics._bisection import Cuts, smallest_cut
from euston.fabrics._graph_names import LinkNames
from euston.fabrics._graph_routes import UNCOUNTED
from euston.fabrics._graph_routing import Routing
from euston.fabrics._graph_tables import BACK, Graph
from euston.fabrics._host_side import HostSide
from euston.fabrics._switch_paths import SwitchPaths
from euston.fabrics.structure import Network, Spread, SwitchWord

__all__ = ["SwitchGraph"]


@dataclass(frozen=True, eq=False)
class SwitchGraph:
    """A graph of switches with hosts on them (implements `euston.fabrics.Structure`).

    Paths are the shortest over the links that live: traffic is led around what is down. Distances to a
    target switch are found once per state of the links and kept.
    """

    host: HostSide
    paths: SwitchPaths
    names: LinkNames
    cuts: Cuts
    lines: tuple[str, ...]

    @property
    def graph(self) -> Graph:
        """Switches and the links between them."""
        return self.paths.graph

    @property
    def routing(self) -> Routing:
        """Which paths may be used."""
        return self.paths.routing

    @property
    def first_link(self) -> int:
        """Number of the first link between switches (and of its bundle)."""
        return self.host.first[-1]

    @property
    def first_switch(self) -> int:
        """Node number of switch 0."""
        return sum(self.host.node_counts.values())

    # ---- names -----------------------------------------------------------------------------------------

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""
        turns = f" over {self.routing.intermediates} intermediates" if self.routing.intermediates else ""
        most = f" of {self.routing.paths} paths" if self.routing.paths else ""
        return [*self.host.describe(), *self.lines, f"  {self.routing.kind} routing{turns}{most}"]

    def node_name(self, node: int) -> str:
        """Outside name of a node that is not an endpoint."""
        if node < self.first_switch:
            return self.host.node_name(node)
        return "switch/" + self.names.labels.text(node - self.first_switch)

    def link_name(self, link: int) -> str:
        """Outside name of a link."""
        first = self.first_link
        return self.host.link_name(link) if link < first else self.names.name(link - first)

    def link_index(self, name: str) -> int:
        """Number of a link; `FabricError` with the nearest name for an unknown one."""
        word = str(name).split("/")[0]
        if word in self.host.words:
            return self.host.link_index(str(name))
        if word not in self.names.words:
            raise FabricError(unknown("link kind", word, [*self.host.words, *self.names.words]))
        return self.first_link + self.names.index(str(name))

    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[L]."""
        back = (self.graph.link[:, BACK] + self.first_link).astype(np.int32)
        return np.concatenate((self.host.reverse(), back))

    def bisection_bandwidth(self, capacity: NDArray[np.float64]) -> float:
        """The smallest cut found between two halves of the endpoints, bytes/s (an upper bound)."""
        first = self.host.first
        half = float(capacity[first[2] : first[3]].sum()) / 2
        ports = np.bincount(self.host.host_switch, minlength=self.paths.switches)
        return min(half, smallest_cut(self.graph, capacity[self.first_link :], ports, self.cuts))

    # ---- paths -----------------------------------------------------------------------------------------

    def _ways(
        self, src: NDArray[np.int32], dst: NDArray[np.int32], network: Network, alive: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Flows that use the scale-up and the scale-out network, first and last link, and who is stuck."""
        first = self.host.first
        moves = src != dst
        inside = moves & self.host.within(src, dst) & (network != "scale_out")
        outside = moves & ~inside
        one = np.where(inside, first[0] + src, first[2] + self.host.nic(src))
        end = np.where(inside, first[1] + dst, first[3] + self.host.nic(dst))
        stuck = moves & ~(alive[one] & alive[end])
        if network == "scale_up":
            stuck |= outside
        return inside, outside & ~stuck, one, end, stuck

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
        inside, outside, one, end, stuck = self._ways(src, dst, network, alive)
        source, target = self.host.switch(src), self.host.switch(dst)
        who = np.flatnonzero(outside & (source != target))
        links, hops = self.paths.between(source[who], target[who], choice[who], alive[self.first_link :])
        stuck[who[hops < 0]] = True
        length = np.zeros(src.size, np.int64)
        length[who] = np.maximum(hops, 0)
        out = np.full((src.size, links.shape[1] + 2), -1, np.int32)
        out[who, 1 : 1 + links.shape[1]] = np.where(links >= 0, links + self.first_link, -1)
        sent = np.flatnonzero((inside | outside) & ~stuck)
        out[sent, 0] = one[sent]
        out[sent, 1 + length[sent]] = end[sent]
        return out, int(np.argmax(stuck)) if stuck.any() else -1

    def spread(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        network: Network,
        weight: NDArray[np.float64],
        irregular: NDArray[np.bool_],
        split: NDArray[np.bool_],
    ) -> tuple[Spread | None, int]:
        """All admitted live paths at once; see `Fabric.spread`. ``split`` grows in place."""
        alive = weight > 0
        inside, outside, one, end, stuck = self._ways(src, dst, network, alive)
        source, target = self.host.switch(src).astype(np.int64), self.host.switch(dst).astype(np.int64)
        who = np.flatnonzero(outside & (source != target))
        tables = self.paths.tables(alive[self.first_link :])
        s, t = source[who], target[who]
        stuck[who[~self.paths.reachable(tables, s, t)]] = True
        if stuck.any():
            return None, int(np.argmax(stuck))
        net = self.paths.shares(
            tables, s, t, weight[self.first_link :], split, self.first_link, split.size + self.first_link
        )
        between = np.zeros(src.size, np.int64)
        between[who] = np.diff(net[0])
        moves = inside | outside
        ptr = np.concatenate(([0], np.cumsum(between + 2 * moves))).astype(np.int64)
        row, fraction = np.empty(int(ptr[-1]), np.int32), np.ones(int(ptr[-1]))
        row[ptr[:-1][moves]], row[ptr[1:][moves] - 1] = one[moves], end[moves]
        shift = np.repeat(ptr[:-1][who] + 1 - net[0][:-1], np.diff(net[0]))
        place = np.arange(net[1].size) + shift
        row[place], fraction[place] = net[1], net[2]
        return Spread(ptr, row, fraction, split), -1

    # ---- for load balancing ----------------------------------------------------------------------------

    def live_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many live paths each pair has; 2^62 where they are not counted (Valiant, UGAL)."""
        source, target = self.host.switch(src).astype(np.int64), self.host.switch(dst).astype(np.int64)
        apart = source != target
        cut_off = self._ways(src, dst, "scale_out", alive)[4]
        if self.routing.turns:
            return np.where(cut_off, 0, np.where(apart, np.int64(UNCOUNTED), 1))
        tables = self.paths.tables(alive[self.first_link :])
        out = np.ones(src.size, np.int64)
        none = np.zeros(int(apart.sum()), np.uint64)
        paths = self.paths.leg(tables, source[apart], target[apart], none)[2]
        out[apart] = np.minimum(paths, UNCOUNTED).astype(np.int64)
        return np.where(cut_off, 0, out)

    def hashed_choice(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        word: SwitchWord,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.uint64]:
        """Every switch of a minimal path hashes; other paths are picked by the hash at the first switch."""
        source, target = self.host.switch(src).astype(np.int64), self.host.switch(dst).astype(np.int64)
        flow = np.arange(src.size)
        if self.routing.kind != "minimal":
            return word(flow, self.first_switch + source)
        tables = self.paths.tables(alive[self.first_link :])
        return _graph_hash.hashed_choice(tables, source, target, flow, word, self.first_switch)

    def why_unreachable(self, src: int, dst: int, network: Network, alive: NDArray[np.bool_]) -> str:
        """Half a sentence for `RouteError`."""
        s, d = np.array([src], np.int32), np.array([dst], np.int32)
        within = bool(self.host.within(s, d)[0])
        if network == "scale_up" and not self.host.hosts_per_domain:
            return "this fabric has no scale-up network"
        if network == "scale_up" and not within:
            return "they are in different scale-up domains"
        _, _, one, end, _ = self._ways(s, d, network, alive)
        for link in (int(one[0]), int(end[0])):
            if not alive[link]:
                return f"{self.link_name(link)} is down"
        ends = [self.names.labels.text(int(self.host.switch(e)[0])) for e in (s, d)]
        return f"every path from switch {ends[0]} to {ends[1]} crosses a link that is down"
