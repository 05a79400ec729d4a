"""Trace files: bounded reading (plain or .gz), tables of numbers with line and column in every error."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.errors import TraceError, nearest

__all__ = ["Table", "json_lines", "read_bytes", "table"]

MOST = 2**31
"""Bytes of a trace, unpacked."""
LONGEST = 2**24
"""Characters of a JSON line."""


def read_bytes(path: str | Path, most: int = MOST) -> bytes:
    """The content of a file, unpacked where its name ends in ``.gz``.

    Raises
    ------
    TraceError
        When it cannot be read or unpacked, is no plain file or is larger than ``most`` bytes.
    """
    p = Path(path)
    try:
        if p.exists() and not p.is_file():
            raise TraceError(f"`{p}`: is not a file; name a trace")
        with gzip.open(p) if p.suffix == ".gz" else p.open("rb") as file:
            content = file.read(most + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise TraceError(f"`{p.name}`: is no complete gzip file") from None
    except OSError as error:
        raise TraceError(f"`{p}`: cannot be read: {error.strerror or error}") from None
    if len(content) > most:
        raise TraceError(f"`{p.name}`: is larger than {most >> 20:,} MiB unpacked; split it")
    return content


class Table:
    """Columns of a CSV file as text, turned into numbers on demand."""

    def __init__(self, name: str, frame: pl.DataFrame) -> None:
        self.name, self.frame = name, frame

    def __len__(self) -> int:
        return self.frame.height

    def error(self, row: int, column: str, message: str) -> TraceError:
        """A TraceError at a row (from 0) and column."""
        return TraceError(f"`{self.name}:{row + 2}`: column {column}: {message}")

    def text(self, column: str) -> pl.Series:
        """A column as it stands."""
        return self.frame[column]

    def whole(self, column: str, *, least: int) -> NDArray[np.int64]:
        """A column of whole numbers of ``least`` or more, int64[n]."""
        values = self.frame[column].str.strip_chars().cast(pl.Int64, strict=False)
        self._refuse(values, column, f"a whole number of {least} or more", values < least)
        return values.to_numpy()

    def number(self, column: str, *, least: float = 0.0) -> NDArray[np.float64]:
        """A column of finite numbers of ``least`` or more, float64[n]."""
        values = self.frame[column].str.strip_chars().cast(pl.Float64, strict=False)
        wrong = (values < least) | ~values.is_finite()
        self._refuse(values, column, f"a finite number of {least:g} or more", wrong)
        return values.to_numpy()

    def _refuse(self, values: pl.Series, column: str, wanted: str, wrong: pl.Series) -> None:
        bad = (wrong | values.is_null()).fill_null(True).arg_true()
        if bad.len():
            row = int(bad[0])
            given = self.frame[column][row]
            raise self.error(row, column, f"{given!r} is not {wanted}" if given else f"is empty; {wanted}")


def table(path: str | Path, required: Sequence[str]) -> Table:
    """A CSV file with at least the required columns.

    Raises
    ------
    TraceError
        Not UTF-8, a missing column (the nearest is named), a line with too many or too few cells.
    """
    name, content = Path(path).name, read_bytes(path)
    try:
        frame = pl.read_csv(content, infer_schema=False, encoding="utf8")
    except (pl.exceptions.PolarsError, UnicodeError):
        raise _csv_problem(name, content) from None
    frame = frame.rename({column: column.strip() for column in frame.columns})
    for column in required:
        if column not in frame.columns:
            close = nearest(column, frame.columns)
            hint = f"; did you mean {close[0]!r}" if close else ""
            raise TraceError(
                f"`{name}:1`: has no column {column}{hint}; it has {', '.join(frame.columns) or 'none'}"
            )
    return Table(name, frame)


def _csv_problem(name: str, content: bytes) -> TraceError:
    """What is wrong with a file that the fast reader refused, found line by line."""
    if not content.strip():
        return TraceError(f"`{name}`: is empty; a header line and one line per request are needed")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return TraceError(f"`{name}:{line}`: is not UTF-8 text")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        width = len(next(reader))
        for cells in reader:
            if cells and len(cells) != width:
                return TraceError(
                    f"`{name}:{reader.line_num}`: {len(cells)} cells where the header has {width}"
                )
    except csv.Error as error:
        return TraceError(f"`{name}:{reader.line_num}`: is not CSV: {error}")
    return TraceError(f"`{name}`: is not CSV")


def json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of every line that is not blank.

    Raises
    ------
    TraceError
        A line that is no JSON object, or longer than 16 MiB.
    """
    name, content = Path(path).name, read_bytes(path)
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.strip():
            continue
        if len(line) > LONGEST:
            raise TraceError(f"`{name}:{number}`: is longer than {LONGEST >> 20} MiB")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            column = getattr(error, "colno", 1)
            raise TraceError(f"`{name}:{number}:{column}`: is not JSON") from None
        if not isinstance(found, dict):
            raise TraceError(f"`{name}:{number}`: is not a JSON object in braces")
        yield number, found
