"""What a WAN knows: the shortest tunnels between sites over the links that live, found when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError, unknown
from euston.fabrics._bisection import Cuts, smallest_cut
from euston.fabrics._graph_tables import TO, Graph
from euston.fabrics.structure import Network, Spread, SwitchWord

__all__ = ["WanStructure"]

Tunnels = list[NDArray[np.int64]]
"""Links of each tunnel of a pair of sites, shortest first."""


@dataclass(eq=False)
class WanStructure:
    """Sites and the links between them (implements `euston.fabrics.Structure`); a site is an endpoint.

    Tunnels are those of least latency over live links (Yen 1971), ``paths`` of them where there are so many.
    Links ``2 i`` and ``2 i + 1`` are the two directions of cable ``i``.

    Attributes
    ----------
    sites : tuple of str
    src, dst : int64[L]
        Sites at the ends of each link.
    latency : float64[L]
        Seconds.
    paths : int
        Most tunnels of a pair.
    weights : float64[paths]
        Share of a pair's traffic on its shortest tunnel, the next, ..., up to a factor.
    """

    sites: tuple[str, ...]
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    latency: NDArray[np.float64]
    paths: int
    weights: NDArray[np.float64]
    _found: dict[bytes, dict[tuple[int, int], Tunnels]] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": {}}

    # ---- names -----------------------------------------------------------------------------------------

    def describe(self) -> list[str]:
        """Lines that tell a person the shape."""
        shares = "" if (self.weights == self.weights[0]).all() else " by weight"
        return [
            f"  {len(self.sites)} sites, {self.src.size // 2} cables",
            f"  up to {self.paths} tunnels of a pair{shares}",
        ]

    def endpoint_name(self, endpoint: int) -> str:
        """Name of a site."""
        return self.sites[endpoint]

    def node_name(self, node: int) -> str:
        """Name of a site."""
        return self.sites[node]

    def link_name(self, link: int) -> str:
        """``"wan/paris/lyon"``."""
        return f"wan/{self.sites[self.src[link]]}/{self.sites[self.dst[link]]}"

    def link_index(self, name: str) -> int:
        """Number of a link; `FabricError` with what would be right for an unknown one."""
        word, *ends = str(name).split("/")
        if word != "wan" or len(ends) != 2:
            raise FabricError(f"unknown link {name!r}; links are called like {self.link_name(0)!r}")
        for end in ends:
            if end not in self.sites:
                raise FabricError(f"unknown link {name!r}: {unknown('site', end, self.sites)}")
        a, b = (self.sites.index(end) for end in ends)
        found = np.flatnonzero((self.src == a) & (self.dst == b))
        if not found.size:
            there = ", ".join(self.sites[i] for i in self.dst[self.src == a])
            raise FabricError(f"unknown link {name!r}: {ends[0]} is joined to {there}")
        return int(found[0])

    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[L]."""
        return (np.arange(self.src.size) ^ 1).astype(np.int32)

    def bisection_bandwidth(self, capacity: NDArray[np.float64]) -> float:
        """Bytes/s from half of the sites to the other, over the smallest cut found."""
        return self.cut(capacity, np.ones(len(self.sites), np.int64))

    def cut(self, capacity: NDArray[np.float64], endpoints: NDArray[np.int64]) -> float:
        """Bytes/s over the smallest cut found that halves the endpoints (int64[sites]) by whole sites."""
        order = np.argsort(self.src, kind="stable")
        ptr = np.searchsorted(self.src[order], np.arange(len(self.sites) + 1)).astype(np.int64)
        link = np.zeros((order.size, 5), np.int32)
        link[:, TO] = self.dst[order]
        return smallest_cut(
            Graph(ptr, link), capacity[order], endpoints, Cuts(np.zeros((0, len(self.sites)), np.int64))
        )

    # ---- tunnels ---------------------------------------------------------------------------------------

    def tunnels(self, src: int, dst: int, alive: NDArray[np.bool_]) -> Tunnels:
        """The tunnels of a pair of sites over live links (bool[L]), least latency first."""
        state = self._found.setdefault(alive.tobytes(), {})
        while len(self._found) > 8:  # states of the links that were left long ago
            self._found.pop(next(iter(self._found)))
        if (src, dst) not in state:
            state[src, dst] = self._shortest(src, dst, alive)
        return state[src, dst]

    def _shortest(self, src: int, dst: int, alive: NDArray[np.bool_]) -> Tunnels:
        # here, and not above: it takes as long to import as the rest of the room
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import yen

        n = len(self.sites)
        ends = self.src[alive].astype(np.int32), self.dst[alive].astype(np.int32)
        graph = csr_array((self.latency[alive], ends), shape=(n, n))
        _, before = yen(graph, src, dst, self.paths, return_predecessors=True)
        out = []
        for row in before:
            links: list[int] = []
            at = dst
            while at != src:
                previous = int(row[at])
                links.append(int(np.flatnonzero((self.src == previous) & (self.dst == at))[0]))
                at = previous
            out.append(np.array(links[::-1], np.int64))
        return out

    def _by_pair(
        self, src: NDArray[np.int32], dst: NDArray[np.int32], alive: NDArray[np.bool_]
    ) -> list[tuple[NDArray[np.int64], Tunnels]]:
        """Flows of each pair of distinct sites, and the pair's tunnels."""
        pairs, of = np.unique(src.astype(np.int64) * len(self.sites) + dst, return_inverse=True)
        out = []
        for i, pair in enumerate(pairs):
            a, b = divmod(int(pair), len(self.sites))
            if a != b:
                out.append((np.flatnonzero(of.ravel() == i), self.tunnels(a, b, alive)))
        return out

    def route(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        choice: NDArray[np.uint64],
        network: Network,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int32], int]:
        """Tunnel number ``choice % live`` of each flow; see `Fabric.route`."""
        if network == "scale_up" and (src != dst).any():
            return np.full((src.size, 0), -1, np.int32), int(np.argmax(src != dst))
        found = self._by_pair(src, dst, alive)
        failed = [int(flows[0]) for flows, tunnels in found if not tunnels]
        if failed:
            return np.full((src.size, 0), -1, np.int32), min(failed)
        width = max((t.size for _, tunnels in found for t in tunnels), default=0)
        out = np.full((src.size, width), -1, np.int32)
        for flows, tunnels in found:
            table = np.full((len(tunnels), width), -1, np.int32)
            for i, links in enumerate(tunnels):
                table[i, : links.size] = links
            out[flows] = table[(choice[flows] % np.uint64(len(tunnels))).astype(np.int64)]
        return out, -1

    def spread(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        network: Network,
        weight: NDArray[np.float64],
        irregular: NDArray[np.bool_],
        split: NDArray[np.bool_],
    ) -> tuple[Spread | None, int]:
        """All live tunnels by the weights of their ranks, and by their narrowest link where these differ."""
        if network == "scale_up" and (src != dst).any():
            return None, int(np.argmax(src != dst))
        flow, row, fraction = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        failed = src.size
        for flows, tunnels in self._by_pair(src, dst, weight > 0):
            if not tunnels:
                failed = min(failed, int(flows[0]))
                continue
            share = np.array([self.weights[i] * weight[t].min() for i, t in enumerate(tunnels)])
            load = np.bincount(
                np.concatenate(tunnels),
                weights=np.repeat(share / share.sum(), [t.size for t in tunnels]),
                minlength=weight.size,
            )
            links = np.array(list(dict.fromkeys(np.concatenate(tunnels).tolist())), np.int64)
            links = links[load[links] > 0]
            flow.append(np.repeat(flows, links.size))
            row.append(np.tile(links, flows.size))
            fraction.append(np.tile(load[links], flows.size))
        if failed < src.size:
            return None, failed
        flows_of = np.concatenate(flow)
        order = np.argsort(flows_of, kind="stable")
        ptr = np.concatenate(([0], np.cumsum(np.bincount(flows_of, minlength=src.size)))).astype(np.int64)
        rows = np.concatenate(row)[order].astype(np.int32)
        return Spread(ptr, rows, np.concatenate(fraction)[order], split), -1

    def live_paths(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """How many tunnels each pair has; see `euston.fabrics.structure.CountsPaths`."""
        out = np.ones(src.size, np.int64)
        for flows, tunnels in self._by_pair(src, dst, alive):
            out[flows] = len(tunnels)
        return out

    def hashed_choice(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        word: SwitchWord,
        alive: NDArray[np.bool_],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.uint64]:
        """The tunnel that the ingress hashes to, in proportion to the weights."""
        out = np.zeros(src.size, np.uint64)
        for flows, tunnels in self._by_pair(src, dst, alive):
            if not tunnels:
                continue
            end = np.cumsum(self.weights[: len(tunnels)])
            at = word(flows, src[flows].astype(np.int64)).astype(np.float64) * 2.0**-64 * end[-1]
            out[flows] = np.minimum(np.searchsorted(end, at, side="right"), len(tunnels) - 1)
        return out

    def why_unreachable(self, src: int, dst: int, network: Network, alive: NDArray[np.bool_]) -> str:
        """Half a sentence for `RouteError`."""
        if network == "scale_up":
            return "a WAN has no scale-up network"
        return "every tunnel crosses a link that is down"
