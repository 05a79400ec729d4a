"""What holds for every transport: closed form when alone, conservation, fairness, repetition, refusals.

A message alone takes its ideal time (store and forward of full packets, the last acknowledgement's way back);
n equal flows into one host share its link: Jain's index, and the bound bytes / line for their end.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.fabrics import Fabric, clos, torus
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.flows import FlowResult, Flows
from euston.network.packet import PacketEngine, PacketSettings, run_packets
from euston.network.packet import _layout as y
from euston.network.transport import TRANSPORT, Effects, Network, Transport
from euston.scenario.policies import TransportSection

LINE = 12.5e9
ONE_PATH = PathChoice(PathMode.ECMP)
LOSSLESS = PacketSettings(trimming=False, pfc="300 kB")
ALL = TRANSPORT.names()
RELIABLE = [name for name in ALL if name != "lossy"]
CONTROLLED = [name for name in RELIABLE if name not in ("gbn", "windowed")]


def star(hosts: int, latency: str = "3 us") -> Fabric:
    """One switch."""
    return clos(
        hosts, 1, nic="100 Gb/s", hosts_per_tor=hosts, nic_latency=latency, aggs_per_pod=0, cores_per_agg=0
    )


def made(name: str) -> Transport:
    return TRANSPORT.get(name)()


def on_the_wire(transport: Transport, payload: int) -> int:
    return payload + -(-payload // (transport.mtu - transport.header)) * transport.header


def rates(engine: PacketEngine, begin: float, end: float) -> np.ndarray:
    """Bytes/s that each receiver takes in between two times."""
    got = []
    for time in (begin, end):
        engine.advance(time)
        slots = engine._state.flow[:, y.F_SLOT]
        assert (slots >= 0).all(), "a flow has ended too early for this test"
        got.append(engine._state.slot[slots, y.S_RECEIVED].astype(float))
    return np.asarray((got[1] - got[0]) / (end - begin))


def jain(x: np.ndarray) -> float:
    return float(x.sum() ** 2 / (x.size * (x**2).sum()))


@pytest.mark.parametrize("name", ALL)
def test_alone_a_message_takes_its_ideal_time(name: str) -> None:
    transport, payload = made(name), 300_000
    result = run_packets(
        Flows.of([0], [1], payload), star(2), transport=transport, balancing=ONE_PATH, settings=LOSSLESS
    )
    back = 2 * (transport.header / LINE + 3e-6)
    ideal = on_the_wire(transport, payload) / LINE + 2 * 3e-6 + transport.mtu / LINE + back
    # HPCC aims below the line; NDP waits for pulls, which the first packet's arrival starts
    slack = {"hpcc": 0.06, "ndp": 0.03}.get(name, 0.002)
    assert ideal * (1 - 1e-3) <= result.makespan <= ideal * (1 + slack)
    assert result.stats["retransmitted"] == result.stats["drops"] == result.stats["trims"] == 0


@pytest.mark.parametrize("name", CONTROLLED)
def test_long_flows_share_a_link_evenly_and_fill_it(name: str) -> None:
    """The mean rate is the fluid max-min share (HPCC: eta of it) within 3 %; DCQCN needs 10 ms for it."""
    n, share = 4, 0.95 if name == "hpcc" else 1.0
    settings = LOSSLESS if name in ("dcqcn", "hpcc") else PacketSettings()
    begin = 12e-3 if name == "dcqcn" else 2e-3
    engine = PacketEngine(
        Flows.of(np.arange(n), np.full(n, n), 200_000_000),
        star(n + 1),
        transport=made(name),
        balancing=ONE_PATH,
        settings=settings,
    )
    got = rates(engine, begin, begin + 6e-3)
    assert got.mean() * n == pytest.approx(share * LINE, rel=0.03)
    assert jain(got) > 0.9


@pytest.mark.parametrize("name", ["nscc", "swift", "dctcp", "ndp"])
def test_incast_on_cutting_switches_wastes_less_than_a_twentieth(name: str) -> None:
    incast(made(name), PacketSettings(), 0.95)


@pytest.mark.parametrize("name", RELIABLE)
def test_incast_on_pausing_switches_loses_nothing(name: str) -> None:
    """HPCC and DCQCN leave a part of the line empty on purpose and after cuts; without loss all the same."""
    least = {"hpcc": 0.85, "dcqcn": 0.3}.get(name, 0.95)
    result = incast(made(name), LOSSLESS, least)
    assert result.stats["drops"] == result.stats["retransmitted"] == result.stats["trims"] == 0


def incast(transport: Transport, settings: PacketSettings, least: float) -> FlowResult:
    n, payload = 12, 1_000_000
    result = run_packets(
        Flows.of(np.arange(n), np.full(n, n), payload),
        star(n + 1),
        transport=transport,
        balancing=ONE_PATH,
        settings=settings,
    )
    bound = n * on_the_wire(transport, payload) / LINE
    assert least <= bound / result.makespan <= 1
    return result


@pytest.mark.parametrize("name", RELIABLE)
def test_whatever_is_lost_arrives_in_the_end(name: str) -> None:
    """Short queues, sprayed paths, several flows per pair; NDP needs cut packets."""
    fabric = clos(8, 1, nic="100 Gb/s", hosts_per_tor=2, aggs_per_pod=2, nic_latency="1 us")
    rng = np.random.default_rng(5)
    src = rng.integers(0, 8, 24)
    flows = Flows.of(src, (src + rng.integers(1, 8, 24)) % 8, rng.integers(1, 400_000, 24), start=1e-6)
    for choice in (ONE_PATH, PathChoice(PathMode.OBLIVIOUS, 16)):
        settings = PacketSettings(queue="40 kB", trimming=name == "ndp")
        engine = PacketEngine(
            flows, fabric, transport=made(name), balancing=choice, settings=settings, seed=3
        )
        engine.advance()
        result = engine.result()
        assert result.finished.all()
        assert engine.in_flight() == 0
        assert result.stats["drops"] + result.stats["trims"] > 0
        assert result.stats["retransmitted"] > 0


@pytest.mark.parametrize("name", ALL)
def test_the_same_run_twice_gives_the_same_bits(name: str) -> None:
    n = 6

    def run() -> FlowResult:
        return run_packets(
            Flows.of(np.arange(n), np.full(n, n), 200_000),
            star(n + 1),
            transport=made(name),
            balancing=PathChoice(PathMode.OBLIVIOUS, 8),
            settings=LOSSLESS if name in ("gbn", "dcqcn") else PacketSettings(),
            seed=2,
        )

    first, second = run(), run()
    assert (first.end == second.end).all()
    assert first.stats == second.stats


@pytest.mark.parametrize("name", ALL)
def test_scenario_files_know_it_and_its_settings(name: str) -> None:
    section = TransportSection.model_validate({"kind": name, "mtu": 2000})
    transport = section.make()
    assert isinstance(transport, TRANSPORT.get(name))
    assert transport.mtu == 2000
    given = {field.name for field in fields(transport) if field.init}  # type: ignore[arg-type]
    assert set(section.settings) == given - {"name"}
    assert TransportSection.model_validate(section.model_dump()).make() == transport


def test_durations_and_rates_in_files_have_units() -> None:
    section = TransportSection.model_validate(
        {"kind": "dcqcn", "cnp_interval": "4 us", "additive": "20 Mb/s", "mark_low": "400 kB"}
    )
    transport = section.make()
    assert transport == TRANSPORT.get("dcqcn")(cnp_interval=4e-6, additive=2.5e6, mark_low=400e3)


@pytest.mark.parametrize("name", ALL)
def test_effects_are_possible_and_off_without_congestion_control(name: str) -> None:
    effects = made(name).effects(Network(rtt=10e-6, rate=LINE, trimming=True))
    assert 0 < effects.utilisation <= 1
    assert 0 <= effects.queue_delay < 1e-3
    assert 0 <= effects.lag < 1e-2
    if name in ("gbn", "lossy", "windowed"):
        assert effects == Effects()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("dctcp", {"gain": 0.0}), ("dctcp", {"threshold": 0.0}), ("dctcp", {"start_window": -1}),
        ("dctcp", {"overtaken": -1}), ("gbn", {"window": 0}), ("gbn", {"nak_interval": 0.0}),
        ("dcqcn", {"gain": 1.0}), ("dcqcn", {"fast_rounds": 0}), ("dcqcn", {"mark_most": 0.0}),
        ("dcqcn", {"mark_low": 2e6, "mark_high": 1e6}), ("dcqcn", {"cnp_interval": 0.0}),
        ("swift", {"beta": 2.0}), ("swift", {"most_cut": 1.0}), ("swift", {"scaling_from": 200.0}),
        ("swift", {"target_delay": -1.0}), ("ndp", {"pull_rate": 1.5}), ("ndp", {"ack_bytes": 0}),
        ("hpcc", {"eta": 0.0}), ("hpcc", {"stages": -1}), ("hpcc", {"mtu": 106}),
        ("lossy", {"fraction": 0.0}), ("lossy", {"deadline": 0.0}), ("lossy", {"rate": -1.0}),
    ],
)  # fmt: skip
def test_bad_settings_are_named(name: str, bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(bad))}`"):
        TRANSPORT.get(name)(**bad)


def test_switches_that_do_not_suit_are_refused() -> None:
    one = Flows.of([0], [1], 1000)
    with pytest.raises(ConfigError, match="ndp needs"):
        run_packets(one, star(2), transport=made("ndp"), settings=PacketSettings(trimming=False))
    ring = torus((14,), nic="100 Gb/s", link="100 Gb/s")
    with pytest.raises(ConfigError, match="hpcc has room"):
        run_packets(Flows.of([0], [7], 1000), ring, transport=made("hpcc"))
