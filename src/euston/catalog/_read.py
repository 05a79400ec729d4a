"""Reads one catalogue file (TOML) into entries, naming file and field in every complaint.

A file has ``version = 1``, a ``[sources]`` table (id -> citation) and one table per entry. In an entry,
``aliases``, ``source`` (for all its fields), ``status`` (how all its fields are known, or ``recalled = true``
for short) and ``note`` are the entry's own; every other key is a field: a plain value, a nested table, or
``{value = .., source = "id", note = "..", low = .., high = ..}`` with ``recalled``, ``transferred`` or
``assumed`` set to true where that is how the value is known.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from euston import units
from euston.catalog._schema import SCHEMAS, FieldType, Schema
from euston.catalog.entry import STATUSES, Entry
from euston.errors import CatalogError, UnitError, at, unknown

__all__ = ["CatalogFile", "read"]

_OWN = ("aliases", "source", "status", "recalled", "note")
_FIELD_KEYS = ("value", "source", "note", "low", "high", "recalled", "transferred", "assumed")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class CatalogFile:
    """What one file holds, and the digest of its bytes."""

    path: str
    entries: dict[str, Entry]
    sha256: str


@dataclass
class _Fields:
    """What `_collect` gathers about an entry's fields, all by dotted name but `values`."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    dimensions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    """What every field of one entry is read with."""

    where: str
    schema: Schema
    citations: Mapping[str, str]
    source: str
    status: str


def read(kind: str, path: Path) -> CatalogFile:
    """Read ``<kind>.toml``.

    Raises
    ------
    CatalogError
        The file is not TOML (with line and column), or an entry has an unknown field, a wrong type, a
        misspelt unit, an unknown source, or lacks a field its kind needs.
    """
    file = path.name
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CatalogError(at(str(path), f"larger than {_MAX_BYTES >> 20} MiB; not a catalogue file"))
        raw = path.read_bytes()
        data = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise CatalogError(at(str(path), f"cannot be read: {error.strerror or error}")) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(at(str(path), f"is not TOML: {error}")) from error
    version = data.pop("version", None)
    if version != 1:
        raise CatalogError(at(f"{file}: version", f"{version!r} is not a known version; write version = 1"))
    citations = data.pop("sources", {})
    if not isinstance(citations, dict) or not all(isinstance(text, str) for text in citations.values()):
        raise CatalogError(at(f"{file}: sources", "must be a table of id = citation text"))
    entries = {}
    for name, table in data.items():
        where = f"{file}: {name}"
        if not isinstance(table, dict):
            raise CatalogError(at(where, "must be a table, one per entry"))
        if not _NAME.fullmatch(name):
            raise CatalogError(at(where, "an entry's name is lower-case letters, digits, '-', '_' and '.'"))
        entries[name] = _entry(kind, name, table, citations, where, file)
    return CatalogFile(str(path), entries, hashlib.sha256(raw).hexdigest())


def _entry(
    kind: str, name: str, table: dict[str, Any], citations: Mapping[str, str], where: str, file: str
) -> Entry:
    aliases = table.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise CatalogError(at(f"{where}.aliases", "must be a list of names"))
    own = {key: table.get(key, "") for key in ("source", "status", "note")}
    for key, value in own.items():
        if not isinstance(value, str):
            raise CatalogError(at(f"{where}.{key}", f"{value!r} is not text"))
    if own["status"] and own["status"] not in STATUSES:
        raise CatalogError(at(f"{where}.status", unknown("status", own["status"], STATUSES)))
    schema = SCHEMAS[kind]
    context = _Entry(
        where,
        schema,
        citations,
        _cite(own["source"], citations, f"{where}.source"),
        own["status"] or ("recalled" if table.get("recalled") is True else "sourced"),
    )
    fields = _Fields()
    for key, value in table.items():
        if key not in _OWN:
            _collect(context, key, value, fields, fields.values)
    if own["note"]:
        fields.notes[""] = own["note"]
    for path in schema.required:
        if not _has(fields.values, path):
            raise CatalogError(at(where, f"{path!r} is missing; every {schema.singular} needs it"))
    return Entry(
        kind=kind,
        name=name,
        values=fields.values,
        sources=fields.sources,
        aliases=tuple(aliases),
        status=fields.status,
        notes=fields.notes,
        ranges=fields.ranges,
        dimensions=fields.dimensions,
        file=file,
    )


