"""Capacity of a service: against the M/D/1 queue (Crommelin 1932), brute force, and a user's Ctrl-C."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq
from typer.testing import CliRunner

from euston.cli._app import app
from euston.errors import ConfigError
from euston.runs import capacity as runs
from euston.runs.capacity import find_capacity, parse_slo
from euston.serving import Deployment, Engine, Pool, Requests, StepTime, dense, serve
from euston.serving.capacity import fewest, judge, largest
from euston.serving.metrics import Slo

STEP = StepTime(tokens=dense([0, 10], [0.1, 0.1]))
FILE = """
version: 1
title: A small service
sites:
  - name: lab
    accelerator: h100-sxm
    hosts: 1
    fabric: {kind: leaf_spine, nic: 400 Gb/s, hosts_per_leaf: 1, spines: 1}
jobs:
  - name: chat
    kind: serving
    model: llama3-8b
    step_times: roofline
    workload: {generator: independent, requests: 1500, rate: 20, settings: {prompt: 1000, answer: 50}}
    slo: {ttft: 300 ms, tpot: 20 ms}
"""


def queue(rate: float, replicas: int = 1, n: int = 60_000):  # type: ignore[no-untyped-def]
    """One server of 0.1 s each: an M/D/1 queue, always the same arrivals."""
    arrival = np.random.default_rng(7).exponential(1.0, n).cumsum() / rate
    pool = Pool(Engine(100, max_num_seqs=1), STEP, replicas)
    return serve(Requests.of(arrival, 1, 1), Deployment((pool,)))


def waits_at_most(t: float, rate: float, service: float) -> float:
    """P(W <= t) in M/D/1."""
    terms = (
        (rate * (k * service - t)) ** k / math.factorial(k) * math.exp(-rate * (k * service - t))
        for k in range(int(t / service + 1e-9) + 1)
    )
    return (1 - rate * service) * sum(terms)


def test_largest_rate_of_m_d_1() -> None:
    """The load under which nine of ten wait at most 0.2 s, by Crommelin's formula."""
    exact = brentq(lambda rate: waits_at_most(0.2, rate, 0.1) - 0.9, 0.1, 9.9)
    found = largest(queue, Slo(ttft=0.3 + 1e-9, share=0.9), 2.0, tolerance=0.01)
    assert found.best is not None
    assert found.best.value == pytest.approx(exact, rel=0.03)
    assert found.low <= exact <= found.high
    assert found.finished and not found.notes


def test_an_unstable_queue_is_no_capacity() -> None:
    """With a limit so long that a short overload keeps it, the growing queue gives it away."""
    slo = Slo(ttft=200.0)
    over = judge(queue(14.0, n=4000), slo, 14.0)  # 40 % too much; the last waits 114 s
    assert over.attainment == 1.0
    assert not over.stable and not over.meets
    assert judge(queue(7.0, n=4000), slo, 7.0).meets


def test_fewest_replicas_equal_brute_force() -> None:
    slo = Slo(ttft=0.3 + 1e-9, share=0.9)
    runs_by_count = {count: judge(queue(40.0, count, 4000), slo, count).meets for count in range(1, 13)}
    first = min(count for count, meets in runs_by_count.items() if meets)
    found = fewest(lambda count: queue(40.0, count, 4000), slo, 12)
    assert found.best is not None and found.best.value == first
    short = fewest(lambda count: queue(40.0, count, 4000), slo, 2)
    assert short.best is None and "not even 2" in short.notes[0]


def test_interrupted_searches_keep_what_they_have() -> None:
    asked = []

    def run(rate: float):  # type: ignore[no-untyped-def]
        asked.append(rate)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return queue(rate, n=2000)

    found = largest(run, Slo(ttft=0.3), 2.0)
    assert not found.finished
    assert found.best is not None and found.best.value == 4.0


def test_nothing_meets_an_impossible_slo() -> None:
    found = largest(lambda rate: queue(rate, n=1000), Slo(ttft=0.05), 2.0)
    assert found.best is None
    assert "lone request" in found.notes[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return path


def call(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, ["capacity", *map(str, arguments)])


def test_command_text_json_report(file: Path, tmp_path: Path) -> None:
    text = call(file, "--tolerance", 0.1)
    assert text.exit_code == 0, text.output
    assert "Largest rate that keeps the SLO" in text.stdout
    page = tmp_path / "capacity.html"
    done = call(file, "--json", "--tolerance", 0.1, "--report", page)
    found = json.loads(done.stdout)
    assert found["scalars"]["max_rate"] > 0
    assert "chart-capacity_chart" in page.read_text()
    looser = json.loads(call(file, "--json", "--tolerance", 0.1, "--slo", "ttft=5s,tpot=100ms").stdout)
    assert looser["scalars"]["max_rate"] >= found["scalars"]["max_rate"]
    count = json.loads(call(file, "--json", "--find", "replicas").stdout)
    assert 1 <= count["scalars"]["replicas"] <= 8


@pytest.mark.parametrize(
    ("slo", "words"),
    [("ttft", "key=value"), ("ttft=1", "unit"), ("share=x,ttft=1s", "no number"), ("tfft=1s", "ttft")],
)
def test_bad_limits(file: Path, slo: str, words: str) -> None:
    said = call(file, "--slo", slo)
    assert said.exit_code == 2
    assert words in said.stderr


def test_ctrl_c_prints_the_best_until_then(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = runs.simulate, []

    def simulate(*arguments: object, **settings: object):  # type: ignore[no-untyped-def]
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "simulate", simulate)
    said = call(file)
    assert said.exit_code == 130
    assert "interrupted after 1 runs" in said.stderr
    assert "Largest rate" in said.stdout


def test_closed_loops_and_missing_jobs_are_refused(file: Path) -> None:
    from euston import scenario as scenarios

    text = FILE.replace("rate: 20", "concurrency: 4")
    with pytest.raises(ConfigError, match="no rate to change"):
        find_capacity(scenarios.loads(text))
    with pytest.raises(ConfigError, match="no serving job is called 'x'"):
        find_capacity(scenarios.load(file), job="x")
    assert parse_slo("ttft=1s, share=0.5") == {"ttft": "1s", "share": 0.5}
