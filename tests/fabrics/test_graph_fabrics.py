"""What holds for every graph of switches: names, reverse links, arrays, host options, pickling."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from euston.errors import FabricError, UnitError
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
from euston.fabrics.structure import TIER_NAMES

from .graph_oracle import fabrics, switch_links

EVERY: list[Any] = [
    lambda **more: torus((2, 3), link=1.0, nic=4.0, **more),
    lambda **more: hyperx((3, 2), link=1.0, nic=4.0, **more),
    lambda **more: dragonfly(2, more.get("nics_per_host", 1), 1, nic=4.0, **more),
    lambda **more: slim_fly(3, more.get("nics_per_host", 1), nic=4.0, **more),
    lambda **more: jellyfish(6, 3, nic=4.0, **more),
    lambda **more: from_graph([(i, (i + 1) % 6) for i in range(6)], nic=4.0, **more),
]


@settings(max_examples=40, deadline=None)
@given(fabrics())
def test_every_link_has_its_reverse_and_its_name(fabric: Fabric) -> None:
    reverse = fabric.reverse
    assert (reverse[reverse] == np.arange(fabric.links)).all()
    assert (fabric.link_src[reverse] == fabric.link_dst).all()
    assert (fabric.link_dst[reverse] == fabric.link_src).all()
    for values in (fabric.capacity, fabric.latency):
        assert (values[reverse] == values).all()
    names = [fabric.link_name(i) for i in range(fabric.links)]
    assert len(set(names)) == fabric.links
    assert [fabric.link_index(n) for n in names] == list(range(fabric.links))
    nodes = [fabric.node_name(i) for i in range(fabric.node_kind.size)]
    assert len(set(nodes)) == len(nodes)
    said = fabric.describe()
    for i in switch_links(fabric).tolist():  # the outside names agree with the arrays
        kind, a, b, *cable = names[i].split("/")
        assert LinkKind[kind.upper()] == fabric.kind[i]
        assert (nodes[fabric.link_src[i]], nodes[fabric.link_dst[i]]) == (f"switch/{a}", f"switch/{b}")
        size = np.diff(fabric.bundle_start)[fabric.bundle[i]]
        assert bool(cable) == (size > 1)
        assert fabric.tier(i) in said
    for b in range(fabric.bundles):  # a bundle is the cables of one trunk
        links = slice(fabric.bundle_start[b], fabric.bundle_start[b + 1])
        assert np.unique(fabric.link_src[links]).size == np.unique(fabric.link_dst[links]).size == 1


@pytest.mark.parametrize("build", EVERY)
def test_host_options(build: Any) -> None:
    f = build(
        accelerators_per_host=4, nics_per_host=2, hosts=5, scale_up="9 GB/s", hosts_per_domain=2,
        scale_up_latency="1 us", nic_latency="2 us", buffer="1 MB", name="mine",
    )  # fmt: skip
    assert (f.name, f.hosts, f.endpoints) == ("mine", 5, 20)
    kinds = np.bincount(f.node_kind, minlength=7)
    assert kinds[[NodeKind.ENDPOINT, NodeKind.NIC, NodeKind.SCALE_UP_SWITCH]].tolist() == [20, 10, 3]
    for kind, count, rate, delay, queue in (
        (LinkKind.SCALE_UP_OUT, 20, 9e9, 1e-6, 0),
        (LinkKind.SCALE_UP_IN, 20, 9e9, 1e-6, 10**6),
        (LinkKind.NIC_UP, 10, 4.0, 2e-6, 0),
        (LinkKind.NIC_DOWN, 10, 4.0, 2e-6, 10**6),
    ):
        links = f.kind == kind
        assert links.sum() == count
        assert (f.capacity[links] == rate).all()
        assert (f.latency[links] == delay).all()
        assert (f.buffer_bytes[links] == queue).all()
    assert (f.buffer_bytes[switch_links(f)] == 10**6).all()
    assert (f.latency[switch_links(f)] == 500e-9).all()
    assert (np.unique(f.domain, return_inverse=True)[1] == np.arange(20) // 8).all()
    # accelerators 0 and 1 share NIC 0: up and straight down again
    names = [[f.link_name(i) for i in row if i >= 0] for row in f.route([0, 0], [1, 2], 0)]
    assert names == [["nic_up/h0/n0", "nic_down/h0/n0"], ["nic_up/h0/n0", "nic_down/h0/n1"]]
    plain = build()
    assert plain.hosts == plain.endpoints
    assert plain.accelerators_per_host == 1
    assert (plain.domain == np.arange(plain.endpoints)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hosts": 99}, "`hosts`: 99 hosts do not fit; the switches hold 6"),
        ({"hosts": 0}, "`hosts`: 0 is too few; it must be 1 or more"),
        ({"accelerators_per_host": 2.5}, "`accelerators_per_host`: 2.5 is not a whole number"),
        ({"nics_per_host": 2}, "`nics_per_host`: 2 NICs for 1 accelerators; give 1 NICs their bandwidth"),
        ({"nics": 2}, "`torus`: unknown option 'nics'; did you mean 'nics_per_host'?"),
        ({"routing": "ugl"}, "`routing`: unknown rule 'ugl'; did you mean 'ugal'?"),
        ({"routing": "k_shortest"}, "`routing`: unknown rule 'k_shortest'; known: minimal, valiant, ugal"),
        ({"intermediates": 3}, "`intermediates`: minimal paths have none; use it with valiant or ugal"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        EVERY[0](**change)
    assert str(caught.value) == message


@pytest.mark.parametrize("what", ["nic", "link", "scale_up", "link_latency", "nic_latency", "buffer"])
def test_bad_quantities(what: str) -> None:
    with pytest.raises(UnitError, match=f"`{what}`"):
        torus((2, 2), **({"nic": 1.0, "link": 1.0} | {what: "7 parsecs"}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dimension_3/x0.y0/x0.y1", "unknown link kind 'dimension_3'; did you mean 'dimension_2'?"),
        ("nic_up/h9/n0", "unknown link 'nic_up/h9/n0'; did you mean 'nic_up/h5/n0'?"),
        ("nic_up/h1", "unknown link 'nic_up/h1'; links of this kind are called like 'nic_up/h0/n0'"),
        ("dimension_1/x0.y0",
         "unknown link 'dimension_1/x0.y0'; links are called like 'dimension_2/x0.y0/x0.y1'"),
        ("dimension_1/x0.y0/x1.y3",
         "unknown link 'dimension_1/x0.y0/x1.y3': unknown switch 'x1.y3'; did you mean 'x1.y2'?"),
        ("dimension_1/x0.y0/x1.y1",
         "unknown link 'dimension_1/x0.y0/x1.y1': x0.y0 is joined to x0.y1, x0.y2, x1.y0"),
        ("dimension_1/x0.y0/x0.y1",
         "unknown link 'dimension_1/x0.y0/x0.y1'; did you mean 'dimension_2/x0.y0/x0.y1'?"),
        ("dimension_2/x0.y0/x0.y1/c4",
         "unknown link 'dimension_2/x0.y0/x0.y1/c4'; did you mean 'dimension_2/x0.y0/x0.y1'?"),
    ],
)  # fmt: skip
def test_unknown_links(name: str, message: str) -> None:
    with pytest.raises(FabricError) as caught:
        EVERY[0]().link_index(name)
    assert str(caught.value) == message


def test_a_cable_of_a_trunk_is_named_by_its_number() -> None:
    f = torus((2,), nic=1.0, link=1.0, cables=2)
    assert f.link_name(f.links - 1) == "dimension_1/x1/x0/c1"
    for name in ("dimension_1/x0/x1", "dimension_1/x0/x1/c2"):
        with pytest.raises(FabricError, match=r"did you mean 'dimension_1/x0/x1/c1'\?"):
            f.link_index(name)


@pytest.mark.parametrize("build", EVERY)
def test_tables_do_not_travel(build: Any) -> None:
    f = build()
    before = f.route([0], [5], [3])
    copy = pickle.loads(pickle.dumps(f))
    assert len(f.structure.paths._tables) == 1
    assert not copy.structure.paths._tables
    assert (copy.route([0], [5], [3]) == before).all()


def test_every_kind_has_a_tier_name() -> None:
    assert set(TIER_NAMES) == set(LinkKind)
    assert len(set(TIER_NAMES.values())) == len(LinkKind)
