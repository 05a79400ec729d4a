"""Routes of a job: rings that use every NIC of the hosts they span."""

from __future__ import annotations

import numpy as np

from euston.catalog import accelerator
from euston.cluster import Parallel, Site, place
from euston.fabrics import clos
from euston.training.routes import Routes, grid, routes


def members(world: int, tensor: int, accelerators_per_host: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Host pairs of the first tensor group's ring edges, and its rings."""
    hosts = world // accelerators_per_host
    fabric = clos(
        hosts,
        accelerators_per_host,
        nic="200 Gb/s",
        nics_per_host=4,
        hosts_per_tor=hosts,
        scale_up="300 GB/s",
    )
    site = Site("s", accelerator("a100-sxm-80gb"), hosts, accelerators_per_host, fabric)
    parallel = Parallel(tensor=tensor, data=world // tensor)
    places = grid(parallel, place(parallel, site))
    found = routes(places, fabric.domain, first_owner=0, first_role=0)
    unit = found.transfers
    first = slice(int(unit.ptr[0]), int(unit.ptr[1]))
    return unit.src[first], unit.dst[first], found.tensor_rings


def test_tensor_group_inside_a_host_is_one_ring() -> None:
    src, dst, rings = members(16, 8, 8)
    assert rings == 1
    assert src.tolist() == list(range(8))
    assert dst.tolist() == [1, 2, 3, 4, 5, 6, 7, 0]


def test_tensor_group_over_two_hosts_leaves_through_every_rank() -> None:
    """By hand: 8 rings over 16 ranks, each crossing twice; so each rank sends once and receives once."""
    src, dst, rings = members(16, 16, 8)
    assert rings == 8
    assert src.size == 8 * 16
    crossing = src // 8 != dst // 8
    assert sorted(src[crossing].tolist()) == list(range(16))
    assert sorted(dst[crossing].tolist()) == list(range(16))
    for ring in range(rings):  # each ring visits every rank once
        part = slice(ring * 16, (ring + 1) * 16)
        step = dict(zip(src[part].tolist(), dst[part].tolist(), strict=True))
        at, seen = 0, []
        for _ in range(16):
            seen.append(at)
            at = step[at]
        assert at == 0
        assert sorted(seen) == list(range(16))


def of_data_groups(parallel: Parallel, per_host: int, hosts: int) -> Routes:
    fabric = clos(hosts, per_host, nic="200 Gb/s", hosts_per_tor=hosts, scale_up="300 GB/s")
    site = Site("s", accelerator("a100-sxm-80gb"), hosts, per_host, fabric)
    return routes(grid(parallel, place(parallel, site)), fabric.domain, first_owner=0, first_role=0)


def test_stages_may_lie_differently_on_hosts() -> None:
    """4 replicas x 3 stages on hosts of 6: stages 0 and 2 are inside a host, stage 1 is half on each."""
    found = of_data_groups(Parallel(pipeline=3, data=4), 6, 2)
    assert found.data_rings.tolist() == [1, 2, 1]
    assert found.data_domains.tolist() == [1, 2, 1]
    sizes = np.diff(found.transfers.ptr)[found.data]
    assert sizes.tolist() == [4, 8, 4]  # edges: rings x ranks


def test_groups_of_one_stage_that_lie_differently_are_one_ring_each() -> None:
    """2-way tensor x 3 replicas on hosts of 3: ranks 0, 2 | 4 and 1 | 3, 5."""
    found = of_data_groups(Parallel(tensor=2, data=3), 3, 2)
    assert found.data_rings.tolist() == [1]
    edges = slice(int(found.transfers.ptr[-2]), None)
    assert found.transfers.src[edges].tolist() == [0, 2, 4, 1, 3, 5]
    assert found.transfers.dst[edges].tolist() == [2, 4, 0, 3, 5, 1]


def test_replicas_inside_hosts_share_their_collective_over_all_nics() -> None:
    """16 replicas of one rank on 4 hosts: 4 rings, each enters and leaves every host once, by another NIC."""
    found = of_data_groups(Parallel(data=16), 4, 4)
    assert found.data_rings.tolist() == [4]
    edges = slice(int(found.transfers.ptr[-2]), None)
    src, dst = found.transfers.src[edges], found.transfers.dst[edges]
    leaving = src // 4 != dst // 4
    assert sorted(src[leaving].tolist()) == list(range(16))
    assert sorted(dst[leaving].tolist()) == list(range(16))
