"""Clos fabrics: counts and capacities against formulas, bisection against a maximum flow, exact messages."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
import pytest

from euston.errors import FabricError, UnitError
from euston.fabrics import Fabric, LinkKind, NodeKind, clos, clos3, fat_tree, leaf_spine, rail_optimized

from .oracle import graph

GBIT = 1e9 / 8


def small(**more: Any) -> Fabric:
    """3 tiers, last ToR and last pod not full: 11 hosts of 4, 6 ToRs of 2, 2 pods of 4."""
    given: dict[str, Any] = {
        "nic": "400 Gb/s",
        "hosts_per_tor": 2,
        "tors_per_pod": 4,
        "aggs_per_pod": 2,
        "cores_per_agg": 3,
        "oversubscription": (2, 4),
        "scale_up": "450 GB/s",
    }
    return clos(11, 4, **(given | more))


@pytest.mark.parametrize("k", [2, 4, 6, 8])
def test_fat_tree_has_the_published_counts(k: int) -> None:
    """k-ary fat tree (Al-Fares et al. 2008): k^3/4 hosts, k^2/2 ToRs and aggs, k^2/4 cores, 3k^3/4 cables."""
    f = fat_tree(k, nic="100 Gb/s")
    kinds = np.bincount(f.node_kind, minlength=6)
    assert f.endpoints == kinds[NodeKind.ENDPOINT] == k**3 // 4
    assert kinds[NodeKind.TOR] == kinds[NodeKind.AGG] == k * k // 2
    assert kinds[NodeKind.CORE] == k * k // 4
    assert f.links == 2 * 3 * k**3 // 4
    assert (f.capacity == 12.5e9).all()
    assert f.bisection_bandwidth == f.endpoints * 12.5e9 / 2
    degree = np.bincount(f.link_src, minlength=f.node_kind.size)
    assert (degree[f.endpoints :] == k).all()


def test_counts_and_capacities_of_a_partly_filled_fabric() -> None:
    f = small()
    by_kind = {LinkKind(k).name: f.kind == k for k in range(8)}
    assert {name: int(of.sum()) for name, of in by_kind.items()} == {
        "SCALE_UP_OUT": 44, "SCALE_UP_IN": 44, "NIC_UP": 44, "NIC_DOWN": 44,
        "TOR_UP": 12, "TOR_DOWN": 12, "AGG_UP": 12, "AGG_DOWN": 12,
    }  # fmt: skip
    below = 2 * 4 * 400 * GBIT  # a full ToR: 8 NICs
    assert f.capacity[by_kind["TOR_UP"]] == pytest.approx(below / 2 / 2, rel=1e-15)
    assert f.capacity[by_kind["AGG_DOWN"]] == pytest.approx(4 * below / 2 / 4 / (2 * 3), rel=1e-15)
    assert f.bundles == 4 * 44 + 2 * 6 + 2 * 2
    assert f.rows == f.bundles + f.links
    for b in range(f.bundles):
        links = np.arange(f.bundle_start[b], f.bundle_start[b + 1])
        assert (f.bundle[links] == b).all()
        assert np.unique(f.kind[links]).size == 1
        assert np.unique(f.capacity[links]).size == 1


@pytest.mark.parametrize(
    "fabric",
    [
        small(),
        small(scale_up=None),
        small(nics_per_host=2),
        small(nics_per_host=3, hosts_per_domain=2),
        small(attach="rail", tors_per_pod=8),
        small(attach="rail", tors_per_pod=4, nics_per_host=2),
        leaf_spine(5, 2, nic="100 Gb/s", hosts_per_leaf=2, spines=3),
        clos(3, 2, nic=1e9, hosts_per_tor=4, aggs_per_pod=0),
    ],
    ids=["3-tier", "no scale-up", "2 NICs", "3 NICs", "rail", "rail, 2 NICs", "leaf-spine", "1 ToR"],
)
def test_every_link_has_its_reverse_and_its_name(fabric: Fabric) -> None:
    reverse = fabric.reverse
    assert (fabric.link_src[reverse] == fabric.link_dst).all()
    assert (fabric.link_dst[reverse] == fabric.link_src).all()
    assert (fabric.capacity[reverse] == fabric.capacity).all()
    names = [fabric.link_name(i) for i in range(fabric.links)]
    assert len(set(names)) == fabric.links
    assert [fabric.link_index(n) for n in names] == list(range(fabric.links))
    nodes = [fabric.node_name(i) for i in range(fabric.node_kind.size)]
    assert len(set(nodes)) == len(nodes)
    for i, name in enumerate(names):  # the outside names agree with the arrays
        kind, *place = name.split("/")
        ends = {nodes[fabric.link_src[i]], nodes[fabric.link_dst[i]]}
        if kind.startswith("tor"):
            assert ends == {f"tor/{place[0]}/{place[1]}", f"agg/{place[0]}/{place[2]}"}
        if kind.startswith("agg"):
            assert ends == {f"agg/{place[0]}/{place[1]}", f"core/{place[1]}/{place[2]}"}
        assert fabric.tier(i) in fabric.describe()


def test_names_of_the_contract() -> None:
    f = small(nics_per_host=2)
    assert f.link_name(0) == "scale_up_out/h0/g0"
    for name in (
        "nic_up/h10/n1",
        "tor_up/p0/t3/a1",
        "tor_down/p1/t1/a0",
        "agg_up/p1/a1/c2",
        "agg_down/p0/a0/c2",
    ):
        assert f.link_name(f.link_index(name)) == name
    assert f.endpoint_name(43) == "h10/g3"
    assert not f.mask(["tor_up/p0/t3/a1", 0])[[0, f.link_index("tor_up/p0/t3/a1")]].any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tor_upp/p0/t0/a0", "unknown link kind 'tor_upp'; did you mean 'tor_up'?"),
        ("tor_up/p0/t0/a9", "unknown link 'tor_up/p0/t0/a9'; did you mean 'tor_up/p0/t0/a1'?"),
        ("tor_up/p1/t3/a0", "unknown link 'tor_up/p1/t3/a0'; did you mean 'tor_up/p1/t1/a1'?"),
        ("nic_up/h3", "unknown link 'nic_up/h3'; links of this kind are called like 'nic_up/h0/n0'"),
        ("nic_up/h3/g1", "unknown link 'nic_up/h3/g1'; links of this kind are called like 'nic_up/h0/n0'"),
        ("nic_up/h3/n-1", "unknown link 'nic_up/h3/n-1'; links of this kind are called like 'nic_up/h0/n0'"),
    ],
)
def test_unknown_links(name: str, message: str) -> None:
    with pytest.raises(FabricError) as caught:
        small().link_index(name)
    assert str(caught.value) == message


@pytest.mark.parametrize("ratios", [(1, 1), (2, 1), (1, 3), (0.5, 1)])
@pytest.mark.parametrize("pods", [1, 2])
def test_bisection_equals_a_maximum_flow(pods: int, ratios: tuple[float, float]) -> None:
    """Full fabric, first half of the hosts to the second, by networkx's maximum flow."""
    f = clos(
        8, 2, nic=8.0, hosts_per_tor=2, tors_per_pod=4 // pods, aggs_per_pod=2,
        cores_per_agg=2 if pods > 1 else 0, oversubscription=ratios,
    )  # fmt: skip
    g = graph(f, np.ones(f.links, bool))
    for e in range(f.endpoints):
        g.add_edge("s", e) if e < f.endpoints // 2 else g.add_edge(e, "t")  # no capacity: infinite
    assert nx.maximum_flow_value(g, "s", "t") == pytest.approx(f.bisection_bandwidth, rel=1e-12)


