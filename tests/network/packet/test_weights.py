"""Weights of flows in packets: deficit round robin whose quanta follow the flows of each link.

Oracles: shares of a saturated link in closed form; the fluid engine's exact weighted max-min rates.
"""

from __future__ import annotations

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.fabrics import Fabric, clos
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.balancing.ecmp import Ecmp
from euston.network.flows import Flows
from euston.network.packet import Fault, PacketEngine, PacketSettings, run_packets
from euston.network.packet import _layout as y
from euston.network.transport import TRANSPORT
from euston.traffic.fluid import run_fluid

LINE = 12.5e9
ONE_PATH = PathChoice(PathMode.ECMP)


def star(hosts: int) -> Fabric:
    return clos(
        hosts, 1, nic="100 Gb/s", hosts_per_tor=hosts, nic_latency="1 us", aggs_per_pod=0, cores_per_agg=0
    )


def wire(flows: Flows) -> np.ndarray:
    return np.asarray(flows.bytes + np.ceil(flows.bytes / (4150 - 64)) * 64)


def received(
    flows: Flows, fabric: Fabric, transport: str, settings: PacketSettings, until: float
) -> np.ndarray:
    """Bytes/s of each flow from a fifth of ``until`` on."""
    engine = PacketEngine(
        flows, fabric, transport=TRANSPORT.get(transport)(), balancing=ONE_PATH, settings=settings
    )
    got = []
    for time in (until / 5, until):
        engine.advance(time)
        slots = engine._state.flow[:, y.F_SLOT]
        assert (slots >= 0).all(), "a flow has ended too early for this test"
        got.append(engine._state.slot[slots, y.S_RECEIVED].astype(float))
    return np.asarray((got[1] - got[0]) / (until * 0.8))


@pytest.mark.parametrize("name", ["nscc", "swift", "dctcp", "gbn"])
def test_two_flows_share_a_link_by_weight(name: str) -> None:
    """Weights 1:3: the heavy flow ends at 4/3 of its time alone, the other at twice."""
    settings = PacketSettings(trimming=False, pfc="100 kB") if name == "gbn" else PacketSettings()
    flows = Flows.of([0, 1], [2, 2], 4_000_000, weight=[1, 3])
    result = run_packets(
        flows, star(3), transport=TRANSPORT.get(name)(), balancing=ONE_PATH, settings=settings
    )
    alone = wire(flows)[0] / LINE
    assert result.end[1] == pytest.approx(4 / 3 * alone, rel=0.03)
    assert result.end[0] == pytest.approx(2 * alone, rel=0.03)


def test_a_class_is_due_what_all_its_flows_weigh() -> None:
    """Four flows of weight 1 and two of weight 3: 1/10 and 3/10 of the link each."""
    weight = np.array([1, 1, 1, 1, 3, 3], float)
    flows = Flows.of(np.arange(6), [6] * 6, 10**8, weight=weight)
    rate = received(flows, star(7), "nscc", PacketSettings(), 2e-3)
    for w in (1.0, 3.0):
        part = weight == w
        assert rate[part].sum() == pytest.approx(LINE * weight[part].sum() / weight.sum(), rel=0.03)
    # inside its class a flow gets what congestion control makes of equal shares
    assert rate == pytest.approx(LINE * weight / weight.sum(), rel=0.25)


def test_flows_share_within_their_queue_only() -> None:
    """Two queues alike; 1:3 in the first: 1/8 and 3/8, and 1/2 for the second."""
    flows = Flows.of([0, 1, 2], [3, 3, 3], 10**8, weight=[1, 3, 1], queue=[0, 0, 1])
    settings = PacketSettings(queue_weights={0: 1.0, 1: 1.0})
    rate = received(flows, star(4), "nscc", settings, 2e-3)
    assert rate == pytest.approx(LINE * np.array([1 / 8, 3 / 8, 1 / 2]), rel=0.04)


def test_shares_differ_from_link_to_link_as_in_the_fluid_engine() -> None:
    """Senders and receivers are shared by different sets of flows: weighted max-min by both engines."""
    src, dst = [0, 0, 1, 1, 2, 3], [4, 5, 4, 5, 4, 5]
    flows = Flows.of(src, dst, 10**8, weight=[1, 2, 4, 1, 2, 1])
    fabric = star(6)
    rate = received(flows, fabric, "nscc", PacketSettings(), 2e-3)
    exact = run_fluid(flows, fabric, Ecmp(), until=2e-3).delivered / 2e-3 * 4154 / 4096
    assert rate == pytest.approx(exact, rel=0.25)
    assert np.abs(rate / exact - 1).mean() < 0.08


def test_every_flow_leaves_the_links_that_it_came_to() -> None:
    """Also when its paths change under it."""
    fabric = clos(16, 1, nic="100 Gb/s", hosts_per_tor=4, aggs_per_pod=4, nic_latency="1 us")
    flows = Flows.of(np.arange(16), (np.arange(16) + 4) % 16, 500_000, weight=1.0 + np.arange(16) % 3)
    faults = [Fault(10e-6, ("tor_up/p0/t0/a1",)), Fault(60e-6, ("tor_up/p0/t0/a1",), 1.0)]
    engine = PacketEngine(flows, fabric, balancing=PathChoice(PathMode.OBLIVIOUS, 64), faults=faults)
    engine.advance(30e-6)
    assert (engine._state.fifo[:, :, y.Q_FLOWS] > 0).any()
    assert not (engine._state.fifo[fabric.link_index("tor_up/p0/t0/a1"), :, y.Q_FLOWS] > 0).any()
    engine.advance()
    assert engine.result().finished.all()
    assert not engine._state.fifo[:, :, y.Q_FLOWS].any()


@pytest.mark.parametrize("name", ["ndp", "hpcc"])
def test_transports_that_share_alike_refuse_weights(name: str) -> None:
    transport = TRANSPORT.get(name)()
    with pytest.raises(ConfigError, match=f"{name} shares links alike"):
        run_packets(Flows.of([0, 1], [2, 2], 1000, weight=[1, 3]), star(3), transport=transport)
    with pytest.raises(ConfigError, match=f"{name} shares links alike"):
        PacketEngine(Flows.of([0, 1], [2, 2], 1000, priority=[0, 1]), star(3), transport=transport)
    run_packets(Flows.of([0, 1], [2, 2], 1000, weight=3.0), star(3), transport=transport)


def test_more_weights_than_a_port_has_queues_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"63 different places of flows.*62 queues"):
        PacketEngine(Flows.of([0] * 63, [1] * 63, 1000, weight=np.arange(1.0, 64.0)), star(2))
