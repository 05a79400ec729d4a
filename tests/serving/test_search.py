"""`euston search`: finalists against `euston capacity`, the front by brute force, verdicts, Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from euston import scenario as scenarios
from euston.cli._app import app
from euston.runs import serving_search as runs
from euston.runs.capacity import find_capacity
from euston.runs.serving_search import Choices, find_deployments

FILE = """
version: 1
title: A small service
sites:
  - name: lab
    accelerator: h100-sxm
    hosts: 1
    price: 2.5 USD/h
    fabric: {kind: leaf_spine, nic: 400 Gb/s, hosts_per_leaf: 1, spines: 1}
jobs:
  - name: chat
    kind: serving
    model: llama3-8b
    step_times: roofline
    pools: POOLS
    workload: {generator: independent, requests: 600, rate: 20, settings: {prompt: 1000, answer: 50}}
    slo: {ttft: 300 ms, tpot: 20 ms}
"""
SMALL = Choices(accelerators=2, tensor=(1, 2), tokens=(2048,))


def text(pools: str = "[{replicas: 2}]") -> str:
    return FILE.replace("POOLS", pools)


@pytest.fixture(scope="module")
def found():  # type: ignore[no-untyped-def]
    return find_deployments(scenarios.loads(text()), SMALL)


def test_finalists_have_the_capacity_that_a_file_of_theirs_has(found) -> None:  # type: ignore[no-untyped-def]
    pools = {
        "2 x TP 1, 2048 tokens": "[{replicas: 2, engine: {max_num_batched_tokens: 2048}}]",
        "1 x TP 2, 2048 tokens": "[{tensor: 2, engine: {max_num_batched_tokens: 2048}}]",
        "1 x TP 1 prefill, 2048 tokens + 1 x TP 1 decode":
            "[{role: prefill, engine: {max_num_batched_tokens: 2048}}, {role: decode}]",
    }  # fmt: skip
    table = found.tables["candidates"]
    assert set(table["deployment"]) == set(pools)
    for name, written in pools.items():
        alone = find_capacity(scenarios.loads(text(written)), tolerance=0.05)
        row = next(row for row in table.to_dicts() if row["deployment"] == name)
        assert row["max_rate"] == alone.max_rate, name
    assert found.max_rate == table["max_rate"].max()


def test_front_is_what_nothing_beats(found) -> None:  # type: ignore[no-untyped-def]
    rows = found.tables["candidates"].to_dicts()
    for row in rows:
        beaten = any(
            other["rate_per_accelerator"] >= row["rate_per_accelerator"]
            and other["ttft_p90"] <= row["ttft_p90"]
            and other["tpot_p90"] <= row["tpot_p90"]
            and other is not row
            for other in rows
        )
        assert row["front"] != beaten


def _row(split: bool, rate: float | None) -> dict[str, Any]:
    return {"disaggregated": split, "max_rate": rate, "rate_per_accelerator": rate}


@pytest.mark.parametrize(
    ("together", "apart", "words"),
    [
        (10.0, 12.0, "disaggregate: +20%"),
        (10.0, 10.3, "do not disaggregate: no gain"),
        (10.0, 7.0, "do not disaggregate: -30%"),
        (10.0, None, "do not disaggregate"),
        (None, 3.0, "disaggregate: nothing else"),
        (None, None, "no deployment keeps"),
    ],
)
def test_verdicts(together: float | None, apart: float | None, words: str) -> None:
    assert runs._verdict([_row(False, together), _row(True, apart)]).startswith(words)


def call(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, ["search", *map(str, arguments)])


def test_command_and_its_refusals(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text())
    page = tmp_path / "search.html"
    options = ("--accelerators", 2, "--tensor", 1, "--tokens", 2048)
    said = call(file, *options, "--report", page)
    assert said.exit_code == 0, said.output
    assert "disaggregate" in said.stdout and "2 x TP 1" in said.stdout
    assert "chart-pareto_chart" in page.read_text()
    rows = json.loads(call(file, *options, "--together", "--json").stdout)["tables"]["candidates"]
    assert [row["disaggregated"] for row in rows] == [False]
    assert "site 'lab' has 8" in call(file, "--accelerators", 9).stderr
    file.write_text(text().replace("llama3-8b", "llama3-405b"))
    nothing = call(file, "--accelerators", 2)
    assert nothing.exit_code == 2
    assert "GiB per accelerator" in nothing.stderr


def test_a_model_that_needs_more_accelerators_than_the_file_says() -> None:
    """70B weights do not fit the file's one accelerator; the search finds the degrees that do."""
    big = scenarios.loads(text("[{replicas: 1}]").replace("llama3-8b", "llama3-70b"))
    table = find_deployments(big, Choices(4, (1, 2, 4), (2048,))).tables["candidates"]
    assert set(table["deployment"]) == {"2 x TP 2, 2048 tokens", "1 x TP 4, 2048 tokens",
                                        "1 x TP 2 prefill, 2048 tokens + 1 x TP 2 decode"}  # fmt: skip


def test_ctrl_c_keeps_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = runs.simulate, []

    def simulate(*arguments: object, **settings: object):  # type: ignore[no-untyped-def]
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "simulate", simulate)
    file = tmp_path / "s.yaml"
    file.write_text(text())
    said = call(file, "--accelerators", 2, "--tensor", 1, "--tensor", 2)
    assert said.exit_code == 130
    assert "with 2 of" in said.stderr
    assert "2 x TP 1" in said.stdout


def test_the_best_of_all_is_found_where_all_are_at_ease_at_first() -> None:
    """Oracle: the capacity of each deployment by itself. At 20/s all keep the SLO; wide ones are faster."""
    many = Choices(accelerators=8, tensor=(1, 2, 4, 8), tokens=(2048, 8192), disaggregate=False)
    best = find_deployments(scenarios.loads(text()), many).tables["candidates"].row(0, named=True)
    rates = {}
    for tensor in many.tensor:
        for tokens in many.tokens:
            pool = (
                f"{{replicas: {8 // tensor}, tensor: {tensor}, engine: {{max_num_batched_tokens: {tokens}}}}}"
            )
            rates[f"{8 // tensor} x TP {tensor}, {tokens} tokens"] = find_capacity(
                scenarios.loads(text(f"[{pool}]")), tolerance=0.05
            ).max_rate
    assert best["max_rate"] == rates[best["deployment"]] >= 0.95 * max(rates.values())
