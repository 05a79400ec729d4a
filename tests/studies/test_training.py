"""`reproduce training`: small files, published quantities as seconds, the packaged figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from euston import catalog, studies
from euston.errors import ConfigError
from euston.models import transformer
from euston.studies._facts import DATA
from euston.studies._lines import LAYOUTS, describe
from euston.studies.table import Line, read
from euston.studies.training import published_seconds

SC21 = 64 * 2048 * 96 * 12288**2  # B s L h^2
KEYS = {"n", "coverage", "mape", "median", "p90", "bias"}


def test_registry() -> None:
    assert "training" in studies.names()
    assert "seconds per training iteration" in studies.describe("training")
    with pytest.raises(ConfigError, match="unknown reproduction 'trainin'; did you mean 'training'"):
        studies.run("trainin")


def test_few_lines(few: Path) -> None:
    found = studies.run("training", few)
    rows = found["rows"]
    assert [row["id"] for row in rows] == [*(f"a_measured:{i}" for i in range(2, 7)), "b_vtrain:2"]
    assert [row["role"] for row in rows] == ["scored"] * 4 + ["suspect", "scored"]
    full, selective, mpt, expert, suspect, vtrain = rows
    assert full["guessed"] == selective["guessed"] == mpt["guessed"] == vtrain["guessed"] == []
    assert suspect["guessed"] == ["mbs"]
    assert suspect["ours"] is not None
    assert expert["ours"] is not None
    assert expert["model_class"] == "moe"
    assert full["published"] == 1.42
    for row in (full, selective, mpt, vtrain):
        assert row["error"] == pytest.approx(row["ours"] / row["published"] - 1)
        assert abs(row["error"]) < 0.3  # not a score: a broken unit would be off by far more
    assert full["ours"] > selective["ours"]
    summary = found["summary"]
    assert summary["n"] == 5
    assert summary["coverage"] == 1.0
    assert set(summary) == KEYS | {"by"}
    assert all(set(group) == KEYS for values in summary["by"].values() for group in values.values())
    json.dumps(found, allow_nan=False)


def test_own_file_with_unknown_framework(tmp_path: Path) -> None:
    """Three lines of somebody's own cluster: one complete, one with gaps, one that cannot be run."""
    path = tmp_path / "cluster.csv"
    path.write_text(
        "model,seq,accelerator,num_accel,framework,tp,pp,mbs,gbs,precision,recompute,tokens_per_s_per_accel\n"
        "llama3-8b,8192,h100-sxm,16,home-grown,2,1,1,32,bf16,selective,9000\n"
        "llama3-8b,8192,h100-sxm,16,home-grown,2,4,,32,,,9000\n"
        "llama3-8b,8192,h100-sx,16,home-grown,3,1,1,32,bf16,none,9000\n",
        encoding="utf-8",
    )
    complete, gaps, wrong = studies.run("training", path)["rows"]
    assert complete["published"] == pytest.approx(32 * 8192 / 16 / 9000)
    assert complete["guessed"] == []
    assert complete["extra"]["software"] == "default"
    assert complete["source"] == "cluster.csv"
    assert complete["device_class"] == "tabled"
    assert complete["ours"] > 0
    assert gaps["guessed"] == ["precision", "mbs", "recompute", "vp"]
    assert gaps["ours"] > 0
    assert wrong["ours"] is None
    assert wrong["reason"]


def line(**cells: str) -> Line:
    base = {"model": "gpt3-175b", "seq": "2048", "accelerator": "A100-SXM-80GB", "num_accel": "64",
            "framework": "Megatron-LM", "tp": "8", "pp": "8", "mbs": "1", "gbs": "64"}  # fmt: skip
    return Line("f.csv", 2, LAYOUTS[0].name, base | cells)


@pytest.mark.parametrize(
    ("cells", "seconds"),
    [
        ({"iteration_time_s": "13.75", "mfu_pct": "1"}, 13.75),
        ({"tokens_per_s_per_accel": "100"}, 64 * 2048 / 64 / 100),
        # 96 B s L h^2 (1 + s/6h + V/16Lh), Narayanan et al. (SC'21)
        (
            {"model_tflops_per_accel": "140", "flop_convention": "hardware incl. full recompute"},
            SC21 * 96 * (1 + 2048 / (6 * 12288) + 51200 / (16 * 96 * 12288)) / (140e12 * 64),
        ),
        # 72 B s L h^2 (1 + s/6h + V/12Lh): model FLOPs over the full square of attention; MFU of 312 TFLOP/s
        (
            {"mfu_pct": "50", "flop_convention": "model FLOPs"},
            SC21 * 72 * (1 + 2048 / (6 * 12288) + 51200 / (12 * 96 * 12288)) / (156e12 * 64),
        ),
        # causal: half of attention's square
        (
            {"model_tflops_per_accel": "140", "flop_convention": "causal attention; non-causal is 432"},
            SC21 * 72 * (1 + 2048 / (12 * 12288) + 51200 / (12 * 96 * 12288)) / (140e12 * 64),
        ),
    ],
)  # fmt: skip
def test_published_quantity_turned_into_seconds(cells: dict[str, str], seconds: float) -> None:
    """Oracle: the papers' own closed forms of FLOPs per iteration."""
    found = line(**cells)
    value, column = published_seconds(found, describe(found), catalog.accelerator("a100-sxm-80gb"))
    assert column == next(iter(cells))
    assert value == pytest.approx(seconds, rel=2e-4)


