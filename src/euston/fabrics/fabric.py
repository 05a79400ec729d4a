"""The `Fabric` noun: endpoints and links of one site as immutable flat arrays.

A fabric never stores routes. Its ``structure`` (one file per family, e.g. ``clos.py``) knows the paths in
closed form; this file holds the arrays, checks them and turns bad input into sentences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import FabricError, RouteError
from euston.fabrics.structure import (
    NETWORKS,
    TIER_NAMES,
    KnowsDomains,
    KnowsInjection,
    LinkKind,
    NamesEndpoints,
    Network,
    Spread,
    Structure,
)

__all__ = ["Fabric"]


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Fabric:
    """Endpoints and directed links of one site. Immutable: its arrays are read-only (copy one to change it).

    Endpoint ``e`` is accelerator ``e % accelerators_per_host`` of host ``e // accelerators_per_host``;
    endpoints are the first nodes. Build one with `clos`, `leaf_spine`, `rail_optimized` or `fat_tree`.

    Attributes
    ----------
    name : str
    hosts, accelerators_per_host : int
    node_kind : uint8[N]
        `NodeKind` of each node.
    link_src, link_dst : int32[L]
        Nodes at the ends of each directed link.
    capacity : float64[L]
        Bytes/s, per direction.
    latency : float64[L]
        Seconds for the first byte: cable and the switch (or NIC) the link ends in.
    buffer_bytes : int64[L]
        Queue at the head of the link; 0 where the description says nothing.
    kind : uint8[L]
        `LinkKind` of each link.
    bundle_start : int64[B + 1]
        Bundle ``b`` of equal parallel choices is links ``bundle_start[b]:bundle_start[b + 1]``.
    """

    name: str
    hosts: int
    accelerators_per_host: int
    node_kind: NDArray[np.uint8]
    link_src: NDArray[np.int32]
    link_dst: NDArray[np.int32]
    capacity: NDArray[np.float64]
    latency: NDArray[np.float64]
    buffer_bytes: NDArray[np.int64]
    kind: NDArray[np.uint8]
    bundle_start: NDArray[np.int64]
    structure: Structure = field(repr=False)

    def __post_init__(self) -> None:
        n, links = self.node_kind.size, self.link_src.size
        for array in (self.link_dst, self.capacity, self.latency, self.buffer_bytes, self.kind):
            if array.shape != (links,):
                raise FabricError(f"`{self.name}`: link arrays of {array.shape[0]} and {links} values")
        ends = np.concatenate((self.link_src, self.link_dst))
        if links and (ends.min() < 0 or ends.max() >= n):
            raise FabricError(f"`{self.name}`: a link ends at a node that does not exist")
        if not (np.isfinite(self.capacity).all() and (self.capacity > 0).all()):
            raise FabricError(f"`{self.name}`: every link needs a positive, finite capacity in bytes/s")
        if not (np.isfinite(self.latency).all() and (self.latency >= 0).all()):
            raise FabricError(f"`{self.name}`: every link needs a finite latency of 0 s or more")
        start = self.bundle_start
        if start[0] != 0 or start[-1] != links or (np.diff(start) < 1).any():
            raise FabricError(f"`{self.name}`: bundles must be contiguous and cover every link")
        for array in (self.node_kind, self.link_src, self.link_dst, self.capacity, self.latency):
            _read_only(array)
        for array in (self.buffer_bytes, self.kind, start):
            _read_only(array)

    # ---- sizes and names -------------------------------------------------------------------------------

    @property
    def endpoints(self) -> int:
        """Number of accelerators that can send and receive."""
        return self.hosts * self.accelerators_per_host

    @property
    def links(self) -> int:
        """Number of directed links."""
        return int(self.link_src.size)

    @property
    def bundles(self) -> int:
        """Number of bundles."""
        return int(self.bundle_start.size - 1)

    @property
    def rows(self) -> int:
        """Rows of a system written with `spread`: bundles, then links."""
        return self.bundles + self.links

    @cached_property
    def bundle(self) -> NDArray[np.int32]:
        """Bundle of each link, int32[L]."""
        ids = np.arange(self.bundles, dtype=np.int32)
        return _read_only(np.repeat(ids, np.diff(self.bundle_start)))

    @cached_property
    def domain(self) -> NDArray[np.int32]:
        """Scale-up switch of each endpoint (the endpoint itself where there is none), int32[endpoints].

        Where a domain has several, one of them.
        """
        if isinstance(self.structure, KnowsDomains):
            return _read_only(self.structure.domains())
        ids = np.arange(self.endpoints, dtype=np.int32)
        out = self.kind == LinkKind.SCALE_UP_OUT
        ids[self.link_src[out]] = self.link_dst[out]
        return _read_only(ids)

    @cached_property
    def reverse(self) -> NDArray[np.int32]:
        """The link that runs the other way, int32[L]."""
        return _read_only(self.structure.reverse())

    @cached_property
    def injection_bandwidth(self) -> NDArray[np.float64]:
        """Bytes/s that each endpoint can send into the scale-out network, float64[endpoints].

        All its ports together; endpoints that share a NIC have equal parts of it.
        """
        if isinstance(self.structure, KnowsInjection):
            return _read_only(self.structure.injection_bandwidth(self.capacity))
        e = np.arange(self.endpoints)
        first = self.route(e, (e + 1) % e.size, 0)[:, 0]
        return _read_only(self.capacity[first] / np.bincount(first, minlength=self.links)[first])

    def endpoint_name(self, endpoint: int) -> str:
        """``"h17/g3"``: accelerator 3 of host 17."""
        if isinstance(self.structure, NamesEndpoints):
            return self.structure.endpoint_name(int(endpoint))
        host, g = divmod(int(endpoint), self.accelerators_per_host)
        return f"h{host}/g{g}"

    def node_name(self, node: int) -> str:
        """Outside name of a node: ``"h17/g3"``, ``"tor/p0/t3"``, ``"core/a2/c7"``, ..."""
        if not 0 <= node < self.node_kind.size:
            last = self.node_kind.size - 1
            raise FabricError(f"node {node} does not exist; `{self.name}` has nodes 0 to {last}")
        return self.endpoint_name(node) if node < self.endpoints else self.structure.node_name(int(node))

    def link_name(self, link: int) -> str:
        """Outside name of a link: ``"nic_up/h17/n3"``, ``"tor_up/p0/t3/a5"``, ``"agg_down/p1/a2/c7"``, ..."""
        if not 0 <= link < self.links:
            raise FabricError(f"link {link} does not exist; `{self.name}` has links 0 to {self.links - 1}")
        return self.structure.link_name(int(link))

    def link_index(self, name: str) -> int:
        """Number of a named link.

        Raises
        ------
        FabricError
            For an unknown name, with the nearest one that exists.
        """
        return self.structure.link_index(name)

    def tier(self, link: int) -> str:
        """Human name of a link's tier: ``"ToR up"``, ``"scale-up out"``, ..."""
        return TIER_NAMES[LinkKind(int(self.kind[link]))]

    def tier_links(self) -> dict[str, NDArray[np.int64]]:
        """Links of every tier that exists, by human name, from the host upwards."""
        found = {name: np.flatnonzero(self.kind == kind) for kind, name in TIER_NAMES.items()}
        return {name: links for name, links in found.items() if links.size}

    def mask(self, dead: Iterable[str | int] = ()) -> NDArray[np.bool_]:
        """Which links are alive, bool[L], when the named (or numbered) ones are dead."""
        alive = np.ones(self.links, bool)
        for link in dead:
            alive[self.link_index(link) if isinstance(link, str) else link] = False
        return alive

    @property
    def bisection_bandwidth(self) -> float:
        """Bytes/s, one direction, that half of the endpoints can send to the other half over scale-out."""
        return self.structure.bisection_bandwidth(self.capacity)

    def describe(self) -> str:
        """The fabric in a few lines for a person."""
        lines = [repr(self), *self.structure.describe()]
        for tier, links in self.tier_links().items():
            low, high = self.capacity[links].min() * 8e-9, self.capacity[links].max() * 8e-9
            each = f"{low:,.6g}" if low == high else f"{low:,.6g} to {high:,.6g}"
            delay = self.latency[links[0]] * 1e9
            lines.append(f"  {tier:<13} {links.size:>9,} links of {each} Gb/s, {delay:,.0f} ns")
        lines.append(f"  bisection     {self.bisection_bandwidth * 8e-12:,.4g} Tb/s each way")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"Fabric({self.name!r}: {self.endpoints:,} accelerators on {self.hosts:,} hosts, "
            f"{self.links:,} links in {self.bundles:,} bundles)"
        )

    # ---- paths -----------------------------------------------------------------------------------------

    def route(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        choice: ArrayLike,
        *,
        network: Network = "scale_out",
        alive: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int32]:
        """One shortest path per flow, in closed form.

        Two endpoints under one ToR (also of one host) meet there: NIC up, NIC down. A flow to itself crosses
        nothing.

        Parameters
        ----------
        src, dst : int[F]
            Endpoints.
        choice : uint64[F]
            Picks among the live paths of the pair: number ``choice % live``.
        network : {"scale_out", "scale_up", "auto"}
            ``auto``: scale-up inside a scale-up domain, scale-out between domains.
        alive : bool[L], optional
            Live links; all when left out. A path through a dead link is never returned.

        Returns
        -------
        int32[F, K]
            Links from source to destination, padded with -1.

        Raises
        ------
        RouteError
            Naming the first pair without a live path.
        FabricError
            For endpoints that do not exist or arrays of the wrong length.
        """
        s, d = self._pairs(src, dst)
        # a copy: a read-only view is another type to Numba, compiled again
        pick = np.array(np.broadcast_to(np.asarray(choice, np.uint64), s.shape), order="C")
        self._known(network)
        live = self._alive(alive)
        whole = np.logical_and.reduceat(live, self.bundle_start[:-1])
        paths, failed = self.structure.route(s, d, pick, network, live, whole)
        if failed >= 0:
            raise self._no_route(s, d, failed, network, live)
        return paths

    def spread(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        *,
        network: Network = "scale_out",
        alive: NDArray[np.bool_] | None = None,
        capacity: NDArray[np.float64] | None = None,
        adaptive_capacity: NDArray[np.float64] | None = None,
        split: NDArray[np.bool_] | None = None,
    ) -> Spread:
        """Ideal spraying of each flow over all its live shortest paths.

        Oblivious (default): every live path carries the same share, so a link's fraction is the share of live
        paths that use it. Adaptive: a path's share is proportional to the least ``adaptive_capacity`` of its
        links between ToRs. A bundle stays one row while its links are alive, of equal capacity, and used
        evenly by every flow of the call; else all flows of the call use rows of its links.

        Parameters
        ----------
        src, dst : int[F]
            Endpoints.
        network, alive
            As in `route`.
        capacity : float64[L], optional
            Present capacities in bytes/s, to see which bundles are unequal; the fabric's own when left out.
        adaptive_capacity : float64[L], optional
            Capacities in bytes/s that the balancer adapts to (taken as ``capacity`` too); 0 counts as dead.
        split : bool[B], optional
            Bundles to split in any case, e.g. because another call had to.

        Returns
        -------
        Spread
            Entries in path order.

        Raises
        ------
        RouteError, FabricError
            As `route`.
        """
        s, d = self._pairs(src, dst)
        self._known(network)
        live = self._alive(alive)
        present = self.capacity
        if capacity is not None:
            present = self._per_link(capacity, "capacity")
        if adaptive_capacity is not None:
            present = self._per_link(adaptive_capacity, "adaptive_capacity")
            live = live & (present > 0)
            weight = np.where(live, present, 0.0)
        else:
            weight = live.astype(np.float64)
        first = self.bundle_start[:-1]
        low, high = np.minimum.reduceat(weight, first), np.maximum.reduceat(weight, first)
        irregular = (low == 0.0) | (low != high)
        unequal = np.minimum.reduceat(present, first) != np.maximum.reduceat(present, first)
        broken = irregular | unequal
        if split is not None:
            if split.shape != (self.bundles,):
                raise FabricError(f"`split`: {split.shape[0]} values for {self.bundles} bundles")
            broken |= split
        broken &= np.diff(self.bundle_start) > 1  # a bundle of one link is that link
        result, failed = self.structure.spread(s, d, network, weight, irregular, broken)
        if result is None:
            raise self._no_route(s, d, failed, network, live)
        return result

    def row_capacity(
        self, capacity: NDArray[np.float64] | None = None, split: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Capacity of every row that `spread` may use, float64[B + L] bytes/s.

        A whole bundle has the sum of its links. Rows out of use under ``split`` (bool[B], none when left out)
        are infinite: the bundle row of a split bundle and the link rows of a whole one.
        """
        present = self.capacity if capacity is None else self._per_link(capacity, "capacity")
        divided = np.zeros(self.bundles, bool) if split is None else split
        whole = np.where(divided, np.inf, np.add.reduceat(present, self.bundle_start[:-1]))
        single = np.where(divided[self.bundle], present, np.inf)
        return np.concatenate((whole, single))

    def link_load(self, row_load: NDArray[np.float64]) -> NDArray[np.float64]:
        """Load of every link, float64[L], from that of every row, float64[B + L]; bundles spread evenly."""
        size = np.diff(self.bundle_start)
        even = (row_load[: self.bundles] / size)[self.bundle]
        return np.asarray(even + row_load[self.bundles :], np.float64)

    def path_latency(self, paths: NDArray[np.int32]) -> NDArray[np.float64]:
        """Seconds that the first byte needs along each path of `route`, float64[F]."""
        return np.asarray(np.where(paths >= 0, self.latency[paths], 0.0).sum(axis=1), np.float64)

    # ---- border checks ---------------------------------------------------------------------------------

    def _pairs(self, src: ArrayLike, dst: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        ends = []
        for what, values in (("src", src), ("dst", dst)):
            array = np.atleast_1d(np.asarray(values))
            if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
                raise FabricError(f"`{what}`: endpoints must be one row of integers")
            if array.size and (array.min() < 0 or array.max() >= self.endpoints):
                bad = array[(array < 0) | (array >= self.endpoints)][0]
                last = self.endpoints - 1
                raise FabricError(f"`{what}`: endpoint {bad} does not exist; `{self.name}` has 0 to {last}")
            ends.append(np.array(array, np.int32))
        if ends[0].shape != ends[1].shape:
            raise FabricError(f"`dst`: {ends[1].size} endpoints for {ends[0].size} sources")
        return ends[0], ends[1]

    def _per_link(self, values: NDArray[Any], what: str) -> NDArray[np.float64]:
        array = np.asarray(values, np.float64)
        if array.shape != (self.links,):
            raise FabricError(f"`{what}`: shape {array.shape} for {self.links} links")
        if not (array >= 0).all():
            raise FabricError(f"`{what}`: a link's capacity must be 0 B/s or more")
        return array

    def _alive(self, alive: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        if alive is None:
            return np.ones(self.links, bool)
        if alive.shape != (self.links,) or alive.dtype != np.bool_:
            raise FabricError(f"`alive`: needs one bool per link, {self.links} in all")
        return np.array(alive)

    @staticmethod
    def _known(network: str) -> None:
        if network not in NETWORKS:
            raise FabricError(f"`network`: {network!r} is not one of {', '.join(NETWORKS)}")

    def _no_route(
        self,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        flow: int,
        network: Network,
        alive: NDArray[np.bool_],
    ) -> RouteError:
        s, d = int(src[flow]), int(dst[flow])
        why = self.structure.why_unreachable(s, d, network, alive)
        return RouteError(f"{self.endpoint_name(s)} -> {self.endpoint_name(d)}: {why}")
