"""`Entry`: one thing of the catalogue with the source of each of its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from euston.units import DIMENSIONS, exact_text

__all__ = ["STATUSES", "Entry"]

STATUSES = ("sourced", "recalled", "transferred", "assumed")
"""How a value is known: read in its source, remembered, taken over from a similar thing, or supposed."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted path, value)`` of every leaf of nested tables, e.g. ``("peak.bf16", 9.89e14)``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@dataclass(frozen=True)
class Entry:
    """One entry of the catalogue.

    Attributes
    ----------
    kind : str
        ``"accelerators"``, ``"models"``, ``"fabrics"``, ``"software"``, ``"prices"`` or ``"power"``.
    name : str
        Canonical lower-case name.
    values : mapping
        Fields by name, quantities as SI floats; tables (``peak``, ``moe``) are nested mappings.
    sources : mapping of str to str
        Dotted field name -> citation, for every field that has one.
    aliases : tuple of str
        Other names under which the entry is found.
    status : mapping of str to str
        Dotted field name -> one of `STATUSES`; absent means ``"sourced"``.
    notes : mapping of str to str
        Dotted field name -> remark; the entry's own remark under ``""``.
    ranges : mapping of str to (float, float)
        Dotted field name -> lowest and highest credible value, SI.
    dimensions : mapping of str to str
        Dotted field name -> key of `euston.units.DIMENSIONS`, for fields that are quantities.
    file : str
        Name of the file the entry was read from.
    """

    kind: str
    name: str
    values: Mapping[str, Any] = field(hash=False)
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()
    status: Mapping[str, str] = field(default_factory=dict, hash=False)
    notes: Mapping[str, str] = field(default_factory=dict, hash=False)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    dimensions: Mapping[str, str] = field(default_factory=dict, hash=False)
    file: str = ""

    def flat(self) -> dict[str, Any]:
        """Every leaf by its dotted name: ``{"memory": 8e10, "peak.bf16": 9.89e14, ...}``."""
        return dict(flatten(self.values))

    def text(self, path: str) -> str:
        """The value at a dotted name with its unit, for people."""
        value = self.flat()[path]
        text = self._text(path, value)
        if path in self.ranges:
            low, high = self.ranges[path]
            text += f" [{self._text(path, low)} .. {self._text(path, high)}]"
        return text

    def _text(self, path: str, value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return ", ".join(self._text(path, item) for item in value)
        dimension = self.dimensions.get(path)
        if dimension == "data" and value % 1e9 == 0:  # vendors count memory in decimal units
            return f"{value / 1e9:g} GB"
        if dimension == "money":
            return f"{value * 3600:.4g} USD/h"
        if dimension == "energy_price":
            return f"{value * 3.6e6:.4g} USD/kWh"
        if dimension in DIMENSIONS:
            return exact_text(value, dimension)
        return str(value)

    def rows(self) -> list[dict[str, str]]:
        """Rows for a table: ``field``, ``value`` (with unit and range), ``status``, ``source``, ``note``."""
        return [
            {
                "field": path,
                "value": self.text(path),
                "status": self.status.get(path, "sourced"),
                "source": self.sources.get(path, ""),
                "note": self.notes.get(path, ""),
            }
            for path in self.flat()
        ]

    def assumptions(self) -> list[dict[str, str]]:
        """Every value not simply read in its source, as rows for a `Result`'s ``meta["assumptions"]``.

        Returns
        -------
        list of dict
            ``where``, ``value``, ``why``, ``source``, ``kind`` (``recalled``, ``transferred``, ``assumed``).
        """
        return [
            {
                "where": f"{self.kind}.{self.name}.{path}",
                "value": self.text(path),
                "why": self.notes.get(path, ""),
                "source": self.sources.get(path, ""),
                "kind": status,
            }
            for path in self.flat()
            if (status := self.status.get(path, "sourced")) != "sourced"
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a saved result: kind, name, file, values and sources by dotted name."""
        return {
            "kind": self.kind,
            "name": self.name,
            "values": {
                path: list(value) if isinstance(value, tuple) else value
                for path, value in self.flat().items()
            },
            "sources": dict(self.sources),
            "file": self.file,
        }
