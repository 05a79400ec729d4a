"""The bandwidth table of Streaming DiLoCo: every cell within a grid step; the simulation against closed
forms.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from euston.errors import ConfigError
from euston.federated.utilisation import Exchange, required_bandwidth, utilisation
from euston.studies import run


def test_every_cell_within_one_step_of_the_grid() -> None:
    summary = run("photon")["summary"]
    assert summary["n"] == 50 and summary["coverage"] == 1.0
    assert summary["within_one_step"] == 1.0
    assert summary["same_grid_value"] >= 0.6


def test_data_parallel_closed_form() -> None:
    """Gradients start to leave when the last layer's backward is done: exposed is bits/b less the rest of
    backward.
    """
    for layers, step, bits, b in ((24, 0.1, 16e9, 100e9), (10, 2.0, 1e9, 0.3e9), (1, 1.0, 1e9, 5e9)):
        exposed = bits / b - (layers - 1) / layers * step * 2 / 3
        expected = step / (step + max(exposed, bits / layers / b))
        assert utilisation(Exchange(layers, step, bits), b, periods=50) == pytest.approx(expected, rel=1e-9)


def test_saturated_link_and_limits() -> None:
    e = Exchange(24, 0.1, 16e9, period=100, fragments=8, overlap=5)
    assert utilisation(e, 1e15) == pytest.approx(1.0, abs=1e-6)
    assert utilisation(e, 0.1e9, periods=30) == pytest.approx(10 / 160, rel=0.05)  # the link hardly rests
    values = [utilisation(e, b * 1e9) for b in (0.5, 1, 2, 5, 10, 20)]
    assert values == sorted(values)
    assert utilisation(e, required_bandwidth(e, 0.9)) == pytest.approx(0.9, abs=1e-4)


def test_own_table_and_bad_cells(tmp_path: Path) -> None:
    head = "model,layers,step_time_s,H,method,compute_utilisation_pct,bandwidth_gbit_s\n"
    path = tmp_path / "mine.csv"
    path.write_text(head + "mine,24,0.1,100,diloco,50,1.4\n")
    row = run("photon", path)["rows"][0]
    assert row["ours"] is None and "parameters" in row["reason"]
    path.write_text(head + "1B,24,0.1,100,magic,50,1.4\n")
    with pytest.raises(ConfigError, match=r"mine.csv:2.*magic"):
        run("photon", path)
