"""The OptiReduce table: what is fitted sees the input rows only, and the prediction beats having no model."""

from __future__ import annotations

import pytest

from euston import studies
from euston.errors import ConfigError
from euston.studies import lossy

HEADER = "model,p99_over_p50,scheme,iteration_time_s\n"


@pytest.fixture(scope="module")
def found():
    return studies.run("lossy")


def test_bar_and_baselines(found):
    summary = found["summary"]
    assert summary["n"] == 24 and summary["coverage"] == 1
    assert summary["median"] <= 0.07
    assert all(summary["median"] < error for error in summary["beside"].values())
    assert summary["beside"]["no change"] == pytest.approx(0.164, abs=0.002)  # as worked out by others
    order = summary["order"]
    assert order["right"] >= 57 and order["pairs"] == 60
    assert order["right"] + len(order["wrong"]) == 60
    # 1.1 % apart, less than the median error: too close to be told from each other
    assert any(
        "BERT-large: NCCL-Ring 6.53 s and TAR+TCP 6.46 s, published 1.1 % apart" in w for w in order["wrong"]
    )
    assert order["apart"] - order["apart_right"] == len(order["wrong"]) - 1


def test_rows_to_be_predicted_change_nothing(found, tmp_path):
    """Tail-3 times are doubled: every prediction stays."""
    text = (lossy.DATA / lossy.LAYOUT.name).read_text().splitlines()
    doubled = []
    for line in text:
        cells = line.split(",")
        if len(cells) > 3 and cells[1] == "3":
            cells[3] = str(2 * float(cells[3]))
        doubled.append(",".join(cells))
    (tmp_path / "x.csv").write_text("\n".join(doubled))
    other = studies.run("lossy", tmp_path / "x.csv")
    ours = [row["ours"] for row in found["rows"]]
    assert [row["ours"] for row in other["rows"]] == ours and sum(o is not None for o in ours) == 24


def test_an_ideal_world_is_predicted_exactly(tmp_path):
    """Times made from C + M f: both numbers come back and every other tail is hit."""
    rows = []
    for tail in (1.2, 2, 4):
        for scheme, kind in lossy.SCHEMES.items():
            f = lossy.scheme_time(kind, 8, lossy.Tail(tail), draws=lossy.DRAWS)
            rows.append(f"m,{tail},{scheme},{1.5 + 0.25 * f!r}")
    (tmp_path / "x.csv").write_text(HEADER + "\n".join(rows))
    result = studies.run("lossy", tmp_path / "x.csv")
    assert result["summary"]["fitted"]["m"]["C"] == pytest.approx(1.5, rel=1e-6)
    assert result["summary"]["fitted"]["m"]["M"] == pytest.approx(0.25, rel=1e-6)
    assert result["summary"]["n"] == 12
    assert max(abs(row["error"]) for row in result["rows"] if row["ours"]) < 1e-6


def test_unknown_schemes_and_bad_cells(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(HEADER + "m,1.5,NCCL-Ring,2\nm,3,NCCL-Ring,3\nm,3,Horovod,3\nm,3,Gloo-Ring,3\n")
    rows = studies.run("lossy", path)["rows"]
    assert [row["role"] for row in rows] == ["input", "scored", "scored", "scored"]
    assert rows[2]["ours"] is None and "Horovod is not modelled" in rows[2]["reason"]
    assert rows[3]["ours"] > 0 and "no input row of this scheme" in rows[3]["reason"]
    for line, words in (
        ("m,0.5,NCCL-Ring,2", "p99_over_p50"),
        ("m,1.5,NCCL-Ring,", "iteration_time_s"),
        (",1.5,NCCL-Ring,2", "model"),
    ):
        path.write_text(HEADER + line + "\n")
        with pytest.raises(ConfigError, match=words):
            studies.run("lossy", path)
