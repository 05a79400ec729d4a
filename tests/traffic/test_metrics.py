"""Metrics of flows that ran.

Oracles: results written by hand, whose metrics follow from the definitions; the formulas of nccl-tests for
bus bandwidth; the engines where they must agree with the ideal.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from euston.errors import ConfigError
from euston.fabrics import fat_tree, leaf_spine
from euston.network import FlowResult, Flows
from euston.result import Result
from euston.traffic import (
    Collective,
    Traffic,
    burst,
    by_size,
    collective_table,
    flow_result_to_result,
    flow_table,
    goodput,
    link_table,
    matrix,
    on_off,
    steady_goodput,
    tier_table,
)
from euston.traffic.metrics import BUCKET_NAMES, queue_summary
from euston.traffic.run import run_flows


def made_up(flows: Flows, start: list[float], end: list[float], links: int = 0, **more: object) -> FlowResult:
    return FlowResult(flows, np.array(start), np.array(end), np.zeros(links), **more)  # type: ignore[arg-type]


def test_flow_table_has_no_times_of_unfinished_flows() -> None:
    flows = Flows.of([0, 1, 2], [1, 2, 3], [100, 10**6, 10**8], group=[0, -1, 0], tags=["ring"])
    counted = pl.DataFrame({"flow": [0, 1, 2], "retransmitted": [0, 3, 9], "bytes": [7, 7, 7]})
    result = made_up(flows, [0, 1, np.nan], [2, np.nan, np.nan], tables={"flows": counted})
    table = flow_table(result, np.array([0.5, 1.0, 1.0]))
    assert table["completion"].to_list() == [2.0, None, None]
    assert table["slowdown"].to_list() == [4.0, None, None]
    assert table["rate"].to_list() == [50.0, None, None]
    assert table["start"].to_list() == [0.0, 1.0, None]
    assert table["bucket"].to_list() == ["<= 10 kB", "<= 1 MB", "> 10 MB"]
    assert table["tag"].to_list() == ["ring", "", "ring"]
    assert table["retransmitted"].to_list() == [0, 3, 9] and table["bytes"].to_list() == [100, 10**6, 10**8]


def test_by_size() -> None:
    n = 1000
    size = np.r_[np.full(n - 1, 10_000), 10_001]
    flows = Flows.of([0] * n, [1] * n, size)
    end = np.arange(1, n + 1).astype(float)
    end[-1] = np.nan
    table = by_size(flow_table(made_up(flows, [0.0] * n, end.tolist()), np.ones(n)))
    assert table["bucket"].to_list() == ["<= 10 kB", "<= 100 kB", "all"]
    small, middle, every = table.rows(named=True)
    assert (small["flows"], small["finished"], middle["flows"], middle["finished"]) == (999, 999, 1, 0)
    # nearest rank of 1..999
    assert [small[f"slowdown_{p}"] for p in ("p50", "p90", "p99", "p999")] == [500, 900, 990, 999]
    assert small["slowdown_mean"] == 500 and middle["slowdown_p50"] is None
    assert every["flows"] == 1000 and every["finished"] == 999 and every["bytes"] == size.sum()
    assert len(BUCKET_NAMES) == 5


def test_bandwidths_of_collectives() -> None:
    """busbw = algbw x 2(n-1)/n for an all-reduce, (n-1)/n for the others (nccl-tests, PERFORMANCE.md)."""
    flows = Flows.of([0, 1, 0, 1, 0], [1, 0, 1, 0, 1], 10, group=[0, 0, 1, 1, -1], tags=["a", "b"])
    known = (Collective("a", "all_reduce", "ring", 8, 4000), Collective("b", "all_gather", "ring", 8, 4000))
    result = made_up(flows, [1, 2, 1, 1, 0], [4, 6, 3, 2, 9])
    one, two = collective_table(result, known).rows(named=True)
    assert (one["time"], one["algbw"], one["busbw"]) == (5.0, 800.0, 1400.0)
    assert (two["time"], two["algbw"], two["busbw"]) == (2.0, 2000.0, 1750.0)
    assert one["flow_bytes"] == 20 and one["flows"] == 2
    half = collective_table(made_up(flows, [1, 2, 1, 1, 0], [4, np.nan, 3, 2, 9]), known)
    assert half["busbw"].to_list() == [None, 1750.0] and half["finished"].to_list() == [1, 2]
    bare = collective_table(result)
    assert bare["time"].to_list() == [5.0, 2.0] and bare["algbw"].null_count() == 2
    assert Collective("s", "send", "p2p", 2, 9).bus_factor == 1.0
    assert collective_table(made_up(Flows.of([0], [1], [9]), [0], [1])).height == 0


def test_goodput_whole_and_steady() -> None:
    n = 10
    flows = Flows.of([0] * n, [1] * n, 100)
    # one after the other at 100 bytes/s, but the last byte is only known 91 s later
    start = np.arange(n).astype(float)
    end = start + 1
    end[-1] = 100.0
    result = made_up(flows, start.tolist(), end.tolist())
    assert goodput(result) == pytest.approx(1000 / 100)
    assert steady_goodput(result) == pytest.approx(100.0)
    nothing = made_up(flows, [0.0] * n, [np.nan] * n)
    assert math.isnan(goodput(nothing)) and math.isnan(steady_goodput(nothing))


def test_links_and_tiers() -> None:
    fabric = leaf_spine(8, 1, nic="100 Gb/s", hosts_per_leaf=4, spines=2)
    flows = Flows.of([0], [5], [1000])
    carried = np.zeros(fabric.links)
    up = fabric.tier_links()["ToR up"]
    carried[up] = [3e9, 1e9, 0, 0]
    result = FlowResult(flows, np.array([1.0]), np.array([2.0]), carried)
    table = tier_table(result, fabric)
    row = table.filter(pl.col("tier") == "ToR up").row(0, named=True)
    rate = fabric.capacity[up[0]]
    assert row["max"] == pytest.approx(3e9 / rate) and row["mean"] == pytest.approx(1e9 / rate)
    assert row["imbalance"] == pytest.approx(3.0) and row["idle"] == 2
    assert row["jain"] == pytest.approx(16 / (4 * 10))
    assert table.filter(pl.col("tier") == "NIC up")["imbalance"].to_list() == [None]
    links = link_table(result, fabric)
    assert links["name"].to_list() == [fabric.link_name(int(k)) for k in up[:2]]
    assert links["utilisation"].to_list() == pytest.approx([3e9 / rate, 1e9 / rate])
    assert link_table(result, fabric, idle=True).height == fabric.links


def test_queues() -> None:
    flows = Flows.of([0], [1], [5])
    queues = pl.DataFrame({"link": [0, 1, 2], "max_bytes": [5, 900, 70], "mean_bytes": [1.0, 30.0, 2.0]})
    found = queue_summary(made_up(flows, [0], [1], tables={"queues": queues}))
    assert found == {"queue_max": 900, "queue_max_p99": 900, "queue_max_p50": 70, "queue_mean_max": 30.0}
    assert queue_summary(made_up(flows, [0], [1])) == {}


def test_a_fluid_permutation_is_ideal_on_a_full_fabric(tmp_path: Path) -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    traffic = burst(matrix("permutation", fabric, seed=3), "2 MB", seed=1)
    result = flow_result_to_result(run_flows(traffic.flows, fabric), fabric, traffic=traffic, sprayed=True)
    assert result.kind == "traffic" and result.unfinished == 0
    assert result.slowdown_p50 == pytest.approx(1.0) and result.slowdown_max == pytest.approx(1.0)
    assert result.efficiency == pytest.approx(1.0)
    wire = 2_000_000 + math.ceil(2_000_000 / 4096) * 58
    assert result.host_bound == result.cut_bound == pytest.approx(wire / 12.5e9)
    assert result.efficiency_cut == pytest.approx(result.cut_bound / result.makespan)
    assert result.meta["traffic"]["pattern"] == "permutation" and result.meta["percentiles"] == "nearest rank"
    result.save(tmp_path / "r")
    back = Result.load(tmp_path / "r")
    assert back.scalars == result.scalars and back.tables["by_size"].equals(result.tables["by_size"])


def test_a_shared_link_slows_down() -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    flows = Flows.of([0, 1, 2], [5, 5, 5], 1_000_000)
    result = flow_result_to_result(run_flows(flows, fabric), fabric)
    assert 2.8 < result.slowdown_p50 <= 3.0
    assert result.jain == pytest.approx(1.0, abs=1e-4)
    assert 0.98 < result.efficiency_host <= 1.0
    weighted = Flows.of([0, 1], [5, 5], 1_000_000, weight=[1, 3])
    ran = run_flows(weighted, fabric)
    assert ran.completion[0] > ran.completion[1]


def test_collectives_in_a_result() -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    traffic = on_off(np.arange(8), 2**24, iterations=2, compute=1e-3, form="edges")
    result = flow_result_to_result(run_flows(traffic.flows, fabric), fabric, traffic=traffic)
    # a ring over NICs: bus bandwidth is the NIC's payload rate, less latency
    payload = 12.5e9 * 4096 / (4096 + 58)
    assert 0.98 * payload < result.busbw_p50 < payload
    assert result.algbw_p50 == pytest.approx(result.busbw_p50 * 8 / 14)
    assert result.tables["collectives"].height == 2
    assert result.collective_time_max >= result.collective_time_p50


def test_unfinished_flows_are_counted() -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    flows = Flows.of([0, 4], [5, 9], [1_000_000, 10**9])
    ran = run_flows(flows, fabric, until=1e-3)
    result = flow_result_to_result(ran, fabric)
    assert result.unfinished == 1 and math.isnan(result.efficiency)
    assert result.tables["flows"]["completion"].null_count() == 1
    assert result.completion_max == pytest.approx(ran.completion[0])
    nothing = flow_result_to_result(run_flows(flows, fabric, until=1e-9), fabric)
    assert nothing.unfinished == 2 and math.isnan(nothing.completion_p50) and math.isnan(nothing.makespan)
    # what was on its way by then counts: both at line rate, less the headers
    assert nothing.goodput == pytest.approx(2 * 12.5e9 * 4096 / 4154, rel=1e-3)
    assert nothing.delivered_bytes == pytest.approx(nothing.goodput * 1e-9)
    with pytest.raises(ConfigError, match="has 1 flows, the result 2"):
        flow_result_to_result(ran, fabric, traffic=Traffic(Flows.of([0], [1], [5])))
