"""The slow plain version of switch graphs: admitted paths enumerated by networkx on the link arrays."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import networkx as nx
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from euston.fabrics import (
    Fabric,
    LinkKind,
    NodeKind,
    dragonfly,
    from_graph,
    hyperx,
    jellyfish,
    slim_fly,
    torus,
)

Path = tuple[int, ...]
GLOBAL_COST = 1000  # any number above the hops within groups orders paths alike


def switch_links(fabric: Fabric) -> NDArray[np.int64]:
    """Links between switches."""
    switch = fabric.node_kind == NodeKind.SWITCH
    return np.flatnonzero(switch[fabric.link_src] & switch[fabric.link_dst])


def graph(fabric: Fabric, alive: NDArray[np.bool_]) -> nx.DiGraph:
    """Live links between switches; an edge holds its cables and what it costs (dragonfly: globals first)."""
    g = nx.DiGraph()
    g.add_nodes_from(np.flatnonzero(fabric.node_kind == NodeKind.SWITCH).tolist())
    grouped = "groups" in fabric.structure.describe()[-2]
    for link in switch_links(fabric).tolist():
        if not alive[link]:
            continue
        edge = (int(fabric.link_src[link]), int(fabric.link_dst[link]))
        if not g.has_edge(*edge):
            heavy = grouped and fabric.kind[link] == LinkKind.GLOBAL
            g.add_edge(*edge, cables=[], cost=GLOBAL_COST if heavy else 1)
        g.edges[edge]["cables"].append(link)
    return g


def cabled(g: nx.DiGraph, nodes: list[int]) -> list[Path]:
    """All choices of cables along a row of switches."""
    return list(itertools.product(*(g.edges[edge]["cables"] for edge in itertools.pairwise(nodes))))


def ends(fabric: Fabric, s: int, d: int) -> tuple[int, int]:
    """NIC links of a pair."""
    names = []
    for endpoint, kind in ((s, "nic_up"), (d, "nic_down")):
        host, a = divmod(endpoint, fabric.accelerators_per_host)
        nics = fabric.structure.host.nics  # type: ignore[attr-defined]
        names.append(fabric.link_index(f"{kind}/h{host}/n{a * nics // fabric.accelerators_per_host}"))
    return names[0], names[1]


def shortest(g: nx.DiGraph, a: int, b: int) -> list[Path]:
    """Least-cost paths between two switches; none where there is no way."""
    try:
        nodes = list(nx.all_shortest_paths(g, a, b, weight="cost"))
    except nx.NetworkXNoPath:
        return []
    return [path for row in nodes for path in cabled(g, row)]


def longer(g: nx.DiGraph, a: int, b: int, more: int) -> list[Path]:
    """Loop-free paths of up to ``more`` hops above the least, shortest first."""
    try:
        least = nx.shortest_path_length(g, a, b)
    except nx.NetworkXNoPath:
        return []
    nodes = sorted(nx.all_simple_paths(g, a, b, cutoff=least + more), key=len)
    return [path for row in nodes for path in cabled(g, row)]


def via(fabric: Fabric, g: nx.DiGraph, a: int, b: int, groups: Any) -> dict[Path, Fraction] | None:
    """Valiant paths and their shares; None where the largest strongly connected part is not unique."""
    parts = sorted(nx.strongly_connected_components(g), key=len, reverse=True)
    if len(parts) > 1 and len(parts[0]) == len(parts[1]):
        return None
    core = parts[0]
    third = sorted({groups[v] for v in core} - {groups[a], groups[b]}) if {a, b} <= core else []
    if not third:
        paths = shortest(g, a, b)
        return {p: Fraction(1, len(paths)) for p in paths}
    out: dict[Path, Fraction] = {}
    for turn in third:
        members = [v for v in core if groups[v] == turn]
        costs = nx.single_source_dijkstra_path_length(g, a, weight="cost")
        least = min(costs[v] for v in members)
        # the first switch of the group that is met ends the first leg
        first = [p for v in members if costs[v] == least for p in shortest(g, a, v)]
        for leg in first:
            rest = shortest(g, int(fabric.link_dst[leg[-1]]), b)
            for more in rest:
                share = Fraction(1, len(third) * len(first) * len(rest))
                out[leg + more] = out.get(leg + more, Fraction(0)) + share
    return out


def with_ends(fabric: Fabric, s: int, d: int, paths: list[Path], alive: NDArray[np.bool_]) -> list[Path]:
    """The same from endpoint to endpoint; none when a NIC's link is dead."""
    up, down = ends(fabric, s, d)
    return [(up, *path, down) for path in paths] if alive[up] and alive[down] else []


