"""Perfetto traces and JSON: formats checked against the timeline and tables they come from."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import polars as pl
import pytest

from euston.errors import ConfigError, ResultError
from euston.report import SUFFIXES, check_path, write
from euston.result import Result


def trace(result: Result, folder: Path) -> list[dict]:  # type: ignore[type-arg]
    path = write(result, folder / "r.perfetto.json.gz")
    document = json.loads(gzip.decompress(path.read_bytes()))
    assert document["displayTimeUnit"] == "ms"
    return document["traceEvents"]  # type: ignore[no-any-return]


def test_a_trace_holds_every_interval_in_microseconds(result: Result, tmp_path: Path) -> None:
    assert result.timeline is not None
    events = trace(result, tmp_path)
    whole = [event for event in events if event["ph"] == "X"]
    assert len(whole) == result.timeline.height
    seconds = float((result.timeline["end"] - result.timeline["start"]).sum())
    assert sum(event["dur"] for event in whole) == pytest.approx(seconds * 1e6)
    first = min(whole, key=lambda event: (event["ts"], event["pid"], event["tid"]))
    assert first["name"] == "F 0"
    assert first["args"] == {"micro_batch": 0, "chunk": 0, "count": 16}
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {f"stage {s}" for s in range(4)}
    threads = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert threads == {"compute", "pipeline"}


def test_arrows_follow_a_micro_batch_from_stage_to_stage(result: Result, tmp_path: Path) -> None:
    """Every micro-batch crosses three boundaries forward and three backward: 8 x 6 arrows."""
    events = trace(result, tmp_path)
    begins = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert len(begins) == 8 * 6
    assert set(begins) == set(ends)
    for number, begin in begins.items():
        assert abs(begin["pid"] - ends[number]["pid"]) == 1
        assert ends[number]["ts"] >= begin["ts"] + 0.001 * 1e6 * 0.999  # the hop takes 1 ms


def test_the_same_result_gives_the_same_bytes(result: Result, tmp_path: Path) -> None:
    files = [write(result, tmp_path / f"{i}.perfetto.json.gz").read_bytes() for i in range(2)]
    assert files[0] == files[1]


def test_a_trace_needs_a_timeline(result: Result, tmp_path: Path) -> None:
    result.timeline = None
    with pytest.raises(ResultError) as caught:
        write(result, tmp_path / "r.perfetto.json.gz")
    assert str(caught.value) == "the result has no timeline; run it with `run.compute: des`"
    assert list(tmp_path.iterdir()) == []


def test_json_holds_everything(result: Result, tmp_path: Path) -> None:
    result.scalars["odd"] = float("nan")
    document = json.loads(write(result, tmp_path / "r.json").read_text())
    assert document["version"] == 1
    assert document["scalars"]["mfu"] == 0.415
    assert document["scalars"]["odd"] is None
    for name, table in result.tables.items():
        assert pl.DataFrame(document["tables"][name]).to_dicts() == table.to_dicts()
    assert result.timeline is not None
    assert len(document["timeline"]["start"]) == result.timeline.height


def test_the_suffix_chooses(tmp_path: Path) -> None:
    assert {check_path(tmp_path / f"x{suffix}") for suffix in SUFFIXES} == {"html", "perfetto", "json"}
    for name, message in (
        ("r.pdf", "no report format has this suffix; use .html, .perfetto.json.gz, .json"),
        (".html", "no report format has this suffix; use .html, .perfetto.json.gz, .json"),
        ("no/r.html", f"the folder {tmp_path / 'no'} does not exist"),
    ):
        with pytest.raises(ConfigError) as caught:
            check_path(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {message}"


def test_a_failure_leaves_the_old_file_and_nothing_else(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(result, tmp_path / "r.json")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError) as caught:
        write(result, path)
    assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
