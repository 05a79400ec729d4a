"""Spraying: fractions equal the shares of enumerated paths exactly; bundles split only where they must."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import FabricError, RouteError
from euston.fabrics import Fabric, LinkKind, Spread, clos, fat_tree

from .oracle import all_paths, fractions
from .test_route import broken


def per_link(fabric: Fabric, spread: Spread, flow: int) -> dict[int, float]:
    """Fractions on links; a whole bundle spreads evenly (each link at most once)."""
    found: dict[int, float] = {}
    for i in range(spread.ptr[flow], spread.ptr[flow + 1]):
        row, fraction = int(spread.row[i]), float(spread.fraction[i])
        if row < fabric.bundles:
            assert fraction == 1.0
            assert not spread.split[row]
            links = range(fabric.bundle_start[row], fabric.bundle_start[row + 1])
        else:
            links = range(row - fabric.bundles, row - fabric.bundles + 1)
            assert spread.split[fabric.bundle[links[0]]]
        for link in links:
            assert link not in found
            found[link] = fraction / len(links)
    return found


@settings(max_examples=80, deadline=None)
@given(broken())
def test_oblivious_fractions_equal_the_enumeration(case: Any) -> None:
    fabric, nics, alive, src, dst = case
    expected = [all_paths(fabric, s, d, nics, alive) for s, d in zip(src.tolist(), dst.tolist(), strict=True)]
    reachable = np.array([bool(paths) for paths in expected])
    if not reachable.all():
        with pytest.raises(RouteError):
            fabric.spread(src, dst, alive=alive)
    spread = fabric.spread(src[reachable], dst[reachable], alive=alive)
    kept = [paths for paths in expected if paths]
    shares = [fractions(paths) for paths in kept]
    for flow, share in enumerate(shares):
        assert per_link(fabric, spread, flow) == {link: float(f) for link, f in share.items()}
    # a bundle is split exactly when a link is dead or some flow of the call uses it unevenly
    for b in range(fabric.bundles):
        links = range(fabric.bundle_start[b], fabric.bundle_start[b + 1])
        uneven = any(len({share.get(link, Fraction(0)) for link in links}) > 1 for share in shares)
        assert spread.split[b] == (len(links) > 1 and (uneven or not alive[links.start : links.stop].all()))


@settings(max_examples=60, deadline=None)
@given(broken(), st.integers(0, 2**32))
def test_adaptive_fractions_follow_the_narrowest_link(case: Any, seed: int) -> None:
    """Share of a path = its least capacity between ToRs, over their sum, in exact fractions."""
    fabric, nics, alive, src, dst = case
    rng = np.random.default_rng(seed)
    capacity = np.where(alive, rng.choice([2.0, 4.0, 8.0], fabric.links), 0.0)
    for s, d in zip(src.tolist(), dst.tolist(), strict=True):
        paths = all_paths(fabric, s, d, nics, alive)
        if not paths:
            continue
        least = [min((Fraction(capacity[link]) for link in p[1:-1]), default=Fraction(1)) for p in paths]
        share: dict[int, Fraction] = {}
        for p, width in zip(paths, least, strict=True):
            for link in p:
                share[link] = share.get(link, Fraction(0)) + width / sum(least)
        found = per_link(fabric, fabric.spread([s], [d], adaptive_capacity=capacity), 0)
        assert found == {link: float(f) for link, f in share.items()}


@settings(max_examples=40, deadline=None)
@given(broken())
def test_flow_is_conserved_at_every_node(case: Any) -> None:
    fabric, nics, alive, src, dst = case
    pairs = [
        (s, d)
        for s, d in zip(src.tolist(), dst.tolist(), strict=True)
        if s != d and all_paths(fabric, s, d, nics, alive)
    ]
    spread = fabric.spread([s for s, _ in pairs], [d for _, d in pairs], alive=alive)
    for flow in range(len(pairs)):
        net = np.zeros(fabric.node_kind.size)
        for link, fraction in per_link(fabric, spread, flow).items():
            assert alive[link]
            net[fabric.link_src[link]] -= fraction
            net[fabric.link_dst[link]] += fraction
        ends = np.flatnonzero(np.abs(net) > 1e-12)
        assert ends.size in (0, 2)  # 0: both behind one NIC
        assert np.abs(net[ends]) == pytest.approx(1.0)


@pytest.mark.nojit
def test_unbroken_fabric_keeps_every_bundle() -> None:
    """Permutation on a full-bisection fat tree: bundle rows only, each loaded to exactly its capacity."""
    f = fat_tree(4, nic=1.0)
    shift = np.roll(np.arange(16), 4)  # every flow leaves its pod
    spread = f.spread(np.arange(16), shift)
    assert not spread.split.any()
    assert spread.row.size == 16 * 6
    assert spread.row.max() < f.bundles
    load = np.bincount(spread.row, weights=spread.fraction, minlength=f.rows)
    capacity = f.row_capacity()
    assert (load[: f.bundles] == capacity[: f.bundles]).all()
    assert np.isinf(capacity[f.bundles :]).all()
    assert (f.link_load(load) == 1.0).all()


@pytest.mark.nojit
def test_one_dead_uplink_splits_what_it_touches() -> None:
    f = fat_tree(4, nic=1.0)
    alive = f.mask(["tor_up/p0/t0/a1"])
    src, dst = np.array([0, 2, 8]), np.array([4, 6, 12])  # from p0/t0, from p0/t1, from pod 2 to pod 3
    spread = f.spread(src, dst, alive=alive)
    names = [[f.link_name(link) for link in per_link(f, spread, flow)] for flow in range(3)]
    assert names[0][1:4] == ["tor_up/p0/t0/a0", "agg_up/p0/a0/c0", "agg_up/p0/a0/c1"]
    split = {f.link_name(int(f.bundle_start[b])) for b in np.flatnonzero(spread.split)}
    assert split == {"tor_up/p0/t0/a0", "agg_up/p0/a0/c0", "agg_down/p1/a0/c0", "tor_down/p1/t0/a0"}
    capacity = f.row_capacity(split=spread.split)
    used = np.unique(spread.row)
    assert np.isfinite(capacity[used]).all()
    # whole and split rows never stand beside each other, and together they are all links
    whole = np.isfinite(capacity[: f.bundles])
    assert (whole == ~spread.split).all()
    assert capacity[np.isfinite(capacity)].sum() == f.capacity.sum()


def test_split_carries_over_to_another_call() -> None:
    f = fat_tree(4, nic=1.0)
    first = f.spread([0], [4], alive=f.mask(["tor_up/p0/t0/a1"]))
    second = f.spread([2], [5], alive=f.mask(["tor_up/p0/t0/a1"]), split=first.split)
    assert (second.split == first.split).all()
    assert per_link(f, second, 0) == {k: float(v) for k, v in fractions(
        all_paths(f, 2, 5, 1, f.mask(["tor_up/p0/t0/a1"]))
    ).items()}  # fmt: skip


def test_unequal_capacity_splits_but_oblivious_spray_does_not_adapt() -> None:
    f = clos(4, 1, nic=4.0, hosts_per_tor=1, aggs_per_pod=4)
    slow = f.capacity.copy()
    slow[f.link_index("tor_up/p0/t0/a2")] = 0.5
    oblivious = f.spread([0, 1], [1, 2], capacity=slow)
    assert per_link(f, oblivious, 0)[f.link_index("tor_up/p0/t0/a2")] == 0.25
    assert oblivious.split.sum() == 1
    adaptive = f.spread([0, 1], [1, 2], adaptive_capacity=slow)
    assert per_link(f, adaptive, 0)[f.link_index("tor_up/p0/t0/a2")] == 0.5 / 3.5
    assert adaptive.split.sum() == 2  # the ToR below the slow uplink, and the one that receives unevenly
    assert f.row_capacity(slow, oblivious.split)[f.bundles + f.link_index("tor_up/p0/t0/a2")] == 0.5


def test_scale_up_and_loads() -> None:
    f = clos(2, 2, nic=1.0, hosts_per_tor=1, aggs_per_pod=2, scale_up=8.0)
    spread = f.spread([0, 0], [1, 3], network="auto")
    assert [f.kind[link] for link in per_link(f, spread, 0)] == [LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN]
    load = f.link_load(np.bincount(spread.row, weights=spread.fraction, minlength=f.rows))
    assert load[f.link_index("tor_up/p0/t0/a1")] == 0.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"split": np.zeros(3, bool)}, "`split`: 3 values for"),
        ({"capacity": np.ones(3)}, "`capacity`: shape"),
        (
            {"adaptive_capacity": np.full(96, np.nan)},
            "`adaptive_capacity`: a link's capacity must be 0 B/s or more",
        ),
    ],
)
def test_bad_arrays(more: Any, message: str) -> None:
    with pytest.raises(FabricError) as caught:
        fat_tree(4, nic=1.0).spread([0], [4], **more)
    assert str(caught.value).startswith(message)


def test_arithmetic_of_the_healthy_case_equals_the_kernel():
    """Oracle: the kernel that walks every path, on rail and host attach, shared NICs and partial pods."""
    from euston.fabrics import _routes

    rng = np.random.default_rng(5)
    for attach, nics, tors_per_pod in (("host", 4, 3), ("rail", 4, 8), ("host", 2, None), ("rail", 2, 4)):
        fabric = clos(
            23, 4, nic=1e9, nics_per_host=nics, attach=attach, hosts_per_tor=2, tors_per_pod=tors_per_pod,
            aggs_per_pod=2, cores_per_agg=2 if tors_per_pod else 0, scale_up=1e10,
        )  # fmt: skip
        src = rng.integers(0, fabric.endpoints, 500).astype(np.int32)
        dst = rng.integers(0, fabric.endpoints, 500).astype(np.int32)
        found = fabric.spread(src, dst)
        none = np.zeros(fabric.bundles, bool)
        failed, ptr, row, fraction = _routes.spread(
            fabric.structure.shape, src, dst, _routes.SCALE_OUT, np.ones(fabric.links), none, none.copy()
        )
        assert failed < 0
        np.testing.assert_array_equal(found.ptr, ptr)
        np.testing.assert_array_equal(found.row, row)
        np.testing.assert_array_equal(found.fraction, fraction)
        inside = src // 4 * 4 + (src + 1) % 4
        out = np.full((500, fabric.structure.diameter), -1, np.int32)
        whole = np.ones(fabric.bundles, bool)
        pick = np.zeros(500, np.uint64)
        alive = np.ones(fabric.links, bool)
        assert (
            _routes.route(fabric.structure.shape, src, inside, pick, _routes.SCALE_UP, alive, whole, out) < 0
        )
        np.testing.assert_array_equal(fabric.route(src, inside, pick, network="scale_up"), out)
