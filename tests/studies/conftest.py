"""A small file of packaged lines: one of each kind, quick to run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from euston.studies._facts import DATA

Pick = Callable[[dict[str, str]], bool]


def lines_of(name: str) -> tuple[list[str], list[dict[str, str]]]:
    """Header and lines of a packaged file, read with the csv module alone."""
    text = "".join(
        x for x in (DATA / name).read_text(encoding="utf-8").splitlines(True) if not x.startswith("#")
    )
    reader = csv.DictReader(io.StringIO(text))
    lines = list(reader)
    return list(reader.fieldnames or ()), lines


def write(path: Path, header: list[str], lines: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, header)
        writer.writeheader()
        writer.writerows(lines)
    return path


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A directory with both layouts: 22B rows, one FSDP row, an expert row, a suspect row; one vTrain row."""
    header, lines = lines_of("training_sim_measured.csv")
    wanted: list[Pick] = [
        lambda line: line["model"] == "gpt-22b" and line["recompute"] == "full",
        lambda line: line["model"] == "gpt-22b" and line["recompute"] != "full",
        lambda line: line["model"] == "mpt-7b" and line["num_accel"] == "8" and line["seq"] == "2048",
        lambda line: line["model"] == "deepseek-v3",
        lambda line: line["model"] == "gpt-1.7b",
    ]
    chosen = [next(line for line in lines if pick(line)) for pick in wanted]
    folder = tmp_path / "few"
    folder.mkdir()
    write(folder / "a_measured.csv", header, chosen)
    header, lines = lines_of("training_sim_vtrain_multi.csv")
    write(folder / "b_vtrain.csv", header, lines[:1])
    return folder
