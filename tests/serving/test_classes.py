"""Classes of requests: who is drawn, what schedulers and routers make of them, what the table says."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from euston import scenario as scenarios
from euston.errors import ConfigError
from euston.result import Result
from euston.serving import Requests
from euston.serving.workloads import with_classes, with_predictions
from euston.simulate import simulate

CLASSES = [
    {"name": "chat", "share": 3, "priority": 0, "due": "300 ms"},
    {"name": "batch", "share": 1, "priority": 1, "due": "60 s"},
]


def ran(scheduler: str, **work: Any) -> Result:
    """Some 2.5 times what 2 replicas of 16 seats bear, so that the order of the queue matters."""
    return simulate(
        scenarios.from_data(
            {
                "version": 1,
                "sites": [
                    {
                        "name": "lab",
                        "accelerator": "h100-sxm",
                        "hosts": 1,
                        "fabric": {"kind": "leaf_spine", "nic": "400 Gb/s", "hosts_per_leaf": 1, "spines": 1},
                    }
                ],
                "jobs": [
                    {
                        "name": "chat",
                        "kind": "serving",
                        "model": "llama3-8b",
                        "step_times": "roofline",
                        "slo": {"ttft": "1 s"},
                        "pools": [{"replicas": 2, "engine": {"scheduler": scheduler, "max_num_seqs": 16}}],
                        "workload": {
                            "generator": "independent",
                            "requests": 600,
                            "rate": 100.0,
                            "settings": {
                                "prompt": {"kind": "lognormal", "p50": 500, "p99": 3000},
                                "answer": {"kind": "lognormal", "p50": 60, "p99": 600},
                            },
                            **work,
                        },
                    }
                ],
            }
        )
    )


def by_class(result: Result) -> dict[str, dict[str, Any]]:
    return {row["class"]: row for row in result.tables["classes"].to_dicts()}


def test_sessions_are_of_one_class_as_common_as_said() -> None:
    n = 20_000
    plain = Requests.of(np.arange(n) * 0.1, 100, 10, session=np.arange(n) // 4)
    shares = np.array([5.0, 3.0, 2.0])
    made = with_classes(plain, shares.tolist(), [0, 1, 2], [0.1, 1.0, np.inf], seed=3)
    assert (made.klass.reshape(-1, 4) == made.klass[::4, None]).all()
    count, sessions = np.bincount(made.klass[::4], minlength=3), n // 4
    expected = sessions * shares / shares.sum()
    assert (np.abs(count - expected) < 5 * np.sqrt(expected)).all()
    assert (made.priority == made.klass).all()
    assert (made.deadline_s == np.array([0.1, 1.0, np.inf])[made.klass]).all()
    for bad in ([], [0.0], [-1.0, 2.0], [np.nan], [1.0] * 257):
        with pytest.raises(ConfigError, match="shares"):
            with_classes(plain, bad)


def test_predictions_are_off_by_their_spread() -> None:
    plain = Requests.of(np.arange(20_000.0), 100, np.arange(20_000) % 500 + 1)
    off = np.log(with_predictions(plain, 0.7).predicted_out / plain.out_tok)
    assert off.std() == pytest.approx(0.7, rel=0.03) and abs(off.mean()) < 0.02
    assert (with_predictions(plain, 0.0).predicted_out == plain.out_tok).all()
    with pytest.raises(ConfigError, match="spread"):
        with_predictions(plain, -1.0)


def test_the_table_again_from_the_requests() -> None:
    result = ran("vllm_v1", classes=CLASSES)
    log, table = result.tables["requests"], by_class(result)
    assert sum(row["requests"] for row in table.values()) == log.height == 600
    for number, (name, due) in enumerate((("chat", 0.3), ("batch", 60.0))):
        mine = log.filter(pl.col("class") == number)
        row = table[name]
        done = mine.filter(pl.col("outcome") == "done")
        assert (row["requests"], row["done"]) == (mine.height, done.height)
        for column, value in (
            ("queue_mean", mine["queue"].mean()),
            ("ttft_mean", mine["ttft"].mean()),
            ("ttft_p99", np.quantile(mine["ttft"].to_numpy(), 0.99)),
            ("tpot_mean", mine["tpot"].mean()),
            ("e2e_mean", mine["e2e"].mean()),
            ("on_time", (mine["ttft"] <= due).mean()),
        ):
            assert row[column] == pytest.approx(value, rel=1e-12), column
    assert "classes" not in ran("vllm_v1").tables


def test_schedulers_tell_classes_apart() -> None:
    """First come, first served does not; the others put those first that their rule names."""
    found = {name: by_class(ran(name, classes=CLASSES)) for name in ("vllm_v1", "priority", "edf", "fair")}
    waits = {name: (rows["chat"]["queue_mean"], rows["batch"]["queue_mean"]) for name, rows in found.items()}
    assert waits["vllm_v1"][0] == pytest.approx(waits["vllm_v1"][1], rel=0.25)
    for name in ("priority", "edf"):
        assert waits[name][0] < 0.7 * waits["vllm_v1"][0] and waits[name][1] > 1.5 * waits["vllm_v1"][1]
        assert found[name]["chat"]["on_time"] > found["vllm_v1"]["chat"]["on_time"]
    # a quarter of the requests has half of the service: the rarer client waits less
    assert waits["fair"][1] < 0.5 * waits["fair"][0]


def test_worse_predictions_undo_shortest_job_first() -> None:
    exact, rough = (ran("sjf", prediction_error=spread).ttft_mean for spread in (0.0, 3.0))
    assert exact < 0.8 * ran("vllm_v1").ttft_mean
    assert exact < rough


def test_what_would_be_late_is_refused_by_the_slo() -> None:
    """The SLO's TTFT is when a first token is due, unless its class says another time."""
    data = ran("vllm_v1").meta["scenario"]
    data["jobs"][0]["pools"][0]["router"] = {"policy": "slo_aware", "refuse": True}
    refused = {}
    for due in ("1 s", "60 s"):
        data["jobs"][0]["slo"] = {"ttft": due}
        result = simulate(scenarios.from_data({**data, "version": 1}))
        refused[due] = result.refused
        assert result.done + result.refused == 600
    assert refused["1 s"] > 0 == refused["60 s"]
