"""Reads the packaged kernel tables and says which one speaks for an accelerator."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from euston.devices._model import Table
from euston.devices.base import Provenance

if TYPE_CHECKING:
    from euston.catalog import Accelerator

DATA = Path(__file__).parent / "data"
CONSTANTS = "constants.json"

#: Element sizes in bytes of the input of a kernel; outputs of 8-bit GEMMs are 16 bit.
ELEMENT_BYTES = {
    "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0,
    "fp8-block": 1.0 + 4 / 128, "mxfp8": 1.0 + 1 / 32, "fp4": 0.5 + 1 / 16, "nvfp4": 0.5 + 1 / 16,
}  # fmt: skip
#: Whose peak, and whose table, a dtype uses: fp16 runs at bf16's rate; scales per block run on the fp8 units.
PEAK_DTYPE = {"fp16": "bf16", "fp8-block": "fp8", "mxfp8": "fp8", "nvfp4": "fp4"}
TABLE_DTYPE = {"fp16": "bf16", "mxfp8": "fp8-block", "nvfp4": "fp4"}
#: How far (relative) an accelerator's figures may be from the measured device's and still be that device.
SAME = 0.03


def rows(name: str, directory: Path = DATA) -> Iterator[dict[str, str]]:
    """Rows of a packaged CSV table, ``#`` comment lines skipped."""
    path = directory / name
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    yield from csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))


def wide(
    name: str, where: Mapping[str, str], keys: Sequence[str], along: str, directory: Path = DATA
) -> Table | None:
    """Rows of a table with one column of microseconds per value of `along`, as flat columns; None if none.

    Parameters
    ----------
    where
        Columns that must have these values.
    keys
        Columns that make up a shape, beside `along`.
    """
    columns: dict[str, list[float]] = {key: [] for key in (*keys, along)}
    seconds: list[float] = []
    for row in rows(name, directory):
        if any(row[key] != value for key, value in where.items()):
            continue
        shape = [float(row[key]) for key in keys]
        for key, text in row.items():
            if text and key.isdigit():
                for column, value in zip(keys, shape, strict=True):
                    columns[column].append(value)
                columns[along].append(float(key))
                seconds.append(float(text) * 1e-6)
    return _table(columns, seconds)


def long(name: str, where: Mapping[str, str], keys: Sequence[str], directory: Path = DATA) -> Table | None:
    """Rows of a table with one time per row, in the column ``us``; None if there are none."""
    columns: dict[str, list[float]] = {key: [] for key in keys}
    seconds: list[float] = []
    for row in rows(name, directory):
        if all(row[key] == value for key, value in where.items()):
            for key in keys:
                columns[key].append(float(row[key]))
            seconds.append(float(row["us"]) * 1e-6)
    return _table(columns, seconds)


def _table(columns: Mapping[str, Sequence[float]], seconds: Sequence[float]) -> Table | None:
    if not seconds:
        return None
    return Table({key: np.array(values) for key, values in columns.items()}, np.array(seconds))


@dataclass(frozen=True)
class Tabled:
    """The machine a kernel table was measured on (B/s, FLOP/s, W; scale-up per direction)."""

    name: str
    own: str
    words: tuple[str, ...]
    peak: dict[str, float]
    memory_bandwidth: float
    multiprocessors: int
    scale_up_bandwidth: float
    power_limit: float


@cache
def tabled(directory: Path = DATA) -> dict[str, Tabled]:
    """Every device that has a packaged table, by name."""
    return {
        row["device"]: Tabled(
            name=row["device"],
            own=row["own"],
            words=tuple(row["words"].split()),
            peak={
                dtype: float(row[f"peak_{dtype}"]) for dtype in ("bf16", "fp8", "fp4") if row[f"peak_{dtype}"]
            },
            memory_bandwidth=float(row["memory_bandwidth"]),
            multiprocessors=int(row["multiprocessors"]),
            scale_up_bandwidth=float(row["scale_up_bandwidth"]),
            power_limit=float(row["power_limit"]),
        )
        for row in rows("devices.csv", directory)
    }


@cache
def constants() -> dict[str, Any]:
    """The fitted constants (written by ``python -m euston.devices.fit``)."""
    loaded: dict[str, Any] = json.loads((DATA / CONSTANTS).read_text(encoding="utf-8"))
    return loaded


def letters(name: str) -> str:
    """A name reduced to lower-case letters and digits ("NVIDIA H100-SXM" -> "nvidiah100sxm")."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def nearest_table(accelerator: Accelerator) -> tuple[Tabled | None, Provenance]:
    """The table that speaks for an accelerator, and how: as ``measured`` on it or ``transferred`` to it.

    A table is an accelerator's own when its name says so *and* its peak, memory bandwidth, multiprocessors
    and power limit agree with the measured device; then it is ``measured``. Otherwise a relative of the same
    architecture is ``transferred`` (scaled by peak and bandwidth). ``(None, "roofline")`` when there is no
    relative.
    """
    name = letters(accelerator.name)
    # the longest word wins, so that "gh200" is not taken for an h200
    candidates = [
        (len(word), word, table)
        for table in tabled().values()
        for word in (table.own, *table.words)
        if word in name
    ]
    if not candidates:
        return None, "roofline"
    _, word, table = max(candidates, key=lambda item: item[0])
    same = (
        word == table.own
        and abs(accelerator.peak.get("bf16", 0.0) / table.peak["bf16"] - 1) < SAME
        and abs(accelerator.memory_bandwidth / table.memory_bandwidth - 1) < SAME
        and accelerator.multiprocessors == table.multiprocessors
        and not accelerator.power_limit < (1 - 3 * SAME) * table.power_limit  # unknown (NaN) is no objection
    )
    return table, "measured" if same else "transferred"


@cache
def _mamf() -> dict[tuple[str, str], tuple[float, float]]:
    return {
        (row["family"], row["dtype"]): (float(row["achieved"]), float(row["peak"]))
        for row in rows("mamf.csv")
    }


def achievable(name: str, dtype: str) -> tuple[float, float] | None:
    """Best published matmul rate and the peak it refers to, FLOP/s, by accelerator name; or None."""
    wanted = letters(name)
    found = [
        (len(family), value)
        for (family, kind), value in _mamf().items()
        if kind == dtype and family in wanted
    ]
    return max(found)[1] if found else None


def floats(values: Sequence[str]) -> list[float]:
    """Numbers of a row of strings; an empty cell is NaN."""
    return [float(value) if value else float("nan") for value in values]
