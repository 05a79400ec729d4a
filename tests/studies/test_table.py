"""CSV files: layouts recognised by their header, every mistake named with line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from euston.errors import BadInput, ConfigError
from euston.studies._facts import DATA
from euston.studies._lines import LAYOUTS, MEASURED, VTRAIN, describe
from euston.studies.table import read, read_all

HEADER = "model,seq,accelerator,num_accel,framework,tp,pp,mbs,gbs,precision,recompute,iteration_time_s"
UNKNOWN = "leave it empty when unknown"
GOOD = "llama3-8b,8192,H100-SXM-80GB,8,mine,1,1,1,16,bf16,none,3.5"


def file(tmp_path: Path, *lines: str, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_packaged_files_are_recognised() -> None:
    lines = {name: read(DATA / name, LAYOUTS) for name in (MEASURED.name, VTRAIN.name)}
    assert {name: len(found) for name, found in lines.items()} == {MEASURED.name: 436, VTRAIN.name: 65}
    assert all(line.layout == name for name, found in lines.items() for line in found)
    assert all(line.text("source") for found in lines.values() for line in found)


def test_columns_in_any_order_with_comment_bom_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    reverse = [",".join(reversed(text.split(","))) for text in (HEADER, GOOD)]
    path.write_text("\ufeff# mine\n" + reverse[0] + "\n\n" + reverse[1] + "\n", encoding="utf-8")
    (line,) = read(path, LAYOUTS)
    assert line.layout == MEASURED.name
    assert line.number == 4
    assert line.whole("gbs") == 16


def test_unknown_header_lists_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file(tmp_path, "a,b,c", "1,2,3"), LAYOUTS)
    message = str(caught.value)
    assert message.startswith(
        "`mine.csv`: unknown header; known layouts: training_sim_measured.csv (model, seq,"
    )
    assert "training_sim_vtrain_multi.csv (accelerator," in message
    assert caught.value.exit_code == 2


def test_misspelt_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'precison' is no column of .* \(did you mean 'precision'\?\)"):
        read(file(tmp_path, HEADER.replace("precision", "precison"), GOOD), LAYOUTS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("8192", "eight", "`mine.csv:2`: column seq: 'eight' is not a number"),
        ("8192", "8192.5", "`mine.csv:2`: column seq: '8192.5' is not a whole number"),
        ("8192", "", "`mine.csv:2`: column seq: is empty; it cannot be guessed"),
        (",16,", ",-16,", "`mine.csv:2`: column gbs: -16 must be a number above 0; " + UNKNOWN),
        ("3.5", "nan", "`mine.csv:2`: column iteration_time_s: nan must be a number above 0; " + UNKNOWN),
        ("bf16", "bf17", "`mine.csv:2`: column precision: unknown precision 'bf17'; did you mean 'bf16'?"),
        (
            ",none", ",selectiv",
            "`mine.csv:2`: column recompute: unknown recompute 'selectiv'; did you mean 'selective'?",
        ),
        (",3.5", ",3.5,1", "`mine.csv:2`: has 13 cells, but the header has 12 columns"),
    ],
)  # fmt: skip
def test_malformed_values_name_line_and_column(tmp_path: Path, old: str, new: str, message: str) -> None:
    from euston import studies

    with pytest.raises(BadInput) as caught:
        studies.run("training", file(tmp_path, HEADER, GOOD.replace(old, new, 1)))
    assert str(caught.value) == message


def test_files_that_are_no_table(tmp_path: Path) -> None:
    for content, message in (
        (b"", "is empty; known layouts"),
        (HEADER.encode(), "has a header but no line of data"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a\0b", "NUL bytes"),
        (f'{HEADER}\n"open'.encode(), "is not CSV"),
        (f"{HEADER},tp\n".encode(), "column 'tp' stands twice"),
    ):
        path = tmp_path / "mine.csv"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            read(path, LAYOUTS)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.csv", LAYOUTS)


def test_directory_is_read_file_by_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no CSV file"):
        read_all(tmp_path, LAYOUTS)
    file(tmp_path, HEADER, GOOD, name="b.csv")
    file(tmp_path, HEADER, GOOD, GOOD, name="a.csv")
    assert [line.file for line in read_all(tmp_path, LAYOUTS)] == ["a.csv", "a.csv", "b.csv"]


def test_every_packaged_line_is_described() -> None:
    """No word of the packaged files is unknown; what cannot be run has a reason, what can has none."""
    for name in (MEASURED.name, VTRAIN.name):
        for line in read(DATA / name, LAYOUTS):
            found = describe(line)
            assert (found.job is None) == bool(found.reason), line.number
            assert set(found.guessed) <= {"shape", "precision", "tp", "pp", "mbs", "gbs", "recompute", "vp"}
            if found.job is not None:
                assert found.job.parallel.world == line.whole("num_accel")
