"""The slow plain version: all live shortest paths of a fabric, enumerated by networkx on its link arrays."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric, LinkKind

SCALE_UP = (LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN)


def graph(fabric: Fabric, alive: NDArray[np.bool_], *, scale_up: bool = False) -> nx.DiGraph:
    """Live links of one network; each edge carries its link number."""
    g = nx.DiGraph()
    g.add_nodes_from(range(fabric.node_kind.size))
    for link in np.flatnonzero(alive & (np.isin(fabric.kind, SCALE_UP) == scale_up)):
        edge = (int(fabric.link_src[link]), int(fabric.link_dst[link]))
        assert not g.has_edge(*edge)
        g.add_edge(*edge, link=int(link), capacity=float(fabric.capacity[link]))
    return g


def port(fabric: Fabric, endpoint: int, nics: int) -> int:
    """Node at which the scale-out network sees an endpoint: itself, or the NIC it shares."""
    host, g = divmod(endpoint, fabric.accelerators_per_host)
    nic = g * nics // fabric.accelerators_per_host
    return int(fabric.link_src[fabric.link_index(f"nic_up/h{host}/n{nic}")])


def all_paths(
    fabric: Fabric, src: int, dst: int, nics: int, alive: NDArray[np.bool_], *, scale_up: bool = False
) -> list[tuple[int, ...]]:
    """Live paths as tuples of links, as long as the shortest path of the unbroken fabric."""
    if src == dst:
        return [()]
    a, b = (src, dst) if scale_up else (port(fabric, src, nics), port(fabric, dst, nics))
    if a == b:  # both behind one NIC: up to the ToR and back
        up = fabric.link_index(fabric.link_name(int(np.flatnonzero(nic_links(fabric, a))[0])))
        loop = (up, int(fabric.reverse[up]))
        return [loop] if alive[list(loop)].all() else []
    whole = graph(fabric, np.ones(fabric.links, bool), scale_up=scale_up)
    try:
        hops = nx.shortest_path_length(whole, a, b)
        found = list(nx.all_shortest_paths(graph(fabric, alive, scale_up=scale_up), a, b))
    except nx.NetworkXNoPath:
        return []
    return [tuple(whole.edges[edge]["link"] for edge in pairwise(p)) for p in found if len(p) == hops + 1]


def nic_links(fabric: Fabric, node: int) -> NDArray[np.bool_]:
    """The NIC uplink of a node."""
    return (fabric.kind == LinkKind.NIC_UP) & (fabric.link_src == node)


def fractions(paths: list[tuple[int, ...]]) -> dict[int, Fraction]:
    """Share of the paths that use each link, exactly."""
    share: dict[int, Fraction] = {}
    for path in paths:
        for link in path:
            share[link] = share.get(link, Fraction(0)) + Fraction(1, len(paths))
    return share
