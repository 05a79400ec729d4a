"""Flow lists as files, by suffix: CSV, JSON lines, Parquet and htsim's connection matrices."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from euston.errors import ConfigError, TraceError, nearest, unknown
from euston.network.flows import Flows
from euston.traffic._files import as_text, read_bytes, writing
from euston.traffic.columns import check_header, flows_from_columns
from euston.traffic.htsim import read_connections, write_connections

__all__ = ["FORMATS", "read_flows", "write_flows"]

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".cm": "htsim"}
"""Formats by suffix."""

_MOST_BYTES = 2**31
_MOST_FLOWS = 2**26
_MOST_LINE = 2**20


def _format(path: str | Path, given: str | None) -> str:
    names = tuple(dict.fromkeys(FORMATS.values()))
    if given is not None:
        if given not in names:
            raise ConfigError(unknown("format of a flow list", given, names))
        return given
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        guess = nearest(suffix, FORMATS)
        hint = f"did you mean {guess}?" if guess else f"known: {', '.join(FORMATS)}"
        raise ConfigError(f"`{path}`: no flow list is called {suffix or 'so'}; {hint}")
    return FORMATS[suffix]


def read_flows(path: str | Path, *, format: str | None = None) -> Flows:
    """Flows from a file.

    Columns (or JSON keys): ``src``, ``dst``, ``bytes`` (or ``size``); optional ``flow`` (or ``id``),
    ``start`` (or ``t``) in s, also ``start_ms``, ``start_us``, ``start_ns``; ``after``: numbers of flows that
    must end first, separated by blanks; ``delay`` like start; ``weight``, ``queue``, ``priority``,
    ``rate_cap`` in bytes/s, ``tag``.

    Parameters
    ----------
    path : path
    format : "csv" | "jsonl" | "parquet" | "htsim", optional
        By suffix when left out: `FORMATS`.

    Raises
    ------
    TraceError
        For a file that cannot be read, with line and column.
    ConfigError
        For an unknown suffix.
    """
    kind = _format(path, format)
    name, content = read_bytes(path, _MOST_BYTES, "a flow list")
    if kind == "parquet":
        return _read_parquet(name, content)
    text = as_text(name, content)
    if kind == "htsim":
        return read_connections(text, name=name)
    return _read_csv(name, text) if kind == "csv" else _read_jsonl(name, text)


def write_flows(flows: Flows, path: str | Path, *, format: str | None = None, **options: Any) -> Path:
    """Write flows so that `read_flows` gives them back; nothing is left behind on failure.

    Parameters
    ----------
    options
        Of `write_connections`, for htsim's format.

    Raises
    ------
    ConfigError
        For an unknown suffix, or flows that the format cannot express.
    """
    kind = _format(path, format)
    if kind == "htsim":
        text = write_connections(flows, **options)
        with writing(path) as file:
            file.write(text.encode())
        return Path(path)
    if options:
        raise ConfigError(f"`{next(iter(options))}`: no option of the format {kind!r}")
    table = flows.table()
    with writing(path) as file:
        if kind == "csv":
            table.write_csv(file)
        elif kind == "parquet":
            table.write_parquet(file)
        else:
            table.with_columns(
                pl.when(pl.col("rate_cap").is_finite()).then("rate_cap").alias("rate_cap")
            ).write_ndjson(file)
    return Path(path)


# ---- CSV ---------------------------------------------------------------------------------------------------


def _read_csv(name: str, text: str) -> Flows:
    start, number = 0, 0
    header: list[str] = []
    while start < len(text) and not header:
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line, start, number = text[start:end].strip(), end + 1, number + 1
        if len(line) > _MOST_LINE:
            raise TraceError(f"`{name}:{number}`: is longer than 1 MiB; this is no CSV of flows")
        if line and not line.startswith("#"):
            try:
                header = [cell.strip() for cell in next(csv.reader([line], strict=True))]
            except csv.Error as error:
                raise TraceError(f"`{name}:{number}`: is not CSV: {error}") from None
    if not header:
        raise TraceError(f"`{name}`: is empty; write a header such as src,dst,bytes,start_us")
    check_header(name, number, header)
    body = text[start:]
    if not body.strip():
        raise TraceError(f"`{name}`: has a header but no flow")
    if body.count("\n") > _MOST_FLOWS:
        raise TraceError(f"`{name}`: has more than {_MOST_FLOWS:,} lines; split it")
    try:
        frame = pl.read_csv(
            io.BytesIO(f"{','.join(header)}\n{body}".encode()),
            infer_schema=False,
            comment_prefix="#",
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _csv_error(name, body, number, len(header), str(error)) from None
    blank = pl.all().str.strip_chars().fill_null("") == ""
    empty = frame.select(pl.all_horizontal(blank)).to_series().to_numpy()
    kept = np.flatnonzero(~empty)
    return flows_from_columns(name, frame.filter(~empty), _csv_line(body, number, kept))


def _csv_line(body: str, header_line: int, kept: np.ndarray[Any, Any]) -> Callable[[int], int]:
    """Line of a row; the records are only counted when someone asks."""

    def line(row: int) -> int:
        wanted = int(kept[row])
        with contextlib.suppress(_BadRecordError):
            for seen, (number, _) in enumerate(_records(body, header_line)):
                if seen == wanted:
                    return number
        return header_line + 1 + wanted

    return line


def _records(body: str, header_line: int, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of every record that is no comment; blank lines count, as they do for the reader."""
    reader = csv.reader(io.StringIO(body, newline=""), strict=strict)
    begin = header_line + 1
    try:
        for cells in reader:
            number, begin = begin, header_line + reader.line_num + 1
            if not (cells and cells[0].startswith("#")):
                yield number, cells
    except csv.Error as error:
        raise _BadRecordError(begin, str(error)) from None


