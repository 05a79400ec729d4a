"""Rails without a spine, and forwarding inside the server: networkx enumerations with random dead links."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import FabricError, RouteError
from euston.fabrics import Fabric, LinkKind, NodeKind, clos, forwarded, rail_only, rail_optimized
from euston.network.balancing.ecmp import Ecmp

from .legs_oracle import SCALE_UP, check, forwarded_paths, graph, on_links, scale_up_paths


@st.composite
def rails(draw: st.DrawFn) -> tuple[Fabric, int, int, np.ndarray, list[tuple[int, int]]]:
    """Rail-only or rail-optimised with forwarding; NICs per host, unit, dead links, pairs."""
    acc = draw(st.integers(1, 3))
    nics = draw(st.integers(1, acc))
    more: dict[str, Any] = {
        "nic": 12.0,
        "scale_up": 60.0,
        "nics_per_host": nics,
        "scale_up_planes": draw(st.integers(1, 2)),
        "planes": draw(st.integers(1, 2)),
    }
    if draw(st.booleans()):
        domain = draw(st.integers(1, 2))
        fabric = rail_only(
            draw(st.integers(1, 3)) * domain,
            acc,
            hosts_per_domain=domain,
            hosts_per_segment=draw(st.integers(1, 2)) * domain,
            spines_per_rail=draw(st.integers(1, 2)),
            **more,
        )
        unit = acc * domain
    else:
        fabric = forwarded(
            clos(
                draw(st.integers(1, 5)),
                acc,
                attach="rail",
                hosts_per_tor=draw(st.integers(1, 2)),
                aggs_per_pod=draw(st.integers(1, 2)),
                **more,
            )
        )
        unit = acc
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    alive = rng.random(fabric.links) > draw(st.sampled_from([0.0, 0.05, 0.2]))
    pairs = [(int(s), int(d)) for s, d in rng.integers(0, fabric.endpoints, (8, 2))]
    return fabric, nics, unit, alive, pairs


@settings(max_examples=60, deadline=None)
@given(rails())
def test_paths_and_shares_equal_the_enumeration(case: Any) -> None:
    fabric, nics, unit, alive, pairs = case

    def expect(s: int, d: int) -> list[tuple[int, ...]]:
        return forwarded_paths(fabric, s, d, nics, unit, alive)

    check(fabric, pairs, expect, alive)
    whole = np.logical_and.reduceat(alive, fabric.bundle_start[:-1])
    src, dst = np.array(pairs, np.int32).T
    counted = fabric.structure.live_paths(src, dst, alive, whole)  # type: ignore[attr-defined]
    assert counted.tolist() == [len(expect(s, d)) for s, d in pairs]
    for s, d in pairs:
        if not expect(s, d):
            with pytest.raises(RouteError):
                fabric.route([s], [d], 0, alive=alive)
            with pytest.raises(RouteError):
                fabric.spread([s], [d], alive=alive)


@settings(max_examples=40, deadline=None)
@given(rails())
def test_auto_takes_the_scale_up_network_within_a_domain(case: Any) -> None:
    fabric, nics, unit, alive, pairs = case

    def expect(s: int, d: int) -> list[tuple[int, ...]]:
        if fabric.domain[s] == fabric.domain[d]:
            return scale_up_paths(fabric, s, d, alive)
        return forwarded_paths(fabric, s, d, nics, unit, alive)

    check(fabric, pairs, expect, alive, "auto")


@settings(max_examples=40, deadline=None)
@given(rails(), st.integers(0, 2**20))
def test_hashed_paths_are_live_paths(case: Any, seed: int) -> None:
    fabric, nics, unit, alive, pairs = case
    pairs = [(s, d) for s, d in pairs if forwarded_paths(fabric, s, d, nics, unit, alive)]
    if not pairs:
        return
    src, dst = np.array(pairs, np.int32).T
    choice = Ecmp(seed=seed).choices(fabric, src, dst, np.zeros(src.size, np.int32), alive=alive)
    for (s, d), path in zip(pairs, fabric.route(src, dst, choice, alive=alive), strict=True):
        assert tuple(path[path >= 0].tolist()) in forwarded_paths(fabric, s, d, nics, unit, alive)


def test_nothing_but_the_servers_joins_the_rails() -> None:
    """Without scale-up links networkx finds as many parts as rails, each with one accelerator a host."""
    f = rail_only(6, 4, nic="400 Gb/s", scale_up="450 GB/s", hosts_per_segment=2, spines_per_rail=2)
    g = graph(f, ~np.isin(f.kind, SCALE_UP)).to_undirected()
    g.remove_nodes_from(np.flatnonzero(f.node_kind == NodeKind.SCALE_UP_SWITCH).tolist())
    parts = [sorted(n for n in part if n < f.endpoints) for part in nx.connected_components(g)]
    assert sorted(parts) == [list(range(r, 24, 4)) for r in range(4)]
    src, dst = (a.ravel() for a in np.meshgrid(np.arange(24), np.arange(24), indexing="ij"))
    up = np.isin(f.kind, SCALE_UP)
    for n in range(2):
        paths = f.route(src, dst, np.full(src.size, n, np.uint64))
        crosses = np.where(paths >= 0, up[paths], False).any(axis=1)
        assert (crosses == (src % 4 != dst % 4)).all()
        assert paths.shape[1] == 6  # out, in, NIC, leaf, spine, leaf


def test_counts_of_rail_only() -> None:
    """One leaf per rail and nothing above: R switches for H x R NICs; no spine at all."""
    f = rail_only(32, 8, nic="400 Gb/s", scale_up="450 GB/s")
    kinds = np.bincount(f.node_kind, minlength=6)
    assert (kinds[NodeKind.TOR], kinds[NodeKind.AGG], kinds[NodeKind.CORE]) == (8, 0, 0)
    assert np.count_nonzero(f.kind == LinkKind.NIC_UP) == 256
    assert f.bisection_bandwidth == 128 * 50e9  # every rail is halved
    assert (f.injection_bandwidth == 50e9).all()
    big = rail_only(
        36, 4, nic="400 Gb/s", scale_up="900 GB/s", hosts_per_domain=18, scale_up_planes=18
    )  # two NVL72: 72 rails
    assert np.count_nonzero(big.node_kind == NodeKind.TOR) == 72
    path = big.route([0], [143], 5)[0]
    assert [big.link_name(i) for i in path] == [
        "scale_up_out/h0/g0/plane5", "scale_up_in/h17/g3/plane5", "nic_up/h17/n3", "nic_down/h35/n3",
    ]  # fmt: skip


def test_forwarding_saves_the_spine() -> None:
    """PXN: cross-rail flows of a segment need no spine link; without it they cross two."""
    options: dict[str, Any] = {"nic": 1.0, "hosts_per_segment": 4, "spines": 2, "scale_up": 9.0}
    by_spine = rail_optimized(4, 4, **options)
    by_server = rail_optimized(4, 4, cross_rail="forward", **options)
    src, dst = np.arange(4), np.arange(4) + 5  # every flow to the next host and the next rail
    dst[3] = 4
    for fabric, links in ((by_spine, 2), (by_server, 0)):
        paths = fabric.route(src, dst, np.zeros(4, np.uint64))
        spine = np.isin(fabric.kind[paths], (LinkKind.TOR_UP, LinkKind.TOR_DOWN)) & (paths >= 0)
        assert (spine.sum(axis=1) == links).all()
    assert by_spine.links == by_server.links
    assert by_server.tier(0) == "scale-up out"
    for name in ("nic_up/h1/n2", "tor_up/p0/t0/a1"):
        assert by_server.link_name(by_server.link_index(name)) == name
    assert "flows between rails are forwarded" in by_server.describe()
    assert (by_server.reverse == by_spine.reverse).all()


@pytest.mark.parametrize(
    ("dead", "src", "dst", "message"),
    [
        ("scale_up_out/h0/g0", 0, 5, "h0/g0 -> h1/g1: forwarding by h0/g1: scale_up_out/h0/g0 is down"),
        ("nic_up/h0/n1", 0, 5, "h0/g0 -> h1/g1: forwarding by h0/g1: nic_up/h0/n1 is down"),
        ("nic_up/h0/n0", 0, 4, "h0/g0 -> h1/g0: nic_up/h0/n0 is down"),
    ],
)
def test_unreachable_pairs_are_named(dead: str, src: int, dst: int, message: str) -> None:
    f = rail_only(2, 4, nic=1.0, scale_up=9.0)
    with pytest.raises(RouteError) as caught:
        f.route([src], [dst], 0, alive=f.mask([dead]))
    assert str(caught.value) == message
    # the relay's own traffic is not hurt
    assert f.route([1], [6], 0, alive=f.mask(["scale_up_out/h0/g0"])).size


def test_rails_that_are_not_joined_say_so() -> None:
    f = clos(2, 2, nic=1.0, attach="rail_pods", hosts_per_tor=2, aggs_per_pod=0, pods_apart=True)
    with pytest.raises(RouteError, match="h0/g0 -> h1/g1: nothing joins their rails"):
        f.route([0], [3], 0)
    with pytest.raises(RouteError, match="nothing joins their rails"):
        f.spread([0], [3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hosts_per_segment": 4}, "`spines_per_rail`: 0, but 2 leaves of a rail must reach each other"),
        ({"hosts_per_domain": 3}, "`hosts_per_tor`: 8 hosts are not whole scale-up domains of 3; nearest 9"),
        ({"nics_per_host": 5}, "`nics_per_host`: 5 NICs for 4 accelerators; give 4 NICs their bandwidth"),
        ({"hosts": 0}, "`hosts`: 0 is too few; it must be 1 or more"),
        ({"scale_up_planes": 0}, "`scale_up_planes`: 0 is too few; it must be 1 or more"),
    ],
)
def test_bad_rail_only(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"hosts": 8, "accelerators_per_host": 4, "nic": 1.0, "scale_up": 9.0}
    with pytest.raises(FabricError) as caught:
        rail_only(**(given | change))
    assert str(caught.value).startswith(message)


def test_forwarding_needs_rails_and_a_scale_up_network() -> None:
    with pytest.raises(FabricError, match="has no rails to forward between"):
        forwarded(clos(4, 2, nic=1.0, hosts_per_tor=2, scale_up=9.0))
    with pytest.raises(FabricError, match="`scale_up`: is missing; flows change rails over"):
        rail_optimized(4, 2, nic=1.0, hosts_per_segment=2, spines=1, cross_rail="forward")
    with pytest.raises(FabricError, match="`cross_rail`: 'pxn' is neither spine nor forward"):
        rail_optimized(4, 2, nic=1.0, hosts_per_segment=2, spines=1, cross_rail="pxn")  # type: ignore[arg-type]


def test_late_splits_reach_every_row() -> None:
    """One plane of a relay's port is dead: all rows of the call name single links of its bundle."""
    f = rail_only(4, 2, nic=1.0, scale_up=8.0, scale_up_planes=2)
    alive = f.mask(["scale_up_in/h0/g1/plane1"])
    spread = f.spread([0, 0], [3, 1], network="auto", alive=alive)
    for flow in range(2):
        found = on_links(f, spread, flow)
        assert found[f.link_index("scale_up_in/h0/g1/plane0")] == 1.0
        assert found[f.link_index("scale_up_out/h0/g0/plane0")] == 1.0
