"""Routes: contiguity and length, and membership in networkx's enumeration of live shortest paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import FabricError, RouteError
from euston.fabrics import Fabric, LinkKind, clos, fat_tree, rail_optimized

from .oracle import all_paths, port


@st.composite
def fabrics(draw: st.DrawFn) -> tuple[Fabric, int]:
    """A small Clos of any kind, and its NICs per host."""
    acc = draw(st.integers(1, 3))
    nics = draw(st.integers(1, acc))
    rail = draw(st.booleans())
    segments = draw(st.integers(1, 2))
    fabric = clos(
        draw(st.integers(1, 8)),
        acc,
        nic=float(draw(st.integers(1, 8))),
        nics_per_host=nics,
        attach="rail" if rail else "host",
        hosts_per_tor=draw(st.integers(1, 3)),
        tors_per_pod=draw(st.sampled_from([None, segments * nics if rail else segments])),
        aggs_per_pod=draw(st.integers(1, 3)),
        cores_per_agg=draw(st.integers(1, 3)),
        scale_up=draw(st.sampled_from([None, 64.0])),
        hosts_per_domain=draw(st.integers(1, 2)),
    )
    return fabric, nics


@st.composite
def broken(draw: st.DrawFn) -> tuple[Fabric, int, np.ndarray, np.ndarray, np.ndarray]:
    """A fabric with dead links, and a few pairs."""
    fabric, nics = draw(fabrics())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    alive = rng.random(fabric.links) > draw(st.sampled_from([0.0, 0.05, 0.3]))
    src, dst = rng.integers(0, fabric.endpoints, (2, 12))
    return fabric, nics, alive, src, dst


@settings(max_examples=60, deadline=None)
@given(broken(), st.integers(0, 2**64 - 1))
def test_route_is_the_chosen_live_shortest_path(case: Any, choice: int) -> None:
    """All choices of 0..n-1 give the n enumerated paths, each once; any other choice is taken modulo n."""
    fabric, nics, alive, src, dst = case
    for s, d in zip(src.tolist(), dst.tolist(), strict=True):
        expected = all_paths(fabric, s, d, nics, alive)
        if not expected:
            with pytest.raises(RouteError) as caught:
                fabric.route([s], [d], [choice], alive=alive)
            assert str(caught.value).startswith(f"{fabric.endpoint_name(s)} -> {fabric.endpoint_name(d)}: ")
            continue
        n = len(expected)
        paths = fabric.route([s] * n, [d] * n, np.arange(n, dtype=np.uint64), alive=alive)
        ours = [tuple(p[p >= 0].tolist()) for p in paths]
        assert sorted(ours) == sorted(expected)
        picked = fabric.route([s], [d], [choice], alive=alive)[0]
        assert tuple(picked[picked >= 0].tolist()) == ours[choice % n]


@settings(max_examples=40, deadline=None)
@given(fabrics(), st.integers(0, 2**32))
def test_paths_are_contiguous_and_short(built: tuple[Fabric, int], seed: int) -> None:
    fabric, nics = built
    rng = np.random.default_rng(seed)
    src, dst = rng.integers(0, fabric.endpoints, (2, 50))
    paths = fabric.route(src, dst, rng.integers(0, 2**63, 50).astype(np.uint64))
    assert paths.dtype == np.int32
    for s, d, row in zip(src.tolist(), dst.tolist(), paths, strict=True):
        links = row[row >= 0]
        assert (row[: links.size] >= 0).all()
        if s == d:
            assert links.size == 0
            continue
        assert links.size in (2, 4, 6)
        assert fabric.link_src[links[0]] == port(fabric, s, nics)
        assert fabric.link_dst[links[-1]] == port(fabric, d, nics)
        assert (fabric.link_dst[links[:-1]] == fabric.link_src[links[1:]]).all()


@pytest.mark.nojit
def test_diameter_and_load_of_a_fat_tree() -> None:
    """A fat tree has diameter 6; all pairs and all choices load the links of a tier equally (symmetry)."""
    f = fat_tree(4, nic="100 Gb/s")
    src, dst, choice = (a.ravel() for a in np.meshgrid(range(16), range(16), range(4), indexing="ij"))
    paths = f.route(src, dst, choice.astype(np.uint64))
    assert paths.shape[1] == (paths >= 0).sum(axis=1).max() == 6
    load = np.bincount(paths[paths >= 0], minlength=f.links)
    for kind in LinkKind:
        assert np.unique(load[f.kind == kind]).size <= 1


@pytest.mark.nojit
def test_networks_within_and_between_domains() -> None:
    """2 hosts per scale-up domain: scale-up inside it, scale-out when asked for or between domains."""
    f = rail_optimized(6, 2, nic="400 Gb/s", hosts_per_segment=2, spines=2, scale_up="450 GB/s")
    wide = clos(6, 2, nic="1 Gb/s", hosts_per_tor=2, aggs_per_pod=1, scale_up="9 Gb/s", hosts_per_domain=2)

    def named(fabric: Fabric, s: int, d: int, network: Any) -> list[str]:
        row = fabric.route([s], [d], 0, network=network)[0]
        return [fabric.link_name(i) for i in row if i >= 0]

    assert named(f, 0, 1, "scale_up") == ["scale_up_out/h0/g0", "scale_up_in/h0/g1"]
    assert named(f, 0, 1, "auto") == named(f, 0, 1, "scale_up")
    # one host, two rails: across a spine
    assert named(f, 0, 1, "scale_out") == [
        "nic_up/h0/n0",
        "tor_up/p0/t0/a0",
        "tor_down/p0/t1/a0",
        "nic_down/h0/n1",
    ]
    assert named(f, 0, 2, "auto") == ["nic_up/h0/n0", "nic_down/h1/n0"]
    assert named(wide, 0, 2, "auto") == ["scale_up_out/h0/g0", "scale_up_in/h1/g0"]
    assert named(wide, 0, 1, "scale_out") == ["nic_up/h0/n0", "nic_down/h0/n1"]
    assert named(wide, 3, 3, "scale_out") == named(wide, 3, 3, "scale_up") == []


@pytest.mark.parametrize(
    ("dead", "network", "message"),
    [
        ([], "scale_up", "h0/g1 -> h5/g1: they are in different scale-up domains"),
        (["nic_down/h5/n1"], "scale_out", "h0/g1 -> h5/g1: nic_down/h5/n1 is down"),
        (
            ["tor_up/p0/t0/a0", "tor_down/p1/t0/a1"],
            "scale_out",
            "h0/g1 -> h5/g1: every shortest path crosses a link that is down",
        ),
    ],
)
def test_unreachable_pairs_are_named(dead: list[str], network: Any, message: str) -> None:
    f = clos(
        8, 2, nic="400 Gb/s", hosts_per_tor=2, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=2,
        scale_up="450 GB/s",
    )  # fmt: skip
    for ask in (f.route, f.spread):
        more: dict[str, Any] = {"choice": 0} if ask == f.route else {}
        with pytest.raises(RouteError) as caught:
            ask([1, 1], [3 if network == "scale_out" else 0, 11], alive=f.mask(dead), network=network, **more)
        assert str(caught.value) == message
        assert caught.value.exit_code == 1
    bare = clos(2, 2, nic=1.0, hosts_per_tor=2, aggs_per_pod=0)
    with pytest.raises(RouteError, match="has no scale-up network"):
        bare.route([0], [1], 0, network="scale_up")


@pytest.mark.parametrize(
    ("src", "dst", "more", "message"),
    [
        ([0], [16], {}, "`dst`: endpoint 16 does not exist; `fat_tree` has 0 to 15"),
        ([-1], [3], {}, "`src`: endpoint -1 does not exist; `fat_tree` has 0 to 15"),
        ([0.5], [3], {}, "`src`: endpoints must be one row of integers"),
        ([0, 1], [3], {}, "`dst`: 1 endpoints for 2 sources"),
        ([0], [3], {"network": "wifi"}, "`network`: 'wifi' is not one of scale_out, scale_up, auto"),
        ([0], [3], {"alive": np.ones(3, bool)}, "`alive`: needs one bool per link, 96 in all"),
    ],
)
def test_bad_questions(src: Any, dst: Any, more: Any, message: str) -> None:
    with pytest.raises(FabricError) as caught:
        fat_tree(4, nic="100 Gb/s").route(src, dst, 0, **more)
    assert str(caught.value) == message


def test_no_flows() -> None:
    f = fat_tree(4, nic="100 Gb/s")
    assert f.route([], [], []).shape == (0, 6)
    assert len(f.spread([], [])) == 0
