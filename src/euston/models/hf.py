"""A transformer from a Hugging Face `config.json`: keys of the model families whose arithmetic we know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from euston.errors import ConfigError, unknown

from ._hf_families import FAMILIES, Config
from ._transformer import Transformer

__all__ = ["from_hf_config"]

#: A configuration is a few kilobytes; what is larger is something else.
MAX_BYTES = 4 << 20


def _read(path: Path) -> Any:
    if path.is_dir():
        path = path / "config.json"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"`{path}`: larger than {MAX_BYTES >> 20} MiB; a config.json is a few kilobytes"
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"`{path}`: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"`{path}`: is not JSON ({error})") from None


def from_hf_config(config: str | PathLike[str] | Mapping[str, Any], name: str | None = None) -> Transformer:
    """Build a transformer from a Hugging Face configuration.

    Parameters
    ----------
    config : path or mapping
        A ``config.json``, the folder that holds it, or its content.
    name : str, optional
        Default: the configuration's ``_name_or_path``, or its model type.

    Raises
    ------
    ConfigError
        For an unreadable file, an unknown model family (the nearest is offered), a missing or ill-typed key,
        and for settings that change the arithmetic in a way that is not described.

    Notes
    -----
    Families: llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe, gpt_oss, gemma2, gemma3_text,
    deepseek_v2, deepseek_v3, gpt2, mamba2, nemotron_h, jamba, qwen2_vl, llava. Multi-token-prediction layers
    of DeepSeek-V3 are kept apart: its published 671 G parameters do not count them.
    """
    where = "config" if isinstance(config, Mapping) else str(config)
    values = config if isinstance(config, Mapping) else _read(Path(config))
    if not isinstance(values, Mapping):
        raise ConfigError(f"`{where}`: must be a JSON object")
    family = values.get("model_type")
    if not isinstance(family, str):
        raise ConfigError(f"`{where}.model_type`: is missing")
    if family not in FAMILIES:
        raise ConfigError(f"`{where}.model_type`: {unknown('model family', family, FAMILIES)}")
    shape = FAMILIES[family](Config(values, where))
    given = values.get("_name_or_path")
    return Transformer(name or (given if isinstance(given, str) and given else family), **shape)
