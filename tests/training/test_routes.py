"""Routes of a job: rings that use every NIC of the hosts they span."""

from __future__ import annotations

import numpy as np

from euston.catalog import accelerator
from euston.cluster import Parallel, Site, place
from euston.fabrics import clos
from euston.training.routes import grid, routes


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
    unit, _, rings = routes(places, fabric.domain, first_owner=0, first_role=0)
    first = slice(int(unit.ptr[0]), int(unit.ptr[1]))
    return unit.src[first], unit.dst[first], rings


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
