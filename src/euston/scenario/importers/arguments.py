"""Flags as typed settings: each is read once, and what nobody reads is known at the end."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from euston.errors import ConfigError, unknown
from euston.scenario.importers.base import MAX_DEGREE
from euston.scenario.importers.flags import Flag

__all__ = ["Arguments"]


class Arguments:
    """Flags by name; the last of a name wins, as argparse has it.

    Parameters
    ----------
    flags : sequence of Flag
    source : str
        Put before messages, with the line.
    """

    def __init__(self, flags: Sequence[Flag], source: str) -> None:
        self.source = source
        self.warnings: list[str] = []
        self._given: dict[str, Flag] = {}
        self._read: set[str] = set()
        for flag in flags:
            before = self._given.get(flag.name)
            if before is not None and before.values != flag.values:
                self.warnings.append(
                    f"--{flag.name} is given on lines {before.line} and {flag.line} with other values; "
                    "the later one counts"
                )
            self._given[flag.name] = flag

    def has(self, *names: str) -> bool:
        """Whether a switch is given; any of its names."""
        self._read.update(names)
        return any(name in self._given for name in names)

    def text(self, name: str, default: str = "", choices: Iterable[str] = ()) -> str:
        """The value of a flag as text."""
        self._read.add(name)
        flag = self._given.get(name)
        if flag is None:
            return default
        value = self._one(flag)
        allowed = list(choices)
        if allowed and value not in allowed:
            raise self.wrong(name, unknown("value", value[:60], allowed))
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """All values of a flag."""
        self._read.add(name)
        flag = self._given.get(name)
        return () if flag is None else flag.values

    def whole(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """The value of a flag as a whole number; one without a default must be given."""
        value = self.maybe(name, least=least)
        if value is not None:
            return value
        if default is None:
            raise ConfigError(f"{self.source}: --{name} is missing; a training job needs it")
        return default

    def maybe(self, name: str, *, least: int = 1) -> int | None:
        """A whole number where the flag is given."""
        self._read.add(name)
        flag = self._given.get(name)
        if flag is None:
            return None
        text = self._one(flag)
        if text == "None":  # argparse's own default, as logs of arguments print it
            return None
        if not re.fullmatch(r"[+-]?\d{1,15}(\.0)?", text):
            hint = "a shell variable whose value is not in the file" if "$" in text else "no whole number"
            raise self.wrong(name, f"{text[:60]!r} is {hint}; write the number")
        value = int(text.removesuffix(".0"))
        if not least <= value <= MAX_DEGREE:
            raise self.wrong(name, f"{value} is out of range; it must be {least} to {MAX_DEGREE}")
        return value

    def number(self, name: str, default: float) -> float:
        """The value of a flag as a number."""
        self._read.add(name)
        flag = self._given.get(name)
        if flag is None:
            return default
        try:
            value = float(self._one(flag))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.wrong(name, f"{self._one(flag)[:60]!r} is no number")
        return value

    def wrong(self, name: str, message: str) -> ConfigError:
        """An error that names the flag and its line."""
        flag = self._given.get(name)
        place = f"{self.source}:{flag.line}" if flag is not None else self.source
        return ConfigError(f"{place}: --{name}: {message}")

    def said(self, names: Sequence[str]) -> str:
        """File, line and name of the first of these flags that is given; else the first name alone."""
        name = next((name for name in names if name in self._given), names[0])
        return str(self.wrong(name, "")).removesuffix(": ")

    def warn(self, name: str, message: str) -> None:
        """A warning that names the flag and its line."""
        flag = self._given.get(name)
        line = f" (line {flag.line})" if flag is not None else ""
        self.warnings.append(f"--{name}{line}: {message}")

    def rest(self) -> list[Flag]:
        """Flags that nobody asked for, in order of their lines."""
        left = [flag for name, flag in self._given.items() if name not in self._read]
        return sorted(left, key=lambda flag: flag.line)

    def _one(self, flag: Flag) -> str:
        if not flag.values or not flag.values[0]:
            raise self.wrong(flag.name, "has no value")
        return flag.values[0]
