"""Clos fabrics in planes: paths enumerated by networkx with random dead links; HPN, NVL72, CloudMatrix384.

Oracles: networkx's shortest paths, exact fractions, the published counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import FabricError, RouteError
from euston.fabrics import Fabric, LinkKind, NodeKind, clos, hpn, scale_up
from euston.network.balancing.ecmp import Ecmp

from .legs_oracle import check, on_links, scale_out_paths, scale_up_paths

GBIT = 1e9 / 8


@st.composite
def in_planes(draw: st.DrawFn) -> tuple[Fabric, int, np.ndarray, list[tuple[int, int]]]:
    """A small Clos of one to three planes, dead links, pairs."""
    acc = draw(st.integers(1, 3))
    nics = draw(st.integers(1, acc))
    rail = draw(st.booleans())
    segments = draw(st.integers(1, 2))
    fabric = clos(
        draw(st.integers(1, 6)),
        acc,
        nic=12.0,
        nics_per_host=nics,
        attach="rail" if rail else "host",
        hosts_per_tor=draw(st.integers(1, 3)),
        tors_per_pod=draw(st.sampled_from([None, segments * nics if rail else segments])),
        aggs_per_pod=draw(st.integers(1, 2)),
        cores_per_agg=draw(st.integers(1, 2)),
        planes=draw(st.integers(1, 3)),
        scale_up=draw(st.sampled_from([None, 60.0])),
        hosts_per_domain=draw(st.integers(1, 2)),
        scale_up_planes=draw(st.integers(1, 3)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    alive = rng.random(fabric.links) > draw(st.sampled_from([0.0, 0.05, 0.3]))
    pairs = [(int(s), int(d)) for s, d in rng.integers(0, fabric.endpoints, (8, 2))]
    return fabric, nics, alive, pairs


@settings(max_examples=60, deadline=None)
@given(in_planes())
def test_paths_and_shares_equal_the_enumeration(case: Any) -> None:
    fabric, nics, alive, pairs = case
    check(fabric, pairs, lambda s, d: scale_out_paths(fabric, s, d, nics, alive), alive)
    whole = np.logical_and.reduceat(alive, fabric.bundle_start[:-1])
    for s, d in pairs:
        expected = scale_out_paths(fabric, s, d, nics, alive)
        counted = fabric.structure.live_paths(  # type: ignore[attr-defined]
            np.array([s], np.int32), np.array([d], np.int32), alive, whole
        )
        assert counted.tolist() == [len(expected)]
        if not expected:
            with pytest.raises(RouteError):
                fabric.route([s], [d], 0, alive=alive)


@settings(max_examples=40, deadline=None)
@given(in_planes())
def test_scale_up_planes_equal_the_enumeration(case: Any) -> None:
    fabric, _, alive, pairs = case
    if not (fabric.kind == LinkKind.SCALE_UP_OUT).any():
        return
    inside = [(s, d) for s, d in pairs if fabric.domain[s] == fabric.domain[d]]
    check(fabric, inside, lambda s, d: scale_up_paths(fabric, s, d, alive), alive, "scale_up")
    whole = np.logical_and.reduceat(alive, fabric.bundle_start[:-1])
    for s, d in pairs:
        counted = fabric.structure.live_scale_up_paths(  # type: ignore[attr-defined]
            np.array([s], np.int32), np.array([d], np.int32), alive, whole
        )
        assert counted.tolist() == [len(scale_up_paths(fabric, s, d, alive))]


@settings(max_examples=40, deadline=None)
@given(in_planes(), st.integers(0, 2**20))
def test_hashed_paths_are_live_and_stay_in_their_plane(case: Any, seed: int) -> None:
    fabric, nics, alive, pairs = case
    pairs = [(s, d) for s, d in pairs if scale_out_paths(fabric, s, d, nics, alive)]
    if not pairs:
        return
    src, dst = np.array(pairs, np.int32).T
    choice = Ecmp(seed=seed).choices(fabric, src, dst, np.zeros(src.size, np.int32), alive=alive)
    for (s, d), path in zip(pairs, fabric.route(src, dst, choice, alive=alive), strict=True):
        links = tuple(path[path >= 0].tolist())
        assert links in scale_out_paths(fabric, s, d, nics, alive)
        assert len({fabric.link_name(i).partition("plane")[2].partition("/")[0] for i in links}) <= 1


@settings(max_examples=20, deadline=None)
@given(in_planes())
def test_every_link_has_its_reverse_and_its_name(case: Any) -> None:
    fabric = case[0]
    assert (fabric.link_src[fabric.reverse] == fabric.link_dst).all()
    assert (fabric.capacity[fabric.reverse] == fabric.capacity).all()
    names = [fabric.link_name(i) for i in range(fabric.links)]
    assert len(set(names)) == fabric.links
    assert [fabric.link_index(name) for name in names] == list(range(fabric.links))
    nodes = [fabric.node_name(i) for i in range(fabric.node_kind.size)]
    assert len(set(nodes)) == len(nodes)


def test_slower_ports_carry_proportionally_less() -> None:
    """Adaptive spraying over two planes of 4 uplinks, one port at a third: 1/4 and 3/4 in closed form."""
    f = clos(4, 1, nic=2.0, hosts_per_tor=1, aggs_per_pod=4, planes=2)
    slow = f.capacity.copy()
    slow[f.link_index("nic_up/h0/n0/plane0")] /= 3
    found = on_links(f, f.spread([0], [3], adaptive_capacity=slow), 0)
    assert found[f.link_index("nic_up/h0/n0/plane0")] == pytest.approx(0.25, rel=1e-15)
    assert found[f.link_index("tor_up/p0/t0/plane1/a2")] == pytest.approx(0.75 / 4, rel=1e-15)


# ---- HPN ---------------------------------------------------------------------------------------------------


def test_hpn_has_the_published_counts() -> None:
    """15 segments x 1,024 GPUs; 8 rails x 2 planes of ToRs each; 60 aggs a plane (Qian et al. 2024)."""
    f = hpn()
    kinds = np.bincount(f.node_kind, minlength=6)
    assert f.endpoints == 15 * 1024 == 15_360
    assert kinds[NodeKind.TOR] == 15 * 8 * 2
    assert kinds[NodeKind.AGG] == 120
    by_kind = {kind: np.flatnonzero(f.kind == kind) for kind in range(8)}
    assert by_kind[LinkKind.NIC_UP].size == 2 * 15_360
    assert by_kind[LinkKind.TOR_UP].size == 240 * 60
    assert by_kind[LinkKind.AGG_UP].size == 0
    assert np.unique(f.capacity[by_kind[LinkKind.NIC_UP]]) == 200 * GBIT
    assert (f.injection_bandwidth == 400 * GBIT).all()
    below = np.bincount(f.link_src[by_kind[LinkKind.NIC_DOWN]], minlength=f.node_kind.size)
    tor = below[f.node_kind == NodeKind.TOR]
    assert (tor == 128).all()  # ports of 200 Gb/s below a ToR
    agg = np.bincount(f.link_src[by_kind[LinkKind.TOR_DOWN]])[-120:]
    assert (agg == 120).all()  # ToRs below an agg: those of its plane
    assert f.bisection_bandwidth == 240 * 60 * 400 * GBIT / 2  # the ToRs' uplinks: 1.067:1
    assert "oversubscribed 1.06667:1" in f.describe()


def test_planes_meet_nowhere() -> None:
    """Without NICs the switches of a small HPN fall into two parts (union of links by networkx)."""
    import networkx as nx

    f = hpn(segments=2, hosts_per_segment=3, aggs_per_plane=2)
    g = nx.Graph()
    switch = f.node_kind >= NodeKind.TOR
    g.add_nodes_from(np.flatnonzero(switch).tolist())
    between = switch[f.link_src] & switch[f.link_dst]
    g.add_edges_from(zip(f.link_src[between].tolist(), f.link_dst[between].tolist(), strict=True))
    assert nx.number_connected_components(g) == 2


def test_one_switch_hashes_so_nothing_polarises() -> None:
    """HPN with one salt for all switches: every agg of a plane is reached; a 3-tier Clos loses most."""
    f = hpn(segments=2, hosts_per_segment=8, aggs_per_plane=4)
    src = np.repeat(np.arange(0, 64), 32).astype(np.int32)
    dst = (64 + np.tile(np.arange(0, 64, 2), 64)).astype(np.int32)
    pair = np.zeros(src.size, np.int32)
    paths = f.route(src, dst, Ecmp(polarised=True).choices(f, src, dst, pair))
    load = np.bincount(paths[paths >= 0], minlength=f.links)
    up = load[f.kind == LinkKind.TOR_UP]
    assert (up > 0).mean() > 0.4  # the 8 ToRs of segment 0 in both planes, 4 aggs: all in use
    polarised = clos(
        32, 1, nic=1.0, hosts_per_tor=4, tors_per_pod=2, aggs_per_pod=4, cores_per_agg=4,
    )  # fmt: skip
    s, d = np.divmod(np.arange(32 * 32), 32)
    s, d = s[s != d].astype(np.int32), d[s != d].astype(np.int32)
    for same, share in ((True, 0.5), (False, 0.9)):
        paths = polarised.route(
            s,
            d,
            Ecmp(polarised=same, connections="flow").choices(polarised, s, d, np.zeros(s.size, np.int32)),
        )
        load = np.bincount(paths[paths >= 0], minlength=polarised.links)
        used = (load[polarised.kind == LinkKind.AGG_UP] > 0).mean()
        assert used < share if same else used > share


def test_a_failed_plane_halves_what_a_nic_can_send() -> None:
    f = hpn(segments=2, hosts_per_segment=2, aggs_per_plane=2, scale_up="450 GB/s")
    alive = f.mask(["nic_up/h0/n0/plane1"])
    for n in range(4):
        path = f.route([0], [17], n, alive=alive)[0]
        assert all("plane0" in f.link_name(i) for i in path if i >= 0)
    found = on_links(f, f.spread([0], [17], alive=alive), 0)
    assert found[f.link_index("nic_up/h0/n0/plane0")] == 1.0
    everything = f.mask([f"nic_up/h0/n0/plane{p}" for p in range(2)])
    with pytest.raises(RouteError, match="every plane of nic_up/h0/n0 is down"):
        f.route([0], [17], 0, alive=everything)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": 0}, "`planes`: 0 is too few; it must be 1 or more"),
        ({"hosts": 99, "segments": 2}, "`hosts`: 99 hosts do not fit; the segments hold 8"),
        ({"cross_rail": "wifi"}, "`cross_rail`: 'wifi' is neither spine nor forward"),
        ({"cross_rail": "forward"}, "`scale_up`: is missing; flows change rails over the scale-up network"),
        ({"segments": 1.5}, "`segments`: 1.5 is not a whole number"),
    ],
)
def test_bad_hpn(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        hpn(**({"segments": 2, "hosts_per_segment": 4, "aggs_per_plane": 2} | change))
    assert str(caught.value) == message


def test_hpn_of_two_pods_keeps_planes_in_the_cores() -> None:
    f = hpn(pods=2, segments=2, hosts_per_segment=2, aggs_per_plane=2, cores_per_agg=3)
    assert f.hosts == 8
    path = f.route([0], [63], 7)[0]
    assert (path >= 0).sum() == 6
    assert np.count_nonzero(f.node_kind == NodeKind.CORE) == 2 * 2 * 3
    assert len({f.link_name(i).split("plane")[1][0] for i in path}) == 1


# ---- scale-up by itself -----------------------------------------------------------------------------------


def test_nvl72_sprays_over_18_switches() -> None:
    """72 GPUs, 18 links of 50 GB/s each: 900 GB/s, and 17/18 of it without a switch."""
    f = scale_up(18, 4, bandwidth="900 GB/s", planes=18)
    assert f.endpoints == 72
    assert np.count_nonzero(f.node_kind == NodeKind.SCALE_UP_SWITCH) == 18
    assert np.unique(f.capacity) == 50e9
    assert f.bisection_bandwidth == 36 * 900e9
    assert (f.domain == 0).all()
    assert (f.injection_bandwidth == 900e9).all()
    rows = f.spread([0], [71], network="scale_up")
    assert rows.fraction.tolist() == [1.0, 1.0]  # both bundles whole
    alive = f.mask([i for i in range(f.links) if f.link_name(i).endswith("/plane5")])
    for network in ("scale_up", "scale_out", "auto"):
        found = on_links(f, f.spread([0], [71], alive=alive, network=network), 0)  # type: ignore[arg-type]
        assert len(found) == 2 * 17
        assert set(found.values()) == {1 / 17}


def test_cloudmatrix384_has_the_published_counts() -> None:
    """7 planes of 48 first-tier and 16 second-tier switches; 392 GB/s, no oversubscription (2506.12708)."""
    f = scale_up(48, 8, bandwidth="392 GB/s", planes=7, hosts_per_switch=1, spines=16)
    assert f.endpoints == 384
    assert np.count_nonzero(f.node_kind == NodeKind.SCALE_UP_SWITCH) == 7 * (48 + 16)
    rise = f.kind == LinkKind.SCALE_UP_RISE
    assert np.count_nonzero(rise) == 7 * 48 * 16
    assert np.unique(f.capacity[rise]) == pytest.approx(28e9, rel=1e-15)
    assert np.unique(f.capacity[f.kind == LinkKind.SCALE_UP_OUT]) == 56e9
    assert f.bisection_bandwidth == pytest.approx(192 * 392e9, rel=1e-12)
    assert (f.domain == 0).all()
    paths = f.route([0] * 112, [383] * 112, np.arange(112, dtype=np.uint64))
    assert len({tuple(p) for p in paths.tolist()}) == 112


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2**32))
def test_scale_up_of_two_tiers_equals_the_enumeration(
    acc: int, planes: int, below: int, spines: int, seed: int
) -> None:
    f = scale_up(
        8, acc, bandwidth=6.0, planes=planes, hosts_per_domain=4, hosts_per_switch=below, spines=spines
    )
    rng = np.random.default_rng(seed)
    alive = rng.random(f.links) > 0.2
    pairs = [(int(s), int(d)) for s, d in rng.integers(0, f.endpoints, (8, 2))]
    assert (f.domain == np.arange(f.endpoints) // (4 * acc)).all()
    check(f, pairs, lambda s, d: scale_up_paths(f, s, d, alive), alive)
    with pytest.raises(RouteError, match="they are in different scale-up domains"):
        f.route([0], [f.endpoints - 1], 0)
    names = [f.link_name(i) for i in range(f.links)]
    assert [f.link_index(name) for name in names] == list(range(f.links))
    assert len({f.node_name(i) for i in range(f.node_kind.size)}) == f.node_kind.size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hosts_per_switch": 3},
            "`hosts_per_switch`: 3 does not divide the 8 hosts of a domain; 3 switches",
        ),
        ({"hosts_per_switch": 2}, "`spines`: 0, but 4 switches of a domain must reach each other"),
        ({"planes": 0}, "`planes`: 0 is too few; it must be 1 or more"),
    ],
)
def test_bad_scale_up(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        scale_up(8, 2, bandwidth=1.0, **change)
    assert str(caught.value).startswith(message)


# ---- rates of links ---------------------------------------------------------------------------------------


def test_links_by_rate_instead_of_ratio() -> None:
    """The reference rows' 4:1 fat tree: 8 pods, 4 ToRs of 4 hosts, 4 aggs of one 100 Gb/s uplink each."""
    f = clos(
        128, 1, nic="100 Gb/s", hosts_per_tor=4, tors_per_pod=4, aggs_per_pod=4, cores_per_agg=1,
        tor_uplink="100 Gb/s", agg_uplink="100 Gb/s",
    )  # fmt: skip
    assert (f.capacity == 12.5e9).all()
    assert np.count_nonzero(f.node_kind == NodeKind.CORE) == 4
    assert "cores in 4 planes, oversubscribed 4:1" in f.describe()
    assert f.bisection_bandwidth == 32 * 12.5e9 / 2
    with pytest.raises(FabricError, match="`tor_uplink`: says what `oversubscription` says too"):
        clos(4, 1, nic=1.0, hosts_per_tor=2, tor_uplink=1.0, oversubscription=(1, 1))
