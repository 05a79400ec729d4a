"""What runs on the packet engine say: outages that heal, loss, transports in order, the same bytes again.

Oracles: closed forms of incasts; conservation (what a receiver got cannot exceed its link); the outage's end.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import euston as eu
from euston.errors import SimulationError
from euston.fabrics import Fabric, clos, leaf_spine
from euston.network import Flows
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.spray import Spray
from euston.network.faults import LinkFault
from euston.network.packet import PacketSettings
from euston.network.transport.dcqcn import Dcqcn
from euston.network.transport.gbn import Gbn
from euston.network.transport.lossy import Lossy
from euston.traffic import flow_result_to_result
from euston.traffic.run import run_flows

LINE = 12.5e9
UPLINKS = tuple(f"tor_up/p0/t0/a{a}" for a in range(4))


def fabric() -> Fabric:
    return leaf_spine(32, 1, spines=4, nic="100 Gb/s", hosts_per_leaf=8)


def stride(bytes_: int = 2_000_000) -> Flows:
    return Flows.of(np.arange(32), (np.arange(32) + 8) % 32, bytes_)


def outage(begin: float, end: float) -> list[LinkFault]:
    links = fabric()
    return [LinkFault(links.link_index(name), 0.0, begin, end) for name in UPLINKS]


def incast(senders: int, bytes_: int) -> Flows:
    return Flows.of(np.arange(senders), [senders] * senders, bytes_)


def star(hosts: int) -> Fabric:
    return clos(
        hosts, 1, nic="100 Gb/s", hosts_per_tor=hosts, nic_latency="1 us", aggs_per_pod=0, cores_per_agg=0
    )


@pytest.mark.parametrize("seed", [0, 2])
def test_flows_go_on_when_all_uplinks_heal(seed: int) -> None:
    """Packets lost together time out one by one: that is one try of a flow, not fifty."""
    result = run_flows(stride(), fabric(), network="packet", faults=outage(10e-6, 1e-3), seed=seed)
    assert result.finished.all()
    assert 1e-3 < result.makespan < 1.5e-3
    assert result.stats["given_up"] == 0


def test_nobody_is_given_up_while_a_repair_is_planned() -> None:
    """An outage of a hundred timeouts with three retries; the same without an end is a partition."""
    settings = PacketSettings(retries=3)
    result = run_flows(
        stride(200_000), fabric(), network="packet", faults=outage(5e-6, 5e-3), settings=settings
    )
    assert result.finished.all() and result.makespan < 5.5e-3
    with pytest.raises(SimulationError, match="given up after 3 timeouts"):
        run_flows(stride(), fabric(), network="packet", faults=outage(5e-6, math.inf), settings=settings)


def test_all_stuck_flows_are_counted_and_named() -> None:
    """Eight flows leave by the dead uplinks; in packets the answers of eight more do."""
    after = [[] for _ in range(32)] + [[0], [31]]
    src, dst = np.r_[np.arange(32), 16, 17], np.r_[(np.arange(32) + 8) % 32, 1, 18]
    flows = Flows.of(src, dst, 2_000_000, after=after)
    with pytest.raises(SimulationError) as fluid:
        run_flows(flows, fabric(), faults=outage(10e-6, math.inf))
    with pytest.raises(SimulationError) as packet:
        run_flows(flows, fabric(), network="packet", faults=outage(10e-6, math.inf))
    waiting = {"fluid": {32}, "packet": {32, 33}}
    for error, stuck, waits in (
        (fluid, set(range(8)), waiting["fluid"]),
        (packet, {*range(8), *range(24, 32)}, waiting["packet"]),
    ):
        said = str(error.value)
        assert f"{len(stuck) + len(waits)} of 34 flows never end: {len(stuck)} started" in said
        assert f"{len(waits)} wait for others" in said
        assert {int(f) for f in re.findall(r"flow (\d+) \(", said)} == stuck | waits


def test_bounded_loss_counts_what_arrived() -> None:
    """Eight senders at line rate into one link: an eighth gets through, and no more is claimed."""
    size, on = 2_000_000, star(9)
    ran = run_flows(incast(8, size), on, network="packet", transport=Lossy(), balancing=Ecmp())
    result = flow_result_to_result(ran, on)
    asked = 8.0 * size
    assert result.incomplete == 8 and result.unfinished == 0
    assert result.delivered_bytes + result.missing_bytes == asked
    assert result.missing_share == pytest.approx(result.missing_bytes / asked)
    assert 0.8 < result.missing_share < 0.95
    assert result.goodput <= LINE and result.efficiency <= 1
    table = result.tables["flows"]
    assert table["delivered"].sum() == result.delivered_bytes
    assert (table["slowdown"] >= 1).all()
    # the queue's last packets aside, the receiver's link was never idle
    assert result.delivered_bytes == pytest.approx(LINE * size / LINE, rel=0.15)


def test_a_cut_run_has_no_makespan_but_its_bytes() -> None:
    """Four to one, cut at a quarter of the way: both engines have filled the receiver's link until then."""
    flows, on = incast(4, 10_000_000), star(5)
    for network in ("fluid", "packet"):
        result = flow_result_to_result(run_flows(flows, on, network=network, until=1e-3), on)
        assert result.unfinished == 4
        assert math.isnan(result.makespan) and math.isnan(result.completion_max)
        assert result.delivered_bytes == pytest.approx(LINE * 1e-3, rel=0.03)
        assert result.goodput == pytest.approx(LINE, rel=0.03)


