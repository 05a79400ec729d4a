"""Planes, rails without a spine, joined sites in the fluid engine. Oracles: all rows solved, closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from euston.fabrics import Fabric, LinkKind, clos, compose, hpn, leaf_spine, rail_only, scale_up, wan
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.spray import Spray
from euston.network.columns import Columns
from euston.network.fluid import max_min
from euston.network.lowering import Lowered, lower
from euston.network.packet._path_table import path_table
from euston.network.transfer import Transfer, Transfers

LEAF_SPINE = leaf_spine(5, 2, nic=50e9, hosts_per_leaf=2, spines=3, oversubscription=2.0)
SHAPES = {
    "planes": clos(
        8, 2, nic=100e9, hosts_per_tor=2, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=2, planes=2,
        oversubscription=(2.0, 0.5), scale_up=200e9, hosts_per_domain=2, scale_up_planes=3,
    ),
    "HPN": hpn(segments=2, hosts_per_segment=3, aggs_per_plane=3, scale_up="450 GB/s"),
    "HPN, forwarding": hpn(
        segments=2, hosts_per_segment=3, aggs_per_plane=3, scale_up="60 GB/s", cross_rail="forward"
    ),
    "rail-only": rail_only(
        8, 4, nic="400 Gb/s", scale_up="60 GB/s", hosts_per_segment=4, spines_per_rail=2, scale_up_planes=2
    ),
    "two tiers of scale-up": scale_up(
        8, 2, bandwidth="400 GB/s", planes=2, hosts_per_switch=2, spines=2, oversubscription=2.0
    ),
    "sites": compose(
        {"a": LEAF_SPINE, "b": LEAF_SPINE},
        wan([("a", "b", "800 Gb/s", "20 ms")]),
        gateway_bandwidth="3.2 Tb/s",
    ),
}  # fmt: skip


def rates(lowered: Lowered, columns: Columns) -> NDArray[np.float64]:
    return max_min(columns, lowered.capacity, weight=lowered.weight, rate_cap=lowered.rate_cap).rate


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(SHAPES)),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([Spray(), Spray(adaptive=True), Ecmp(qps=2)]),
)
def test_pruned_rows_never_bind(name: str, seed: int, broken: float, balancing: Any) -> None:
    """Rates without the rows that can never bind equal those with all rows."""
    fabric = SHAPES[name]
    rng = np.random.default_rng(seed)
    n = 40
    src = rng.integers(0, fabric.endpoints, n).astype(np.int32)
    dst = ((src + rng.integers(1, fabric.endpoints, n)) % fabric.endpoints).astype(np.int32)
    capacity = fabric.capacity * rng.choice([1.0, 0.25], fabric.links, p=[0.9, 0.1])
    inner = np.isin(fabric.kind, (LinkKind.TOR_UP, LinkKind.AGG_UP, LinkKind.SCALE_UP_RISE))
    capacity[inner & (rng.random(fabric.links) < broken)] = 0.0
    transfers = Transfers.of([Transfer([s], [d], 1e6, coupled=False) for s, d in zip(src, dst, strict=True)])
    lowered = lower(transfers, fabric, balancing, capacity=capacity)
    every, some = rates(lowered, lowered.columns), rates(lowered, lowered.binding)
    np.testing.assert_allclose(some, every, rtol=1e-9)
    load = lowered.columns.load(every)
    assert (load <= lowered.capacity * (1 + 1e-9)).all()
    # every byte that is sent also arrives, whatever the shape
    links = fabric.link_load(load)
    into, out = (
        np.bincount(end, weights=links, minlength=fabric.node_kind.size)
        for end in (fabric.link_dst, fabric.link_src)
    )
    np.testing.assert_allclose((out - into)[fabric.endpoints :], 0.0, atol=1e-3)
    assert out[: fabric.endpoints].sum() >= every.sum() * (1 - 1e-9)


def test_a_gateway_feeds_more_into_its_leaf_than_the_hosts() -> None:
    """3.2 Tb/s come in where two NICs of 400 Gb/s hang: the leaf's uplinks are what binds, by hand."""
    fabric = SHAPES["sites"]
    src = np.arange(8, dtype=np.int32)  # hosts of site a, one flow to each of site b
    transfers = Transfers.of([Transfer([s], [s + 8], 1e6, coupled=False) for s in src])
    capacity = fabric.capacity.copy()
    capacity[fabric.kind == LinkKind.WAN] = 1e15
    lowered = lower(transfers, fabric, Spray(), capacity=capacity)
    rate = rates(lowered, lowered.binding)
    # site b's last leaf: 4 NICs of 400 Gb/s below at 2:1 make 800 Gb/s of uplinks for all eight flows
    assert rate == pytest.approx(np.full(8, 800e9 / 8 / 8))


