"""A transformer from a Hugging Face `config.json`: keys of the model families whose arithmetic we know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from euston.errors import ConfigError, unknown

from ._transformer import MLA, MoE, Transformer

__all__ = ["from_hf_config"]

#: A configuration is a few kilobytes; what is larger is something else.
MAX_BYTES = 4 << 20


class _Config:
    """The configuration with errors that name the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def error(self, key: str, message: str) -> ConfigError:
        return ConfigError(f"`{self.where}.{key}`: {message}")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise self.error(key, "is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(key, f"{value!r} must be zero or a positive integer")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"{value!r} must be true or false")
        return value

    def refuse(self, key: str, *allowed: object) -> None:
        """Refuse a setting that would change the arithmetic in a way we do not describe."""
        value = self.values.get(key)
        if value is not None and value not in allowed:
            raise self.error(
                key, f"{value!r} is not modelled; known: {', '.join(map(repr, allowed)) or 'none'}"
            )


def _decoder(config: _Config) -> dict[str, Any]:
    """What the llama-like families share."""
    config.refuse("hidden_act", "silu", "swish")
    heads = config.integer("num_attention_heads")
    return {
        "layers": config.integer("num_hidden_layers"),
        "hidden": config.integer("hidden_size"),
        "heads": heads,
        "kv_heads": config.integer("num_key_value_heads", heads),
        "head_dim": config.integer("head_dim", 0),
        "ffn": config.integer("intermediate_size"),
        "vocab": config.integer("vocab_size"),
        "tied": config.flag("tie_word_embeddings"),
    }


def _llama(config: _Config) -> dict[str, Any]:
    attention, ffn = config.flag("attention_bias"), config.flag("mlp_bias")
    if attention != ffn:
        raise config.error(
            "attention_bias", f"{attention} with mlp_bias {ffn} is not modelled; use both or neither"
        )
    return _decoder(config) | {"biases": attention}


def _mistral(config: _Config) -> dict[str, Any]:
    config.refuse("sliding_window")
    return _decoder(config)


def _mixtral(config: _Config) -> dict[str, Any]:
    config.refuse("sliding_window")
    shape = _decoder(config)
    moe = MoE(
        experts=config.integer("num_local_experts"),
        top_k=config.integer("num_experts_per_tok"),
        ffn=shape["ffn"],
    )
    return shape | {"moe": moe}


def _qwen2(config: _Config) -> dict[str, Any]:
    config.refuse("use_sliding_window", False)
    return _decoder(config) | {"qkv_biases": True}


def _qwen3(config: _Config) -> dict[str, Any]:
    config.refuse("use_sliding_window", False)
    config.refuse("attention_bias", False)
    shape = _decoder(config)
    return shape | {"qk_norm": True, "head_dim": shape["head_dim"] or 128}


def _qwen3_moe(config: _Config) -> dict[str, Any]:
    config.refuse("decoder_sparse_step", 1)
    config.refuse("mlp_only_layers", [])
    moe = MoE(
        experts=config.integer("num_experts"),
        top_k=config.integer("num_experts_per_tok"),
        ffn=config.integer("moe_intermediate_size"),
    )
    return _qwen3(config) | {"moe": moe}


def _deepseek(config: _Config) -> dict[str, Any]:
    config.refuse("moe_layer_freq", 1)
    config.refuse("attention_bias", False)
    expert = config.integer("moe_intermediate_size")
    moe = MoE(
        experts=config.integer("n_routed_experts"),
        top_k=config.integer("num_experts_per_tok"),
        ffn=expert,
        shared_experts=config.integer("n_shared_experts", 0),
        shared_ffn=expert,
        first_dense_layers=config.integer("first_k_dense_replace", 0),
        # the selection bias came with V3 ("noaux_tc"), which its own transformers class implies
        router_bias=config.values.get("model_type") == "deepseek_v3",
    )
    mla = MLA(
        query_rank=config.integer("q_lora_rank", 0),
        kv_rank=config.integer("kv_lora_rank"),
        nope_dim=config.integer("qk_nope_head_dim"),
        rope_dim=config.integer("qk_rope_head_dim"),
        value_dim=config.integer("v_head_dim"),
    )
    # transformers writes head_dim = rope size for its rotary module: no head of the model has that size
    return _decoder(config) | {"head_dim": 0, "moe": moe, "mla": mla}


def _gpt2(config: _Config) -> dict[str, Any]:
    config.refuse("activation_function", "gelu", "gelu_new", "gelu_pytorch_tanh")
    hidden = config.integer("n_embd")
    return {
        "layers": config.integer("n_layer"),
        "hidden": hidden,
        "heads": config.integer("n_head"),
        "ffn": config.integer("n_inner", 4 * hidden),
        "vocab": config.integer("vocab_size"),
        "gated": False,
        "norm": "layernorm",
        "positions": "learned",
        "max_positions": config.integer("n_positions"),
        "biases": True,
        "tied": config.flag("tie_word_embeddings", True),
    }


_FAMILIES: dict[str, Callable[[_Config], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "gpt2": _gpt2,
}


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
        and for settings that change the arithmetic in a way that is not described (a sliding window, say).

    Notes
    -----
    Families: llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, deepseek_v2, deepseek_v3, gpt2.
    Multi-token-prediction layers of DeepSeek-V3 are left out, as in its published 671 G parameters.
    """
    where = "config" if isinstance(config, Mapping) else str(config)
    values = config if isinstance(config, Mapping) else _read(Path(config))
    if not isinstance(values, Mapping):
        raise ConfigError(f"`{where}`: must be a JSON object")
    family = values.get("model_type")
    if not isinstance(family, str):
        raise ConfigError(f"`{where}.model_type`: is missing")
    if family not in _FAMILIES:
        raise ConfigError(f"`{where}.model_type`: {unknown('model family', family, _FAMILIES)}")
    shape = _FAMILIES[family](_Config(values, where))
    given = values.get("_name_or_path")
    return Transformer(name or (given if isinstance(given, str) and given else family), **shape)
