"""Hugging Face configurations: the catalogue's models from their own files, and refusals naming the key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from euston.errors import ConfigError
from euston.models import Transformer, from_hf_config, transformer

LLAMA = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_attention_heads": 128,
    "num_hidden_layers": 126,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 500000.0,
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "attention_bias": False,
    "vocab_size": 151936,
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "tie_word_embeddings": False,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "sliding_window": None,
    "vocab_size": 32000,
}
QWEN3 = {
    "model_type": "qwen3",
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA, "llama3-405b"),
        (QWEN3, "qwen3-0.6b"),
        (QWEN3_MOE, "qwen3-30b-a3b"),
        (DEEPSEEK, "deepseek-v3"),
        (MIXTRAL, "mixtral-8x7b"),
    ],
)
def test_catalogue_models_from_their_configurations(config: dict[str, Any], name: str) -> None:
    assert from_hf_config(config, name) == transformer(name)


def test_gpt2_and_qwen2() -> None:
    """Hub totals: gpt2 124,439,808; Qwen2-7B 7,615,616,512; Mistral-7B-v0.3 7,248,023,552."""
    gpt2 = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    assert from_hf_config(gpt2).parameters() == 124_439_808
    qwen2 = {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "use_sliding_window": False,
        "vocab_size": 152064,
    }
    assert from_hf_config(qwen2).parameters() == 7_615_616_512
    mistral = {key: MIXTRAL[key] for key in MIXTRAL if "expert" not in key} | {
        "model_type": "mistral",
        "vocab_size": 32768,
    }
    assert from_hf_config(mistral).parameters() == 7_248_023_552


GEMMA = {
    "model_type": "gemma2",
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 256,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
JAMBA = {
    "model_type": "jamba",
    "attn_layer_offset": 4,
    "attn_layer_period": 8,
    "expert_layer_offset": 1,
    "expert_layer_period": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_dt_rank": 256,
    "mamba_expand": 2,
    "num_attention_heads": 32,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
}
NEMOTRON = {
    "model_type": "nemotron_h",
    "mlp_hidden_act": "relu2",
    "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 21504,
    "num_hidden_layers": 52,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "chunk_size": 128,
    "vocab_size": 131072,
}
MAMBA = {
    "model_type": "mamba2",
    "num_heads": 128,
    "head_dim": 64,
    "state_size": 128,
    "n_groups": 8,
    "hidden_size": 4096,
    "num_hidden_layers": 64,
    "tie_word_embeddings": False,
    "vocab_size": 32768,
}
QWEN_VL = {
    "model_type": "qwen2_vl",
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
LLAVA = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", "vocab_size": 32064},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
    "vision_feature_layer": -2,
}
GEMMA3 = GEMMA | {
    "model_type": "gemma3_text",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "vocab_size": 201088,
    "attention_bias": True,
}
QWEN2_MOE = {
    "model_type": "qwen2_moe",
    "decoder_sparse_step": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "moe_intermediate_size": 1408,
    "num_attention_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "shared_expert_intermediate_size": 5632,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (GEMMA, 2_614_341_888),  # gemma-2-2b
        (GEMMA | {"hidden_size": 3584, "intermediate_size": 14336, "num_attention_heads": 16,
                  "num_hidden_layers": 42, "num_key_value_heads": 8}, 9_241_705_984),
        (GEMMA3, 999_885_952),  # gemma-3-1b
        (JAMBA, 51_570_323_328),  # Jamba-v0.1
        (QWEN2_MOE, 14_315_784_192),  # Qwen1.5-MoE-A2.7B
        (GPT_OSS, 20_914_757_184),  # gpt-oss-20b
        (QWEN_VL, 8_291_375_616),
        (LLAVA, 7_063_427_072),
        (MAMBA, 7_285_403_648),  # Mamba-Codestral-7B
    ],
)  # fmt: skip
def test_families_have_their_published_number_of_parameters(config: dict[str, Any], total: int) -> None:
    """Tensor sums of the models' safetensors files on the Hugging Face Hub: exact."""
    assert from_hf_config(config).parameters() == total


def test_kinds_of_layers() -> None:
    kinds = [str(kind) for kind in from_hf_config(JAMBA).layer_kinds[:8]]
    assert kinds == ["mamba+dense", "mamba+moe"] * 2 + ["attention+dense", "mamba+moe"] + kinds[6:]
    gemma = from_hf_config(GEMMA3)
    assert [k.mixer for k in gemma.layer_kinds[:7]] == ["sliding"] * 5 + ["attention", "sliding"]
    nemotron = from_hf_config(NEMOTRON, "nemotron-h-8b")
    assert nemotron == transformer("nemotron-h-8b")
    assert {str(k): n for k, n in nemotron.kind_counts.items()} == {"mamba": 24, "dense": 24, "attention": 4}
    mistral = {key: MIXTRAL[key] for key in MIXTRAL if "expert" not in key} | {"model_type": "mistral"}
    assert from_hf_config(mistral | {"sliding_window": 4096}).window == 4096
    some = from_hf_config(QWEN3_MOE | {"mlp_only_layers": [3], "decoder_sparse_step": 2})
    assert [k.ffn for k in some.layer_kinds[:6]] == ["dense", "moe", "dense", "dense", "dense", "moe"]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    model = Transformer.from_hf_config(path)
    assert model == replace(transformer("llama3-405b"), name="llama")
    assert from_hf_config(str(tmp_path)) == model
    path.write_text('{"model_type": ')
    with pytest.raises(ConfigError, match="is not JSON"):
        from_hf_config(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match="is not JSON"):
        from_hf_config(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="is not JSON"):
        from_hf_config(path)
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="must be a JSON object"):
        from_hf_config(path)
    path.write_text(" " * (5 << 20))
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        from_hf_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        from_hf_config(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "`config.model_type`: is missing"),
        ({"model_type": "lama"}, "`config.model_type`: unknown model family 'lama'; did you mean 'llama'?"),
        (
            {k: v for k, v in LLAMA.items() if k != "hidden_size"},
            "`config.hidden_size`: is missing",
        ),
        (
            LLAMA | {"vocab_size": "128256"},
            "`config.vocab_size`: '128256' must be a positive integer",
        ),
        (
            LLAMA | {"hidden_act": "gelu"},
            "`config.hidden_act`: 'gelu' is not modelled; known: 'silu', 'swish'",
        ),
        (LLAMA | {"tie_word_embeddings": 1}, "`config.tie_word_embeddings`: 1 must be true or false"),
        (
            LLAMA | {"mlp_bias": True},
            "`config.mlp_bias`: true with attention_bias false is not modelled; known: both, neither, "
            "attention only",
        ),
        (
            NEMOTRON | {"hybrid_override_pattern": "MX"},
            "`config.hybrid_override_pattern`: 'X' is not modelled; known: 'M', '*', '-', 'E'",
        ),
        (LLAVA | {"vision_config": 3}, "`config.vision_config`: must be a table"),
        (
            LLAVA | {"text_config": {"model_type": "mistral"}},
            "`config.text_config.model_type`: 'mistral' is not modelled; known: 'llama', None",
        ),
        (LLAMA | {"num_hidden_layers": 0}, "`config.num_hidden_layers`: 0 must be a positive integer"),
        (LLAMA | {"hidden_size": -4096}, "`config.hidden_size`: -4096 must be a positive integer"),
        (LLAMA | {"head_dim": -1}, "`config.head_dim`: -1 must be zero or a positive integer"),
    ],
)
def test_refusals(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_hf_config(config)
    assert str(error.value) == message
