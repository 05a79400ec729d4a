"""Queues against what a switch must do: order, no waste, marks, shares, pauses, and M/D/1.

The mean wait of M/D/1 is rho / (2 (1 - rho)) services (Pollaczek-Khinchine).
"""

from __future__ import annotations

import numpy as np
import pytest

from euston.fabrics import Fabric, clos
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.flows import FlowResult, Flows
from euston.network.packet import PacketSettings, run_packets
from euston.network.transport.nscc import Nscc
from euston.network.transport.windowed import Windowed

MTU, PAYLOAD = 4150, 4086
LINE = 100e9 / 8
ONE_PATH = PathChoice(PathMode.ECMP)
TRIP = 8e-6 + 3 * MTU / LINE  # four links there and back, three of them after the first transmission


def star(hosts: int) -> Fabric:
    """One switch, 1 us per link."""
    return clos(
        hosts, 1, nic="100 Gb/s", hosts_per_tor=hosts, nic_latency="1 us", aggs_per_pod=0, cores_per_agg=0
    )


def tree() -> Fabric:
    """4 ToRs of 4 hosts under 4 aggs, 1 us per link."""
    return clos(
        16, 1, nic="100 Gb/s", hosts_per_tor=4, aggs_per_pod=4, nic_latency="1 us", tor_latency="1 us"
    )


def line(result: FlowResult, name: str) -> dict[str, float]:
    queues = result.tables["queues"]
    return queues.filter(queues["name"] == name).row(0, named=True)


def test_one_path_keeps_the_order() -> None:
    """Single-packet messages of one pair end in the order in which they were sent, between other traffic."""
    n = 200
    src = np.concatenate((np.zeros(n, int), np.arange(4, 16)))
    dst = np.concatenate((np.full(n, 9), np.full(12, 9)))
    src[n + 5] = 1
    size = np.concatenate((np.full(n, 3000), np.full(12, 100_000)))
    start = np.concatenate((np.arange(n) * 1e-7, np.zeros(12)))
    result = run_packets(
        Flows.of(src, dst, size, start=start),
        star(16),
        transport=Windowed(),
        balancing=ONE_PATH,
        settings=PacketSettings(queue="100 MB", ecn=None),
    )
    assert (np.diff(result.end[:n]) > 0).all()
    assert line(result, "nic_down/h9/n0")["max_bytes"] > 50 * MTU


