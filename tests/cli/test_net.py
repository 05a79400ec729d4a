"""`euston net`: the contract of the command line for studies of the network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from typer.testing import Result as Outcome

from euston.cli import app
from euston.result import Result
from euston.traffic.io import read_flows

SITE = {
    "name": "dc",
    "hosts": 16,
    "accelerators_per_host": 1,
    "fabric": {"kind": "leaf_spine", "nic": "100 Gb/s", "hosts_per_leaf": 4, "spines": 4},
}
JOB = {"name": "a", "kind": "traffic", "flows": {"pattern": "permutation", "bytes": "200 kB"}}


def run(*arguments: str | Path) -> Outcome:
    return CliRunner().invoke(app, ["net", *(str(argument) for argument in arguments)])


def scenario(folder: Path, name: str = "s.yaml", **parts: Any) -> Path:
    """A scenario file (JSON is YAML 1.2)."""
    path = folder / name
    path.write_text(json.dumps({"version": 1, "name": "s", "sites": [SITE], "jobs": [JOB], **parts}))
    return path


def document(outcome: Outcome) -> dict[str, Any]:
    assert outcome.exit_code == 0, outcome.stderr
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


@pytest.mark.parametrize("network", ["fluid", "packet"])
def test_run_prints_a_summary_json_and_the_same_numbers_saved(network: str, tmp_path: Path) -> None:
    file = scenario(tmp_path)
    shown = run("run", file, "--network", network)
    assert shown.exit_code == 0, shown.stderr
    assert "Makespan" in shown.stdout
    assert f"s · {network} · " in shown.stdout
    outcome = run(
        "run", file, "--network", network, "--json", "--save", tmp_path / "r", "--report", tmp_path / "r.html"
    )
    found = document(outcome)
    assert found["kind"] == "traffic"
    assert found["meta"]["fidelity"] == network
    assert found["scalars"]["unfinished"] == 0
    assert {row["bucket"] for row in found["tables"]["by_size"]} == {"<= 1 MB", "all"}
    saved = Result.load(tmp_path / "r")
    assert saved.scalars["makespan"] == found["scalars"]["makespan"]
    assert saved.tables["flows"].height == 16
    assert (tmp_path / "r.html").stat().st_size > 10_000


def test_seed_wins_and_repeats(tmp_path: Path) -> None:
    file = scenario(tmp_path)

    def pairs(seed: int) -> list[int]:
        found = document(run("run", file, "--json", "--seed", str(seed)))
        assert found["meta"]["scenario"]["run"]["seed"] == seed
        return [row["dst"] for row in found["tables"]["flows"]]

    assert pairs(4) == pairs(4)
    assert pairs(4) != pairs(5)


def test_compare_says_where_and_by_how_much(tmp_path: Path) -> None:
    file = scenario(tmp_path)
    found = document(run("compare", file, "--json"))
    scalars = found["scalars"]
    assert found["kind"] == "comparison"
    assert scalars["makespan_error"] == pytest.approx(
        scalars["makespan_fluid"] / scalars["makespan_packet"] - 1
    )
    flows = found["tables"]["flows"]
    error = [row["packet"] / row["fluid"] - 1 for row in flows]
    assert [row["goodput_error"] for row in flows] == pytest.approx(error)
    assert scalars["goodput_error_mean"] == pytest.approx(np.mean(np.abs(error)))
    assert scalars["goodput_error_worst"] == pytest.approx(np.max(np.abs(error)))
    worst = max(flows, key=lambda row: abs(row["goodput_error"]))
    assert found["tables"]["worst_flows"][0]["flow"] == worst["flow"]
    assert {row["tier"] for row in found["tables"]["tiers"]} == {"NIC up", "NIC down", "ToR up", "ToR down"}
    shown = run("compare", file)
    assert "goodput of a flow: error" in shown.stdout
    assert "worst flows" in shown.stdout


@pytest.mark.parametrize("name", ["f.csv", "f.jsonl", "f.parquet", "f.cm"])
def test_export_and_import_again(name: str, tmp_path: Path) -> None:
    file = scenario(tmp_path)
    made = document(run("export", file, tmp_path / name, "--json"))
    assert made["flows"] == 16
    direct = document(run("run", file, "--json"))
    job = {**JOB, "flows": {"file": name}}
    again = document(run("run", scenario(tmp_path, jobs=[job]), "--json"))
    assert again["scalars"]["makespan"] == pytest.approx(direct["scalars"]["makespan"], rel=1e-12)
    assert len(read_flows(tmp_path / name)) == 16


def test_export_for_simgrid(tmp_path: Path) -> None:
    assert run("export", scenario(tmp_path), tmp_path / "grid").exit_code == 0
    names = sorted(path.name for path in (tmp_path / "grid").iterdir())
    assert names == ["deployment.xml", "flows.csv", "platform.xml", "run.py", "settings.txt"]
    assert "link_ctn" in (tmp_path / "grid" / "platform.xml").read_text()


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    training = Path(__file__).parents[2] / "examples" / "two-jobs.yaml"
    flows = tmp_path / "f.csv"
    flows.write_text("src,dst,bytes\n0,1,0\n")
    for arguments, words in (
        (("run", training), "has jobs that are not traffic"),
        (("run", tmp_path / "none.yaml"), "no such file"),
        (("run", scenario(tmp_path), "--report", tmp_path / "x.pdf"), "no report format"),
        (("export", scenario(tmp_path), tmp_path / "x.xls"), "no flow list is called .xls"),
        (
            ("run", scenario(tmp_path, "a.yaml", jobs=[{**JOB, "flows": {"file": "f.csv"}}])),
            "column bytes: 0",
        ),
        (("run", scenario(tmp_path, "b.yaml", policies={"balancing": "ecmpp"})), "did you mean 'ecmp'"),
    ):
        outcome = run(*arguments)
        assert outcome.exit_code == 2, outcome.stderr
        lines = outcome.stderr.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert words in lines[0]
        assert outcome.stdout == ""


def test_a_partition_fails_while_running_and_leaves_no_file(tmp_path: Path) -> None:
    faults = [{"link": f"nic_down/h{h}/n0", "factor": 0, "at": "2 us"} for h in range(16)]
    file = scenario(tmp_path, faults=faults)
    for network in ("fluid", "packet"):
        outcome = run(
            "run", file, "--network", network, "--report", tmp_path / "r.html", "--save", tmp_path / "r"
        )
        assert outcome.exit_code == 1
        assert (
            "16 of 16 flows never end: flow 0 (h0/g0 -> " in outcome.stderr
            or "flow 0 (h0/g0" in outcome.stderr
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


def test_long_tables_stay_out_of_the_json_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import euston.cli._net as net

    monkeypatch.setattr(net, "ROWS", 8)
    found = document(run("run", scenario(tmp_path), "--json"))
    assert found["left_out"]["flows"] == 16
    assert "flows" not in found["tables"]


def test_validate_reads_the_flows_too(tmp_path: Path) -> None:
    good = CliRunner().invoke(app, ["validate", str(scenario(tmp_path))])
    assert good.exit_code == 0, good.stderr
    bad = scenario(tmp_path, jobs=[{**JOB, "flows": {"file": "none.csv"}}])
    outcome = CliRunner().invoke(app, ["validate", str(bad)])
    assert outcome.exit_code == 2
    assert "jobs[0].flows.file" in outcome.stderr


def test_simulate_runs_traffic_too(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["simulate", str(scenario(tmp_path)), "--json"])
    assert json.loads(outcome.stdout)["kind"] == "traffic"


@pytest.mark.slow
def test_bench_prints_json_lines() -> None:
    outcome = run("bench", "--quiet")
    assert outcome.exit_code == 0, outcome.stderr
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert len(lines) >= 6
    for line in lines:
        assert {"case", "cpu_s", "wall_s", "first_call_s", "peak_rss_bytes", "work", "check"} <= set(line)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_in_a_packet_run_leaves_nothing(tmp_path: Path) -> None:
    job = {**JOB, "flows": {"pattern": "all_to_all", "bytes": "500 MB"}}
    file = scenario(tmp_path, jobs=[job], run={"network": "packet"})
    command = [sys.executable, "-c", "from euston.cli import main; main()", "net", "run", str(file)]
    process = subprocess.Popen([*command, "--save", str(tmp_path / "r")], stderr=subprocess.PIPE)
    time.sleep(12)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"nothing was written" in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]
