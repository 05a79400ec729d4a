"""`reproduce reliability` against the published figures it carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from euston import studies
from euston.errors import ConfigError


@pytest.fixture(scope="module")
def rows() -> list[dict]:  # type: ignore[type-arg]
    found = studies.run("reliability", seed=1)
    assert {"n", "coverage", "mape", "median", "p90", "bias", "by", "remarks"} <= set(found["summary"])
    return list(found["rows"])


def test_projected_times_to_failure(rows: list[dict]) -> None:  # type: ignore[type-arg]
    found = {r["published"]: r["ours"] for r in rows if r["quantity"] == "job_mttf_projected, hours"}
    assert set(found) == {1.8, 0.23}
    for published, ours in found.items():
        assert ours == pytest.approx(published, rel=0.08)  # 2,000 interruptions: 2.2 % standard error


def test_interruptions_of_llama_3_are_input_and_come_back(rows: list[dict]) -> None:  # type: ignore[type-arg]
    row = next(r for r in rows if r["quantity"] == "interruptions_unexpected, count")
    assert row["role"] == "input"
    assert row["ours"] == pytest.approx(419, rel=0.05)


def test_bounds_are_met_and_bloom_loses_half_an_interval(rows: list[dict]) -> None:  # type: ignore[type-arg]
    bounds = [r for r in rows if r["quantity"] == "effective_training_time_min, fraction"]
    assert len(bounds) == 2
    assert all(r["ours"] > 0.9 and r["guessed"] for r in bounds)
    bloom = next(r for r in rows if r["quantity"].startswith("lost work"))
    assert bloom["ours"] == pytest.approx(1.5, rel=0.05)


def test_own_data(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "dataset,quantity,value,unit,conditions,source\n"
        "rsc1,job_mttf_measured,3.6,hours,8192-GPU jobs,us\nours,anything,1,count,,us\n"
    )
    found = studies.run("reliability", data=path)["rows"]
    assert found[0]["ours"] == pytest.approx(1000 * 24 / 6.5 / 1024, rel=0.1)
    assert found[1]["ours"] is None
    assert found[1]["reason"]
    path.write_text(path.read_text().replace("8192-GPU jobs", "all jobs"))
    with pytest.raises(ConfigError, match=r"mine\.csv:2.*how many GPUs"):
        studies.run("reliability", data=path)
