"""Result: saving and loading are inverse, a damaged folder is named, a failure leaves nothing behind."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from euston.errors import ResultError
from euston.result import TIMELINE, Result


def example() -> Result:
    timeline = pl.DataFrame(
        [("stage0", "compute", "F0", "forward", 0.0, 0.5, 0, -1, 0.0, 8)], schema=TIMELINE, orient="row"
    )
    return Result(
        "training",
        {"step_time": 8.31, "mfu": 0.41, "peak_memory": 70 * 2.0**30, "odd": math.nan, "limit": math.inf},
        {"step_time": "s", "mfu": "1", "peak_memory": "B"},
        {"memory": pl.DataFrame({"stage": [0, 1], "bytes": [1.0, 2.0]}), "empty": pl.DataFrame({"x": []})},
        timeline,
        {
            "seed": 0,
            "folding": True,
            "data_hashes": {"a.csv": "00"},
            "assumptions": [{"where": "x", "value": "1", "why": "", "source": "", "kind": "assumed"}],
            "sizes": np.arange(3),
            "where": Path("examples"),
        },
    )


def test_save_then_load_returns_the_same(tmp_path: Path) -> None:
    before = example()
    target = before.save(tmp_path / "deep" / "run")
    after = Result.load(target)
    assert sorted(path.name for path in target.iterdir()) == [
        "empty.parquet",
        "memory.parquet",
        "result.json",
        "timeline.parquet",
    ]
    assert [path.name for path in target.parent.iterdir()] == ["run"]  # nothing temporary is left
    assert json.loads((target / "result.json").read_text())["version"] == 1
    assert (after.kind, after.units) == (before.kind, before.units)
    assert list(after.scalars) == list(before.scalars)
    assert all(
        a == b or (math.isnan(a) and math.isnan(b))
        for a, b in zip(after.scalars.values(), before.scalars.values(), strict=True)
    )
    assert list(after.tables) == list(before.tables)
    for name, table in before.tables.items():
        assert_frame_equal(after.tables[name], table)
    assert after.timeline is not None and before.timeline is not None
    assert_frame_equal(after.timeline, before.timeline)
    assert after.meta["sizes"] == [0, 1, 2] and after.meta["where"] == "examples"
    assert after.meta["assumptions"] == before.meta["assumptions"]


@given(st.dictionaries(st.text("abcdefgh_", min_size=1), st.floats(), max_size=5))
def test_scalars_survive_the_json(
    tmp_path_factory: pytest.TempPathFactory, scalars: dict[str, float]
) -> None:
    target = tmp_path_factory.mktemp("r") / "run"
    after = Result.load(Result("x", scalars).save(target))
    assert pickle.dumps(list(after.scalars.items())) == pickle.dumps(list(scalars.items())) or any(
        math.isnan(value) for value in scalars.values()
    )


def test_saving_again_replaces_the_older_result(tmp_path: Path) -> None:
    example().save(tmp_path / "run")
    Result("training", {"step_time": 1.0}).save(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]
    assert Result.load(tmp_path / "run").step_time == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_no_result_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ResultError, match="exists and is not a saved result; choose another directory"):
        example().save(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="exists and is not a saved result"):
        example().save(tmp_path / "file")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ResultError, match="cannot be written"):
        example().save(tmp_path / "file" / "below")


def test_a_failed_save_leaves_nothing_and_keeps_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example().save(tmp_path / "run")
    broken = example()
    broken.meta["scenario"] = object()
    with pytest.raises(ResultError, match="`meta`: cannot be saved: object is not plain data"):
        broken.save(tmp_path / "run")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="no space left"):
        example().save(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert Result.load(tmp_path / "run").mfu == 0.41


@pytest.mark.parametrize("name", ["../evil", "a/b", "timeline", "", "a.b"])
def test_table_names_that_cannot_be_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ResultError, match="is not a usable name"):
        Result("x", tables={name: pl.DataFrame({"a": [1]})}).save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_damage_is_named_with_its_file(tmp_path: Path) -> None:
    def damaged(name: str, content: bytes | None) -> str:
        shutil.rmtree(tmp_path / "run")
        target = example().save(tmp_path / "run")
        if content is None:
            (target / name).unlink()
        else:
            (target / name).write_bytes(content)
        with pytest.raises(ResultError) as caught:
            Result.load(target)
        assert caught.value.exit_code == 2
        return str(caught.value).replace(str(target), "run")

    whole = (example().save(tmp_path / "run") / "result.json").read_bytes()
    table = (tmp_path / "run" / "memory.parquet").read_bytes()
    other = json.loads(whole) | {"version": 2}
    evil = json.loads(whole) | {"tables": {"../evil": {"rows": 1}}}
    rows = json.loads(whole)
    rows["tables"]["memory"]["rows"] = 3

    def as_bytes(content: object) -> bytes:
        return json.dumps(content).encode()

    assert damaged("result.json", whole[:200]).startswith("`run/result.json`: is truncated or corrupt: ")
    assert damaged("result.json", b"\xff\xfe").startswith("`run/result.json`: is truncated or corrupt: ")
    assert damaged("result.json", b"[" * 100_000).startswith("`run/result.json`: is truncated or corrupt")
    assert damaged("result.json", b"[]") == "`run/result.json`: is corrupt: it does not hold an object"
    assert (
        damaged("result.json", as_bytes({"version": 1})) == "`run/result.json`: is corrupt: KeyError('kind')"
    )
    assert (
        damaged("result.json", as_bytes(other))
        == "`run/result.json`: is of version 2; this euston reads version 1"
    )
    assert (
        damaged("result.json", as_bytes(evil))
        == "`run/result.json`: is corrupt: '../evil' is not a table's name"
    )
    assert damaged("result.json", None) == "`run/result.json`: is missing; this is not a saved result"
    assert damaged("memory.parquet", table[:-20]).startswith(
        "`run/memory.parquet`: is truncated or corrupt: "
    )
    assert damaged("timeline.parquet", b"").startswith("`run/timeline.parquet`: is truncated or corrupt: ")
    assert (
        damaged("memory.parquet", None) == "`run/memory.parquet`: is missing; the saved result is incomplete"
    )
    assert (
        damaged("result.json", as_bytes(rows))
        == "`run/memory.parquet`: has 2 rows, result.json says 3; it is not of this result"
    )


def test_compare_puts_both_sides_in_rows() -> None:
    a = Result("x", {"time": 2.0, "only_a": 1.0, "zero": 0.0}, {"time": "s"})
    b = Result("x", {"time": 3.0, "only_b": 5.0, "zero": 1.0}, {"only_b": "B"})
    expected = pl.DataFrame(
        {
            "name": ["time", "only_a", "zero", "only_b"],
            "unit": ["s", "", "", "B"],
            "a": [2.0, 1.0, 0.0, None],
            "b": [3.0, None, 1.0, 5.0],
            "ratio": [1.5, None, None, None],
        }
    )
    assert_frame_equal(a.compare(b), expected)
    assert Result("x").compare(Result("x")).height == 0


def test_scalars_are_attributes_and_a_wrong_one_offers_the_nearest() -> None:
    result = example()
    assert result.step_time == 8.31
    assert "step_time" in dir(result)
    with pytest.raises(AttributeError) as caught:
        _ = result.step_tim
    assert str(caught.value) == "unknown result value 'step_tim'; did you mean 'step_time'?"
    assert pickle.loads(pickle.dumps(result)).mfu == 0.41
    assert not hasattr(result, "_ipython_display_")


def test_repr_says_what_a_person_wants() -> None:
    assert repr(example()).splitlines() == [
        "Result(training)",
        "  step_time    8.31 s",
        "  mfu          0.41",
        "  peak_memory  70 GiB",
        "  odd          nan",
        "  limit        inf",
        "  tables: memory (2), empty (0)",
        "  timeline: 1 operations",
        "  assumptions: 1, see .meta['assumptions']",
    ]
    page = Result("<b>", {"<i>": 1.0})._repr_html_()
    assert "<i>" not in page and "&lt;i&gt;" in page and "&lt;b&gt;" in page
