"""The one error family of euston: what went wrong, where, and what would be right.

Every error a user can meet is an `EustonError`. A message is one sentence of the form
``"`jobs[0].parallel.tensor`: 12 does not divide 64 heads; nearest 8 or 16"``: the place in back-ticks where
there is one, then what is wrong, then what would be right. The command line prints it as it is and exits with
`exit_code`: 1 for something that failed while running, 2 for bad input.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadInput",
    "CatalogError",
    "ConfigError",
    "DoesNotFit",
    "EustonError",
    "FabricError",
    "MissingExtra",
    "ResultError",
    "RouteError",
    "SimulationError",
    "TraceError",
    "UnitError",
    "at",
    "nearest",
    "unknown",
]


class EustonError(Exception):
    """Root of every error euston raises on purpose."""

    exit_code = 1


class BadInput(EustonError, ValueError):
    """What the user gave cannot be used. A `ValueError` too, so that pydantic reports the offending key."""

    exit_code = 2


class ConfigError(BadInput):
    """A scenario, job or layout that contradicts itself or names something unknown."""


class CatalogError(BadInput):
    """A catalogue file that cannot be read, or an entry that does not exist or lacks a source."""


class UnitError(BadInput):
    """A quantity without a unit, with a misspelt or wrong unit, or out of range."""


class FabricError(BadInput):
    """A fabric that cannot be built, or a link name that does not exist."""


class ResultError(BadInput):
    """A saved result that is truncated, corrupt or of an unknown version."""


class TraceError(BadInput):
    """A trace file that cannot be read."""


class DoesNotFit(BadInput):
    """A job whose memory exceeds the accelerator's."""


class RouteError(EustonError):
    """No live path between two endpoints."""


class SimulationError(EustonError):
    """A run that cannot go on: a deadlock, a certificate that does not hold."""


class MissingExtra(EustonError):
    """An optional dependency that is not installed.

    Parameters
    ----------
    package
        The import name that is missing, e.g. ``"torch"``.
    extra
        The euston extra that brings it, e.g. ``"train"``.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'euston[{extra}]'")
        self.package = package
        self.extra = extra


def at(where: str, message: str) -> str:
    """Put the place before a message: ``"`where`: message"``; the message alone when `where` is empty."""
    return f"`{where}`: {message}" if where else message


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-").strip()


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the known name that is most like `name`, or None when nothing is close.

    Case, ``_`` against ``-`` and a missing ending are forgiven; after that the closest by common substrings.
    """
    by_plain: dict[str, str] = {}
    for known in names:
        by_plain.setdefault(_plain(known), known)
    wanted = _plain(name)
    if wanted in by_plain:
        return by_plain[wanted]
    if len(wanted) >= 2:
        longer = [plain for plain in by_plain if plain.startswith(wanted)]
        if longer:
            return by_plain[min(longer, key=lambda plain: (len(plain), plain))]
    close = difflib.get_close_matches(wanted, list(by_plain), n=1, cutoff=0.5)
    return by_plain[close[0]] if close else None


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """Say that `name` is not a known `kind`, with the nearest name or, when none is near, those there are.

    Examples
    --------
    >>> unknown("accelerator", "h10", ["a100-sxm-80gb", "h100-sxm"])
    "unknown accelerator 'h10'; did you mean 'h100-sxm'?"
    """
    known = list(names)
    guess = nearest(name, known)
    if guess is not None:
        return f"unknown {kind} {name!r}; did you mean {guess!r}?"
    if not known:
        return f"unknown {kind} {name!r}; none is known"
    shown = ", ".join(known[:12])
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"unknown {kind} {name!r}; known: {shown}{more}"
