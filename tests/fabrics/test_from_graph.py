"""Any graph: what is given stands in the arrays; the same fat tree as the Clos builder's, path for path."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from euston.errors import FabricError, UnitError
from euston.fabrics import fat_tree, from_graph

from .graph_oracle import switch_links


def test_cables_carry_their_own_values() -> None:
    f = from_graph(
        [("a", "b"), ("b", "c", "200 Gb/s"), ("c", "a", None, "3 us"), ("a", "b", 5.0, 0.0)],
        nic="100 Gb/s", link="50 Gb/s", link_latency="1 us", hosts_per_switch={"a": 2, "c": 1},
    )  # fmt: skip
    assert f.hosts == 3
    assert [f.node_name(i) for i in range(3, 6)] == ["switch/a", "switch/b", "switch/c"]
    expected = {
        "switch/a/b/c0": (6.25e9, 1e-6),
        "switch/b/a/c1": (5.0, 0.0),
        "switch/c/b": (25e9, 1e-6),
        "switch/a/c": (6.25e9, 3e-6),
    }
    for name, (rate, delay) in expected.items():
        link = f.link_index(name)
        assert (f.capacity[link], f.latency[link]) == (rate, delay)
    # both cables of the uneven trunk are used alike, and by name
    spread = f.spread([0], [2], alive=f.mask(["switch/a/c"]))
    assert sorted(f.link_name(r - f.bundles) for r in spread.row if r >= f.bundles) == [
        "switch/a/b/c0",
        "switch/a/b/c1",
    ]


def test_networkx_graphs_serve() -> None:
    g = nx.petersen_graph()
    nx.set_edge_attributes(g, "10 Gb/s", "rate")
    f = from_graph(g.edges.data("rate"), nic="10 Gb/s")
    assert f.hosts == 10
    assert f.link_name(f.links - 1).startswith("switch/s9/")
    assert (f.capacity[switch_links(f)] == 1.25e9).all()


def test_a_fat_tree_as_a_graph_routes_like_the_clos() -> None:
    """All paths of a 4-ary fat tree, by the names of their switches."""
    clos = fat_tree(4, nic=1.0)
    cables = [
        (clos.node_name(a).replace("/", "."), clos.node_name(b).replace("/", "."))
        for a, b in zip(clos.link_src.tolist(), clos.link_dst.tolist(), strict=True)
        if clos.endpoints <= a < b
    ]
    tors = sorted({name for cable in cables for name in cable if name.startswith("tor")})
    f = from_graph(cables, nic=1.0, hosts_per_switch=dict.fromkeys(tors, 2), switches=tors + sorted(
        {name for cable in cables for name in cable} - set(tors)
    ))  # fmt: skip
    src, dst = (e.ravel() for e in np.meshgrid(np.arange(16), np.arange(16)))
    whole = np.ones(f.bundles, bool)
    assert (
        f.structure.live_paths(
            src.astype(np.int32), dst.astype(np.int32), np.ones(f.links, bool), whole
        ).max()
        == 4
    )
    for choice in range(4):
        ours, theirs = f.route(src, dst, choice), clos.route(src, dst, choice)
        assert ((ours >= 0).sum(axis=1) == (theirs >= 0).sum(axis=1)).all()
    a, b = ({tuple(g.node_name(n).replace("/", ".").removeprefix("switch.") for n in g.link_dst[p]) for p in (
        g.route([0] * 4, [15] * 4, np.arange(4)))} for g in (f, clos))  # fmt: skip
    assert a == b
    assert f.bisection_bandwidth == clos.bisection_bandwidth


def test_one_switch() -> None:
    f = from_graph([], switches=["tor"], nic=1.0, hosts_per_switch=8, accelerators_per_host=2)
    assert f.links == 32
    assert (f.route([0], [15], 7)[0] == [0, 31]).all()
    assert f.spread([0], [15]).row.tolist() == [0, 31]
    assert f.bisection_bandwidth == 8.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cables": [(0, 1), (2, 2)]}, "`cables[1]`: joins switch 2 to itself; leave it out"),
        ({"cables": [(0,)]},
         "`cables[0]`: 1 values; write (a, b), (a, b, bandwidth) or (a, b, bandwidth, latency)"),
        ({"cables": [(0, "b")]}, "`cables`: switches must be all whole numbers or all texts"),
        ({"cables": [("a", "b/c")]}, "`cables`: 'b/c' is no name of a switch; no '/', no space, not empty"),
        ({"cables": [(0, -1)]}, "`cables`: switch -1 is negative; count from 0"),
        ({"cables": []}, "`cables`: names no switch; one without cables stands in `switches`"),
        ({"cables": [("tor1", "tor2")], "switches": ["tor1", "tor3"]},
         "`cables[0]`: unknown switch 'tor2'; did you mean 'tor3'?"),
        ({"switches": [0, 0, 1]}, "`switches`: a switch stands twice"),
        ({"hosts_per_switch": {7: 1}}, "`hosts_per_switch`: unknown switch '7'; known: 0, 1"),
        ({"hosts_per_switch": [1, 2, 3]}, "`hosts_per_switch`: 3 numbers for 2 switches"),
        ({"cables": [(0, 1), (2, 3)]},
         "`cables`: the hosts fall into 2 parts that no cable joins; join them, or build one fabric each"),
    ],
)  # fmt: skip
def test_bad_descriptions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        from_graph(**({"cables": [(0, 1)], "nic": 1.0} | change))
    assert str(caught.value) == message


def test_parts_without_hosts_do_no_harm() -> None:
    f = from_graph([(0, 1), (2, 3)], nic=1.0, hosts_per_switch=[1, 1, 0, 0], routing="valiant")
    names = [f.link_name(i) for i in f.route([0], [1], 5)[0] if i >= 0]
    assert names == ["nic_up/h0/n0", "switch/s0/s1", "nic_down/h1/n0"]


@pytest.mark.parametrize(
    ("cable", "place"),
    [((0, 1, "fast"), r"`cables\[0\]\[2\]`"), ((0, 1, 1.0, "1 GB"), r"`cables\[0\]\[3\]`")],
)
def test_bad_quantities(cable: Any, place: str) -> None:
    with pytest.raises(UnitError, match=place):
        from_graph([cable], nic=1.0)
