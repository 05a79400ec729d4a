"""Values of JSON records, checked: the line and key stand in every error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from euston.errors import TraceError, nearest

__all__ = ["Record"]


class Record:
    """One JSON object of a trace.

    Parameters
    ----------
    where : str
        File and line, ``trace.jsonl:12``.
    values : mapping
    """

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self.where, self.values = where, values

    def error(self, key: str, message: str) -> TraceError:
        """A TraceError at this line and key."""
        return TraceError(f"`{self.where}`: {key}: {message}")

    def _get(self, key: str) -> Any:
        if key not in self.values:
            close = nearest(key, list(self.values))
            raise self.error(key, f"is missing{f'; did you mean {close[0]!r}' if close else ''}")
        return self.values[key]

    def whole(self, key: str, least: int) -> int:
        """A whole number of ``least`` or more."""
        value = self._get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
            raise self.error(key, f"{value!r:.40} is not a whole number of {least} or more")
        return value

    def number(self, key: str, least: float = 0.0) -> float:
        """A finite number of ``least`` or more."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"{value!r:.40} is not a number")
        if not (math.isfinite(value) and value >= least):
            raise self.error(key, f"{value!r:.40} must be a finite number of {least:g} or more")
        return float(value)

    def wholes(self, key: str) -> list[int]:
        """A list of whole numbers of 0 or more."""
        value = self._get(key)
        if not isinstance(value, list) or not all(type(v) is int and v >= 0 for v in value):
            raise self.error(key, "is not a list of whole numbers of 0 or more")
        return value

    def records(self, key: str) -> list[Record]:
        """A list of objects, one at least."""
        value = self._get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
            raise self.error(key, "is not a list of one or more objects")
        return [Record(f"{self.where}`, `{key}[{i}]", v) for i, v in enumerate(value)]
