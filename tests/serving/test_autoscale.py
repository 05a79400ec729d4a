"""Autoscaling: Kubernetes' rule by hand, delays to the second, conservation, and what is paid.

Predicted rates and followed latencies are worked out again from the log of the requests; Holt's method is
exact on a line.
"""

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
    Requests,
    Router,
    Scaling,
    Serving,
    StepTime,
    dense,
)
from euston.serving.workloads import Arrivals, independent
from euston.serving.workloads.lengths import Fixed

RANKS = np.arange(6)[:, None]


def served(
    scaling: Scaling, rate: float = 4.0, count: int = 2000, given: Requests | None = None
) -> tuple[Any, Autoscaler]:
    """Six replicas at most; a request takes 0.6 s of one, 10 ms a token."""
    step = StepTime(tokens=dense([0, 10], [0.0, 0.1]))
    deployment = Deployment(
        (Pool(Engine(max_num_seqs=4, num_blocks=4096), step, 6, router=Router("least_requests")),)
    )
    requests = given or independent(count, Arrivals(rate), prompt=Fixed(10), answer=Fixed(50), seed=1)
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


def ramp(seconds: float, last: float) -> Requests:
    """Arrivals whose rate rises on a line from 0 to ``last``, without noise."""
    count = int(seconds * last / 2)
    return Requests.of(seconds * np.sqrt((np.arange(count) + 0.5) / count), 10, 50)


def test_the_predicted_rate_written_down_again() -> None:
    scaling = Scaling("rate", 1.5, interval=10.0, window=0.0, start=30.0)
    result, scaler = served(scaling)
    level = rise = 0.0
    for number, (time, up, starting, wished) in enumerate(scaler.log):
        seen = int(((result.arrival > time - 10.0) & (result.arrival <= time)).sum()) / 10.0
        before = level
        level = 0.5 * seen + 0.5 * (level + rise) if number else seen
        rise = 0.2 * (level - before) + 0.8 * rise if number else 0.0
        ahead, have = max(level + 4.0 * rise, 0.0), up + starting
        plain = have if abs(ahead / have / 1.5 - 1.0) <= 0.1 else math.ceil(ahead / 1.5)
        assert wished == min(max(plain, 1), 6)
    assert {row[3] for row in scaler.log} > {2, 3}


def test_on_a_line_replicas_are_there_when_their_load_is() -> None:
    """Rate 9 t / 600: a replica for every 1.5 requests/s is needed at 100, 200, ... seconds."""
    line = ramp(600.0, 9.0)
    first = {}
    for trend in (0.0, 0.4):
        scaling = Scaling("rate", 1.5, interval=5.0, window=0.0, start=30.0, tolerance=0.0, trend=trend)
        result, scaler = served(scaling, given=line)
        assert (result.outcome == Outcome.DONE).all()
        first[trend] = [next(t for t, up, _, _ in scaler.log if up >= k) for k in (4, 5, 6)]
    # without a trend: after the need by the start, half a look of counting and one of smoothing
    assert all(t - need >= 30.0 for t, need in zip(first[0.0], (300, 400, 500), strict=True))
    assert all(abs(t - need) <= 10.0 for t, need in zip(first[0.4], (300, 400, 500), strict=True))


def steps_of_load() -> Requests:
    """A quiet, a busy and a quiet time: 1, 9 and 1 requests/s."""
    gaps = np.concatenate([np.full(200, 1.0), np.full(2700, 1 / 9), np.full(400, 1.0)])
    return Requests.of(gaps.cumsum(), 10, 50)


@pytest.mark.parametrize(("metric", "target"), [("ttft", 0.5), ("tpot", 0.03)])
def test_what_follows_a_latency_written_down_again(metric: str, target: float) -> None:
    scaling = Scaling(metric, target, interval=5.0, window=20.0, start=7.0)  # type: ignore[arg-type]
    result, scaler = served(scaling, given=steps_of_load())
    assert (result.outcome == Outcome.DONE).all()
    wishes: list[tuple[float, int]] = []
    for time, up, starting, wished in scaler.log:
        if metric == "ttft":
            shown = (result.first > time - 5.0) & (result.first <= time)
            waits = (result.arrival <= time) & (result.first > time)
            seen = [*(result.first - result.arrival)[shown], *(time - result.arrival[waits])]
        else:
            shown = (result.last > time - 5.0) & (result.last <= time)
            seen = [*((result.last - result.first) / 49)[shown]]
        late = sorted(seen)[math.ceil(0.9 * len(seen)) - 1] / target if seen else 0.0
        have = plain = up + starting
        if not starting and late > 1.1:
            plain = math.ceil(have * min(late, 2.0))
        elif not starting and late < 0.5:
            plain = have - 1
        plain = min(max(plain, 1), 6)
        wishes = [(t, w) for t, w in wishes if t >= time - 20.0] + [(time, plain)]
        assert wished == max(plain, min(max(w for _, w in wishes), have))
    serving = [row[1] for row in scaler.log]
    assert max(serving) > 2 and serving[-1] == 1


def test_a_followed_latency_comes_back() -> None:
    scaling = Scaling("ttft", 0.5, interval=5.0, window=60.0, start=7.0)
    result, _ = served(scaling, given=steps_of_load())
    wait = result.first - result.arrival
    settled = (result.arrival > 350.0) & (result.arrival < 500.0)
    # it keeps trying with one replica fewer, so a few are late each time
    assert np.quantile(wait[settled], 0.9) < 1.2 * 0.5
    alone, _ = served(Scaling("ttft", 1e9), given=steps_of_load())
    assert np.quantile((alone.first - alone.arrival)[settled], 0.9) > 100.0


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


@pytest.mark.parametrize("auto", ["metric: ttft, target: 0.2", "metric: rate, target: 8"])
def test_a_scenario_that_follows_or_predicts(auto: str) -> None:
    text = FILE.replace("AUTO", f"autoscale: {{{auto}, interval: 2 s, start: 5 s, window: 10 s}}")
    found = run(scenarios.loads(text), lambda _: None)
    assert found.scalars["done"] == 1500
    assert found.tables["replicas"]["serving"].max() > 1


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"autoscale\.first"):
        Scaling("requests", 1.0, least=3, first=2)
    with pytest.raises(ConfigError, match="quantile"):
        Scaling("ttft", 1.0, quantile=0.0)
    with pytest.raises(ConfigError, match="smoothing"):
        Scaling("rate", 1.0, smoothing=0.0)
    auto = "autoscale: {target: 10, first: 9}"
    with pytest.raises(BadInput, match=r"pools\[0\].autoscale.first"):
        prepare(scenarios.loads(FILE.replace("AUTO", auto)))
    assert numbers  # the headline is what the test above reads
