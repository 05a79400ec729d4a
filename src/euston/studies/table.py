"""Reads a CSV of published figures: layout recognised by its header, values checked by line and column."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from euston.errors import ConfigError, at, nearest

__all__ = ["Layout", "Line", "read", "read_all"]

MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Layout:
    """Columns of one kind of file.

    Attributes
    ----------
    name : str
        File name it is known by.
    required, optional : tuple of str
        A header holds all of the first and none beyond both, in any order.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def accepts(self, header: Sequence[str]) -> bool:
        """Whether a header is of this layout."""
        given = set(header)
        return set(self.required) <= given <= {*self.required, *self.optional}


@dataclass(frozen=True)
class Line:
    """One line of data.

    Attributes
    ----------
    file : str
    number : int
        Line of the file, counted from 1.
    layout : str
    cells : dict of str to str
        Stripped text by column; a column the file lacks is empty.
    """

    file: str
    number: int
    layout: str
    cells: dict[str, str] = field(hash=False)

    def error(self, column: str, message: str) -> ConfigError:
        """A ConfigError at this line and column."""
        return ConfigError(at(f"{self.file}:{self.number}", f"column {column}: {message}"))

    def text(self, column: str) -> str:
        """The cell, "" where empty."""
        return self.cells.get(column, "")

    def whole(self, column: str) -> int | None:
        """A whole number above 0; None where empty.

        Raises
        ------
        ConfigError
            Anything else, with line and column.
        """
        text = self.text(column)
        if not text:
            return None
        value = self.number_in(column)
        if value is None or value != int(value):
            raise self.error(column, f"{text!r} is not a whole number")
        return int(value)

    def number_in(self, column: str) -> float | None:
        """A finite number above 0; None where empty.

        Raises
        ------
        ConfigError
            Anything else, with line and column.
        """
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            raise self.error(column, f"{text!r} is not a number") from None
        if not math.isfinite(value) or value <= 0:
            raise self.error(column, f"{text} must be a number above 0; leave it empty when unknown")
        return value


def read(path: str | Path, layouts: Sequence[Layout]) -> list[Line]:
    """Lines of one file. Empty lines and lines that start with ``#`` are skipped.

    Raises
    ------
    ConfigError
        A file that cannot be read, an unknown header (the layouts are listed), a line with too many or too
        few cells.
    """
    path = Path(path)
    name = path.name
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(at(name, "is larger than 64 MiB; a table of published figures is small"))
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(at(str(path), f"cannot be read: {error.strerror or error}")) from None
    except UnicodeDecodeError:
        raise ConfigError(at(name, "is not UTF-8 text; save it as CSV in UTF-8")) from None
    if "\0" in text:
        raise ConfigError(at(name, "holds NUL bytes; save it as CSV in UTF-8"))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    layout: Layout | None = None
    header: list[str] = []
    lines: list[Line] = []
    start = 1
    try:
        for cells in reader:
            number, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells) or cells[0].lstrip().startswith("#"):
                continue
            if layout is None:
                header = [cell.strip() for cell in cells]
                layout = _recognise(name, header, layouts)
                continue
            if len(cells) != len(header):
                raise ConfigError(
                    at(
                        f"{name}:{number}",
                        f"has {len(cells)} cells, but the header has {len(header)} columns",
                    )
                )
            values = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
            lines.append(Line(name, number, layout.name, values))
    except csv.Error as error:
        raise ConfigError(at(f"{name}:{reader.line_num}", f"is not CSV: {error}")) from None
    if layout is None:
        raise ConfigError(at(name, f"is empty; {_known(layouts)}"))
    if not lines:
        raise ConfigError(at(name, "has a header but no line of data"))
    return lines


def read_all(data: str | Path, layouts: Sequence[Layout]) -> list[Line]:
    """Lines of a file, or of all ``*.csv`` files of a directory in the order of their names."""
    path = Path(data)
    if not path.is_dir():
        return read(path, layouts)
    files = sorted(path.glob("*.csv"))
    if not files:
        raise ConfigError(at(str(path), f"holds no CSV file; {_known(layouts)}"))
    return [line for file in files for line in read(file, layouts)]


def _recognise(name: str, header: list[str], layouts: Sequence[Layout]) -> Layout:
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice is not None:
        raise ConfigError(at(f"{name}:1", f"column {twice!r} stands twice in the header"))
    for layout in layouts:
        if layout.accepts(header):
            return layout
    # The layout that shares most columns says best what is wrong.
    closest = max(layouts, key=lambda layout: len({*layout.required, *layout.optional} & set(header)))
    known = [*closest.required, *closest.optional]
    hints = []
    if len(set(known) & set(header)) * 2 > len(header):
        missing = [column for column in closest.required if column not in header]
        beyond = [column for column in header if column not in known]
        if beyond:
            guess = nearest(beyond[0], known)
            hints.append(
                f"{beyond[0]!r} is no column of {closest.name}"
                + (f" (did you mean {guess!r}?)" if guess else "")
            )
        if missing:
            hints.append(f"{', '.join(missing)} missing for {closest.name}")
    reason = f": {'; '.join(hints)}" if hints else ""
    raise ConfigError(at(name, f"unknown header{reason}; {_known(layouts)}"))


def _known(layouts: Sequence[Layout]) -> str:
    shown = "; ".join(
        f"{layout.name} ({', '.join([*layout.required, *layout.optional])})" for layout in layouts
    )
    return f"known layouts: {shown}"
