"""Bisections: every half of small graphs by hand-written search; larger ones against it from above."""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings

from euston.fabrics import Fabric, _bisection, from_graph, hyperx, jellyfish, slim_fly, torus

from .graph_oracle import fabrics, switch_links


def by_flow(fabric: Fabric) -> float:
    """The least maximum flow between two halves of the switches with hosts, as nearly half of the hosts."""
    g = nx.DiGraph()
    for link in switch_links(fabric).tolist():
        edge = (int(fabric.link_src[link]), int(fabric.link_dst[link]))
        g.add_edge(*edge, capacity=g.get_edge_data(*edge, {}).get("capacity", 0.0) + fabric.capacity[link])
    host = fabric.structure.host  # type: ignore[attr-defined]
    below = np.bincount(host.host_switch)
    first = sum(host.node_counts.values())
    seats = np.flatnonzero(below)
    halves = [c for k in range(1, seats.size) for c in itertools.combinations(seats.tolist(), k)]
    uneven = [abs(2 * below[list(c)].sum() - below.sum()) for c in halves]
    found = [float(fabric.capacity[fabric.kind == 2].sum()) / 2]
    for c, gap in zip(halves, uneven, strict=True):
        if gap > min(uneven):
            continue
        h = g.copy()
        for v in seats.tolist():
            h.add_edge("s", first + v) if v in c else h.add_edge(first + v, "t")
        found.append(nx.maximum_flow_value(h, "s", "t"))
    return min(found)


@settings(max_examples=25, deadline=None)
@given(fabrics().filter(lambda f: f.structure.paths.switches <= 8))
def test_small_graphs_are_exact(fabric: Fabric) -> None:
    assert fabric.bisection_bandwidth == pytest.approx(by_flow(fabric))


@pytest.mark.parametrize(
    "fabric",
    [
        jellyfish(12, 3, nic=9.0, seed=1),
        torus((4, 4), nic=9.0, link=1.0),
        hyperx((4, 3), nic=9.0, link=[1.0, 2.0]),
        from_graph(
            [(i, j) for i in range(4) for j in range(4, 10)], nic=9.0, hosts_per_switch=[0] * 4 + [2] * 6
        ),
        from_graph([(i, (i + 1) % 14) for i in range(14)], nic=9.0),
    ],
    ids=["jellyfish", "torus", "hyperx", "leaf-spine", "ring"],
)
def test_the_search_finds_what_trying_all_does(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = fabric.bisection_bandwidth
    monkeypatch.setattr(_bisection, "_EXACT", 0)
    assert fabric.bisection_bandwidth == pytest.approx(exact)


def test_large_irregular_graphs() -> None:
    """Between what expansion allows and a random half: r n / 4 cables cross a random one, and swaps gain.

    A random regular graph's bisection is at least n (r / 4 - sqrt(r ln 2) / 2) cables (Bollobas 1988).
    """
    for n, r in ((200, 10), (800, 12)):
        found = jellyfish(n, r, nic=99.0, link=1.0).bisection_bandwidth
        assert n * (r / 4 - np.sqrt(r * np.log(2)) / 2) <= found < 0.87 * n * r / 4
    assert slim_fly(5, nic=99.0, link=1.0).bisection_bandwidth < 50 * 7 / 4


def test_capacity_counts_as_it_is() -> None:
    """Dead cables are left out; the direction that has less decides."""
    f: Any = torus((4,), nic=9.0, link=1.0)
    capacity = f.capacity.copy()
    capacity[f.link_index("dimension_1/x0/x1")] = 0.0
    assert f.structure.bisection_bandwidth(capacity) == 1.0
    single = from_graph([], switches=["a"], nic=1.0, hosts_per_switch=1)
    assert single.bisection_bandwidth == 0.5
