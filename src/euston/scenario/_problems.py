"""Validation failures as sentences with file, line and column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

from euston.errors import ConfigError, unknown
from euston.scenario._yaml import Document, Path

_PLACE = re.compile(r"^`([^`]+)`: ", re.DOTALL)
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


class ScenarioError(ConfigError):
    """A scenario that cannot be used.

    Attributes
    ----------
    problems : tuple of str
        Every problem found, in the order of the file; the message is the first.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)


def dotted(path: Path) -> str:
    """``("jobs", 0, "batch")`` as ``"jobs[0].batch"``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def undotted(text: str) -> Path:
    """``"jobs[0].batch"`` as ``("jobs", 0, "batch")``."""
    return tuple(int(index) if index else name for name, index in _STEP.findall(text))


def located(message: str, source: str, document: Document | None) -> str:
    """`message` ("`jobs[0].name`: ...") behind ``file:line:column: `` where these are known."""
    if not source:
        return message
    match = _PLACE.match(message)
    mark = document.mark(undotted(match[1])) if document and match else None
    return f"{source}:{mark[0]}:{mark[1]}: {message}" if mark else f"{source}: {message}"


def sentences(errors: Sequence[ErrorDetails], document: Document | None) -> list[str]:
    """One sentence per pydantic error, in the order of the file."""
    found = []
    for order, error in enumerate(errors):
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # pydantic counts only the valid entries; the others have an error of their own
        path = tuple(step for step in error["loc"] if not (isinstance(step, str) and step.startswith("~")))
        key = error.get("ctx", {}).get("key")
        if key is not None:
            path = (*path, *((key,) if isinstance(key, str | int) else key))
        mark = document.mark(path) if document else None
        message = f"`{dotted(path)}`: {_words(error)}" if path else _words(error)
        found.append((mark or (0, 0), order, message))
    return [message for _, _, message in sorted(found)]


def _words(error: ErrorDetails) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    shown = _shown(value)
    match kind:
        case "euston":
            return str(context["message"])
        case "missing":
            return "is missing"
        case "greater_than_equal":
            return f"{shown} is too small; at least {context['ge']}"
        case "greater_than":
            return f"{shown} is too small; more than {context['gt']}"
        case "less_than_equal":
            return f"{shown} is too large; at most {context['le']}"
        case "less_than":
            return f"{shown} is too large; less than {context['lt']}"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", str(context["expected"])) or [str(context["expected"])]
            if not isinstance(value, str):
                return f"{shown} is none of {_or(choices)}"
            key = next((step for step in reversed(error["loc"]) if isinstance(step, str)), "value")
            return unknown(key.replace("_", " "), value, choices)
        case "too_short":
            return f"holds {context['actual_length']} entries; at least {context['min_length']}"
        case "too_long":
            return f"holds {context['actual_length']} entries; at most {context['max_length']}"
        case "tuple_type" | "list_type":
            return f"{shown} is not a list; write e.g. [1, 2]"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{shown} is not a section of keys and values"
        case _:
            text = str(error["msg"])
            return f"{shown}: {text[0].lower()}{text[1:]}"


def _or(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