@pytest.mark.parametrize("transport", [Nscc(), Windowed(window=8)])
def test_incast_with_trimming_wastes_less_than_a_twentieth(transport: Nscc | Windowed) -> None:
    n, size = 15, 2_000_000
    result = run_packets(Flows.of(np.arange(n), np.full(n, 15), size), tree(), transport=transport)
    packets = -(-size // PAYLOAD)
    bound = n * (size + packets * 64) / LINE
    assert result.stats["trims"] > 0
    assert result.stats["drops"] == 0
    assert bound / result.makespan >= 0.95


def test_a_full_queue_without_trimming_drops_and_the_timer_recovers() -> None:
    result = run_packets(
        Flows.of(np.arange(8), np.full(8, 15), 200_000),
        tree(),
        transport=Windowed(window=40),
        settings=PacketSettings(trimming=False, queue="100 kB", rto="50 us"),
    )
    assert result.finished.all()
    assert result.stats["drops"] > 0
    assert result.stats["trims"] == result.stats["nacks"] == 0
    assert result.stats["retransmitted"] >= result.stats["drops"]
    assert line(result, "nic_down/h15/n0")["max_bytes"] <= 100_000


def test_marks_begin_at_the_low_threshold_and_are_certain_at_the_high_one() -> None:
    flows = Flows.of([0, 4], [15, 15], 400 * PAYLOAD)

    def marks(low: float, high: float) -> tuple[float, float]:
        result = run_packets(
            flows,
            tree(),
            transport=Windowed(window=40),
            balancing=ONE_PATH,
            settings=PacketSettings(queue="10 MB", ecn=(low, high)),
        )
        queue = line(result, "nic_down/h15/n0")
        return queue["marks"], queue["max_bytes"]

    none, most = marks(1000.0, 1000.0)
    assert none == 0
    # two windows of 40, less what is on the way: a standing queue between a few and 80 packets
    assert 20 * MTU < most < 80 * MTU
    everything, _ = marks(0.0, 0.0)
    some, _ = marks(0.0, 4.0)
    assert 0.9 * 800 < everything <= 800
    assert 0 < some < everything


@pytest.mark.parametrize(("weights", "share"), [((1, 3), 3.0), ((1, 1), 1.0), ((2, 3), 1.5)])
def test_deficit_round_robin_shares_by_weight(weights: tuple[int, int], share: float) -> None:
    """Two backlogged queues: when the heavier one ends, the lighter has had its share and no more."""
    size = 1000 * PAYLOAD
    result = run_packets(
        Flows.of([0, 4], [15, 15], size, queue=[0, 1]),
        tree(),
        transport=Windowed(window=100),
        balancing=ONE_PATH,
        settings=PacketSettings(queue="10 MB", ecn=None, queue_weights=dict(enumerate(map(float, weights)))),
    )
    wire = 1000 * MTU / LINE
    heavy, light = result.end[1] - TRIP, result.end[0] - TRIP
    if share > 1:
        assert heavy == pytest.approx(wire * (1 + 1 / share), rel=0.01)
    assert light == pytest.approx(2 * wire, rel=0.01)


def test_a_higher_priority_goes_first() -> None:
    size = 500 * PAYLOAD
    result = run_packets(
        Flows.of([0, 4], [15, 15], size, priority=[1, 0]),
        tree(),
        transport=Windowed(window=100),
        balancing=ONE_PATH,
        settings=PacketSettings(queue="10 MB", ecn=None),
    )
    wire = 500 * MTU / LINE
    assert result.end[1] - TRIP == pytest.approx(wire, rel=0.02)
    assert result.end[0] - TRIP == pytest.approx(2 * wire, rel=0.02)


def test_pauses_lose_nothing_and_keep_the_line_busy() -> None:
    n, size = 15, 1_000_000
    result = run_packets(
        Flows.of(np.arange(n), np.full(n, 15), size),
        tree(),
        transport=Windowed(),
        settings=PacketSettings(trimming=False, ecn=None, pfc="100 kB", rto="10 ms"),
    )
    assert result.stats["drops"] == result.stats["retransmitted"] == 0
    assert result.stats["pauses"] > 0
    packets = -(-size // PAYLOAD)
    assert n * (size + packets * 64) / LINE / result.makespan >= 0.95


def test_a_pause_holds_up_a_victim_behind_it() -> None:
    """Flow 0 -> 8 shares a hop with an incast to host 15: with pauses it waits for it."""
    src, dst = np.array([0, 1, 2, 3, 4, 5, 0]), np.array([15] * 6 + [8])
    flows = Flows.of(src, dst, [1_000_000] * 6 + [200_000])
    choice = PathChoice(PathMode.OBLIVIOUS, 64)
    pfc = run_packets(
        flows, tree(), transport=Windowed(), balancing=choice,
        settings=PacketSettings(trimming=False, ecn=None, pfc="50 kB", rto="10 ms"),
    )  # fmt: skip
    trimmed = run_packets(flows, tree(), balancing=choice)
    assert pfc.end[6] > 2 * trimmed.end[6]


def test_a_shared_buffer_lends_what_is_free() -> None:
    """Dynamic threshold with alpha 1: one queue may hold half of the buffer (Choudhury & Hahne 1998)."""
    n = 3
    result = run_packets(
        Flows.of(np.arange(n), np.full(n, 3), 1_000_000),
        star(4),
        transport=Windowed(),
        settings=PacketSettings(shared_buffer="1 MB", ecn=None),
    )
    most = line(result, "nic_down/h3/n0")["max_bytes"]
    assert most == pytest.approx(500_000, abs=2 * MTU)
    assert result.finished.all()


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "packets"), [(0.5, 600_000), (0.8, 2_000_000)])
def test_mean_wait_is_that_of_m_d_1(rho: float, packets: int) -> None:
    """Poisson single-packet messages of 400 hosts to one: their uplinks are idle enough to add nothing."""
    hosts = 400
    rng = np.random.default_rng(7)
    service = MTU / LINE
    start = np.cumsum(rng.exponential(service / rho, packets))
    result = run_packets(
        Flows.of(rng.integers(1, hosts, packets), np.zeros(packets, int), PAYLOAD, start=start),
        star(hosts),
        transport=Windowed(),
        balancing=ONE_PATH,
        settings=PacketSettings(queue="100 MB", ecn=None),
    )
    alone = 2 * (service + 1e-6) + 2 * (64 / LINE + 1e-6)
    wait = float((result.completion - alone).mean()) / service
    assert wait == pytest.approx(rho / (2 * (1 - rho)), rel=0.02)
