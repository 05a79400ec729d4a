"""Training and a service on one fabric.

Oracles: the same run without folding (every replica and link by itself), conservation of bytes on NICs, and
what each job does alone. That guests and repeated steps equal one program written out is in tests/clock.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import euston as eu
from euston.errors import BadInput
from euston.result import Result
from euston.scenario import Scenario

SITE: dict[str, Any] = {
    "name": "here", "accelerator": "h100-sxm", "hosts": 6,
    "fabric": {
        "kind": "leaf_spine", "nic": "400 Gb/s", "hosts_per_leaf": 2, "spines": 2, "oversubscription": 16,
    },
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "name": "pretraining", "kind": "training", "model": "llama3-8b",
    "parallel": {"tp": 4, "pp": 1, "dp": 6, "sharding": "zero1"},
    "batch": {"global": 12, "micro": 1, "sequence": 4096},
}  # fmt: skip
SERVICE: dict[str, Any] = {
    "name": "chat", "kind": "serving", "model": "llama3.1-8b",
    "pools": [{"role": "prefill", "replicas": 8}, {"role": "decode", "replicas": 8}],
    "workload": {
        "generator": "independent", "requests": 200, "rate": 60.0, "settings": {"prompt": 2000, "answer": 40},
    },
}  # fmt: skip


def scenario(**changes: Any) -> Scenario:
    """Hosts 0-2 train, 3 and 4 serve: the second leaf's uplinks carry gradients and KV."""
    document = copy.deepcopy(
        {
            "version": 1, "name": "both", "sites": [SITE], "jobs": [TRAINING, SERVICE],
            "run": {"network": "fluid"},
        }
    )  # fmt: skip
    for path, value in changes.items():
        place: Any = document
        *way, last = (int(key) if key.isdigit() else key for key in path.split("__"))
        for key in way:
            place = place[key]
        place[last] = value
    return Scenario.model_validate(document)


def row(result: Result, job: str, quantity: str) -> dict[str, Any]:
    (found,) = (
        result.tables["contention"]
        .filter((pl.col("job") == job) & (pl.col("quantity") == quantity))
        .to_dicts()
    )
    return found


@pytest.fixture(scope="module")
def both() -> Result:
    return eu.simulate(scenario())


def test_each_slows_the_other(both: Result) -> None:
    step = row(both, "pretraining", "step, mean")
    handover = row(both, "chat", "hand-over, mean")
    assert both.scalars["done"] == 200
    assert step["error"] > 0.001 and handover["error"] > 0.05
    assert step["alone"] == pytest.approx(
        eu.simulate(scenario(jobs=[TRAINING])).scalars["step_time"], rel=1e-9
    )
    assert row(both, "pretraining", "step, longest")["together"] >= step["together"]


def test_more_requests_slow_training_more(both: Result) -> None:
    busier = eu.simulate(scenario(jobs__1__workload__rate=240.0, jobs__1__workload__requests=800))
    assert busier.scalars["step_slowdown"] > 1.5 * both.scalars["step_slowdown"]


def test_folding_changes_nothing(both: Result) -> None:
    plain = eu.simulate(scenario(run__folding=False))
    for table in ("contention", "links", "steps"):
        folded, unfolded = both.tables[table], plain.tables[table]
        for column in folded.columns:
            if folded[column].dtype == pl.Float64 and column != "error":
                assert folded[column].to_list() == pytest.approx(unfolded[column].to_list(), rel=1e-6), column


def test_bytes_on_nics_are_those_of_the_steps_and_of_the_hand_overs(both: Result) -> None:
    alone = eu.simulate(scenario(jobs=[TRAINING]))
    steps = both.tables["steps"].height
    for tier in ("NIC up", "NIC down"):
        mine, of_step = (
            float(r.tables["links"].filter(pl.col("tier") == tier)["bytes"][0]) for r in (both, alone)
        )
        assert mine == pytest.approx(steps * of_step + both.scalars["handed_bytes"], rel=1e-9)


def test_a_service_in_one_pool_meets_nobody() -> None:
    result = eu.simulate(scenario(jobs__1__pools=[{"replicas": 16}]))
    assert result.scalars["step_slowdown"] == 0.0 and "steps" not in result.tables
    assert "nothing meets" in result.tables["assumptions"]["value"].to_list()
    alone = eu.simulate(scenario(jobs=[{**SERVICE, "pools": [{"replicas": 16}]}]))
    assert result.scalars["ttft_p99"] == alone.scalars["ttft_p99"]


def test_a_queue_of_their_own_protects_hand_overs(both: Result) -> None:
    """Strict priority for KV: hand-overs are as fast as alone, training pays for it."""
    found = eu.simulate(scenario(policies={"allocation": {"kind": "strict_priority", "levels": {"kv": 0}}}))
    handover = row(found, "chat", "hand-over, P99")
    assert abs(handover["error"]) < 0.02 < row(both, "chat", "hand-over, P99")["error"]
    assert found.scalars["step_slowdown"] > 0


def test_the_run_ends_when_it_is_told_to() -> None:
    result = eu.simulate(scenario(run={"network": "fluid", "until": "2 s"}))
    assert 0 < result.scalars["done"] < 200
    assert result.tables["steps"]["start"].max() <= 2.0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run__compute": "analytic"}, r"run\.compute.*use des"),
        ({"jobs__1__placement": {"first_host": 2}}, r"jobs\[1\]"),
        ({"faults": [{"link": "tor_up/t1/s0", "factor": 0.0, "at": "1 s"}]}, "faults"),
        ({"run__network": "packet"}, r"run\.network"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, ValueError), match=words):
        eu.simulate(scenario(**changes))


def test_the_report_shows_both(both: Result, tmp_path: Path) -> None:
    from euston.report import write

    write(both, tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "Steps of training beside the service" in page and "Hand-overs of KV" in page
