"""Tables of flows to `Flows`: known columns and units, every value checked, errors with line and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.errors import ConfigError, TraceError, nearest
from euston.network.flows import MAX_FLOW_BYTES, Flows

__all__ = ["COLUMNS", "check_header", "flows_from_columns"]


@dataclass(frozen=True)
class Column:
    """A column that a table may have: what it stands for and the factor to SI."""

    name: str
    scale: float = 1.0
    text: bool = False


COLUMNS: dict[str, Column] = {
    "flow": Column("flow"),
    "id": Column("flow"),
    "src": Column("src"),
    "dst": Column("dst"),
    "bytes": Column("bytes"),
    "size": Column("bytes"),
    "start": Column("start"),
    "t": Column("start"),
    "start_ms": Column("start", 1e3),
    "start_us": Column("start", 1e6),
    "start_ns": Column("start", 1e9),
    "after": Column("after", text=True),
    "delay": Column("delay"),
    "delay_ms": Column("delay", 1e3),
    "delay_us": Column("delay", 1e6),
    "delay_ns": Column("delay", 1e9),
    "weight": Column("weight"),
    "queue": Column("queue"),
    "priority": Column("priority"),
    "rate_cap": Column("rate_cap"),
    "tag": Column("tag", text=True),
}
"""Columns by their names in files; ``scale`` of them make a second. The rest is bytes and bytes/s."""

_REQUIRED = ("src", "dst", "bytes")
_DEFAULT = {"start": 0.0, "delay": 0.0, "weight": 1.0, "queue": 0.0, "priority": 0.0, "rate_cap": np.inf}
_MOST_TAGS = 1_000_000


def check_header(name: str, line: int, header: list[str]) -> None:
    """Refuse columns that are unknown, doubled or missing.

    Raises
    ------
    TraceError
        At ``name:line``, with the nearest column there is.
    """
    where = f"`{name}:{line}`"
    seen: dict[str, str] = {}
    for column in header:
        if column not in COLUMNS:
            guess = nearest(column, COLUMNS)
            hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(COLUMNS)}"
            raise TraceError(f"{where}: unknown column {column[:60]!r}; {hint}")
        meant = COLUMNS[column].name
        if meant in seen:
            raise TraceError(f"{where}: columns {seen[meant]!r} and {column!r} say the same; leave one out")
        seen[meant] = column
    for need in _REQUIRED:
        if need not in seen:
            raise TraceError(f"{where}: column {need!r} is missing; a flow needs src, dst and bytes")
    if "after" in seen and "flow" not in seen:
        raise TraceError(f"{where}: 'after' names flows, but there is no column 'flow' with their numbers")


class _Table:
    """One table while it is read: values by canonical name, and errors that find their line."""

    def __init__(self, name: str, frame: pl.DataFrame, line: Callable[[int], int]) -> None:
        self.name, self.line = name, line
        self.given = {COLUMNS[c].name: c for c in frame.columns}
        self.frame = frame

    def fail(self, row: int, column: str, message: str) -> NoReturn:
        shown = self.given.get(column, column)
        raise TraceError(f"`{self.name}:{self.line(row)}`: column {shown}: {message}")

    def first(self, bad: NDArray[np.bool_], column: str, want: str) -> None:
        """Fail at the first bad row, showing what stands there."""
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = self.frame[self.given[column]][row]
            shown = "nothing" if value is None or value == "" else str(value)[:60]
            self.fail(row, column, f"{shown} is not {want}")

    def number(self, column: str, want: str) -> NDArray[np.float64]:
        """Values in SI; the default where a cell is empty, NaN never."""
        series = self.frame[self.given[column]]
        empty = series.is_null()
        if series.dtype == pl.String:
            series = series.str.strip_chars()
            empty = empty | (series == "").fill_null(True)
        elif not series.dtype.is_numeric():
            raise TraceError(f"`{self.name}`: column {self.given[column]} holds {series.dtype}, not numbers")
        values = series.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy().copy()
        if column in _DEFAULT:
            values[empty.to_numpy()] = _DEFAULT[column]
        self.first(np.isnan(values), column, want)
        scale = COLUMNS[self.given[column]].scale
        return values / scale if scale != 1.0 else values

    def whole(self, column: str, want: str, low: float, high: float) -> NDArray[np.int64]:
        values = self.number(column, want)
        self.first(~((values >= low) & (values <= high) & (values == np.floor(values))), column, want)
        return values.astype(np.int64)


def flows_from_columns(name: str, frame: pl.DataFrame, line: Callable[[int], int]) -> Flows:
    """Flows from a table whose header `check_header` has passed.

    Parameters
    ----------
    name : str
        The file, for errors.
    frame : polars.DataFrame
        Columns as in `COLUMNS`, of text or numbers.
    line : callable
        Line of the file that a row stands in.

    Raises
    ------
    TraceError
        At line and column, for the first value that cannot be.
    """
    table = _Table(name, frame, line)
    if not frame.height:
        raise TraceError(f"`{name}`: holds no flow; write one per line")
    top = float(np.iinfo(np.int32).max)
    src = table.whole("src", "the number of an endpoint", 0, top)
    dst = table.whole("dst", "the number of an endpoint", 0, top)
    size = table.whole("bytes", "a whole number of bytes between 1 and 2^40", 1, MAX_FLOW_BYTES)
    table.first(src == dst, "dst", "another endpoint than src; a flow to itself moves nothing")
    values: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {}
    for column in ("start", "delay"):
        if column in table.given:
            time = table.number(column, "a time of 0 or more")
            table.first(~((time >= 0) & (time < np.inf)), column, "a time of 0 or more")
            values[column] = time
    for column, want in (("weight", "a positive number"), ("rate_cap", "a positive number of bytes/s")):
        if column in table.given:
            number = table.number(column, want)
            finite = number < np.inf if column == "weight" else np.ones(number.size, bool)
            table.first(~((number > 0) & finite), column, want)
            values[column] = number
    for column in ("queue", "priority"):
        if column in table.given:
            values[column] = table.whole(column, "a whole number from 0 to 255", 0, 255)
    group, tags = _tags(table)
    after = _after(table)
    try:
        return Flows.of(
            src, dst, size, after=after, group=group, tags=tags, where=name, **values
        )  # fmt: skip
    except ConfigError as error:
        # all else is checked above: what is left is a circle, and the message names a flow of it
        row = re.search(r"flow (\d+) waits", str(error))
        if row is None:
            raise
        table.fail(int(row[1]), "after", "the flow waits for itself, through others; break the circle")


def _tags(table: _Table) -> tuple[NDArray[np.int64] | int, list[str]]:
    if "tag" not in table.given:
        return -1, []
    series = table.frame[table.given["tag"]].cast(pl.String).fill_null("").str.strip_chars()
    tags = [tag for tag in series.unique(maintain_order=True).to_list() if tag]
    if len(tags) > _MOST_TAGS:
        raise TraceError(f"`{table.name}`: {len(tags):,} different tags; at most {_MOST_TAGS:,} are kept")
    if not tags:
        return -1, []
    codes = series.replace_strict(tags, list(range(len(tags))), default=-1, return_dtype=pl.Int64)
    return codes.to_numpy(), tags


def _after(table: _Table) -> list[Sequence[int]] | None:
    """Rows that each row waits for, from the numbers in ``after`` and ``flow``."""
    n = table.frame.height
    if "flow" not in table.given:
        return None
    ids = table.whole("flow", "a whole number that names the flow", -(2.0**53), 2.0**53)
    order = np.argsort(ids, kind="stable")
    known = ids[order]
    twice = np.flatnonzero(known[1:] == known[:-1])
    if twice.size:
        row = int(order[twice + 1].min())
        table.fail(row, "flow", f"{ids[row]} stands twice; every flow needs a number of its own")
    if "after" not in table.given:
        return None
    cells = table.frame[table.given["after"]].cast(pl.String).fill_null("").str.strip_chars()
    used = np.flatnonzero((cells != "").to_numpy())
    if not used.size:
        return None
    want = "the numbers of other flows, separated by blanks"
    pieces = cells.gather(used).str.replace_all(r"[;\s]+", " ").str.strip_chars().str.split(" ")
    length = pieces.list.len().to_numpy()
    number = pieces.explode().cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    owner = np.repeat(used, length)
    at = np.minimum(np.searchsorted(known, np.nan_to_num(number, nan=0.0)), n - 1)
    bad = (known[at] != number) | (order[at] == owner)
    if bad.any():
        row = int(owner[np.flatnonzero(bad)[0]])
        text = str(cells[row])[:60]
        known_text = f"flows go from {known[0]} to {known[-1]}"
        table.fail(row, "after", f"{text!r} is not {want}; {known_text}")
    held, end = order[at].tolist(), np.cumsum(length).tolist()
    rows: list[Sequence[int]] = [()] * n
    for row, first, last in zip(used.tolist(), [0, *end], end, strict=False):
        rows[row] = held[first:last]
    return rows
