"""`reproduce network`: the packaged reference, and data that nobody has seen before.

Oracles: the published figures; closed forms of a message alone; counts of switches from htsim's own rules.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from euston import studies
from euston.errors import BadInput, ConfigError
from euston.studies._facts import DATA
from euston.studies._uec import LAYOUT, Case, case
from euston.studies.table import read

HEADER = [
    "case", "flows", "flows_file", "message_bytes", "topology", "tiers", "pod_hosts", "tor_down", "tor_up",
    "agg_down", "agg_up", "core_down", "hop_latency_ns", "link_gbps", "paths", "balancing", "failed_links",
    "seeds", "fct_min_us", "fct_p50_us", "fct_p99_us", "fct_max_us", "fct_max_us_lowest",
    "fct_max_us_highest", "data_packets", "retransmitted", "peer_cpu_s", "source",
]  # fmt: skip
LINE = {
    "case": "x", "flows": "1", "flows_file": "f.csv", "topology": "fat_tree", "tiers": "3", "pod_hosts": "4",
    "tor_down": "2", "tor_up": "2", "agg_down": "2", "agg_up": "2", "core_down": "4",
    "hop_latency_ns": "1000", "link_gbps": "100", "paths": "64", "balancing": "mixed", "failed_links": "0",
    "seeds": "2", "fct_max_us": "176.2", "fct_max_us_lowest": "170", "fct_max_us_highest": "180",
    "retransmitted": "0", "source": "here",
}  # fmt: skip


def file(folder: Path, *lines: dict[str, str], flows: str = "0,13,2000000,0,", inner: str = "") -> Path:
    """A CSV with lines that differ from `LINE`, and its flow list in the folder ``inner``."""
    place = folder / inner
    place.mkdir(parents=True, exist_ok=True)
    rows = "\n".join(f"{k + 1},{row}" for k, row in enumerate(flows.split("\n")))
    (place / "f.csv").write_text(f"flow,src,dst,bytes,start_us,after\n{rows}\n")
    path = folder / "held_out.csv"
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, HEADER)
        writer.writeheader()
        writer.writerows([{**dict.fromkeys(HEADER, ""), **LINE, **line} for line in lines])
    return path


def one(folder: Path, line: dict[str, str], **parts: str) -> dict[str, Any]:
    (row,) = studies.run("network", file(folder, line, **parts))["rows"]
    found: dict[str, Any] = row
    return found


def test_study_is_listed() -> None:
    assert "network" in studies.names()
    assert "packet" in studies.describe("network")


def test_uncongested_and_small_packaged_rows_are_within_bounds(tmp_path: Path) -> None:
    """5 % of the published median (10 % where packets were sent again), or inside its range."""
    text = (DATA / LAYOUT.name).read_text().splitlines(True)
    small = ("one,", "bidir,", "incast16,", "perm16_128paths,", "perm16_1path,", "outcast_incast,")
    chosen = [x for x in text if x.startswith(("#", "case,", *small))]
    (tmp_path / "few.csv").write_text("".join(chosen))
    (tmp_path / "network_sim_htsim_flows").symlink_to(DATA / "network_uec_flows")
    outcome = studies.run("network", tmp_path / "few.csv")
    rows = outcome["rows"]
    assert len(rows) == 6
    for row in rows:
        extra = row["extra"]
        allowed = 0.10 if extra["congested"] else 0.05
        assert extra["inside_range"] or abs(row["error"]) <= allowed, row
        assert extra["fluid_us"] <= row["ours"] * (1 + 1e-9), row
    summary = outcome["summary"]
    assert summary["coverage"] == 1.0
    assert summary["within_bounds"] == {"rows": 6, "within": 6}
    assert summary["by"]["congestion"]["congested"]["n"] == 2
    assert summary["order"]["pairs"] == summary["order"]["right"] == 1


@pytest.mark.slow
def test_all_packaged_rows_are_within_bounds() -> None:
    outcome = studies.run("network")
    assert outcome["summary"]["within_bounds"] == {"rows": 11, "within": 11}
    assert outcome["summary"]["order"]["wrong"] == []
    for row in outcome["rows"]:
        assert row["extra"]["fluid_us"] <= row["ours"] * (1 + 1e-9), row


@pytest.mark.parametrize("inner", ["", "network_sim_htsim_flows", "network_uec_flows"])
def test_a_message_alone_is_the_closed_form(inner: str, tmp_path: Path) -> None:
    """490 packets of 4,150 bytes on 100 Gb/s, six hops of 1 us there and back, stored five times."""
    row = one(tmp_path, {}, inner=inner)
    payload, mtu, header, rate = 4086, 4150, 64, 12.5e9
    packets = -(-2_000_000 // payload)
    last = 2_000_000 - (packets - 1) * payload + header
    there = ((packets - 1) * mtu + 6 * last + 5 * (mtu - last)) / rate + 6e-6
    back = 6 * header / rate + 6e-6
    assert row["ours"] == pytest.approx((there + back) * 1e6, rel=2e-3)
    assert row["error"] == pytest.approx(row["ours"] / 176.2 - 1)
    assert row["published"] == 176.2
    assert row["extra"]["inside_range"]
    assert row["extra"]["fluid_us"] < row["ours"]


def test_a_directory_with_flow_lists_beside_the_csv(tmp_path: Path) -> None:
    file(tmp_path, {})
    (row,) = studies.run("network", tmp_path)["rows"]
    assert row["id"] == "held_out:2"


@pytest.mark.parametrize(
    ("line", "hosts", "links"),
    [
        # links: hosts up and down, ToR-agg, agg-core (both ways)
        ({}, 16, 2 * (16 + 16 + 16)),
        ({"pod_hosts": "8", "tor_down": "4", "tor_up": "4", "agg_down": "2", "agg_up": "2", "core_down": "6"},
         48, 2 * (48 + 6 * 2 * 4 + 6 * 4 * 2)),
        ({"pod_hosts": "16", "tor_down": "8", "tor_up": "2", "agg_down": "2", "agg_up": "1",
          "core_down": "3"},
         48, 2 * (48 + 3 * 2 * 2 + 3 * 2 * 1)),
        ({"topology": "leaf_spine", "tiers": "2", "pod_hosts": "24", "tor_down": "6", "tor_up": "3",
          "agg_down": "", "agg_up": "", "core_down": "4"}, 24, 2 * (24 + 4 * 3)),
    ],
)  # fmt: skip
def test_topologies_from_port_counts(line: dict[str, str], hosts: int, links: int, tmp_path: Path) -> None:
    (read_line,) = read(file(tmp_path, line), (LAYOUT,))
    made = case(read_line, tmp_path)
    assert isinstance(made, Case)
    assert made.fabric.endpoints == hosts
    assert made.fabric.links == links
    assert set(made.fabric.capacity.tolist()) == {12.5e9}
    assert set(made.fabric.latency.tolist()) == {1e-6}


def test_other_sizes_and_schemes_run(tmp_path: Path) -> None:
    shape = {"topology": "leaf_spine", "tiers": "2", "pod_hosts": "24", "tor_down": "6", "tor_up": "3",
             "agg_down": "", "agg_up": "", "core_down": "4", "link_gbps": "400",
             "hop_latency_ns": "500"}  # fmt: skip
    ring = "\n".join(f"{k},{(k + 7) % 24},500000,0," for k in range(24))
    lines = [
        {**shape, "balancing": name, "paths": paths}
        for name, paths in (
            ("mixed", "64"),
            ("oblivious", "64"),
            ("bitmap", "32"),
            ("reps", "64"),
            ("mixed", "1"),
        )
    ]
    rows = studies.run("network", file(tmp_path, *lines, flows=ring))["rows"]
    least = 500_000 / 50e9 * 1e6
    for row in rows:
        assert least < row["extra"]["fluid_us"] <= row["ours"] * (1 + 1e-9) < 20 * least, row


def test_failed_links_keep_a_quarter_as_in_htsim(tmp_path: Path) -> None:
    """-failed N: core-to-agg ways down (three tiers), or all cables of the first N spines (two tiers)."""
    (three,) = read(file(tmp_path, {"failed_links": "3"}), (LAYOUT,))
    made = case(three, tmp_path)
    assert isinstance(made, Case)
    names = {made.fabric.link_name(f.link): f.factor for f in made.faults}
    assert names == dict.fromkeys(("agg_down/p0/a0/c0", "agg_down/p0/a0/c1", "agg_down/p0/a1/c0"), 0.25)
    spine = {"topology": "leaf_spine", "tiers": "2", "pod_hosts": "16", "tor_down": "8", "tor_up": "2",
             "agg_down": "", "agg_up": "", "core_down": "2", "failed_links": "1"}  # fmt: skip
    (two,) = read(file(tmp_path, spine), (LAYOUT,))
    made = case(two, tmp_path)
    assert isinstance(made, Case)
    names = {made.fabric.link_name(f.link): f.factor for f in made.faults}
    assert names == {f"tor_{way}/p0/t{t}/a0": 0.25 for way in ("up", "down") for t in (0, 1)}


def test_after_waits_for_the_acknowledged_end(tmp_path: Path) -> None:
    """Two messages in a row take twice as long: times count from 0, a flow starts when the last has ended."""
    single = one(tmp_path, {})["ours"]
    double = one(tmp_path, {}, flows="0,13,2000000,0,\n13,0,2000000,0,1")["ours"]
    assert double == pytest.approx(2 * single, rel=1e-3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"topology": "torus"}, "unknown topology 'torus'"),
        ({"topology": "fat_tree", "tiers": "2"}, "a fat_tree of 2 tiers"),
        ({"balancing": "mixt"}, "did you mean 'mixed'?"),
        ({"pod_hosts": "5"}, "do not divide into ToRs"),
        ({"tor_up": "3", "agg_down": "4"}, "do not fit aggs"),
        ({"core_down": "2"}, "names host 13; the topology has 0 to 7"),
    ],
)
def test_what_cannot_be_run_has_a_reason(line: dict[str, str], reason: str, tmp_path: Path) -> None:
    row = one(tmp_path, line)
    assert row["ours"] is None
    assert row["error"] is None
    assert reason in row["reason"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"paths": "x"}, "held_out.csv:2`: column paths: 'x' is not a number"),
        ({"paths": ""}, "column paths: is empty"),
        ({"failed_links": "-1"}, "column failed_links: '-1'"),
        ({"fct_max_us": "nan"}, "column fct_max_us"),
        ({"flows_file": "none.csv"}, "column flows_file: none.csv is neither in"),
        ({"flows_file": "../f.csv"}, "is not the name of a file"),
        ({"retransmitted": "many"}, "column retransmitted"),
    ],
)
def test_malformed_values_are_bad_input(line: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        studies.run("network", file(tmp_path, line))
    assert message in str(caught.value)


def test_unknown_headers_and_bad_flow_lists(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("case,topology,speed\na,fat_tree,3\n")
    with pytest.raises(ConfigError, match=r"unknown header.*known layouts: network_uec_reference\.csv"):
        studies.run("network", path)
    with pytest.raises(BadInput, match=r"f\.csv:2.*column bytes: 0"):
        studies.run("network", file(tmp_path, {}, flows="0,13,0,0,"))
