"""Scoring against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from euston.studies import Row, nearest_rank, report, summarise


def row(published: float | None, ours: float | None, **more: object) -> Row:
    return Row("f:2", "seconds_per_iteration", published, ours, str(more.pop("source", "A")), **more)  # type: ignore[arg-type]


ROWS = [
    row(10.0, 11.0, model_class="dense", device_class="tabled"),  # +10 %
    row(10.0, 8.0, model_class="dense", device_class="transferred", guessed=("mbs",)),  # -20 %
    row(4.0, 4.0, source="B", model_class="dense", device_class="tabled"),  # 0
    row(2.0, None, source="B", model_class="moe", device_class="tabled", reason="experts"),
    row(1.0, 9.0, role="suspect", source="C"),
    row(1.0, 9.0, role="input", source="C"),
]


def test_summary_of_three_errors() -> None:
    """Errors +.1, -.2, 0: mean of absolutes .1, median .1, nearest-rank p90 of three is the largest."""
    found = summarise(ROWS)
    assert found["n"] == 3
    assert found["coverage"] == 3 / 4  # suspect and input lines count nowhere
    assert found["mape"] == pytest.approx(0.1)
    assert found["median"] == pytest.approx(0.1)
    assert found["p90"] == pytest.approx(0.2)
    assert found["bias"] == pytest.approx(-0.1 / 3)


def test_sign_says_that_we_are_slower() -> None:
    assert ROWS[0].error == pytest.approx(0.1)
    assert ROWS[3].error is None
    assert row(None, 3.0).error is None


@pytest.mark.parametrize(
    ("values", "percent", "rank"),
    [([15, 20, 35, 40, 50], 30, 20), ([15, 20, 35, 40, 50], 40, 20), ([15, 20, 35, 40, 50], 50, 35),
     ([15, 20, 35, 40, 50], 100, 50), ([3, 6, 7, 8, 8, 10, 13, 15, 16, 20], 25, 7), ([7], 90, 7)],
)  # fmt: skip
def test_nearest_rank(values: list[float], percent: float, rank: float) -> None:
    """The textbook examples of the nearest-rank method."""
    assert nearest_rank(values, percent) == rank


def test_nearest_rank_of_nothing() -> None:
    assert math.isnan(nearest_rank([], 50))


def test_report_repeats_the_summary_by_group() -> None:
    by = report(ROWS)["summary"]["by"]
    assert list(by) == ["quantity", "source", "device_class", "model_class", "guessed"]
    assert list(by["source"]) == ["A", "B"]  # C has no scored line
    assert by["source"]["B"] == {"n": 1, "coverage": 0.5, "mape": 0.0, "median": 0.0, "p90": 0.0, "bias": 0.0}
    assert by["guessed"]["guessed"]["bias"] == pytest.approx(-0.2)
    assert by["guessed"]["given"]["n"] == 2
    assert by["model_class"]["moe"] == {
        "n": 0, "coverage": 0.0, "mape": None, "median": None, "p90": None, "bias": None,
    }  # fmt: skip


def test_rows_keep_the_form_of_the_contract() -> None:
    rows = report(ROWS)["rows"]
    for found in rows:
        keys = {"id", "quantity", "published", "ours", "error", "source", "guessed", "role", "reason"}
        assert keys <= set(found)
    assert [r["role"] for r in rows] == ["scored"] * 4 + ["suspect", "input"]
    assert rows[3]["ours"] is None
    assert rows[3]["reason"] == "experts"
    assert rows[0]["reason"] is None


def test_nothing_scored() -> None:
    found = report([])["summary"]
    assert found["n"] == 0
    assert found["coverage"] is None
    assert found["mape"] is None