def test_transports_in_order_keep_to_one_path_unless_told_and_say_what_hurt() -> None:
    flows = incast(8, 1_000_000)
    on = fabric()
    paused = PacketSettings(pfc="100 kB", trimming=False)
    bound = 8 * 1_000_000 * 4150 / 4086 / LINE
    good = run_flows(flows, on, network="packet", transport=Gbn(), settings=paused)
    assert good.meta["balancing"].startswith("ecmp") and not good.meta["warnings"]
    assert good.makespan < 1.15 * bound and good.stats["retransmitted"] == 0
    sprayed = run_flows(flows, on, network="packet", transport=Gbn(), settings=paused, balancing=Spray())
    assert sprayed.stats["retransmitted"] > 0
    assert len(sprayed.meta["warnings"]) == 1 and "overtake" in sprayed.meta["warnings"][0]
    lost = run_flows(flows, on, network="packet", transport=Gbn())
    assert len(lost.meta["warnings"]) == 1 and "lose nothing" in lost.meta["warnings"][0]
    kept = run_flows(flows, on, network="packet", transport=Gbn(selective=True))
    assert not kept.meta["warnings"] and kept.meta["balancing"].startswith("oblivious")


def test_dcqcn_cuts_while_a_paused_queue_drains_and_climbs_at_its_additive_rate() -> None:
    """The published parameters by hand: alpha starts at 1 and decays by 1/256 per 55 us, so that every CNP of
    50 us halves; five timers of fast recovery later each flow gains 100 Mb/s per 55 us (40 at 40 Gb/s).
    """
    bound = 8 * 4150 / 4086 / LINE

    def run(size: int, pfc: str) -> tuple[float, float]:
        settings = PacketSettings(pfc=pfc, trimming=False)
        ran = run_flows(
            incast(8, size), star(9), network="packet", transport=Dcqcn(), balancing=Ecmp(), settings=settings
        )
        assert ran.stats["drops"] == 0
        return ran.makespan, ran.stats["cnps"] / 8

    size = 5_000_000
    took, cuts = run(size, "1 MB")  # megabytes wait behind pauses, and marks go on until they are through
    assert cuts >= 7
    rate, step, drained, recovery = 2 * LINE / 2**cuts, 12.5e6 / 55e-6, 50e-6 * cuts, 5 * 55e-6
    left = size * 4150 / 4086 - LINE / 8 * drained - rate * recovery
    climb = (-rate + math.sqrt(rate**2 + 2 * step * left)) / step
    assert took == pytest.approx(drained + recovery + climb, rel=0.05)
    assert took > 1.6 * bound * size
    # less room for pauses, fewer cuts; longer flows, less of it
    assert run(size, "100 kB")[0] < 1.25 * bound * size
    assert run(5 * size, "100 kB")[0] < 1.2 * bound * 5 * size


SCENARIO = """
version: 1
sites:
  - name: dc
    hosts: 16
    accelerators_per_host: 1
    fabric: {kind: leaf_spine, nic: 100 Gb/s, hosts_per_leaf: 4, spines: 2}
jobs:
  - {name: j, kind: traffic, flows: {pattern: uniform, bytes: websearch, load: 0.3, duration: 200 us}}
run: {network: NETWORK, seed: 7}
"""


@pytest.mark.parametrize("network", ["fluid", "packet"])
def test_one_seed_gives_the_same_bytes_but_for_the_wall_clock(network: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO.replace("NETWORK", network))
    first, second = (eu.simulate(file).save(tmp_path / name) for name in ("a", "b"))
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir()) and len(names) > 4
    for name in names:
        one, two = (first / name).read_bytes(), (second / name).read_bytes()
        if name == "result.json":
            one, two = (json.loads(text) for text in (one, two))
            assert one["meta"].pop("wall_s") > 0 and two["meta"].pop("wall_s") > 0
        assert one == two, name


def test_the_default_balancing_of_a_scenario_follows_the_transport(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    for policies, mode in (
        ("{transport: gbn}", "ecmp"),
        ("{transport: {kind: gbn, selective: true}}", "oblivious"),
        ("{transport: gbn, balancing: spray}", "oblivious"),
    ):
        file.write_text(SCENARIO.replace("NETWORK", "packet") + f"policies: {policies}\n")
        assert eu.simulate(file).meta["balancing"].startswith(mode)