def test_non_causal_is_not_causal() -> None:
    texts = (
        "Megatron model FLOPs, non-causal attention (full s^2)",
        "6N + 12*l*h*s per token (non-causal)",
        "",
    )
    values = [
        published_seconds(x, describe(x), None)[0]
        for x in (line(model_tflops_per_accel="140", flop_convention=text) for text in texts)
    ]
    assert values[0] == values[1] == values[2]


def test_korthikanti_settings_are_read_as_published() -> None:
    """Table 5 of arXiv:2205.05198: nothing guessed; only selective runs have sequence parallelism."""
    found = [describe(x) for x in read(DATA / LAYOUTS[0].name, LAYOUTS) if "2205.05198" in x.text("source")]
    assert len(found) == 9
    for one in found:
        assert one.job is not None
        assert one.guessed == ()
        assert one.software.name == "megatron-2022"
        assert one.machines.fabric == "selene-hdr"
        assert one.job.parallel.sequence == (one.job.recompute == "selective")
        assert one.job.parallel.sharding == "none"


def test_mpt_shapes_come_from_the_catalogue() -> None:
    """Every MPT line prints its parameters (they grow with the sequence): exact to the digits shown."""
    checked = 0
    for x in read(DATA / LAYOUTS[0].name, LAYOUTS):
        if x.text("model").startswith("mpt-"):
            model = describe(x).model
            assert model is not None
            assert model.parameters() / 1e9 == pytest.approx(float(x.text("params_b")), abs=5.1e-5)
            checked += 1
    assert checked == 153
    assert transformer("mpt-7b").heads == 32


def test_shape_of_an_unknown_name() -> None:
    sizes = {
        "layers": "64",
        "hidden": "8192",
        "heads": "64",
        "kv_heads": "64",
        "ffn": "28672",
        "vocab": "32000",
    }
    found = describe(line(model="nobody-knows", params_b="64.0", **sizes))
    assert found.guessed == ("recompute", "vp") or "shape" not in found.guessed
    assert found.model is not None
    assert found.model.gated
    missing = describe(line(model="nobody-knows"))
    assert missing.job is None
    assert missing.guessed[0] == "shape"
    assert "neither in the data nor in the catalogue" in missing.reason


def test_memory_overflow_is_noted_not_refused(tmp_path: Path) -> None:
    """The published run did run: a job that our memory model calls too large is predicted all the same."""
    path = tmp_path / "big.csv"
    path.write_text(
        "model,seq,accelerator,num_accel,framework,tp,pp,mbs,gbs,precision,recompute,iteration_time_s\n"
        "llama3-8b,8192,h100-sxm,8,mine,1,1,16,128,bf16,none,30\n",
        encoding="utf-8",
    )
    (row,) = studies.run("training", path)["rows"]
    assert row["ours"] > 0
    assert "our memory model says it does not fit" in row["reason"]


@pytest.mark.slow
def test_packaged_figures() -> None:
    found: dict[str, Any] = studies.run("training")
    rows = found["rows"]
    assert len(rows) == 436 + 65
    korthikanti = [row for row in rows if "2205.05198" in row["source"]]
    errors = [row["error"] for row in korthikanti]
    assert len(errors) == 9
    assert all(row["role"] == "scored" for row in korthikanti)
    assert sum(map(abs, errors)) / 9 < 0.10  # the bars of the study itself
    assert abs(sum(errors) / 9) < 0.06
    vtrain = next(v for k, v in found["summary"]["by"]["source"].items() if "vTrain" in k)
    assert vtrain["n"] == 61
    assert vtrain["coverage"] == 1.0
    assert found["summary"]["by"]["model_class"]["dense"]["coverage"] > 0.85
    assert vtrain["mape"] < 0.065 and abs(vtrain["bias"]) < 0.04
    # median and 90th percentile that each group may have; experts on the H100 do not reach 13 % and 20 %
    bars = found["summary"]["by"]["bar"]
    for bar, median, most in (
        ("tabled dense", 0.08, 0.20), ("transferred dense", 0.15, 0.35), ("transferred moe", 0.15, 0.35),
        ("tabled moe", 0.20, 0.33),
    ):  # fmt: skip
        assert bars[bar]["median"] < median and bars[bar]["p90"] < most, bar
    json.dumps(found, allow_nan=False)
