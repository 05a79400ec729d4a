"""Dead and slow links: what is lost is sent again, routes move, and a partition ends with names."""

from __future__ import annotations

import numpy as np
import pytest

from euston.errors import ConfigError, FabricError, SimulationError
from euston.fabrics import Fabric, clos
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.flows import Flows
from euston.network.packet import Fault, PacketEngine, PacketSettings, run_packets
from euston.network.transport.windowed import Windowed


def tree() -> Fabric:
    """4 ToRs of 4 hosts under 4 aggs, 1 us per link."""
    return clos(
        16, 1, nic="100 Gb/s", hosts_per_tor=4, aggs_per_pod=4, nic_latency="1 us", tor_latency="1 us"
    )


PERMUTATION = Flows.of(np.arange(16), (np.arange(16) + 4) % 16, 2_000_000)
DEAD = Fault(50e-6, ("tor_up/p0/t0/a1", "tor_down/p0/t2/a3"))


@pytest.mark.parametrize("mode", [PathMode.MIXED, PathMode.REPS, PathMode.BITMAP, PathMode.OBLIVIOUS])
def test_flows_survive_dead_links(mode: PathMode) -> None:
    settings = PacketSettings(reconvergence="300 us")
    engine = PacketEngine(
        PERMUTATION, tree(), balancing=PathChoice(mode, 64), settings=settings, faults=[DEAD], seed=1
    )
    engine.advance()
    result = engine.result()
    assert engine.in_flight() == 0
    assert result.finished.all()
    assert result.stats["drops"] > 0
    assert result.stats["retransmitted"] >= result.stats["drops"] - result.stats["acks"]


def test_learning_from_feedback_avoids_what_is_dead() -> None:
    """Without new routes, recycling good values loses far less than spraying on."""
    settings = PacketSettings(reconvergence="1 s")
    drops = {
        mode: run_packets(
            PERMUTATION, tree(), balancing=PathChoice(mode, 64), settings=settings, faults=[DEAD], seed=2
        ).stats["drops"]
        for mode in (PathMode.MIXED, PathMode.REPS, PathMode.OBLIVIOUS)
    }
    assert 2 * drops[PathMode.MIXED] < drops[PathMode.OBLIVIOUS]
    assert 2 * drops[PathMode.REPS] < drops[PathMode.OBLIVIOUS]


def test_new_routes_avoid_dead_links_and_return_after_repair() -> None:
    on = tree()
    dead = "tor_up/p0/t0/a1"
    faults = [Fault(0.0, (dead,)), Fault(300e-6, (dead,), 1.0)]
    flows = Flows.of([0, 0], [5, 5], 1_000_000, start=[1e-6, 400e-6])
    engine = PacketEngine(flows, on, balancing=PathChoice(PathMode.OBLIVIOUS, 64), faults=faults)
    engine.advance(299e-6)
    carried = engine.result().link_bytes[on.link_index(dead)]
    engine.advance()
    result = engine.result()
    assert carried == 0
    assert result.stats["drops"] == 0
    assert result.link_bytes[on.link_index(dead)] == pytest.approx(1_016_000 / 4, rel=0.2)


def test_a_slow_link_takes_longer_by_its_factor() -> None:
    """A quarter of the receiver's link from the start: four times the transmission."""
    size = 245 * 4086
    result = run_packets(
        Flows.of([0], [5], size),
        tree(),
        transport=Windowed(window=40),
        balancing=PathChoice(PathMode.ECMP),
        settings=PacketSettings(queue="10 MB", ecn=None),
        faults=[Fault(0.0, ("nic_down/h5/n0",), 0.25)],
    )
    first, each = 3 * (332e-9 + 1e-6), 4 * 332e-9
    assert result.makespan == pytest.approx(first + 245 * each + 1e-6 + 4 * 1.00512e-6, rel=1e-9)


def test_a_partition_ends_with_names() -> None:
    with pytest.raises(SimulationError, match=r"flow 1 \(h1/g0 -> h9/g0\)"):
        run_packets(
            Flows.of([0, 1], [5, 9], 1_000_000),
            tree(),
            settings=PacketSettings(retries=5, reconvergence="1 s"),
            faults=[Fault(20e-6, ("nic_down/h9/n0",))],
        )


def test_faults_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="factor"):
        Fault(0.0, (1,), -1.0)
    with pytest.raises(ConfigError, match="no link"):
        Fault(0.0, ())
    with pytest.raises(FabricError, match="unknown"):
        run_packets(PERMUTATION, tree(), faults=[Fault(0.0, ("tor_up/p0/t9/a1",))])
