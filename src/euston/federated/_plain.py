"""Configuration to plain data, and pydantic's problems in the house's words."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from pydantic import ValidationError

from euston.errors import ConfigError, at, nearest
from euston.models import Transformer

__all__ = ["first_problem", "model_values"]


def model_values(model: Transformer) -> dict[str, Any]:
    """Fields of a model that are not at their defaults."""
    plain = asdict(model)
    default = asdict(Transformer("", layers=1, hidden=1, heads=1, vocab=1))
    keep = {"name", "layers", "hidden", "heads", "vocab", "kv_heads", "head_dim", "ffn"}
    return {key: value for key, value in plain.items() if key in keep or value != default.get(key)}


def first_problem(error: ValidationError, cls: type, where: str) -> str:
    problem = error.errors()[0]
    keys = [str(part) for part in problem["loc"]]
    place = ".".join([where, *keys])
    if problem["type"] == "unexpected_keyword_argument":
        section = cls
        for key in keys[:-1]:
            factory = next(f for f in fields(section) if f.name == key).default_factory
            section = factory  # type: ignore[assignment]
        known = [f.name for f in fields(section)]
        guess = nearest(keys[-1], known)
        hint = f"did you mean {guess!r}?" if guess else f"the keys here are {', '.join(known)}"
        return at(place, f"unknown key; {hint}")
    cause = (problem.get("ctx") or {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    given = problem.get("input")
    return at(place, f"{given!r} is not usable: {problem['msg'].removeprefix('Value error, ')}")
