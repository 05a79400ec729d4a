"""UGAL-L in packets: minimal or Valiant path for every packet, by queue times hops.

Oracles: `euston.fabrics.ugal_candidates` for which path is which; the closed form of an adversarial shift
over minimal paths of a dragonfly; the fluid engine, where half of a sprayed flow is minimal.
"""

from __future__ import annotations

import numpy as np
import pytest

from euston.fabrics import Fabric, dragonfly, ugal_candidates
from euston.network.balancing.adaptive import Adaptive
from euston.network.balancing.base import PathMode
from euston.network.balancing.spray import Spray
from euston.network.flows import Flows
from euston.network.packet import PacketEngine, run_packets
from euston.network.packet._path_table import path_table
from euston.traffic.fluid import run_fluid

PER_GROUP = 8


def net(routing: str = "ugal") -> Fabric:
    """9 groups of 4 switches with 2 hosts and 2 global links each."""
    return dragonfly(a=4, p=2, h=2, nic="100 Gb/s", routing=routing)


def shift(fabric: Fabric, bytes_: int) -> Flows:
    """Every host sends to its twin in the next group: one global link carries a group's traffic."""
    ends = np.arange(fabric.endpoints)
    return Flows.of(ends, (ends + PER_GROUP) % fabric.endpoints, bytes_)


def test_rows_of_a_pair_are_minimal_and_valiant_in_turns() -> None:
    fabric = net()
    src, dst = np.array([0, 3], np.int32), np.array([70, 12], np.int32)
    table = path_table(fabric, src, dst, 4096, 0)
    for f in range(2):
        n = int(table.forward_n[f])
        rows = table.links[table.forward[f] : table.forward[f] + n]
        assert n % 2 == 0 and n > 2
        number = np.arange(n // 2)
        wanted = ugal_candidates(fabric, np.full(n // 2, src[f]), np.full(n // 2, dst[f]), number)
        for parity, links in enumerate(wanted):
            assert (rows[parity::2, : links.shape[1]] == links).all()
        # all Valiant paths are there, none twice before the list begins again
        assert len(np.unique(rows[1::2], axis=0)) == n // 2


def test_an_idle_network_is_crossed_on_minimal_paths() -> None:
    flows = Flows.of([0], [70], 8000)
    ugal = run_packets(flows, net(), balancing=Adaptive(), seed=1)
    direct = run_packets(flows, net("minimal"), balancing=Spray(), seed=1)
    assert ugal.end[0] == direct.end[0]


def test_ugal_goes_around_an_adversarial_shift() -> None:
    fabric, size = net(), 1_000_000
    flows = shift(fabric, size)
    engine = PacketEngine(flows, fabric, balancing=Adaptive(), seed=1)
    assert engine.choice.mode == PathMode.UGAL
    engine.advance()
    result = engine.result()
    minimal = PER_GROUP * size * 4150 / 4086 / 12.5e9  # all of a group over one global link
    plain = run_packets(flows, net("minimal"), balancing=Spray(), seed=1)
    assert plain.makespan == pytest.approx(minimal, rel=0.08)
    assert result.makespan < 0.62 * minimal
    assert np.median(result.completion) < 0.5 * minimal


def test_spraying_over_both_kinds_agrees_with_the_fluid_engine() -> None:
    """Half minimal, half Valiant: the minimal half of a group's traffic is what takes longest."""
    fabric = net()
    flows = shift(fabric, 4_000_000)
    packet = run_packets(flows, fabric, balancing=Spray(), seed=1)
    fluid = run_fluid(flows, fabric, Spray())
    assert packet.makespan == pytest.approx(fluid.makespan, rel=0.15)
