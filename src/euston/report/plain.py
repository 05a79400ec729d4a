"""A result as one JSON document: scalars with units, tables as rows, the timeline as columns."""

from __future__ import annotations

import json
import math
from typing import Any

from euston.result import Result


def document(result: Result, *, timeline: bool = True) -> dict[str, Any]:
    """The result as JSON-ready data; numbers that are not finite become null."""
    data: dict[str, Any] = {
        "version": 1,
        "kind": result.kind,
        "scalars": result.scalars,
        "units": result.units,
        "tables": {name: table.to_dicts() for name, table in result.tables.items()},
        "meta": result.meta,
    }
    if timeline and result.timeline is not None:
        data["timeline"] = result.timeline.to_dict(as_series=False)
    ready: dict[str, Any] = plain(data)
    return ready


def plain(value: Any) -> Any:
    """JSON-ready data: NumPy becomes plain, numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | str | int):
        return value
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def render(result: Result) -> bytes:
    """The file's bytes, UTF-8."""
    return (json.dumps(document(result), ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
