"""Jellyfish: simple connected regular graphs that follow their seed."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from euston.errors import FabricError
from euston.fabrics import LinkKind, NodeKind, jellyfish

from .graph_oracle import graph, longer, switch_links


@pytest.mark.parametrize(("n", "r"), [(2, 1), (3, 2), (8, 2), (10, 3), (20, 5), (9, 8), (128, 14)])
def test_simple_connected_and_regular(n: int, r: int) -> None:
    f = jellyfish(n, r, nic=1.0, link=2.0, hosts_per_switch=2, seed=5)
    assert f.endpoints == 2 * n
    assert (f.node_kind == NodeKind.SWITCH).sum() == n
    links = switch_links(f)
    assert links.size == n * r == (f.kind == LinkKind.SWITCH).sum()
    assert (f.capacity[links] == 2.0).all()
    g = graph(f, np.ones(f.links, bool)).to_undirected()
    assert nx.number_of_selfloops(g) == 0
    assert g.number_of_edges() == n * r // 2  # no parallel cables
    assert {d for _, d in g.degree()} == {r}
    assert nx.is_connected(g)
    longest = (
        (f.route(np.repeat(np.arange(n) * 2, n), np.tile(np.arange(n) * 2, n), 0) >= 0).sum(axis=1).max()
    )
    assert longest >= nx.diameter(g) + 2 if n > 1 else True


def test_seeds() -> None:
    one, same, other = (jellyfish(30, 4, nic=1.0, seed=s) for s in (1, 1, 2))
    assert (one.link_dst == same.link_dst).all()
    assert (one.link_dst != other.link_dst).any()


@pytest.mark.nojit
def test_routes_are_8_unless_said() -> None:
    f = jellyfish(64, 6, nic=1.0)
    pair = np.array([[0], [63]], np.int32)
    assert f.structure.live_paths(*pair, np.ones(f.links, bool), None).tolist() == [8]
    wide = jellyfish(64, 6, nic=1.0, paths=20)
    there = longer(graph(wide, np.ones(f.links, bool)), 64, 127, 2)
    assert wide.structure.live_paths(*pair, np.ones(f.links, bool), None).tolist() == [min(20, len(there))]


def test_1024_switches() -> None:
    f = jellyfish(1024, 24, nic="400 Gb/s", hosts_per_switch=16)
    n = f.endpoints
    paths = f.route(np.arange(n), np.random.default_rng(2).permutation(n), np.arange(n))
    assert n == 16384
    assert (paths >= 0).sum(axis=1).max() <= 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 8}, "`degree`: 8 neighbours, but there are only 7 other switches"),
        ({"switches": 7, "degree": 3},
         "`degree`: 7 switches cannot all have 3 neighbours; make one of them even"),
        ({"switches": 8, "degree": 1},
         "`degree`: no connected graph of 8 switches with 1 neighbours each in 1000 draws; use 3 or more"),
        ({"paths": 0}, "`paths`: 0 is too few; it must be 1 or more"),
        ({"seed": -1}, "`seed`: -1 is too few; it must be 0 or more"),
    ],
)  # fmt: skip
def test_bad_descriptions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        jellyfish(**({"switches": 8, "degree": 3, "nic": 1.0} | change))
    assert str(caught.value) == message
