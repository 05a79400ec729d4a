"""Hugging Face model families: which keys of a configuration say what about the arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from euston.errors import ConfigError

from ._parts import MLA, Mamba, MoE, VisionEncoder

__all__ = ["FAMILIES", "Config"]

Shape = dict[str, Any]


class Config:
    """The configuration with errors that name the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def error(self, key: str, message: str) -> ConfigError:
        return ConfigError(f"`{self.where}.{key}`: {message}")

    def integer(self, key: str, default: int | None = None, least: int | None = None) -> int:
        """A whole number; zero only where it stands for "none" (its default is 0) or `least` allows it."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise self.error(key, "is missing")
            return default
        least = least if least is not None else 0 if default == 0 else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(key, f"{value!r} must be {'zero or ' * (least == 0)}a positive integer")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"{value!r} must be true or false")
        return value

    def part(self, key: str, defaults: Mapping[str, Any] | None = None) -> Config:
        """A table inside, with what its own family leaves out."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, "is missing" if value is None else "must be a table")
        return Config({**(defaults or {}), **value}, f"{self.where}.{key}")

    def letters(self, key: str, known: Mapping[str, str]) -> str:
        """A list of words, or a string of letters, as ours."""
        value = self.values.get(key)
        if not isinstance(value, (str, list)) or not value:
            raise self.error(key, "is missing")
        for item in value:
            if item not in known:
                raise self.error(key, f"{item!r} is not modelled; known: {', '.join(map(repr, known))}")
        return "".join(known[item] for item in value)

    def refuse(self, key: str, *allowed: object) -> None:
        """Refuse a setting that would change the arithmetic in a way we do not describe."""
        value = self.values.get(key)
        if value is not None and value not in allowed:
            raise self.error(
                key, f"{value!r} is not modelled; known: {', '.join(map(repr, allowed)) or 'none'}"
            )


def _decoder(config: Config) -> Shape:
    """What the llama-like families share."""
    config.refuse("hidden_act", "silu", "swish")
    return _sizes(config)


def _sizes(config: Config) -> Shape:
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


def _window(config: Config) -> Shape:
    """A sliding window on every layer, where there is one."""
    window = config.integer("sliding_window", 0)
    return {"mixers": "S", "window": window} if window else {}


_LAYER_TYPES = {"sliding_attention": "S", "full_attention": "A"}


def _llama(config: Config) -> Shape:
    attention, ffn = config.flag("attention_bias"), config.flag("mlp_bias")
    if ffn and not attention:
        raise config.error(
            "mlp_bias", "true with attention_bias false is not modelled; known: both, neither, attention only"
        )
    return _decoder(config) | ({"biases": True} if ffn else {"attention_biases": attention})


def _mistral(config: Config) -> Shape:
    return _decoder(config) | _window(config)


def _mixtral(config: Config) -> Shape:
    shape = _mistral(config)
    moe = MoE(
        experts=config.integer("num_local_experts"),
        top_k=config.integer("num_experts_per_tok"),
        ffn=shape["ffn"],
    )
    return shape | {"moe": moe}


def _qwen2(config: Config) -> Shape:
    shape = _decoder(config) | {"qkv_biases": True}
    if config.flag("use_sliding_window"):
        whole = min(config.integer("max_window_layers", least=0), shape["layers"])
        shape |= {"mixers": "A" * whole + "S" * (shape["layers"] - whole)}
        shape["window"] = config.integer("sliding_window")
    return shape


def _sparse(config: Config, layers: int) -> Shape:
    """Which layers have experts: every n-th, but for the listed ones."""
    step = config.integer("decoder_sparse_step", 1, least=0)
    dense = config.values.get("mlp_only_layers") or []
    ffns = ["E" if step and i not in dense and (i + 1) % step == 0 else "F" for i in range(layers)]
    return {} if set(ffns) == {"E"} else {"ffns": "".join(ffns)}


def _qwen2_moe(config: Config) -> Shape:
    shape = _qwen2(config)
    moe = MoE(
        experts=config.integer("num_experts"),
        top_k=config.integer("num_experts_per_tok"),
        ffn=config.integer("moe_intermediate_size"),
        shared_experts=1,
        shared_ffn=config.integer("shared_expert_intermediate_size", least=0),
        shared_gate=True,
    )
    return shape | _sparse(config, shape["layers"]) | {"moe": moe}


