"""The published rows of uet-htsim as fabrics, flows and policies."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib.resources import files
from io import StringIO

import numpy as np

from euston.fabrics import Fabric, clos
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.flows import Flows
from euston.network.packet import Fault, run_packets

DATA = files("euston.studies") / "data"


def _lines(name: str) -> Iterator[dict[str, str]]:
    text = (DATA / name).read_text()
    return csv.DictReader(StringIO("\n".join(line for line in text.splitlines() if line[0] != "#")))


def rows() -> dict[str, dict[str, str]]:
    return {row["case"]: row for row in _lines("network_uec_reference.csv")}


def flows(name: str) -> Flows:
    lines = list(_lines(f"network_uec_flows/{name}"))
    number = {line["flow"]: k for k, line in enumerate(lines)}
    return Flows.of(
        [int(line["src"]) for line in lines],
        [int(line["dst"]) for line in lines],
        [int(line["bytes"]) for line in lines],
        start=[float(line["start_us"]) * 1e-6 for line in lines],
        after=[[number[f] for f in line["after"].split()] for line in lines],
    )


def fabric(row: dict[str, str]) -> Fabric:
    n = {k: int(row[k] or 0) for k in ("pod_hosts", "tor_down", "tor_up", "agg_down", "agg_up", "core_down")}
    tree = row["topology"] == "fat_tree"
    latency = f"{row['hop_latency_ns']} ns"
    return clos(
        n["pod_hosts"] * (n["core_down"] if tree else 1),
        1,
        nic=f"{row['link_gbps']} Gb/s",
        hosts_per_tor=n["tor_down"],
        tors_per_pod=n["pod_hosts"] // n["tor_down"],
        aggs_per_pod=n["tor_up"],
        cores_per_agg=n["agg_up"],
        oversubscription=(n["tor_down"] / n["tor_up"], n["agg_down"] / n["agg_up"] if tree else 1.0),
        nic_latency=latency,
        tor_latency=latency,
        agg_latency=latency,
    )


def failed(row: dict[str, str], on: Fabric) -> tuple[Fault, ...]:
    """What `-failed K` of htsim_uec does: K links at a quarter of their speed from the start."""
    k = int(row["failed_links"])
    if k == 0:
        return ()
    if row["topology"] == "leaf_spine":
        leaves = range(int(row["core_down"]))
        ways = ("tor_up", "tor_down")
        names = [f"{way}/p0/t{t}/a{a}" for way in ways for t in leaves for a in range(k)]
    else:
        aggs, ups, pods = int(row["tor_up"]), int(row["agg_up"]), int(row["core_down"])
        names = [
            f"agg_down/p{agg // aggs}/a{agg % aggs}/c{up}"
            for agg in range(aggs * pods)
            for up in range(ups)
            if up + agg * aggs < k
        ]
    return (Fault(0.0, tuple(names), 0.25),)


def makespans(case: str, seeds: int = 10) -> tuple[list[float], list[float]]:
    """Maximum completion time in us and packets sent again, per seed."""
    row = rows()[case]
    on, list_ = fabric(row), flows(row["flows_file"])
    mode = {"mixed": PathMode.MIXED, "oblivious": PathMode.OBLIVIOUS}[row["balancing"]]
    results = [
        run_packets(
            list_, on, balancing=PathChoice(mode, int(row["paths"])), seed=seed, faults=failed(row, on)
        )
        for seed in range(seeds)
    ]
    return [r.makespan * 1e6 for r in results], [r.stats["retransmitted"] for r in results]


def within(case: str, ours: list[float]) -> tuple[bool, str]:
    """The bar: 5 % of the median uncongested, 10 % congested, or inside the published range."""
    row = rows()[case]
    median, published = float(np.median(ours)), float(row["fct_max_us"])
    low, high = float(row["fct_max_us_lowest"]), float(row["fct_max_us_highest"])
    bar = 0.05 if int(row["retransmitted"]) == 0 else 0.10
    error = median / published - 1
    return abs(error) <= bar or low <= median <= high, f"{case}: {median:.2f} us against {published} us"
