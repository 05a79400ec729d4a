"""The least error of any predictor, against a search over predictions."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston import studies
from euston.statistics import nearest_rank
from euston.studies.floor import floor


def searched(figures: list[tuple[str, float]], percent: float) -> float:
    """Every group takes every prediction that is best for some two of its figures, or one of them."""
    groups: dict[str, list[float]] = {}
    for facts, value in figures:
        groups.setdefault(facts, []).append(value)
    choices = []
    for values in groups.values():
        # within equal errors of two figures a < b: x = 2 a b / (a + b)
        choices.append({*values, *(2 * a * b / (a + b) for a, b in itertools.combinations(values, 2))})
    best = float("inf")
    for taken in itertools.product(*choices):
        errors = [
            abs(x / value - 1.0) for x, values in zip(taken, groups.values(), strict=True) for value in values
        ]
        best = min(best, nearest_rank(errors, percent))
    return best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40).map(float)), min_size=1, max_size=7))
def test_no_choice_of_predictions_does_better(figures: list[tuple[str, float]]) -> None:
    found = floor(figures)
    assert found.median == pytest.approx(searched(figures, 50), abs=1e-9)
    assert found.p90 == pytest.approx(searched(figures, 90), abs=1e-9)
    assert found.groups == len({facts for facts, _ in figures})


def test_by_hand() -> None:
    """Two figures 1 : 3 share a fact: a prediction of 1.5 is a half off both; alone, none is off."""
    found = floor([("a", 1.0), ("a", 3.0)])
    assert (found.median, found.p90) == (0.0, 0.5)
    assert found.widest == (("a", 1.0, 3.0),)
    assert found.as_dict()["ratios"] == [3.0]
    assert floor([("a", 1.0), ("b", 3.0)]).p90 == 0.0
    with pytest.raises(ValueError, match="figures"):
        floor([])
    with pytest.raises(ValueError, match="positive"):
        floor([("a", 0.0)])


def test_the_reproduction_prints_it_beside_the_bar(tmp_path: Path) -> None:
    """Two releases of one configuration, 1.0 and 1.2 s: one number is 9.1 % off both at least."""
    head = "model,seq,accelerator,num_accel,framework,tp,pp,mbs,gbs,precision,recompute,"
    head += "iteration_time_s,source\n"
    line = "llama3-8b,8192,h100-sxm,8,Megatron-LM,1,1,1,8,bf16,none,{seconds},release {release}\n"
    path = tmp_path / "runs.csv"
    path.write_text(head + "".join(line.format(seconds=1 + r / 5, release=r) for r in range(2)))
    found = studies.run("training", path)
    least = found["floor"]["tabled dense"]
    assert (least["n"], least["groups"], least["median"]) == (2, 1, 0.0)
    assert least["p90"] == pytest.approx(0.2 / 2.2)
    assert least["ratios"] == pytest.approx([1.2])
    (remark,) = found["summary"]["remarks"]
    assert "bar 8%" in remark
    assert "a 90th below 9.1%" in remark
    assert "remarks" not in studies.run("training", _one(path))["summary"]


def _one(path: Path) -> Path:
    """A file with the first line only."""
    short = path.parent / "one" / "runs.csv"
    short.parent.mkdir()
    short.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    return short