def test_rails_meet_on_their_leaf() -> None:
    f = rail_optimized(
        5, 4, nic="400 Gb/s", hosts_per_segment=2, spines=2, segments_per_pod=2, cores_per_spine=2
    )
    assert np.count_nonzero(f.node_kind == NodeKind.TOR) == 3 * 4  # 3 segments x 4 rails
    for host in range(5):
        for g in range(4):
            leaf = f.node_name(f.link_dst[f.link_index(f"nic_up/h{host}/n{g}")])
            segment = host // 2
            assert leaf == f"tor/p{segment // 2}/t{segment % 2 * 4 + g}"


def test_arrays_are_read_only_and_units_are_si() -> None:
    f = small(nic_latency="1 us", tor_latency=2e-6, buffer="16 MB")
    with pytest.raises(ValueError, match="read-only"):
        f.capacity[0] = 1.0
    assert f.capacity[f.link_index("nic_up/h0/n0")] == 5e10
    assert f.capacity[f.link_index("scale_up_in/h0/g0")] == 450e9
    assert f.latency[f.link_index("nic_down/h0/n0")] == 1e-6
    assert f.path_latency(f.route([0], [10], 0)) == pytest.approx([2 * 1e-6 + 2 * 2e-6])
    assert f.buffer_bytes[f.link_index("nic_up/h0/n0")] == 0
    assert f.buffer_bytes[f.link_index("nic_down/h0/n0")] == 16_000_000
    assert repr(f) == "Fabric('clos': 44 accelerators on 11 hosts, 224 links in 192 bundles)"


