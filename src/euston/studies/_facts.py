"""What is known beside a line about its software and machines: the rules of ``data/frameworks.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from euston.training import SoftwareProfile, software

__all__ = ["DATA", "Machines", "Software", "machines", "software_of"]

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Software:
    """The software of a line: catalogue profile, its overrides, and defaults the profile does not hold.

    `recompute` is what its recipes are known to do, "" where that is left to what fits; `precision` what its
    words for a precision mean; `schedule` where it is neither 1F1B nor interleaved.
    `example` is what a named example outside the score assumes, `virtual` its chunks per stage.
    """

    name: str
    overrides: Mapping[str, Any] = field(hash=False)
    sharding: str
    sequence: str
    source: str
    recompute: str = ""
    precision: Mapping[str, str] = field(default_factory=dict, hash=False)
    schedule: str = ""
    recompute_modules: tuple[str, ...] = ("core_attn",)
    virtual: int = 1
    example: str = ""

    @property
    def profile(self) -> SoftwareProfile:
        """The profile with the overrides; ``SoftwareProfile()`` for ``default``."""
        if self.name == "default":
            return SoftwareProfile(**self.overrides)
        return software(self.name, **self.overrides)


@dataclass(frozen=True)
class Machines:
    """Hosts and network of a line: a fabric of the catalogue with values in place of its own."""

    fabric: str
    values: tuple[tuple[str, Any], ...]
    accelerators_per_host: int
    source: str


@cache
def _rules() -> dict[str, list[dict[str, Any]]]:
    loaded: dict[str, Any] = tomllib.loads((DATA / "frameworks.toml").read_text(encoding="utf-8"))
    return loaded


def _first(kind: str, cells: Mapping[str, str]) -> dict[str, Any]:
    """The first rule whose words all occur; the last one has none and so always does."""
    for rule in _rules()[kind]:
        if all(word.casefold() in cells.get(column, "").casefold() for column, word in rule["match"].items()):
            return rule
    raise AssertionError(f"{kind}: the last rule matches everything")


def software_of(cells: Mapping[str, str]) -> Software:
    """The software of a line of data, by its `framework`, `source` and `note`."""
    rule = _first("software", cells)
    return Software(
        rule["software"], rule.get("overrides", {}), rule.get("sharding", "none"),
        rule.get("sequence", "profile"), rule["source"], rule.get("recompute", ""), rule.get("precision", {}),
        rule.get("schedule", ""), tuple(rule.get("recompute_modules", ("core_attn",))),
        rule.get("virtual", 1), rule.get("example", ""),
    )  # fmt: skip


def machines(cells: Mapping[str, str]) -> Machines:
    """Hosts and network of a line of data, by its `framework`, `source` and `accelerator`."""
    rule = _first("cluster", cells)
    values = tuple(sorted(rule.get("values", {}).items()))
    return Machines(rule["fabric"], values, rule.get("accelerators_per_host", 8), rule["source"])
