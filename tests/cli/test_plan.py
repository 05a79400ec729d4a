"""`euston plan`: text, JSON, report, bad files, Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from euston.cli._app import app

FILE = """
version: 1
name: small
title: A small cluster
sites:
  - name: lab
    accelerator: a100-sxm-80gb
    hosts: 2
    price: 2 USD/h
    fabric: {preset: selene-hdr}
jobs:
  - name: tiny
    kind: training
    model: gpt-22b
    parallel: {tensor: 8, data: 2}
    batch: {global: 32, sequence: 2048}
    software: megatron-2022
plan:
  micro: [1, 2]
  virtual: 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return path


def call(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_text_json_report_and_saved_result(file: Path, tmp_path: Path) -> None:
    text = call(file, "--confirm", 1)
    assert text.exit_code == 0, text.output
    assert "plans looked at" in text.stdout
    assert "TP " in text.stdout
    assert "others fall out for" in text.stdout
    page = tmp_path / "plan.html"
    done = call(file, "--json", "--confirm", 2, "--report", page, "--save", tmp_path / "saved")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    plans = found["tables"]["plans"]
    assert found["kind"] == "plan"
    assert found["scalars"]["fit"] == len(plans)
    times = [row["step_time"] for row in plans]
    assert times == sorted(times)
    done_too = [row for row in plans if row["executed"] is not None]
    executed = [row["executed"] for row in done_too]
    degrees = {(row["tensor"], row["pipeline"], row["micro"]) for row in done_too}
    assert len(degrees) == 2
    assert len(executed) == 2
    assert found["scalars"]["step_time"] == min(executed)
    assert executed == pytest.approx([row["step_time"] for row in done_too], rel=0.1)
    assert plans[0]["cost"] == pytest.approx(2 / 3600 * 16 * times[0])
    assert sum(r["plans"] for r in found["tables"]["reasons"]) + len(plans) == found["scalars"]["looked_at"]
    html = page.read_text(encoding="utf-8")
    for words in ("Time against memory", "Why the others fell out"):
        assert words in html
    from euston.result import Result

    back = Result.load(tmp_path / "saved")
    assert back.tables["rejected"]["reason"].str.len_chars().min() > 0


def test_the_best_plan_is_written_and_runs(file: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    done = call(file, "--json", "--confirm", 1, "--write", best)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    again = CliRunner().invoke(app, ["simulate", str(best), "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["scalars"]["step_time"] == pytest.approx(found["scalars"]["step_time"])


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("kind: training", "kind: trainning", "jobs[0].kind"),
        ("plan:\n", "plan:\n  job: other\n", "plan.job"),
        ("plan:\n", "plan:\n  accelerators: 64\n", "plan.accelerators"),
        ("plan:\n", "plan:\n  schedules: [1f2b]\n", "plan.schedules"),
        ("micro: [1, 2]", "micro: []", "plan.micro"),
        ("micro: [1, 2]", "mikro: [1]", "plan.mikro"),
        ("model: gpt-22b", "model: gpt-1t", "plan"),
    ],
)
def test_bad_files_are_refused_with_the_place(file: Path, old: str, new: str, place: str) -> None:
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    done = call(file)
    assert done.exit_code == 2, done.output
    assert place in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere/a.yaml", "does not exist"), ("a.txt", "ends in .yaml"), ("small.yaml", "the plan is for")],
)
def test_where_nothing_can_be_written_is_said_before_the_search(file: Path, name: str, words: str) -> None:
    done = call(file, "--write", file.parent / name)
    assert done.exit_code == 2 and words in done.stderr and done.stdout == ""
    assert file.read_text() == FILE


def test_ctrl_c_prints_what_was_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from euston.training.plan.book import Book

    real, calls = Book.estimate, [0]

    def some(self, *arguments):  # type: ignore[no-untyped-def]
        calls[0] += 1
        if calls[0] > 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Book, "estimate", some)
    done = call(file, "--json")
    assert done.exit_code == 130
    assert json.loads(done.stdout)["scalars"]["fit"] == 4
    assert "interrupted" in done.stderr