def test_scale_up_domains() -> None:
    """3 hosts per domain, the last domain not full; without a scale-up network every endpoint is its own."""
    domain = small(hosts_per_domain=3).domain
    assert (np.unique(domain, return_inverse=True)[1] == np.arange(44) // 12).all()
    assert (small(scale_up=None).domain == np.arange(44)).all()


def test_131072_endpoints() -> None:
    f = clos3(
        16384, 8, nic="400 Gb/s", hosts_per_tor=2, tors_per_pod=192, aggs_per_pod=8, cores_per_agg=16,
        oversubscription=(1, 7), scale_up="450 GB/s",
    )  # fmt: skip
    pods = math.ceil(8192 / 192)
    assert f.endpoints == 131072
    assert f.links == 4 * 131072 + 2 * 8192 * 8 + 2 * pods * 8 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hosts_per_tor": 0}, "`hosts_per_tor`: 0 is too few; it must be 1 or more"),
        ({"hosts_per_tor": 1.5}, "`hosts_per_tor`: 1.5 is not a whole number"),
        ({"aggs_per_pod": 0, "cores_per_agg": 0, "tors_per_pod": None},
         "`aggs_per_pod`: 0, but 6 ToRs must reach each other; give 1 or more"),
        ({"cores_per_agg": 0}, "`cores_per_agg`: 0, but 2 pods must reach each other; give 1 or more"),
        ({"nics_per_host": 5}, "`nics_per_host`: 5 NICs for 4 accelerators; give 4 NICs their bandwidth"),
        ({"attach": "rack"}, "`attach`: 'rack' is not one of host, rail, rail_pods"),
        ({"attach": "rail", "tors_per_pod": 6},
         "`tors_per_pod`: 6 leaves are not whole segments of 4 rails; nearest 8"),
        ({"oversubscription": (0, 1)},
         "`oversubscription[0]`: 0 is not a ratio; write 1 for full bandwidth, 7 for 7:1"),
        ({"oversubscription": (1,)},
         "`oversubscription`: needs two ratios, of the ToRs and of the aggs, such as (1, 7)"),
    ],
)  # fmt: skip
def test_bad_descriptions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        small(**change)
    assert str(caught.value) == message


@pytest.mark.parametrize("nic", ["400", "400 Gbits", 0.0, -1.0, math.nan, "inf Gb/s"])
def test_bad_bandwidth(nic: str | float) -> None:
    with pytest.raises(UnitError, match=r"`nic`"):
        small(nic=nic)


def test_odd_fat_tree() -> None:
    with pytest.raises(FabricError, match="3 is odd"):
        fat_tree(3, nic="100 Gb/s")