def _qwen3(config: Config) -> Shape:
    config.refuse("use_sliding_window", False)
    shape = _decoder(config)
    biases = {"attention_biases": True} if config.flag("attention_bias") else {}
    return shape | biases | {"qk_norm": True, "head_dim": shape["head_dim"] or 128}


def _qwen3_moe(config: Config) -> Shape:
    shape = _qwen3(config)
    moe = MoE(
        experts=config.integer("num_experts"),
        top_k=config.integer("num_experts_per_tok"),
        ffn=config.integer("moe_intermediate_size"),
    )
    return shape | _sparse(config, shape["layers"]) | {"moe": moe}


def _gpt_oss(config: Config) -> Shape:
    shape = _sizes(config)
    moe = MoE(
        experts=config.integer("num_local_experts"),
        top_k=config.integer("num_experts_per_tok"),
        ffn=shape["ffn"],
        router_bias=True,
        expert_biases=True,
        clamped=True,
    )
    mixers = config.letters("layer_types", _LAYER_TYPES) if "layer_types" in config.values else "SA"
    own = {"attention_biases": config.flag("attention_bias", True), "sinks": True, "moe": moe}
    return shape | own | {"mixers": mixers, "window": config.integer("sliding_window")}


def _gemma(config: Config, pattern: str, qk_norm: bool) -> Shape:
    config.refuse("hidden_activation", "gelu_pytorch_tanh", "gelu")
    shape = _sizes(config) | {"tied": config.flag("tie_word_embeddings", True)}
    mixers = config.letters("layer_types", _LAYER_TYPES) if config.values.get("layer_types") else pattern
    window = config.integer("sliding_window")
    return shape | {"mixers": mixers, "window": window, "post_norms": True, "qk_norm": qk_norm}


def _gemma2(config: Config) -> Shape:
    return _gemma(config, "SA", False)


def _gemma3(config: Config) -> Shape:
    return _gemma(config, "S" * (config.integer("sliding_window_pattern", 6) - 1) + "A", True)


def _deepseek(config: Config) -> Shape:
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
        rope_dim=config.integer("qk_rope_head_dim", least=0),
        value_dim=config.integer("v_head_dim"),
    )
    # transformers writes head_dim = rope size for its rotary module: no head of the model has that size
    shape = _decoder(config) | {"head_dim": 0, "moe": moe, "mla": mla}
    return shape | {"prediction_layers": config.integer("num_nextn_predict_layers", 0)}


def _gpt2(config: Config) -> Shape:
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


def _mamba2(config: Config) -> Shape:
    config.refuse("use_bias", False)
    hidden = config.integer("hidden_size")
    mamba = Mamba(
        heads=config.integer("num_heads"),
        head_dim=config.integer("head_dim"),
        state=config.integer("state_size"),
        groups=config.integer("n_groups"),
        conv=config.integer("conv_kernel", 4),
        chunk=config.integer("chunk_size", 256),
    )
    return {
        "layers": config.integer("num_hidden_layers"), "hidden": hidden, "heads": 1, "ffn": hidden,
        "vocab": config.integer("vocab_size"), "tied": config.flag("tie_word_embeddings"),
        "positions": "none",
        "mixers": "M", "ffns": "-", "mamba": mamba,
    }  # fmt: skip


_NEMOTRON_MIXERS = {"M": "M", "*": "A", "-": "-", "E": "-"}
_NEMOTRON_FFNS = {"M": "-", "*": "-", "-": "F", "E": "E"}


def _nemotron_h(config: Config) -> Shape:
    config.refuse("mlp_hidden_act", "relu2")
    shape = _sizes(config) | {"gated": False, "positions": "none"}
    shape["head_dim"] = config.integer("attention_head_dim", shape["head_dim"])
    shape["mixers"] = config.letters("hybrid_override_pattern", _NEMOTRON_MIXERS)
    shape["ffns"] = config.letters("hybrid_override_pattern", _NEMOTRON_FFNS)
    shape["mamba"] = Mamba(
        heads=config.integer("mamba_num_heads"),
        head_dim=config.integer("mamba_head_dim"),
        state=config.integer("ssm_state_size"),
        groups=config.integer("n_groups"),
        conv=config.integer("conv_kernel", 4),
        chunk=config.integer("chunk_size", 256),
    )
    if "E" in shape["ffns"]:
        shape["moe"] = MoE(
            experts=config.integer("n_routed_experts"),
            top_k=config.integer("num_experts_per_tok"),
            ffn=config.integer("moe_intermediate_size"),
            shared_experts=config.integer("n_shared_experts", 0),
            shared_ffn=config.integer("moe_shared_expert_intermediate_size", 0),
            router_bias=True,
        )
    return shape


