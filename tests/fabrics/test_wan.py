"""WANs and joined sites. Oracles: networkx's shortest simple paths, sums of latencies, exact shares."""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import FabricError, RouteError, UnitError
from euston.fabrics import (
    Fabric,
    LinkKind,
    NodeKind,
    clos,
    compose,
    dragonfly,
    fat_tree,
    hpn,
    leaf_spine,
    rail_only,
    torus,
    wan,
)
from euston.network.balancing.ecmp import Ecmp

from .legs_oracle import forwarded_paths, on_links, routed, scale_out_paths

EUROPE = [
    ("paris", "lyon", "400 Gb/s", "8 ms"),
    ("lyon", "milan", "400 Gb/s", "10 ms"),
    ("paris", "milan", "100 Gb/s", "30 ms"),
    ("milan", "rome", "800 Gb/s", "12 ms"),
]


@st.composite
def wans(draw: st.DrawFn) -> tuple[Fabric, np.ndarray]:
    """A connected WAN of 3 to 7 sites with distinct round-trip times, and dead links."""
    n = draw(st.integers(3, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pairs = {(int(rng.integers(0, i)), i) for i in range(1, n)}
    pairs |= {p for p in itertools.combinations(range(n), 2) if rng.random() < 0.4}
    trip = rng.permutation(1000)[: len(pairs)] * 1e-4 + rng.random(len(pairs)) * 1e-6 + 1e-4
    cables = [(f"s{a}", f"s{b}", 1e9, float(t)) for (a, b), t in zip(sorted(pairs), trip, strict=True)]
    f = wan(cables, sites=[f"s{i}" for i in range(n)], tunnels=draw(st.integers(1, 5)))
    return f, rng.random(f.links) > draw(st.sampled_from([0.0, 0.1, 0.3]))


def tunnels(f: Fabric, a: int, b: int, most: int, alive: np.ndarray) -> list[tuple[int, ...]]:
    """The ``most`` simple paths of least latency, by networkx."""
    g = nx.DiGraph()
    g.add_nodes_from(range(f.endpoints))
    for link in np.flatnonzero(alive).tolist():
        g.add_edge(int(f.link_src[link]), int(f.link_dst[link]), weight=f.latency[link], link=link)
    try:
        found = list(itertools.islice(nx.shortest_simple_paths(g, a, b, weight="weight"), most))
    except nx.NetworkXNoPath:
        return []
    return [tuple(g.edges[edge]["link"] for edge in itertools.pairwise(path)) for path in found]


@settings(max_examples=60, deadline=None)
@given(wans())
def test_tunnels_are_the_shortest_simple_paths(case: Any) -> None:
    f, alive = case
    most = f.structure.paths  # type: ignore[attr-defined]
    for a, b in itertools.permutations(range(min(4, f.endpoints)), 2):
        expected = tunnels(f, a, b, most, alive)
        if not expected:
            with pytest.raises(RouteError, match="every tunnel crosses a link that is down"):
                f.route([a], [b], 0, alive=alive)
            with pytest.raises(RouteError):
                f.spread([a], [b], alive=alive)
            continue
        assert routed(f, a, b, len(expected), alive) == expected
        shares = on_links(f, f.spread([a], [b], alive=alive), 0)
        for link, share in shares.items():
            assert share == pytest.approx(sum(link in t for t in expected) / len(expected))


def test_latency_is_half_the_round_trip_and_weights_divide() -> None:
    f = wan(EUROPE, tunnels=2, weights=[3, 1])
    assert f.path_latency(f.route([0, 0], [2, 2], [0, 1])) == pytest.approx([9e-3, 15e-3])
    found = {f.link_name(i): s for i, s in on_links(f, f.spread([0], [2]), 0).items()}
    assert found == {"wan/paris/lyon": 0.75, "wan/lyon/milan": 0.75, "wan/paris/milan": 0.25}
    slow = f.capacity.copy()
    slow[:] = 1.0
    slow[f.link_index("wan/paris/milan")] = 3.0  # 3 x 1 against 1 x 3
    half = on_links(f, f.spread([0], [2], adaptive_capacity=slow), 0)
    assert set(half.values()) == {0.5}
    src = np.zeros(20_000, np.int32)
    choice = Ecmp(connections="flow").choices(f, src, src + 2, np.zeros(src.size, np.int32))
    assert np.mean(choice == 0) == pytest.approx(0.75, abs=0.02)
    assert f.bisection_bandwidth == 200e9 / 4 + 12.5e9  # {paris, lyon} to {milan, rome}: 400 + 100 Gb/s
    assert [f.endpoint_name(i) for i in range(4)] == ["paris", "lyon", "milan", "rome"]
    assert (f.reverse[f.reverse] == np.arange(f.links)).all()


@pytest.mark.parametrize(
    ("cables", "change", "message"),
    [
        ([("a", "b", 1.0)], {}, "`cables[0]`: 3 values; write (a, b, bandwidth, round-trip time)"),
        ([("a", "a", 1.0, 1.0)], {}, "`cables[0]`: joins 'a' to itself; leave it out"),
        ([("a", "b", 1.0, 1.0), ("b", "a", 1.0, 1.0)], {}, "`cables[1]`: joins the same sites as cables[0]"),
        (
            [("a", "b", 1.0, 1.0), ("c", "d", 1.0, 1.0)],
            {},
            "`cables`: nothing leads from 'a' to 'c'; join them",
        ),
        ([("a", "b", 1.0, 1.0)], {"sites": ["a", "bb"]}, "`cables[0]`: unknown site 'b'; did you mean 'bb'?"),
        ([("a", "b", 1.0, 1.0)], {"sites": ["a", "a"]}, "`sites`: a site stands twice"),
        ([("a/x", "b", 1.0, 1.0)], {}, "`cables`: 'a/x' is no name of a site; text without '/' and spaces"),
        ([("a", "b", 1.0, 1.0)], {"weights": [1]}, "`weights`: 1 values for 4 tunnels; give one each"),
        ([("a", "b", 1.0, 1.0)], {"tunnels": 1, "weights": [0]}, "`weights[0]`: 0 is not a positive number"),
        ([], {}, "`cables`: a WAN needs two sites or more"),
    ],
)
def test_bad_wans(cables: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        wan(cables, **change)
    assert str(caught.value).startswith(message)


def test_bad_quantities_of_a_wan() -> None:
    with pytest.raises(UnitError, match=r"`cables\[0\]\[3\]`"):
        wan([("a", "b", 1.0, 0.0)])
    with pytest.raises(FabricError, match="unknown site 'pariss'; did you mean 'paris'"):
        wan(EUROPE).link_index("wan/pariss/lyon")
    with pytest.raises(FabricError, match="paris is joined to lyon, milan"):
        wan(EUROPE).link_index("wan/paris/rome")


# ---- sites -------------------------------------------------------------------------------------------------


def joined() -> tuple[Fabric, dict[str, Fabric]]:
    """Four sites of two accelerators per host: Clos, shared NICs, rail-only, torus."""
    sites = {
        "paris": clos(6, 2, nic="400 Gb/s", hosts_per_tor=2, aggs_per_pod=2, scale_up="450 GB/s"),
        "lyon": clos(5, 2, nic="400 Gb/s", hosts_per_tor=2, aggs_per_pod=3, nics_per_host=1),
        "milan": rail_only(5, 2, nic="100 Gb/s", scale_up="450 GB/s"),
        "rome": torus((2, 3), nic="100 Gb/s", link="50 Gb/s", accelerators_per_host=2),
    }
    return compose(sites, wan(EUROPE, tunnels=2, weights=[3, 1])), sites


def test_counts_names_and_reverse_links() -> None:
    f, sites = joined()
    assert f.hosts == 5 + 4 + 4 + 5
    assert f.links == sum(site.links for site in sites.values()) + 2 * len(EUROPE)
    assert (f.link_src[f.reverse] == f.link_dst).all()
    assert (f.link_dst[f.reverse] == f.link_src).all()
    names = [f.link_name(i) for i in range(f.links)]
    assert len(set(names)) == f.links
    assert [f.link_index(name) for name in names] == list(range(f.links))
    nodes = [f.node_name(i) for i in range(f.node_kind.size)]
    assert len(set(nodes)) == f.node_kind.size
    assert nodes[-4:] == ["paris/gateway", "lyon/gateway", "milan/gateway", "rome/gateway"]
    assert np.count_nonzero(f.node_kind == NodeKind.SITE) == 4
    assert f.endpoint_name(10) == "lyon/h0/g0"
    # one port per NIC of a gateway's host
    assert np.count_nonzero(f.kind == LinkKind.GATEWAY_IN) == 2 + 1 + 2 + 2
    assert (f.domain[:10] == np.repeat(np.arange(5) + f.domain[0], 2)).all()
    assert np.unique(f.domain[10:18]).size == 8  # lyon has no scale-up network
    assert f.injection_bandwidth[10] == 25e9


def test_a_flow_crosses_nic_site_gateway_wan_gateway_site() -> None:
    f, _ = joined()
    for s, d in itertools.permutations((0, 9, 11, 19, 30), 2):
        for n in (0, 5, 77):
            path = f.route([s], [d], n)[0]
            links = path[path >= 0]
            assert f.link_src[links[0]] == (s if not 10 <= s < 18 else f.link_src[links[0]])
            assert (f.link_dst[links[:-1]] == f.link_src[links[1:]]).all()
            sites = [f.link_name(i).split("/")[0] for i in links]
            if sites[0] == sites[-1] and "wan" not in sites:
                continue
            middle = sites.index("wan")
            assert set(sites[:middle]) == {f.endpoint_name(s).split("/")[0]}
            assert set(sites[middle + sites.count("wan") :]) == {f.endpoint_name(d).split("/")[0]}
            assert f.kind[links[middle - 1]] == LinkKind.GATEWAY_OUT
            assert f.kind[links[middle + sites.count("wan")]] == LinkKind.GATEWAY_IN


def test_latency_adds_up() -> None:
    """NIC, 2 x ToR, gateway port; 4 ms of fibre; gateway port, 2 x ToR, NIC: each link 500 ns."""
    f, _ = joined()
    path = f.route([0], [10], 0)
    assert (path >= 0).sum() == 4 + 1 + 4
    assert f.path_latency(path) == pytest.approx([8 * 500e-9 + 4e-3], rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.15]))
def test_paths_between_sites_are_products(seed: int, broken: float) -> None:
    """All of (site leg) x (tunnel) x (site leg), each enumerated by networkx; shares even over ports."""
    f, sites = joined()
    rng = np.random.default_rng(seed)
    alive = rng.random(f.links) > broken
    names = list(sites)
    link0 = np.cumsum([0] + [site.links for site in sites.values()])
    first = np.cumsum([0, 10, 8, 8, 10])
    net = wan(EUROPE, tunnels=2)

    def legs(site: int, s: int, d: int) -> list[tuple[int, ...]]:
        fabric = sites[names[site]]
        mine = alive[link0[site] : link0[site + 1]]
        if names[site] == "milan":
            found = forwarded_paths(fabric, s, d, 2, 2, mine)
        else:
            nics = 1 if names[site] == "lyon" else 2
            found = scale_out_paths(fabric, s, d, nics, mine, around=names[site] == "rome")
        return [tuple(link0[site] + i for i in path) for path in found]

    def ports(site: int, local: int) -> list[int]:
        last = sites[names[site]].endpoints - 2
        if names[site] == "lyon":
            return [last]
        return [last + local % 2] if names[site] == "milan" else [last, last + 1]

    for s, d in ((0, 12), (13, 3), (1, 19), (20, 12), (23, 8), (2, 27), (33, 20)):
        a, b = (int(np.searchsorted(first, e, side="right")) - 1 for e in (s, d))
        x, y = s - int(first[a]), d - int(first[b])
        out = [legs(a, x, g) for g in ports(a, x)]
        back = [legs(b, g, y) for g in ports(b, y)]
        across = [tuple(int(link0[-1]) + i for i in t) for t in tunnels(net, a, b, 2, alive[link0[-1] :])]
        expected = [p + t + q for p in itertools.chain(*out) for t in across for q in itertools.chain(*back)]
        if not expected:
            with pytest.raises(RouteError):
                f.route([s], [d], 0, alive=alive)
            with pytest.raises(RouteError):
                f.spread([s], [d], alive=alive)
            continue
        assert sorted(routed(f, s, d, len(expected), alive)) == sorted(expected)
        found = on_links(f, f.spread([s], [d], alive=alive), 0)
        wanted: dict[int, float] = {}
        for parts in (out, back):
            live = [p for p in parts if p]
            for p in live:
                for path in p:
                    for link in path:
                        wanted[link] = wanted.get(link, 0.0) + 1 / len(live) / len(p)
        weight = np.array([3.0, 1.0])[: len(across)]
        for t, share in zip(across, weight / weight.sum(), strict=True):
            for link in t:
                wanted[link] = wanted.get(link, 0.0) + share
        assert found == pytest.approx(wanted)
        choice = Ecmp(seed=seed % 1000).choices(
            f, np.array([s], np.int32), np.array([d], np.int32), np.zeros(1, np.int32), alive=alive
        )
        path = f.route([s], [d], choice, alive=alive)[0]
        assert tuple(path[path >= 0].tolist()) in expected


def test_networks_and_errors_between_sites() -> None:
    f, _ = joined()
    row = f.route([0], [1], 0, network="auto")[0]
    assert [f.link_name(i) for i in row if i >= 0] == ["paris/scale_up_out/h0/g0", "paris/scale_up_in/h0/g1"]
    for s, d, dead, network, message in (
        (0, 10, [], "scale_up", "paris/h0/g0 -> lyon/h0/g0: they are at different sites"),
        (
            0, 10, ["wan/paris/lyon", "wan/paris/milan"], "scale_out",
            "paris/h0/g0 -> lyon/h0/g0: every tunnel between their sites crosses a link that is down",
        ),
        (
            0, 10, ["paris/nic_up/h0/n0"], "scale_out",
            "paris/h0/g0 -> lyon/h0/g0: between it and the gateway of paris nic_up/h0/n0 is down",
        ),
        (
            0, 10, ["lyon/nic_down/h0/n0"], "scale_out",
            "paris/h0/g0 -> lyon/h0/g0: between it and the gateway of lyon nic_down/h0/n0 is down",
        ),
        (0, 2, ["paris/nic_up/h0/n0"], "auto", "paris/h0/g0 -> paris/h1/g0: in paris nic_up/h0/n0 is down"),
    ):  # fmt: skip
        with pytest.raises(RouteError) as caught:
            f.route([s], [d], 0, network=network, alive=f.mask(dead))  # type: ignore[arg-type]
        assert str(caught.value) == message
    for name, message in (
        ("pariss/x", "unknown link 'pariss/x': unknown site 'pariss'; did you mean 'paris'?"),
        ("paris/tor_upp/p0/t0/a0", "paris: unknown link kind 'tor_upp'; did you mean 'tor_up'?"),
    ):
        with pytest.raises(FabricError) as wrong:
            f.link_index(name)
        assert str(wrong.value) == message


def test_a_gateway_has_the_bandwidth_it_is_given() -> None:
    plain = leaf_spine(4, 2, nic="400 Gb/s", hosts_per_leaf=2, spines=2)
    net = wan([("a", "b", "3.2 Tb/s", "20 ms")])
    f = compose({"a": plain, "b": plain}, net, gateways=2, gateway_bandwidth="1.6 Tb/s")
    ports = np.flatnonzero(f.kind == LinkKind.GATEWAY_IN)
    assert ports.size == 2 * 4
    assert np.unique(f.capacity[ports]) == np.unique(f.capacity[f.reverse[ports]]) == 50e9
    assert f.bisection_bandwidth == 400e9
    assert np.count_nonzero(f.kind == LinkKind.GATEWAY_OUT) == 8


@pytest.mark.parametrize(
    ("sites", "change", "message"),
    [
        ({"paris": 4}, {}, "`sites`: the WAN joins 'lyon' too; give its fabric"),
        ({"pari": 4}, {}, "`sites.pari`: unknown site of the WAN 'pari'; did you mean 'paris'?"),
        ({"paris": 4, "lyon": 4}, {"gateways": 4}, "`gateways`: 4, but site 'paris' has 4 hosts in all"),
        ({"paris": 4, "lyon": -4}, {}, "`sites.lyon`: 1 accelerators per host, but 'paris' has 2"),
    ],
)
def test_bad_joints(sites: dict[str, int], change: dict[str, Any], message: str) -> None:
    def made(hosts: int) -> Fabric:
        return leaf_spine(abs(hosts), 2 if hosts > 0 else 1, nic=1.0, hosts_per_leaf=2, spines=2)

    with pytest.raises(FabricError) as caught:
        compose({name: made(hosts) for name, hosts in sites.items()}, wan(EUROPE[:1]), **change)
    assert str(caught.value).startswith(message)
    with pytest.raises(FabricError, match="`wan`: 'fat_tree' is no WAN; build it with `wan`"):
        compose({}, fat_tree(2, nic=1.0))


def test_planes_and_global_channels_join_too() -> None:
    """An HPN and a dragonfly as sites: contiguous paths of any number."""
    f = compose(
        {
            "a": hpn(segments=1, hosts_per_segment=3, aggs_per_plane=2, accelerators_per_host=2),
            "b": dragonfly(2, 1, 1, nic="100 Gb/s", accelerators_per_host=2, nics_per_host=1),
        },
        wan([("a", "b", "1 Tb/s", "60 ms")]),
    )
    assert f.endpoints == 4 + 10
    for n in range(40):
        path = f.route([0], [13], n)[0]
        links = path[path >= 0]
        assert (f.link_dst[links[:-1]] == f.link_src[links[1:]]).all()
    assert f.injection_bandwidth[0] == 50e9