def _has(values: Mapping[str, Any], path: str) -> bool:
    head, _, rest = path.partition(".")
    if head not in values:
        return False
    return not rest or (isinstance(values[head], Mapping) and _has(values[head], rest))


def _cite(source: str, citations: Mapping[str, str], where: str) -> str:
    if not source:
        return ""
    if source not in citations:
        raise CatalogError(at(where, unknown("source", source, citations)))
    return citations[source]


def _collect(entry: _Entry, path: str, value: Any, fields: _Fields, into: dict[str, Any]) -> None:
    where = f"{entry.where}.{path}"
    key = path.rpartition(".")[2]
    detail: dict[str, Any] = {}
    if isinstance(value, dict):
        if "value" not in value:
            table: dict[str, Any] = {}
            into[key] = table
            for name, inner in value.items():
                _collect(entry, f"{path}.{name}", inner, fields, table)
            return
        for name in value:
            if name not in _FIELD_KEYS:
                raise CatalogError(at(f"{where}.{name}", unknown("key", name, _FIELD_KEYS)))
        detail, value = value, value["value"]
    wanted = entry.schema.type_of(path)
    if wanted is None and not entry.schema.open:
        known = [name for name in entry.schema.fields if not name.endswith(".*")]
        known += [name[:-2] for name in entry.schema.fields if name.endswith(".*")]
        raise CatalogError(at(where, unknown("field", path, known)))
    into[key] = _value(value, wanted, where)
    source = _cite(detail.get("source", ""), entry.citations, f"{where}.source") or entry.source
    if source:
        fields.sources[path] = source
    status = next((name for name in STATUSES[1:] if detail.get(name) is True), None)
    # an entry's own status covers the fields that name no source of their own
    status = status or (entry.status if "source" not in detail else "sourced")
    if status != "sourced":
        fields.status[path] = status
    if "note" in detail:
        fields.notes[path] = str(detail["note"])
    dimension = "bandwidth" if wanted == "bandwidths" else wanted
    if isinstance(dimension, str) and dimension in units.DIMENSIONS:
        fields.dimensions[path] = dimension
    if "low" in detail or "high" in detail:
        low = _value(detail.get("low", value), wanted, f"{where}.low")
        high = _value(detail.get("high", value), wanted, f"{where}.high")
        if not low <= into[key] <= high:
            raise CatalogError(
                at(where, f"the value must lie between low and high: {low} <= {into[key]} <= {high}")
            )
        fields.ranges[path] = (float(low), float(high))


def _value(value: Any, wanted: FieldType | None, where: str) -> Any:
    if wanted is None:
        if isinstance(value, list):
            return tuple(value)
        return value
    if isinstance(wanted, tuple):
        if value not in wanted:
            raise CatalogError(at(where, unknown("word", str(value), wanted)))
        return value
    if wanted == "bandwidths":
        if isinstance(value, list) and value:
            return tuple(_value(item, "bandwidth", where) for item in value)
        return _value(value, "bandwidth", where)
    if wanted in units.DIMENSIONS:
        try:
            return units.parse(value, wanted, bare=False, where=where)
        except UnitError as error:
            raise CatalogError(str(error)) from error
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted == "numbers" and isinstance(value, list) and value and all(_positive(item) for item in value):
        return tuple(float(item) for item in value)
    if wanted == "counts" and isinstance(value, list) and value:
        return tuple(_value(item, "count", where) for item in value)
    if wanted == "number" and number and _positive(value):
        return float(value)
    if wanted == "count" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if wanted == "flag" and isinstance(value, bool):
        return value
    if wanted == "text" and isinstance(value, str):
        return value
    if wanted == "date" and isinstance(value, str) and _DATE.fullmatch(value):
        return value
    expected = {
        "number": "a number above 0",
        "numbers": "a list of numbers above 0",
        "count": "a whole number above 0",
        "counts": "a list of whole numbers above 0",
        "flag": "true or false",
        "text": "text",
        "date": "a date like '2024-07'",
    }[wanted]
    raise CatalogError(at(where, f"{value!r} is not {expected}"))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
