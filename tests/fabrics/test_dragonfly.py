"""Dragonflies: counts of Kim et al. (2008), wiring of groups, one global channel per minimal path."""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
import numpy as np
import pytest

from euston.errors import FabricError
from euston.fabrics import LinkKind, NodeKind, dragonfly

from .graph_oracle import graph


@pytest.mark.parametrize(("a", "p", "h"), [(2, 1, 1), (4, 2, 2), (8, 4, 4), (3, 1, 2)])
def test_full_dragonfly_has_the_published_counts(a: int, p: int, h: int) -> None:
    """g = a h + 1 groups, N = a p g terminals, radix k = p + h + a - 1, one channel between two groups."""
    f = dragonfly(
        a, p, h, nic="100 Gb/s", local_link="200 Gb/s", global_link="400 Gb/s", global_latency="2 us"
    )
    g = a * h + 1
    assert f.endpoints == a * p * g
    assert (f.node_kind == NodeKind.SWITCH).sum() == a * g
    local, far = f.kind == LinkKind.LOCAL, f.kind == LinkKind.GLOBAL
    assert local.sum() == g * a * (a - 1)
    assert far.sum() == g * a * h
    assert (np.bincount(f.link_src, minlength=f.node_kind.size)[f.endpoints :] == p + h + a - 1).all()
    assert (f.capacity[local] == 25e9).all()
    assert (f.capacity[far] == 50e9).all()
    assert (f.latency[far] == 2e-6).all()
    group = (np.arange(f.node_kind.size) - f.endpoints) // a
    pairs = np.stack([group[f.link_src[far]], group[f.link_dst[far]]])
    assert np.unique(pairs, axis=1).shape[1] == far.sum() == g * (g - 1)
    assert nx.diameter(graph(f, np.ones(f.links, bool)).to_undirected()) <= 3


@pytest.mark.parametrize(("a", "h", "g"), [(4, 2, 3), (4, 2, 5), (4, 2, 8), (4, 3, 2), (3, 2, 4), (5, 1, 1)])
def test_fewer_groups_share_the_channels(a: int, h: int, g: int) -> None:
    """a h // (g - 1) channels between two groups, no switch with more than h, all groups wired alike."""
    f = dragonfly(a, 1, h, groups=g, nic=1.0)
    far = f.kind == LinkKind.GLOBAL
    each = a * h // (g - 1) if g > 1 else 0
    assert far.sum() == g * (g - 1) * each
    switch, other = (ends[far] - f.endpoints for ends in (f.link_src, f.link_dst))
    assert np.bincount(switch, minlength=a * g).max() <= h
    pairs, count = np.unique(np.stack([switch // a, other // a]), axis=1, return_counts=True)
    assert pairs.shape[1] == g * (g - 1)
    assert (count == each).all()
    # turned by one group: the same wiring
    cables = set(zip(switch.tolist(), other.tolist(), strict=True))
    assert {((s + a) % (a * g), (o + a) % (a * g)) for s, o in cables} == cables
    src, dst = (e.ravel() for e in np.meshgrid(np.arange(f.endpoints), np.arange(f.endpoints)))
    paths = f.route(src, dst, src * 7 + dst)
    crossed = ((paths >= 0) & (f.kind[paths] == LinkKind.GLOBAL)).sum(axis=1)
    assert (crossed == (src // a != dst // a)).all()
    assert (paths >= 0).sum(axis=1).max() <= 5


def test_valiant_enters_one_other_group() -> None:
    f = dragonfly(4, 2, 2, nic=1.0, routing="valiant")
    group = np.full(f.node_kind.size, -1)
    group[f.endpoints :] = (np.arange(f.node_kind.size - f.endpoints)) // 4
    rng = np.random.default_rng(1)
    src, dst = rng.integers(0, f.endpoints, (2, 300))
    visited = set()
    for s, d, row in zip(src, dst, f.route(src, dst, rng.integers(0, 2**60, 300)), strict=True):
        if s // 2 == d // 2:
            continue
        links = row[row >= 0]
        groups = [int(k) for k, _ in itertools.groupby(group[f.link_dst[links[:-1]]])]
        assert len(groups) == 3
        assert (groups[0], groups[2]) == (s // 8, d // 8)
        assert groups[1] not in (groups[0], groups[2])
        assert links.size - 2 <= 5
        visited.add(groups[1])
    assert visited == set(range(9))


def test_bisection() -> None:
    """Half of the groups to the other half, floor(g / 2) ceil(g / 2) pairs of groups with their channels."""
    f = dragonfly(3, 1, 1, nic=9.0, local_link=8.0, global_link=1.0)
    assert f.bisection_bandwidth == 4.0  # 4 groups of 3: 2 x 2 channels
    big = dragonfly(8, 4, 4, groups=32, nic=9.0, global_link=2.0)
    assert big.bisection_bandwidth == 16 * 16 * 1 * 2.0
    assert dragonfly(8, 1, 1, groups=9, nic=1.0).bisection_bandwidth == 4 * 5
    assert dragonfly(4, 1, 4, groups=2, nic=1.0, global_link=9.0).bisection_bandwidth == 4  # the NICs of 4


def test_16k_endpoints() -> None:
    f = dragonfly(16, 8, 8, nic="400 Gb/s")
    assert f.endpoints == 16_512
    assert f.links == 2 * 16_512 + 129 * 16 * 15 + 129 * 128
    shift = (np.arange(f.endpoints) + 5000) % f.endpoints
    paths = f.route(np.arange(f.endpoints), shift, np.arange(f.endpoints))
    assert (paths >= 0).sum(axis=1).max() == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": 0}, "`a`: 0 is too few; it must be 1 or more"),
        ({"groups": 10}, "`groups`: 10 groups, but 4 switches of 2 global channels reach 9 at most"),
        ({"p": 3, "accelerators_per_host": 2},
         "`p`: 3 NIC ports do not hold whole hosts of 2 NICs; nearest 4"),
        ({"routing": "detour"}, "`routing`: unknown rule 'detour'; known: minimal, valiant, ugal"),
    ],
)  # fmt: skip
def test_bad_descriptions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        dragonfly(**({"a": 4, "p": 2, "h": 2, "nic": 1.0} | change))
    assert str(caught.value) == message
