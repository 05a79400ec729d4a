"""A federation from a YAML file, or the small default, with ``--set key=value`` on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euston.errors import ConfigError

if TYPE_CHECKING:
    from euston.federated import FederationConfig

DEFAULT: dict[str, Any] = {
    # 0.2 M parameters, half a million tokens: about two minutes on a laptop
    "model": {"name": "small", "layers": 3, "hidden": 64, "heads": 4, "vocab": 257, "gated": False,
              "norm": "layernorm", "positions": "learned", "max_positions": 64, "tied": True, "biases": True},
    "clients": 4, "rounds": 10,
    "local": {"steps": 25, "batch": 8, "sequence": 64, "lr": 2e-3, "warmup": 25},
    "evaluate_tokens": 32768,
}  # fmt: skip


def defaults(changes: Sequence[str], seed: int | None, vocab: int | None) -> FederationConfig:
    """The default federation."""
    return _build(_copy(DEFAULT), changes, seed, vocab, "federation")


def read_federation(
    file: Path, changes: Sequence[str], seed: int | None, vocab: int | None
) -> FederationConfig:
    """A federation from a file.

    Raises
    ------
    ConfigError
        No such file, no YAML mapping, or a key that does not fit.
    """
    from euston.federated.file import read_values

    return _build(read_values(file), changes, seed, vocab, file.name)


def _copy(values: dict[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}


def _build(
    values: dict[str, Any], changes: Sequence[str], seed: int | None, vocab: int | None, where: str
) -> FederationConfig:
    from ruamel.yaml import YAML

    from euston.federated import FederationConfig

    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path:
            raise ConfigError(f"`--set`: {change!r}; write KEY=VALUE, local.steps=32")
        section, keys = values, path.split(".")
        for key in keys[:-1]:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                raise ConfigError(f"`--set`: {key} of {path!r} is no section")
        section[keys[-1]] = YAML(typ="safe", pure=True).load(text)
        if path in ("rounds", "token_budget"):
            values.pop("token_budget" if path == "rounds" else "rounds", None)
    if seed is not None:
        values["seed"] = seed
    model = values.get("model")
    if vocab is not None and isinstance(model, dict):
        model.setdefault("vocab", vocab)
    return FederationConfig.from_values(values, where)