def _periodic(config: Config, name: str, yes: str, no: str) -> str:
    period, offset = config.integer(f"{name}_layer_period"), config.integer(f"{name}_layer_offset", least=0)
    return "".join(yes if i % period == offset else no for i in range(period))


def _jamba(config: Config) -> Shape:
    shape = _decoder(config) | {"positions": "none", "mixers": _periodic(config, "attn", "A", "M")}
    inner = config.integer("mamba_expand", 2) * shape["hidden"]
    rank = config.values.get("mamba_dt_rank", "auto")
    shape["mamba"] = Mamba(
        heads=1,
        head_dim=inner,
        state=config.integer("mamba_d_state", 16),
        conv=config.integer("mamba_d_conv", 4),
        version=1,
        time_rank=math.ceil(shape["hidden"] / 16) if rank == "auto" else config.integer("mamba_dt_rank"),
        time_norms=True,
    )
    if config.integer("num_experts", least=0) > 1:
        shape["ffns"] = _periodic(config, "expert", "E", "F")
        shape["moe"] = MoE(
            experts=config.integer("num_experts"),
            top_k=config.integer("num_experts_per_tok"),
            ffn=shape["ffn"],
        )
    return shape


def _qwen2_vl(config: Config) -> Shape:
    text = config.part("text_config") if "text_config" in config.values else config
    vision = config.part("vision_config")
    hidden, merge = vision.integer("embed_dim", 1280), vision.integer("spatial_merge_size", 2)
    encoder = VisionEncoder(
        layers=vision.integer("depth", 32),
        hidden=hidden,
        heads=vision.integer("num_heads", 16),
        ffn=vision.integer("mlp_ratio", 4) * hidden,
        patch=vision.integer("patch_size", 14),
        merge=merge,
        frames=vision.integer("temporal_patch_size", 2),
        projector=hidden * merge**2,
        projector_norm=True,
    )
    return _qwen2(text) | {"vision": encoder}


#: What transformers' LlamaConfig and CLIPVisionConfig take where LLaVA's file says nothing.
_LLAMA_DEFAULTS = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32,
    "vocab_size": 32000, "hidden_act": "silu",
}  # fmt: skip
_CLIP_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
    "patch_size": 32, "image_size": 224,
}  # fmt: skip


def _llava(config: Config) -> Shape:
    text, vision = config.part("text_config", _LLAMA_DEFAULTS), config.part("vision_config", _CLIP_DEFAULTS)
    for inner, families in ((text, ("llama", None)), (vision, ("clip_vision_model", None))):
        inner.refuse("model_type", *families)
    shape = _llama(text)
    patch, layers = vision.integer("patch_size"), vision.integer("num_hidden_layers")
    taken = config.values.get("vision_feature_layer", -2)
    if not isinstance(taken, int) or not -layers <= taken < 0:
        raise config.error("vision_feature_layer", f"{taken!r} must count layers from the end, e.g. -2")
    encoder = VisionEncoder(
        layers=layers,
        hidden=vision.integer("hidden_size"),
        heads=vision.integer("num_attention_heads"),
        ffn=vision.integer("intermediate_size"),
        patch=patch,
        positions=(vision.integer("image_size") // patch) ** 2 + 1,
        class_token=True,
        pre_norm=True,
        post_norm=True,
        unused_layers=-taken - 1,
        projector=shape["hidden"],
    )
    return shape | {"vision": encoder}


FAMILIES: dict[str, Callable[[Config], Shape]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "gpt2": _gpt2,
    "mamba2": _mamba2,
    "nemotron_h": _nemotron_h,
    "jamba": _jamba,
    "qwen2_vl": _qwen2_vl,
    "llava": _llava,
}
