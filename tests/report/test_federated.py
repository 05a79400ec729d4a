"""Charts of a federated run: the clock's axis against the sum written out, and a page that is whole."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from euston.report import write
from euston.report.federated import LATENCY, LINKS, sections
from euston.result import Result


def _result() -> Result:
    table = pl.DataFrame(
        {
            "round": [1, 2, 3], "tokens": [10, 20, 30], "server_steps": [4, 8, 12], "loss": [5.0, 4.0, 3.5],
            "val_loss": [None, 4.1, 3.6], "train_seconds": [1.0, 2.0, 3.0], "bytes_up": [1000, 1000, 500],
            "bytes_down": [0, 1000, 500], "bytes_peers": [0, 0, 0], "participants": [2, 2, 1],
        }
    )  # fmt: skip
    return Result("federated", {"loss": 3.5}, {"loss": "1"}, {"rounds": table})


def test_the_clock_is_training_and_exchange() -> None:
    found = {section.name: section.figure for section in sections(_result())}
    assert list(found) == ["loss_tokens", "loss_server_steps", "loss_clock"]
    for (rate, name), line in zip(LINKS, found["loss_clock"]["data"], strict=True):
        assert line["name"] == name
        expected, clock = 0.0, []
        for seconds, payload in ((1.0, 500), (2.0, 1000), (3.0, 1000)):
            expected += seconds + payload / rate + 2 * LATENCY
            clock.append(expected)
        assert line["x"] == pytest.approx(clock)
    assert found["loss_tokens"]["data"][1]["x"] == [20, 30]


def test_page(tmp_path: Path) -> None:
    write(_result(), tmp_path / "run.html")
    text = (tmp_path / "run.html").read_text()
    assert "Loss against wall-clock time" in text and "held out" in text
    assert sections(Result("federated", {"x": 1.0}, {"x": "1"})) == []
