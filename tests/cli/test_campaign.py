"""`euston campaign`: text, JSON, report, seeds, repetitions, bad files, Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from euston.cli._app import app

FILE = """
version: 1
name: small
sites:
  - name: lab
    accelerator: a100-sxm-80gb
    hosts: 4
    fabric: {kind: clos, nic: 200 Gb/s, hosts_per_tor: 2, tors_per_pod: 2, aggs_per_pod: 2}
jobs:
  - name: tiny
    kind: training
    model: {layers: 4, hidden: 1024, heads: 8, ffn: 4096, vocab: 32000}
    parallel: {tensor: 8, data: 4}
    batch: {global: 16, sequence: 1024}
campaign:
  duration: 2 d
  reliability:
    failures:
      - {component: host, mtbf: 40 h}
      - {component: straggler, mtbf: 100 h, factor: 0.8, duration: 30 min}
      - {component: accelerator, mtbf: 3000 h, law: weibull, shape: 0.7}
    repair: 2 h
  checkpoint: {interval: 10 min, mode: sync}
  recovery: {detection: 2 min, spares: 1, elastic: batch}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "week.yaml"
    path.write_text(FILE)
    return path


def call(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, ["campaign", *map(str, arguments)])


def test_text_json_report_and_saved_result(file: Path, tmp_path: Path) -> None:
    text = call(file)
    assert text.exit_code == 0, text.output
    assert "Effective training time" in text.stdout
    assert "where the time goes" in text.stdout
    page = tmp_path / "week.html"
    done = call(file, "--json", "--report", page, "--save", tmp_path / "saved", "--repeat", 4)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    scalars = found["scalars"]
    assert found["kind"] == "campaign"
    assert 0 < scalars["ettr_low"] <= scalars["ettr"] <= scalars["ettr_high"] < 1
    assert scalars["repeats"] == 4
    assert scalars["cost"] == pytest.approx(
        1.30 * 5 * 8 * 48
    )  # the catalogue's price, one spare host, two days
    html = page.read_text(encoding="utf-8")
    for words in ("Day by day", "Where the time went", "Tokens kept", "Events"):
        assert words in html
    from euston.result import Result

    back = Result.load(tmp_path / "saved")
    assert back.tables["waterfall"]["seconds"].sum() == pytest.approx(2 * 86_400)
    assert set(back.tables["events"].columns) >= {"time", "component", "effect", "lost_seconds", "action"}
    assert any(a["where"] == "campaign.recovery.queue" for a in back.meta["assumptions"])


def test_seeds(file: Path) -> None:
    a, b, c = (call(file, "--json", "--seed", s).stdout for s in (1, 1, 2))
    assert a == b
    assert json.loads(a)["scalars"]["tokens"] != json.loads(c)["scalars"]["tokens"]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("component: host", "component: hots", "campaign.reliability.failures[0].component"),
        ("  duration: 2 d\n", "", "campaign"),
        ("shape: 0.7", "weak_shape: 0.7", "campaign.reliability.failures[2].shape"),
        ("    failures:", "    rates: rsc-3\n    failures:", "campaign.reliability.rates"),
        ("interval: 10 min", "interval: often", "campaign.checkpoint.interval"),
        ("interval: 10 min, mode", "interval: daly, stall: 0 s, mode", "campaign.checkpoint.interval"),
        ("spares: 1", "spare: 1", "campaign.recovery.spare"),
        ("  duration: 2 d", "  job: other\n  duration: 2 d", "campaign.job"),
        ("interval: 10 min", "file_system_bandwidth: 0 GB/s", "campaign.checkpoint.file_system_bandwidth"),
    ],
)
def test_bad_files_are_refused_with_the_place(file: Path, old: str, new: str, place: str) -> None:
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    done = call(file)
    assert done.exit_code == 2, done.output
    assert place in done.stderr
    assert done.stdout == ""


def test_a_file_without_a_campaign_is_refused(file: Path) -> None:
    file.write_text(FILE.partition("campaign:")[0])
    done = call(file)
    assert done.exit_code == 2
    assert "campaign" in done.stderr


def test_ctrl_c_keeps_the_finished_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import euston.runs.campaign as room

    real = room.run_repeats

    def two_then_interrupted(plan, repeat):  # type: ignore[no-untyped-def]
        yield from real(plan, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "run_repeats", two_then_interrupted)
    done = call(file, "--json", "--repeat", 9)
    assert done.exit_code == 130
    assert json.loads(done.stdout)["scalars"]["repeats"] == 2
    assert "--repeat 2" in done.stderr
