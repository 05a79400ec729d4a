"""Configuration to plain data, and pydantic's problems in the house's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic import ValidationError

from euston.errors import ConfigError, at, nearest
from euston.models import Transformer, transformer

__all__ = ["first_problem", "model_from", "model_values"]


def model_values(model: Transformer) -> dict[str, Any]:
    """Fields of a model that are not at their defaults."""
    plain = asdict(model)
    default = asdict(Transformer("", layers=1, hidden=1, heads=1, vocab=1))
    keep = {"name", "layers", "hidden", "heads", "vocab", "kv_heads", "head_dim", "ffn"}
    return {key: value for key, value in plain.items() if key in keep or value != default.get(key)}


def model_from(given: Any, where: str) -> Transformer:
    """A model from plain data: a mapping, a name of the catalogue, or one already.

    Raises
    ------
    ConfigError
        An unknown key, or one that every model needs and this one lacks.
    """
    if isinstance(given, Transformer):
        return given
    if isinstance(given, str):
        return transformer(given)
    if not isinstance(given, Mapping):
        needed = "give layers, hidden, heads, vocab, or a name of the catalogue"
        raise ConfigError(at(f"{where}.model", f"is missing; {needed}"))
    shape = dict(given)
    kinds = {f.name: str(f.type) for f in fields(Transformer)}
    known = list(kinds)
    for key, value in shape.items():
        if key not in known:
            guess = nearest(str(key), known)
            hint = f"did you mean {guess!r}?" if guess else f"the keys here are {', '.join(known)}"
            raise ConfigError(at(f"{where}.model.{key}", f"unknown key; {hint}"))
        wanted = {"bool": bool, "int": int, "str": str}.get(kinds[key])
        if wanted is not None and type(value) is not wanted:
            words = {bool: "neither true nor false", int: "no whole number", str: "no text"}[wanted]
            raise ConfigError(at(f"{where}.model.{key}", f"{value!r} is {words}"))
    missing = next((key for key in ("layers", "hidden", "heads", "vocab") if key not in shape), None)
    if missing:
        raise ConfigError(at(f"{where}.model.{missing}", "is missing"))
    return Transformer.from_values(str(shape.pop("name", "model")), shape)


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
