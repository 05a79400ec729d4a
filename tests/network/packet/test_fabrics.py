"""Fabrics whose paths are unlike a tree's: two ports per host, forwarding by hosts, sites with long links."""

from __future__ import annotations

import numpy as np
import pytest

from euston.fabrics import Fabric, dragonfly, hpn, jellyfish, rail_only, torus, wan
from euston.network.flows import FlowResult, Flows
from euston.network.packet import PacketSettings, run_packets
from euston.network.transport.windowed import Windowed


def permutation(on: Fabric, size: int, seed: int = 0) -> Flows:
    to = np.random.default_rng(seed).permutation(on.endpoints)
    src = np.flatnonzero(to != np.arange(on.endpoints))
    return Flows.of(src, to[src], size)


def check(result: FlowResult) -> None:
    assert result.finished.all()
    assert result.stats["drops"] == 0


def test_a_flow_uses_both_ports_of_its_host() -> None:
    """Two planes of 200 Gb/s: a message alone takes little more than its bytes at 400 Gb/s."""
    on = hpn(segments=2, hosts_per_segment=4, aggs_per_plane=4, nic="400 Gb/s")
    size = 4_000_000
    result = run_packets(Flows.of([0], [on.endpoints - 8], size), on)
    check(result)
    both = size / (400e9 / 8)
    assert both < result.makespan < 1.25 * both + 20e-6


def test_hosts_forward_between_rails() -> None:
    """Without spines a flow to another rail passes through another accelerator of a host."""
    on = rail_only(4, 4, nic="400 Gb/s", scale_up="3.6 Tb/s")
    result = run_packets(permutation(on, 300_000), on)
    check(result)
    sent = sum(
        v for k, v in zip(range(on.links), result.link_bytes, strict=True) if "scale_up" in on.link_name(k)
    )
    assert sent > 0


def test_own_and_forwarded_data_take_turns() -> None:
    """Site b forwards for a: alone on its cable to c until a's data come, then each has half of it."""
    on = wan([("a", "b", "100 Gb/s", "100 us"), ("b", "c", "100 Gb/s", "100 us")])  # round trips
    size = 4_000_000
    result = run_packets(
        Flows.of([0, 1], [2, 2], size),
        on,
        transport=Windowed(),
        settings=PacketSettings(queue="100 MB", ecn=None),
    )
    check(result)
    line, hop = (size + 979 * 64) / (100e9 / 8), 50e-6
    assert result.end[1] == pytest.approx(hop + 2 * (line - hop) + 2 * hop, rel=0.01)
    assert result.end[0] == pytest.approx(2 * line + 3 * hop, rel=0.01)


@pytest.mark.parametrize(
    "on",
    [
        dragonfly(4, 2, 2, nic="100 Gb/s"),
        jellyfish(20, 5, nic="100 Gb/s", hosts_per_switch=2),
        torus([4, 4], nic="100 Gb/s", link="100 Gb/s"),
        wan(
            [("a", "b", "100 Gb/s", "10 ms"), ("b", "c", "10 Gb/s", "20 ms"), ("a", "c", "40 Gb/s", "15 ms")]
        ),
    ],
    ids=lambda on: on.name,
)
def test_any_fabric_runs(on: Fabric) -> None:
    check(run_packets(permutation(on, 100_000, 3), on))
