"""torchtitan's names of models as `model` sections: shapes of our catalogue, and its own small ones."""

from __future__ import annotations

from typing import Any

from euston import catalog
from euston.errors import ConfigError, unknown

__all__ = ["model_named"]

_NAMES: dict[str, dict[str, str]] = {
    "llama3": {"8B": "llama3-8b", "70B": "llama3-70b", "405B": "llama3-405b"},
    "llama4": {"17bx16e": "llama4-scout", "17bx128e": "llama4-maverick"},
    "deepseek_v3": {"16B": "deepseek-v2-lite", "236B": "deepseek-v2", "671B": "deepseek-v3"},
    "qwen3": {
        name: f"qwen3-{name.lower()}"
        for name in ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B", "235B-A22B")
    },
    "gpt_oss": {"20b": "gpt-oss-20b", "120b": "gpt-oss-120b"},
}
_DEBUG: dict[str, Any] = {
    # torchtitan/models/llama3/__init__.py: dim 256, 6 layers, 16 heads; width by the Llama rule in 256s
    "name": "llama3-debugmodel",
    "layers": 6,
    "hidden": 256,
    "heads": 16,
    "ffn": 768,
    "vocab": 2048,
}


def model_named(family: str, flavor: str) -> tuple[str | dict[str, Any], int]:
    """The `model` of ``family`` (``llama3``, ...) in its ``flavor`` (``8B``, ...), and its layers.

    A name of the catalogue, or a shape where torchtitan's differs from it.

    Raises
    ------
    ConfigError
        Unknown; the nearest is offered.
    """
    plain = family.strip().lower().replace("-", "_")
    if plain not in _NAMES:
        raise ConfigError(unknown("model name", family[:60], _NAMES))
    if flavor == "debugmodel" and plain == "llama3":
        return dict(_DEBUG), int(_DEBUG["layers"])
    flavors = {name.lower(): entry for name, entry in _NAMES[plain].items()}
    if flavor.lower() not in flavors:
        raise ConfigError(unknown("flavor", flavor[:60], _NAMES[plain]))
    entry = catalog.entry("models", flavors[flavor.lower()])
    layers = int(entry.values["layers"])
    if not entry.values.get("prediction_layers"):
        return entry.name, layers
    # torchtitan trains no multi-token prediction
    left = ("published_parameters", "published_active_parameters", "prediction_layers")
    shape = {key: _plain(value) for key, value in entry.values.items() if key not in left}
    return {"name": entry.name, **shape}, layers


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
