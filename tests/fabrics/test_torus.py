"""Tori and meshes: counts, diameter, numbers of shortest paths and bisection against closed forms."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import FabricError
from euston.fabrics import LinkKind, NodeKind, torus

from .graph_oracle import graph, switch_links


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.data())
def test_counts_and_diameter(dims: list[int], data: Any) -> None:
    """A dimension of k has k cables a row wrapped (1 for k = 2), k - 1 not; networkx's own grid agrees."""
    wrap = data.draw(st.lists(st.booleans(), min_size=len(dims), max_size=len(dims)))
    f = torus(dims, nic=1.0, link=list(map(float, range(1, len(dims) + 1))), wrap=wrap)
    n = math.prod(dims)
    assert (f.node_kind == NodeKind.SWITCH).sum() == f.endpoints == n
    for i, (size, round_) in enumerate(zip(dims, wrap, strict=True)):
        links = f.kind == LinkKind.DIMENSION_1 + i
        assert links.sum() == 2 * n // size * (size if round_ and size > 2 else size - 1)
        assert (f.capacity[links] == i + 1).all()
    ours = graph(f, np.ones(f.links, bool)).to_undirected()
    # networkx lists dimensions fastest first, and joins a wrapped dimension of 2 (or 1) as ours
    theirs = nx.grid_graph(
        dim=dims[::-1], periodic=[w and k > 2 for w, k in zip(wrap, dims, strict=True)][::-1]
    )
    named = {node: i for i, node in enumerate(sorted(theirs, key=lambda v: v if len(dims) > 1 else (v,)))}
    edges = {frozenset((named[a], named[b])) for a, b in theirs.edges if a != b}
    assert {frozenset((a - n, b - n)) for a, b in ours.edges} == edges
    reach = sum(k // 2 if w else k - 1 for k, w in zip(dims, wrap, strict=True))
    src, dst = (e.ravel() for e in np.meshgrid(np.arange(n), np.arange(n)))
    assert (f.route(src, dst, 0) >= 0).sum(axis=1).max() == (reach + 2 if n > 1 else 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.data())
def test_paths_of_a_torus_are_counted(dims: list[int], data: Any) -> None:
    """Multinomial of the distances, times 2 for every dimension half-way round."""
    n = math.prod(dims)
    s, d = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    f = torus(dims, nic=1.0, link=1.0)
    away = [abs(int(a) - int(b)) for a, b in zip(*(np.unravel_index(e, dims) for e in (s, d)), strict=True)]
    hops = [min(x, k - x) for x, k in zip(away, dims, strict=True)]
    count = math.factorial(sum(hops)) // math.prod(map(math.factorial, hops))
    count *= 2 ** sum(2 * x == k > 2 for x, k in zip(away, dims, strict=True))
    pair = np.array([[s], [d]], np.int32)
    assert f.structure.live_paths(*pair, np.ones(f.links, bool), None).tolist() == [count]


@pytest.mark.nojit
def test_ties_go_both_ways_round() -> None:
    f = torus((4,), nic=1.0, link=1.0)
    paths = f.route([0, 0], [2, 2], [0, 1])
    assert {f.link_name(p[1]) for p in paths} == {"dimension_1/x0/x1", "dimension_1/x0/x3"}


@pytest.mark.parametrize(
    ("dims", "wrap", "expected"),
    [((8,), True, 2), ((8,), False, 1), ((4, 4), True, 8), ((4, 6), True, 8), ((4, 6), False, 4),
     ((4, 4, 4), True, 32), ((8, 4, 2), True, 16), ((4, 6), [True, False], 4)],
)  # fmt: skip
def test_bisection(dims: Any, wrap: Any, expected: float) -> None:
    """2 n / k cables of a wrapped even dimension k, n / k of one that is not; the least of all."""
    assert torus(dims, nic=100.0, link=1.0, wrap=wrap).bisection_bandwidth == expected


def test_16_cubed() -> None:
    f = torus((16, 16, 16), nic="400 Gb/s", link="800 Gb/s", hosts_per_switch=4)
    assert f.endpoints == 16384
    assert switch_links(f).size == 6 * 4096
    assert f.bisection_bandwidth == 2 * 256 * 100e9
    paths = f.route(np.arange(16384), (np.arange(16384) + 8 * 273 * 4) % 16384, np.arange(16384))
    assert ((paths >= 0).sum(axis=1) <= 26).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": "44"}, "`dims`: '44' is no row of 1 to 26 sizes, such as (4, 4, 4)"),
        ({"wrap": [True]}, "`wrap`: 1 values for 2 dimensions; give one for all, or one each"),
        ({"hosts_per_switch": 0}, "`hosts`: 0 is too few; it must be 1 or more"),
    ],
)
def test_bad_descriptions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        torus(**({"dims": (4, 4), "nic": 1.0, "link": 1.0} | change))
    assert str(caught.value) == message