def switch_of(fabric: Fabric, endpoint: int) -> int:
    """Node of an endpoint's switch."""
    return int(fabric.link_dst[ends(fabric, endpoint, endpoint)[0]])


HOSTS = st.fixed_dictionaries(
    {
        "accelerators_per_host": st.just(3),
        "nics_per_host": st.sampled_from([1, 2, 3]),
        "scale_up": st.sampled_from([None, 64.0]),
        "hosts_per_domain": st.sampled_from([1, 2]),
    }
)


@st.composite
def fabrics(draw: st.DrawFn, routing: str = "minimal", *, unit_cost: bool = False, **more: Any) -> Fabric:
    """A small fabric of any family."""
    hosts = draw(HOSTS)
    nics = hosts["nics_per_host"]
    common: dict[str, Any] = {"nic": 4.0, "routing": routing, **hosts, **more}
    kinds = ["torus", "hyperx", "jellyfish", "graph", "slim_fly", "dragonfly"]
    if routing == "detour":
        kinds = ["hyperx", "jellyfish", "graph"]
    elif routing == "k_shortest":
        kinds = ["jellyfish", "graph"]
    kind = draw(st.sampled_from(kinds))
    if kind == "torus":
        dims = draw(st.sampled_from([(5,), (4,), (2, 3), (3, 3), (4, 4), (2, 2, 2), (4, 1, 3)]))
        wrap = draw(st.sampled_from([True, False, [i % 2 == 0 for i in range(len(dims))]]))
        return torus(dims, link=2.0, wrap=wrap, cables=draw(st.integers(1, 2)), **common)
    if kind == "hyperx":
        dims = draw(st.sampled_from([(4,), (3, 3), (4, 2), (2, 2, 2), (2, 3, 2)]))
        return hyperx(dims, link=2.0, cables=draw(st.integers(1, 2)), **common)
    if kind == "dragonfly":
        a, h, g = draw(st.sampled_from([(2, 1, 3), (2, 1, 2), (3, 1, 4), (2, 2, 5), (4, 1, 3), (3, 0, 1)]))
        return dragonfly(a, nics, h, groups=g, **common)
    if kind == "slim_fly":
        return slim_fly(3, nics, **common)
    if kind == "jellyfish":
        n, r = draw(st.sampled_from([(8, 3), (6, 4), (7, 4), (10, 3), (4, 3)]))
        return jellyfish(n, r, seed=draw(st.integers(0, 9)), **common)
    n = draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tree = [(i, int(rng.integers(0, i))) for i in range(1, n)]
    extra = [tuple(rng.choice(n, 2, replace=False).tolist()) for _ in range(int(rng.integers(0, 2 * n)))]
    below = [1, 1, *rng.integers(0, 2, n - 2).tolist()]
    return from_graph(tree + extra, hosts_per_switch=below, **common)


@st.composite
def broken(draw: st.DrawFn, routing: str = "minimal", **more: Any) -> tuple[Any, ...]:
    """A fabric with dead links, and a few pairs."""
    fabric = draw(fabrics(routing, **more))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    alive = rng.random(fabric.links) > draw(st.sampled_from([0.0, 0.05, 0.2]))
    src, dst = rng.integers(0, fabric.endpoints, (2, 6))
    return fabric, alive, src, dst
