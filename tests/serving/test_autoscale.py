"""Autoscaling: Kubernetes' rule by hand, delays to the second, conservation, and what is paid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from euston import scenario as scenarios
from euston.clock.conductor import Conductor
from euston.errors import BadInput, ConfigError
from euston.runs.serving import numbers, prepare, run
from euston.serving import (
    Autoscaler,
    Deployment,
    Engine,
    Outcome,
    Pool,
    Router,
    Scaling,
    Serving,
    StepTime,
    dense,
)
from euston.serving.workloads import Arrivals, independent
from euston.serving.workloads.lengths import Fixed

RANKS = np.arange(6)[:, None]


def served(scaling: Scaling, rate: float = 4.0, count: int = 2000) -> tuple[Any, Autoscaler]:
    """Six replicas at most; a request takes 0.6 s of one, 10 ms a token."""
    step = StepTime(tokens=dense([0, 10], [0.0, 0.1]))
    deployment = Deployment(
        (Pool(Engine(max_num_seqs=4, num_blocks=4096), step, 6, router=Router("least_requests")),)
    )
    requests = independent(count, Arrivals(rate), prompt=Fixed(10), answer=Fixed(50), seed=1)
    engine = Serving(requests, deployment, down=RANKS[scaling.first :, 0].tolist())
    scaler = Autoscaler(engine, RANKS, scaling)
    Conductor([engine, scaler]).run()
    return engine.result(), scaler


def test_replicas_follow_the_rule_written_down_again() -> None:
    """Every wish recomputed from the requests that were there, counted from the log of the requests."""
    scaling = Scaling("requests", 2.0, interval=5.0, window=20.0, start=7.0)
    result, scaler = served(scaling)
    wishes: list[tuple[float, int]] = []
    assert len(scaler.log) > 50 and max(row[1] for row in scaler.log) > 1
    for time, up, starting, wished in scaler.log:
        there = int(((result.arrival <= time) & (result.last > time)).sum())
        have = up + starting
        plain = have
        if abs(there / have / 2.0 - 1.0) > 0.1:
            plain = math.ceil(there / 2.0)
        plain = min(max(plain, 1), 6)
        wishes = [(t, w) for t, w in wishes if t >= time - 20.0] + [(time, plain)]
        assert wished == max(plain, min(max(w for _, w in wishes), have))


def test_a_replica_comes_after_its_start_and_nothing_is_lost() -> None:
    scaling = Scaling("requests", 1.0, interval=10.0, window=0.0, start=25.0)
    result, scaler = served(scaling)
    assert (result.outcome == Outcome.DONE).all()
    first_order = next(t for t, _, starting, wished in scaler.log if wished > 1)
    second = result.scheduled[result.rank == 1].min()
    assert second >= first_order + 25.0
    assert second == pytest.approx(first_order + 25.0, abs=2.0)  # work is waiting for it


def test_what_is_paid_lies_between_what_serves_and_all() -> None:
    scaling = Scaling("requests", 2.0, interval=5.0, window=20.0, start=7.0)
    result, scaler = served(scaling)
    paid = scaler.close(result.end)
    serving = sum(row[1] for row in scaler.log) * 5.0
    assert serving * 0.9 < paid.sum() < 6 * result.end
    assert paid.sum() >= result.end  # one always runs
    assert (paid >= result.busy - 1e-6).all()


FILE = """
version: 1
sites:
  - {name: lab, accelerator: h100-sxm, hosts: 1, price: 3.6 USD/h,
     fabric: {kind: leaf_spine, nic: 400 Gb/s, hosts_per_leaf: 1, spines: 1}}
jobs:
  - name: chat
    kind: serving
    model: llama3-8b
    step_times: roofline
    pools: [{replicas: 4, AUTO}]
    workload: {generator: independent, requests: 1500, rate: 30, settings: {prompt: 1000, answer: 100}}
"""


def test_a_scenario_costs_less_than_all_replicas_all_the_time() -> None:
    auto = "autoscale: {target: 10, interval: 2 s, start: 5 s, window: 10 s}"
    scaled = run(scenarios.loads(FILE.replace("AUTO", auto)), lambda _: None)
    whole = run(scenarios.loads(FILE.replace(", AUTO", "")), lambda _: None)
    assert scaled.scalars["done"] == whole.scalars["done"] == 1500
    assert 1.0 <= scaled.scalars["replicas_mean"] < 4.0
    rate = 3.6 / 3600 * scaled.scalars["replicas_mean"] * scaled.scalars["makespan"]
    assert scaled.scalars["cost"] == pytest.approx(rate, rel=0.02)
    assert scaled.scalars["cost"] < whole.scalars["cost"]
    assert scaled.tables["replicas"]["serving"].max() <= 4
    assert "replicas" not in whole.tables


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"autoscale\.first"):
        Scaling("requests", 1.0, least=3, first=2)
    auto = "autoscale: {target: 10, first: 9}"
    with pytest.raises(BadInput, match=r"pools\[0\].autoscale.first"):
        prepare(scenarios.loads(FILE.replace("AUTO", auto)))
    assert numbers  # the headline is what the test above reads
