"""No constant is fitted to the iteration rows: when they change, nothing but they themselves changes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from euston import catalog, studies
from euston.devices import _tables, fit
from euston.studies import _facts, training

from .conftest import lines_of, write

FIGURES = ("iteration_time_s", "tokens_per_s_per_accel", "model_tflops_per_accel", "mfu_pct", "hfu_pct")
FACTOR = 1.5


def perturbed(source: Path, target: Path) -> None:
    """Every figure of every line times `FACTOR`."""
    target.mkdir()
    for file in sorted(source.glob("*.csv")):
        header, lines = _read(file)
        for line in lines:
            for column in FIGURES:
                if line.get(column):
                    line[column] = repr(float(line[column]) * FACTOR)
        write(target / file.name, header, lines)


def _read(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    return lines_of(str(file.resolve()))  # DATA / an absolute path is that path


def frozen() -> dict[str, Any]:
    """Everything a prediction depends on beside the job: catalogue files, entries, fitted constants."""
    return {
        "files": catalog.hashes(),
        "entries": {
            kind: [(entry.name, entry.as_dict()) for entry in catalog.entries(kind)]
            for kind in catalog.kinds()
        },
        "constants": _tables.constants(),
        "tables": {path.name: path.read_bytes() for path in sorted(_tables.DATA.iterdir())},
    }


def test_predictions_do_not_follow_the_figures(few: Path, tmp_path: Path) -> None:
    before, state = studies.run("training", few), frozen()
    perturbed(few, tmp_path / "other")
    after = studies.run("training", tmp_path / "other")
    assert frozen() == state
    for a, b in zip(before["rows"], after["rows"], strict=True):
        assert a["ours"] == b["ours"]
        assert b["published"] != pytest.approx(a["published"])
        assert a["guessed"] == b["guessed"]
        assert a["extra"] == b["extra"]


def test_the_packaged_figures_move_nothing(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With perturbed figures in the place of the packaged ones, a run on other data stays the same."""
    before, state = studies.run("training", few), frozen()
    perturbed(_facts.DATA, tmp_path / "data")
    (tmp_path / "data" / "frameworks.toml").write_bytes((_facts.DATA / "frameworks.toml").read_bytes())
    for module in (_facts, training):
        monkeypatch.setattr(module, "DATA", tmp_path / "data")
    assert studies.run("training", few) == before
    assert frozen() == state


opened: list[str] = []
listening = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if listening and event == "open":
        opened.append(str(arguments[0]))


@pytest.mark.slow  # the whole fit: two minutes
def test_the_fit_opens_no_studies_data() -> None:
    """Files opened while the device constants are fitted: kernel tables only (Python's own audit events)."""
    global listening
    sys.addaudithook(_hook)  # cannot be removed again: it listens only here
    opened.clear()
    listening = True
    try:
        fitted = fit.fit()
    finally:
        listening = False
    assert fitted
    data = [path for path in opened if path.endswith((".csv", ".json", ".toml", ".gz", ".parquet"))]
    assert data
    assert not [path for path in data if "studies" in path or "training_sim" in path]
    assert {Path(path).parent for path in data} == {_tables.DATA}
