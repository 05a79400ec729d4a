"""What importers share: the scenario they write, the machines it stands on, bounded reading of files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from euston.errors import ConfigError
from euston.scenario._files import loads, yaml_text
from euston.scenario.model import Scenario

__all__ = ["Imported", "Machines", "read_text", "scenario_data"]

MAX_BYTES = 1024 * 1024
"""A file of settings is small."""
MAX_DEGREE = 2**24
"""Larger than any machine; a number above is a slip."""


@dataclass(frozen=True)
class Machines:
    """What the other tool's settings do not say of the machines.

    Attributes
    ----------
    accelerator, fabric : str
        Names of the catalogue.
    per_host : int, optional
        Accelerators of a host; the launcher's where the file has it, else 8.
    accelerators : int, optional
        Ranks of the job; the launcher's where the file has it, else the fewest the degrees allow.
    """

    accelerator: str = "h100-sxm"
    fabric: str = "generic-400g-rail"
    per_host: int | None = None
    accelerators: int | None = None


@dataclass
class Imported:
    """An imported job.

    Attributes
    ----------
    data : dict
        The scenario as plain data; `scenario` validates it, `text` writes it.
    warnings : list of str
        What was guessed, left out or is not known, a sentence each.
    ignored : list of str
        Settings read and known to change nothing of a step's time or memory.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The scenario file."""
        head = f"# Imported from {_one_line(self.name)} by `euston import`.\n"
        notes = "".join(f"# - {_one_line(note)}\n" for note in self.warnings)
        return head + notes + yaml_text(self.data)

    def scenario(self) -> Scenario:
        """The scenario, validated.

        Raises
        ------
        ScenarioError
            The settings contradict each other or the machines.
        """
        return loads(self.text(), f"scenario imported from {self.name}")


def _one_line(text: str) -> str:
    """Text for a comment: nothing in it can end the line."""
    return "".join(c if c.isprintable() else " " for c in text)


def read_text(path: Path, what: str) -> str:
    """The text of a small file.

    Raises
    ------
    ConfigError
        It does not exist, is too large, or is no text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than 1 MiB; {what} is small")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise ConfigError(f"{path}: holds zero bytes; {what} is text")
    return text


def scenario_data(
    name: str, job: dict[str, Any], world: int, per_host: int, machines: Machines
) -> dict[str, Any]:
    """A scenario with one training job on hosts enough for its ``world`` ranks."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "imported"
    return {
        "version": 1,
        "name": plain,
        "sites": [
            {
                "name": "main",
                "accelerator": machines.accelerator,
                "hosts": -(-world // per_host),
                "accelerators_per_host": per_host,
                "fabric": {"preset": machines.fabric},
            }
        ],
        "jobs": [{"name": plain, "kind": "training", **job}],
        "run": {"compute": "des", "network": "fluid", "memory": "report"},
    }
