"""Rows of a reproduction and their summary: published beside ours, in the JSON form all studies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from euston.statistics import nearest_rank

__all__ = ["Row", "nearest_rank", "report", "summarise"]

Role = Literal["scored", "input", "suspect"]


@dataclass(frozen=True)
class Row:
    """One published figure and our prediction of it.

    Attributes
    ----------
    id : str
        File and line, ``training_sim_measured:12``.
    quantity : str
        What the figure is; its unit stands in the name.
    published, ours : float or None
        In that unit; None where it could not be worked out, with the ``reason``.
    source : str
        Citation of the published figure.
    guessed : tuple of str
        What the data left empty and the study filled in.
    role : "scored" | "input" | "suspect"
        Only the first counts in the summary.
    reason : str
        Why there is no prediction, or what to know about it.
    device_class, model_class : str
        ``tabled`` or ``transferred``; ``dense`` or ``moe``; "" where it makes no sense.
    extra : dict
        What else helps a reader: model, layout, software date, ...
    """

    id: str
    quantity: str
    published: float | None
    ours: float | None
    source: str
    guessed: tuple[str, ...] = ()
    role: Role = "scored"
    reason: str = ""
    device_class: str = ""
    model_class: str = ""
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def error(self) -> float | None:
        """``ours / published - 1``; above 0 means we are slower (or larger)."""
        if self.ours is None or not self.published:
            return None
        return self.ours / self.published - 1.0

    def as_dict(self) -> dict[str, Any]:
        """The row as plain JSON data."""
        return {
            "id": self.id,
            "quantity": self.quantity,
            "published": self.published,
            "ours": self.ours,
            "error": self.error,
            "source": self.source,
            "guessed": list(self.guessed),
            "role": self.role,
            "reason": self.reason or None,
            "device_class": self.device_class,
            "model_class": self.model_class,
            **({"extra": self.extra} if self.extra else {}),
        }


def summarise(rows: Iterable[Row]) -> dict[str, Any]:
    """Scores of the rows whose role is ``scored``.

    Returns
    -------
    dict
        ``n``: rows with an error; ``coverage``: their share of all lines of that role; ``mape``, ``median``,
        ``p90`` (nearest rank) of the absolute error and ``bias``, its signed mean. None where nothing counts.
    """
    counted = [row for row in rows if row.role == "scored"]
    errors = [row.error for row in counted if row.error is not None]
    absolute = [abs(e) for e in errors]
    none: dict[str, Any] = {"mape": None, "median": None, "p90": None, "bias": None}
    scores = none | {"n": len(errors), "coverage": len(errors) / len(counted) if counted else None}
    if errors:
        scores |= {
            "mape": math.fsum(absolute) / len(errors),
            "median": nearest_rank(absolute, 50),
            "p90": nearest_rank(absolute, 90),
            "bias": math.fsum(errors) / len(errors),
        }
    return {key: scores[key] for key in ("n", "coverage", "mape", "median", "p90", "bias")}


_GROUPS: dict[str, Callable[[Row], str]] = {
    "quantity": lambda row: row.quantity,
    "source": lambda row: row.source,
    "device_class": lambda row: row.device_class,
    "model_class": lambda row: row.model_class,
    "guessed": lambda row: "guessed" if row.guessed else "given",
}
#: Groups of studies whose rows carry them.
_EXTRA_GROUPS = ("software_date", "bar")


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """A study's result: ``{"rows": [...], "summary": {..., "by": {group: {value: summary}}}}``.

    A group lists only values that a scored line has, in the order of their first line. A study may set
    ``extra["software_date"]`` and ``extra["bar"]`` (which rows an accuracy bar is about) to group by them.
    """
    by: dict[str, dict[str, Any]] = {}
    extra: dict[str, Callable[[Row], str]] = {
        name: lambda row, name=name: str(row.extra.get(name, ""))  # type: ignore[misc]
        for name in _EXTRA_GROUPS
        if any(row.extra.get(name) for row in rows)
    }
    for group, key in {**_GROUPS, **extra}.items():
        members: dict[str, list[Row]] = {}
        for row in rows:
            if row.role == "scored" and key(row):
                members.setdefault(key(row), []).append(row)
        by[group] = {value: summarise(found) for value, found in members.items()}
    return {"rows": [row.as_dict() for row in rows], "summary": {**summarise(rows), "by": by}}
