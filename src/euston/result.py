"""`Result`: what a run gives back, as data that can be saved, loaded and compared; no drawing here."""

from __future__ import annotations

import contextlib
import html
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from euston import units
from euston.errors import ResultError, at, unknown

__all__ = ["TIMELINE", "VERSION", "Result"]

VERSION = 1
"""Version of the saved form."""

TIMELINE: dict[str, pl.DataType] = {
    "actor": pl.String(),
    "stream": pl.String(),
    "name": pl.String(),
    "kind": pl.String(),
    "start": pl.Float64(),
    "end": pl.Float64(),
    "micro_batch": pl.Int32(),
    "chunk": pl.Int32(),
    "bytes": pl.Float64(),
    "count": pl.Int64(),
}
"""Columns of a timeline: who (actor, stream), what (name, kind), when (start, end in s), which micro-batch
and chunk (-1: none), bytes moved, and how many equal ranks the line stands for."""

_DIMENSION = {
    "s": "duration",
    "B": "data",
    "B/s": "bandwidth",
    "FLOP/s": "flops",
    "W": "power",
    "J": "energy",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MAX_JSON = 256 * 2**20


@dataclass(repr=False)
class Result:
    """Outcome of one run.

    Attributes
    ----------
    kind : str
        What was run: ``"training"``, ``"network"``, ...
    scalars : dict of str to float
        Headline numbers, SI. Also readable as attributes: ``r.step_time`` is ``r.scalars["step_time"]``.
    units : dict of str to str
        Unit of each scalar: ``"s"``, ``"B"``, ``"B/s"``, ``"FLOP/s"``, ``"J"``, ``"USD"``, ``"1"`` for a
        fraction.
    tables : dict of str to polars.DataFrame
        Named tables, saved as Parquet. Names are letters, digits, ``_`` and ``-``.
    timeline : polars.DataFrame or None
        One line per operation, columns as in `TIMELINE`.
    meta : dict
        Plain data: scenario, package_version, seed, fidelity, tolerances, folding, data_hashes, catalog and
        assumptions, a list of ``{where, value, why, source, kind}``.
    """

    kind: str
    scalars: dict[str, float] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    timeline: pl.DataFrame | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> float:
        scalars = self.__dict__.get("scalars", {})  # absent while unpickling
        if name in scalars:
            return float(scalars[name])
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(unknown("result value", name, scalars))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.scalars]

    def text(self, name: str) -> str:
        """One scalar for people: ``r.text("step_time") == "8.31 s"``."""
        return _text(self.scalars[name], self.units.get(name, ""))

    def __repr__(self) -> str:
        lines = [f"Result({self.kind})"]
        width = max((len(name) for name in self.scalars), default=0)
        lines += [f"  {name:<{width}}  {self.text(name)}" for name in self.scalars]
        if self.tables:
            lines.append(
                "  tables: " + ", ".join(f"{name} ({table.height})" for name, table in self.tables.items())
            )
        if self.timeline is not None:
            lines.append(f"  timeline: {self.timeline.height} operations")
        if assumptions := self.meta.get("assumptions"):
            lines.append(f"  assumptions: {len(assumptions)}, see .meta['assumptions']")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td><b>{html.escape(self.text(name))}</b></td></tr>"
            for name in self.scalars
        )
        rest = "<br>".join(
            html.escape(line.strip()) for line in repr(self).splitlines()[1 + len(self.scalars) :]
        )
        return f"<b>{html.escape(self.kind)}</b><table>{rows}</table><small>{rest}</small>"

    def compare(self, other: Result) -> pl.DataFrame:
        """Put the scalars of two results side by side.

        Returns
        -------
        polars.DataFrame
            Columns ``name``, ``unit``, ``a`` (this), ``b`` (the other), ``ratio`` = b / a. What only one of
            them has is null in the other; the ratio is null where it cannot be formed.
        """
        names = [*self.scalars, *(name for name in other.scalars if name not in self.scalars)]
        rows = []
        for name in names:
            a, b = self.scalars.get(name), other.scalars.get(name)
            ratio = b / a if a and b is not None and math.isfinite(a) and math.isfinite(b) else None
            rows.append((name, self.units.get(name, other.units.get(name, "")), a, b, ratio))
        schema = {"name": pl.String, "unit": pl.String, "a": pl.Float64, "b": pl.Float64, "ratio": pl.Float64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def save(self, directory: str | Path) -> Path:
        """Write ``result.json`` and one Parquet file per table into `directory`.

        Everything is written beside it first and renamed at the end: a failure leaves nothing, and an older
        result there stays whole until the new one is. Only a directory that holds a saved result is replaced.

        Raises
        ------
        ResultError
            `directory` exists and is no saved result, a table's name cannot be a file's, `meta` is not plain.
        """
        target = Path(directory)
        if (
            target.exists()
            and not (target / "result.json").is_file()
            and (not target.is_dir() or any(target.iterdir()))
        ):
            raise ResultError(
                at(str(directory), "exists and is not a saved result; choose another directory")
            )
        frames = self._frames()
        content = {
            "version": VERSION,
            "kind": self.kind,
            "scalars": {name: _number(value) for name, value in self.scalars.items()},
            "units": self.units,
            "tables": {
                name: {"file": f"{name}.parquet", "rows": frame.height} for name, frame in frames.items()
            },
            "meta": self.meta,
        }
        try:
            text = json.dumps(content, indent=1, default=_plain)
        except (TypeError, ValueError) as error:
            raise ResultError(at("meta", f"cannot be saved: {error}")) from error
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        except OSError as error:
            raise ResultError(at(str(directory), f"cannot be written: {error.strerror}")) from None
        try:
            for name, frame in frames.items():
                frame.write_parquet(temporary / f"{name}.parquet")
            (temporary / "result.json").write_text(text, encoding="utf-8")
            temporary.chmod(0o777 & ~_umask())  # mkdtemp made it private
            _replace(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return target

    def _frames(self) -> dict[str, pl.DataFrame]:
        for name in self.tables:
            if not _NAME.fullmatch(name) or name == "timeline":
                raise ResultError(
                    at(f"tables.{name}", "is not a usable name; use letters, digits, '_' and '-'")
                )
        return {**self.tables, **({"timeline": self.timeline} if self.timeline is not None else {})}

    @classmethod
    def load(cls, directory: str | Path) -> Result:
        """Read a saved result.

        Raises
        ------
        ResultError
            A missing, truncated or corrupt file, or an unknown version; the message names the file.
        """
        path = Path(directory) / "result.json"
        content = _read_json(path)
        version = content.get("version")
        if version != VERSION:
            raise ResultError(
                at(str(path), f"is of version {version!r}; this euston reads version {VERSION}")
            )
        try:
            kind, scalars = str(content["kind"]), dict(content["scalars"])
            unit, listed, meta = dict(content["units"]), dict(content["tables"]), dict(content["meta"])
            numbers = {str(name): float(value) for name, value in scalars.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError(at(str(path), f"is corrupt: {error!r}")) from error
        frames = {name: _read_table(Path(directory), name, about) for name, about in listed.items()}
        timeline = frames.pop("timeline", None)
        return cls(kind, numbers, unit, frames, timeline, meta)


def _text(value: float, unit: str) -> str:
    if unit in _DIMENSION and math.isfinite(value):
        formatted = {
            "duration": units.format_seconds,
            "data": units.format_bytes,
            "bandwidth": units.format_bandwidth,
            "flops": units.format_flops,
            "power": units.format_power,
            "energy": units.format_energy,
        }[_DIMENSION[unit]]
        return formatted(value)
    return f"{value:.4g}" if unit in ("", "1") else f"{value:.4g} {unit}"


def _number(value: float) -> float | str:
    # JSON has no NaN or infinity; float("nan") reads them back
    return float(value) if math.isfinite(value) else str(float(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not plain data")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / target.name)
    try:
        temporary.rename(target)
    except BaseException:
        with contextlib.suppress(OSError):
            (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ResultError(at(str(path), f"is larger than {_MAX_JSON >> 20} MiB; not a saved result"))
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultError(at(str(path), "is missing; this is not a saved result")) from error
    except OSError as error:
        raise ResultError(at(str(path), f"cannot be read: {error.strerror or error}")) from error
    except (ValueError, RecursionError) as error:
        raise ResultError(at(str(path), f"is truncated or corrupt: {error}")) from error
    if not isinstance(content, dict):
        raise ResultError(at(str(path), "is corrupt: it does not hold an object"))
    return content


def _read_table(directory: Path, name: str, about: Any) -> pl.DataFrame:
    # the file name follows from the table's, so that a doctored result.json cannot point elsewhere
    if not _NAME.fullmatch(name):
        raise ResultError(at(str(directory / "result.json"), f"is corrupt: {name!r} is not a table's name"))
    path = directory / f"{name}.parquet"
    if not path.is_file():
        raise ResultError(at(str(path), "is missing; the saved result is incomplete"))
    try:
        frame = pl.read_parquet(path)
    except Exception as error:  # polars raises several families here
        raise ResultError(at(str(path), f"is truncated or corrupt: {error}")) from error
    rows = about.get("rows") if isinstance(about, dict) else None
    if rows != frame.height:
        raise ResultError(
            at(str(path), f"has {frame.height} rows, result.json says {rows}; it is not of this result")
        )
    return frame
