"""`euston trace`: export in both formats, check, show, replay; exit codes.

The Perfetto file is held to the trace event format's own description: JSON with `traceEvents`, phases M, X, s
and f, integer pids and tids that have names, microseconds that add up to the step.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from euston.cli._app import app

FILE = """
version: 1
name: small
sites:
  - {name: lab, accelerator: a100-sxm-80gb, hosts: 1, fabric: {preset: selene-hdr}}
jobs:
  - name: tiny
    kind: training
    model: gpt-1.7b
    parallel: {tensor: 2, pipeline: 2, data: 2, sharding: zero1}
    batch: {global: 8, sequence: 2048}
    software: megatron-2022
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return path


def call(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, ["trace", *map(str, arguments)])


def test_chakra_out_checked_shown_and_replayed(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "et"
    done = call("export", file, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    step = json.loads(done.stdout)["step_time"]
    assert len(list(out.glob("*.et"))) == 8
    again = call("replay", out, "--json")
    assert json.loads(again.stdout)["makespan"] == pytest.approx(step, rel=1e-12)
    assert "valid; 8 ranks" in call("check", out).stdout
    shown = call("show", out / "trace.3.et")
    assert shown.exit_code == 0, shown.output
    assert "COMM_COLL" in shown.stdout
    assert "waits for" in shown.stdout


def test_perfetto_by_its_own_rules(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "pf"
    done = call("export", file, "-o", out, "--format", "perfetto", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    trace = json.loads(gzip.decompress(Path(found["files"][0]).read_bytes()))
    assert trace["displayTimeUnit"] in ("ms", "ns")
    events = trace["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    end = 0.0
    arrows: dict[str, set[int]] = {"s": set(), "f": set()}
    for event in events:
        assert event["ph"] in ("M", "X", "s", "f", "C")
        assert isinstance(event["name"], str)
        assert type(event["pid"]) is int
        if event["ph"] == "X":
            assert type(event["tid"]) is int
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert (event["pid"], event["tid"]) in named
            end = max(end, event["ts"] + event["dur"])
        if event["ph"] in arrows:
            arrows[event["ph"]].add(event["id"])
    assert end == pytest.approx(found["step_time"] * 1e6, rel=1e-9)  # microseconds
    assert arrows["s"] == arrows["f"]


def test_bad_input_is_exit_2(file: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.0.et"
    junk.write_bytes(b"\xff" * 100)
    for arguments in (
        ("export", file, "-o", tmp_path / "x", "--format", "otf2"),
        ("export", file, "-o", tmp_path / "x", "--ranks", "a-b"),
        ("export", file, "-o", tmp_path / "x", "--ranks", "99"),
        ("export", file, "-o", file / "x"),
        ("export", tmp_path / "none.yaml", "-o", tmp_path / "x"),
        ("check", junk),
        ("show", tmp_path / "none"),
        ("replay", file),
    ):
        done = call(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert done.stderr.startswith("error:")
        assert done.stderr.count("\n") == 1
