"""Slim flies: counts, degree, diameter of McKay-Miller-Siran graphs; one is that of Hoffman and Singleton."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from euston.errors import FabricError
from euston.fabrics import NodeKind, slim_fly
from euston.fabrics._galois import field

from .graph_oracle import graph, switch_links


@pytest.mark.parametrize(
    ("q", "delta"), [(3, -1), (4, 0), (5, 1), (7, -1), (8, 0), (9, 1), (11, -1), (16, 0)]
)
def test_counts_degree_and_diameter(q: int, delta: int) -> None:
    """2 q^2 switches of (3 q - delta) / 2 cables, every two at most 2 hops apart (Besta & Hoefler 2014)."""
    f = slim_fly(q, nic=1.0)
    degree = (3 * q - delta) // 2
    assert (f.node_kind == NodeKind.SWITCH).sum() == 2 * q * q
    assert f.endpoints == 2 * q * q * ((degree + 1) // 2)
    assert switch_links(f).size == 2 * q * q * degree
    g = graph(f, np.ones(f.links, bool)).to_undirected()
    assert {d for _, d in g.degree()} == {degree}
    assert nx.diameter(g) == 2
    assert (np.diff(f.bundle_start) == 1).all()
    src, dst = (e.ravel() for e in np.meshgrid(np.arange(2 * q * q), np.arange(2 * q * q)))
    p = (degree + 1) // 2
    assert (f.route(src * p, dst * p, 0) >= 0).sum(axis=1).max() == 4


def test_q_5_is_the_hoffman_singleton_graph() -> None:
    """The only graph of degree 7, diameter 2 and girth 5 on 50 nodes (Hoffman & Singleton 1960)."""
    g = graph(slim_fly(5, nic=1.0), np.ones(slim_fly(5, nic=1.0).links, bool)).to_undirected()
    assert nx.girth(g) == 5
    assert nx.is_strongly_regular(g)
    assert nx.faster_could_be_isomorphic(nx.convert_node_labels_to_integers(g), nx.hoffman_singleton_graph())


@pytest.mark.parametrize("q", [2, 3, 4, 5, 7, 8, 9, 16, 25, 27])
def test_field_axioms(q: int) -> None:
    f = field(q)
    a, b, c = (v.ravel() for v in np.meshgrid(np.arange(q), np.arange(q), np.arange(q)))
    for op, unit in ((f.add, 0), (f.multiply, 1)):
        assert (op == op.T).all()
        assert (op[op[a, b], c] == op[a, op[b, c]]).all()
        assert (op[unit] == np.arange(q)).all()
        rows = op if unit == 0 else op[1:, 1:]
        assert (np.sort(rows, axis=1) == np.sort(rows[0])).all()  # every element has an inverse
    assert (f.multiply[a, f.add[b, c]] == f.add[f.multiply[a, b], f.multiply[a, c]]).all()
    assert sorted(f.power.tolist()) == list(range(1, q))


def test_hosts_of_several_nics_fit_the_default() -> None:
    f = slim_fly(5, nic=1.0, accelerators_per_host=8)  # half of 7 cables is 4: one host of 8
    assert f.hosts == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": 6}, "`q`: 6 is not a prime power of the form 4 w - 1, 4 w or 4 w + 1; nearest 5"),
        ({"q": 10}, "`q`: 10 is not a prime power of the form 4 w - 1, 4 w or 4 w + 1; nearest 9"),
        ({"q": 2}, "`q`: 2 is too few; it must be 3 or more"),
        ({"p": 0}, "`p`: 0 is too few; it must be 1 or more"),
    ],
)
def test_bad_descriptions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        slim_fly(**({"q": 5, "nic": 1.0} | change))
    assert str(caught.value) == message