def test_one_queue_pair_uses_one_plane_and_spraying_all() -> None:
    """HPN's NIC of 2 x 200 Gb/s: one hashed flow gets 200, a sprayed one 400, with a dead plane 200."""
    fabric: Fabric = SHAPES["HPN"]
    transfers = Transfers.of([Transfer([0], [8], 1e6, coupled=False)])
    for balancing, dead, expected in (
        (Ecmp(), [], 25e9),
        (Spray(), [], 50e9),
        (Spray(), ["nic_up/h0/n0/plane1"], 25e9),
    ):
        capacity = np.where(fabric.mask(dead), fabric.capacity, 0.0)
        lowered = lower(transfers, fabric, balancing, capacity=capacity)
        assert rates(lowered, lowered.binding) == pytest.approx([expected])


def test_a_dead_plane_takes_its_share_of_an_nvl72() -> None:
    fabric = scale_up(18, 4, bandwidth="900 GB/s", planes=18)
    transfers = Transfers.of([Transfer([0], [71], 1e6, coupled=False)])
    dead = [i for i in range(fabric.links) if fabric.link_name(i).endswith("plane3")]
    lowered = lower(transfers, fabric, Ecmp(), capacity=np.where(fabric.mask(dead), fabric.capacity, 0.0))
    assert rates(lowered, lowered.binding) == pytest.approx([17 * 50e9])  # whatever the policy of the NICs


def test_a_bundle_that_forwarding_splits_late_is_split_for_all() -> None:
    """Flows inside a host use its scale-up bundle whole until hashed flows that are forwarded split it."""
    fabric: Fabric = SHAPES["rail-only"]
    transfers = Transfers.of([Transfer([0], [1], 1e6, coupled=False), Transfer([0], [5], 1e6, coupled=False)])
    lowered = lower(transfers, fabric, Ecmp())
    assert lowered.split[fabric.bundle[fabric.link_index("scale_up_out/h0/g0/plane0")]]
    rate = rates(lowered, lowered.binding)
    load = fabric.link_load(lowered.columns.load(rate))
    out = [fabric.link_index(f"scale_up_out/h0/g0/plane{p}") for p in range(2)]
    assert load[out].sum() == pytest.approx(rate.sum())
    # a plane of 30 GB/s carries half of the inner flow and all of the forwarded one: x / 2 + y, fair at x = y
    assert rate == pytest.approx([20e9, 20e9])


def test_packets_find_paths_of_unequal_length() -> None:
    """Tunnels of one hop and of two: all 2 ports x 2 tunnels x 2 ports x 3 x 3 spines."""
    net = wan([("a", "b", 1e11, 0.03), ("a", "c", 1e11, 0.01), ("c", "b", 1e11, 0.01)], tunnels=2)
    fabric = compose(dict.fromkeys("abc", LEAF_SPINE), net)
    src, dst = np.array([0, 1], np.int32), np.array([8, 9], np.int32)
    table = path_table(fabric, src, dst, 128, seed=0)
    assert table.forward_n.tolist() == [2 * 2 * 2 * 3 * 3] * 2
    lengths = set()
    for row in table.links[table.forward[0] : table.forward[0] + 72]:
        links = row[row >= 0]
        assert (fabric.link_dst[links[:-1]] == fabric.link_src[links[1:]]).all()
        lengths.add(links.size)
    assert lengths == {9, 10}
