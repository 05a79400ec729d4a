"""What importers share: the scenario they write, the machines it stands on, bounded reading of files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from euston.errors import BadInput, ConfigError
from euston.scenario._files import loads, yaml_text
from euston.scenario._problems import dotted, undotted
from euston.scenario.model import Scenario

__all__ = ["Imported", "Machines", "origins_of", "read_text", "scenario_data"]

MAX_BYTES = 1024 * 1024
"""A file of settings is small."""
_PLACE = re.compile(r"`((?:jobs|sites)\[0\][^`]*)`: ")
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
    origins : dict of str to str
        Place in the scenario (``jobs[0].parallel.tensor``) -> where its value was said (``run.sh:7: --x``).
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
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
        ConfigError
            The settings contradict each other or the machines; see `said`.
        """
        try:
            return loads(self.text(), f"scenario imported from {self.name}")
        except BadInput as error:
            raise self.said(error) from None

    def said(self, error: BadInput) -> BadInput:
        """The same error with the user's own setting in place of the scenario's key, which he never saw."""
        match = _PLACE.search(str(error))
        if match is None:
            return error
        path = undotted(match[1])
        for length in range(len(path), 0, -1):
            origin = self.origins.get(dotted(path[:length]))
            if origin is not None:
                return ConfigError(f"{origin}: {str(error)[match.end() :]}")
        return error


def origins_of(names: Mapping[str, Sequence[str]], said: Callable[[Sequence[str]], str]) -> dict[str, str]:
    """Places of a scenario's first job with where they were said.

    Parameters
    ----------
    names : mapping
        Place within the job (``parallel.tensor``) -> the settings that may say it, the likeliest first.
    said : callable
        Settings -> where the first of them that is given stands, else the likeliest one's name.
    """
    sites = {
        "sites[0].accelerator": "--accelerator",
        "sites[0].fabric": "--fabric",
        "sites[0].accelerators_per_host": "--per-host",
        "sites[0].hosts": "--accelerators",
    }
    return sites | {f"jobs[0].{place}": said(settings) for place, settings in names.items()}


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