class _BadRecordError(Exception):
    """Line and reason of a record that is no CSV."""


def _csv_error(name: str, body: str, header_line: int, width: int, message: str) -> TraceError:
    try:
        for number, cells in _records(body, header_line, strict=True):
            if len(cells) > width:
                return TraceError(
                    f"`{name}:{number}`: has {len(cells)} cells; the header has {width} columns"
                )
    except _BadRecordError as error:
        number, reason = error.args
        return TraceError(f"`{name}:{number}`: is not CSV: {reason}")
    return TraceError(f"`{name}`: is not CSV: {message.splitlines()[0][:200] if message else 'unreadable'}")


# ---- JSON lines --------------------------------------------------------------------------------------------


def _read_jsonl(name: str, text: str) -> Flows:
    numbers: list[int] = []
    keys: tuple[str, ...] = ()
    columns: dict[str, list[Any]] = {}
    now: list[list[Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > _MOST_LINE:
            raise TraceError(f"`{name}:{number}`: is longer than 1 MiB; write one flow per line")
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or "too deep, or a number too long"
            place = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise TraceError(f"`{name}:{number}`: is not JSON: {reason}{place}") from None
        if not isinstance(item, dict):
            raise TraceError(f'`{name}:{number}`: is not an object; write {{"src": 0, "dst": 1, "bytes": 8}}')
        if tuple(item) != keys:
            keys = tuple(item)
            check_header(name, number, list(dict.fromkeys((*columns, *keys))))
            for key in keys:
                columns.setdefault(key, [None] * len(numbers))
            now = [columns[key] for key in keys]
        numbers.append(number)
        for column, value in zip(now, item.values(), strict=True):
            column.append(value)
        if len(keys) < len(columns):
            for column in columns.values():
                if len(column) < len(numbers):
                    column.append(None)
        if len(numbers) > _MOST_FLOWS:
            raise TraceError(f"`{name}:{number}`: more than {_MOST_FLOWS:,} flows; split the file")
    if not numbers:
        raise TraceError(f"`{name}`: is empty; write one object per line")
    frame = pl.DataFrame([_series(name, numbers, key, values) for key, values in columns.items()])
    return flows_from_columns(name, frame, numbers.__getitem__)


def _series(name: str, lines: list[int], key: str, values: list[Any]) -> pl.Series:
    """One key of all objects: numbers or text as they are, a mixture as the text that a CSV would hold."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {str}:
        return pl.Series(key, values, pl.String)
    if kinds <= {int, float} and key not in ("after", "tag"):
        with contextlib.suppress(OverflowError):
            return pl.Series(key, [v if v is None else float(v) for v in values], pl.Float64)
    return pl.Series(key, [_cell(name, lines[i], key, v) for i, v in enumerate(values)], pl.String)


def _cell(name: str, line: int, key: str, value: Any) -> str | None:
    """A JSON value as the text that a CSV would hold."""
    if value is None or type(value) is str:
        return value
    if type(value) is int or type(value) is float:
        return repr(value)
    if key == "after" and isinstance(value, list) and all(type(v) is int or type(v) is str for v in value):
        return " ".join(map(str, value))
    raise TraceError(f"`{name}:{line}`: column {key}: {json.dumps(value)[:60]} is not a number")


# ---- Parquet -----------------------------------------------------------------------------------------------


def _read_parquet(name: str, content: bytes) -> Flows:
    try:
        lazy = pl.scan_parquet(io.BytesIO(content))
        header = lazy.collect_schema().names()
        check_header(name, 1, header)
        rows = lazy.select(pl.len()).collect().item()
        if rows > _MOST_FLOWS:
            raise TraceError(f"`{name}`: has {rows:,} flows; at most {_MOST_FLOWS:,} are read")
        frame = lazy.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"`{name}`: is not Parquet: {str(error).splitlines()[0][:200]}") from None
    return flows_from_columns(name, frame, lambda row: row + 1)
