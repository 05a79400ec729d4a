"""What a rank's memory holds: weights, KV per token, and how many blocks of KV fit beside the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from euston.errors import ConfigError
from euston.models import Transformer
from euston.models.recipes import RECIPES
from euston.serving.providers.encoder import image_tokens

if TYPE_CHECKING:
    from euston.catalog import Accelerator

__all__ = ["encoded_images", "kv_blocks", "kv_bytes_per_token", "weight_bytes"]


def kv_bytes_per_token(model: Transformer, *, tensor: int = 1, kv_bytes: float = 2.0) -> float:
    """Bytes of one token's KV on one accelerator: replicated where KV heads are fewer than accelerators.

    Latent attention (MLA) keeps one vector per layer, on every accelerator of the rank.
    """
    attending = sum(kind.attends for kind in model.layer_kinds)
    if model.mla is not None:
        return attending * (model.mla.kv_rank + model.mla.rope_dim) * kv_bytes
    heads = max(1, -(-model.kv_heads // tensor))
    return attending * 2.0 * heads * model.head_dim * kv_bytes


def weight_bytes(
    model: Transformer,
    *,
    tensor: int = 1,
    data: int = 1,
    dtype: str = "bf16",
    weight: float = 0.0,
    redundant: int = 0,
) -> float:
    """Bytes of weights on one accelerator: layers in `dtype` (or `weight` bytes each), the rest in BF16.

    ``redundant``: copies of experts beside one of each, in every layer.
    """
    recipe = RECIPES.get(dtype)
    element = weight or (recipe.element if recipe is not None else 4.0 if dtype == "fp32" else 2.0)
    total = 0.0
    for kind, count in model.kind_counts.items():
        share = model.rank_share("layer", tensor, kind=kind)
        more = 1.0 if model.moe is None else 1.0 + redundant / model.moe.experts
        # experts are split over all accelerators
        total += count * element * (share.dense + more * share.experts / data)
    return total + 2.0 * (
        model.rank_parameters("embedding", tensor)
        + (0 if model.tied else model.rank_parameters("head", tensor))
    )


def kv_blocks(
    model: Transformer,
    accelerator: Accelerator,
    *,
    tensor: int = 1,
    data: int = 1,
    pipeline: int = 1,
    dtype: str = "bf16",
    weight: float = 0.0,
    kv_bytes: float = 2.0,
    block_size: int = 16,
    utilisation: float = 0.9,
    max_tokens: int = 8192,
    redundant: int = 0,
) -> int:
    """KV blocks of a rank: what the weights, a step's activations and graphs leave of the memory.

    Activations are those of one layer at `max_tokens` tokens and the FP32 logits of 256 sequences; 1 GiB for
    graphs and communication buffers (assumed; vLLM profiles it).

    Raises
    ------
    ConfigError
        When the weights do not fit: what is needed and what there is, per accelerator.
    """
    there = accelerator.memory_bytes * utilisation
    weights = weight_bytes(model, tensor=tensor, data=data, dtype=dtype, weight=weight, redundant=redundant)
    weights /= pipeline
    work = (
        max_tokens * (8 * model.hidden + 4 * model.ffn / tensor) * 2.0
        + 256 * model.vocab / tensor * 4.0
        + 2**30
    )
    left = there - weights - work
    block = block_size * kv_bytes_per_token(model, tensor=tensor, kv_bytes=kv_bytes) / pipeline
    if not block:
        return max(1, 2**20)
    if left < block:
        raise ConfigError(
            f"`{model.name}` needs {(weights + work) / 2**30:.1f} GiB per accelerator and leaves no "
            "room for KV "
            f"in {there / 2**30:.1f} GiB of {accelerator.name}; use more of them or fewer bytes per weight"
        )
    return int(left // block)


def encoded_images(
    model: Transformer,
    accelerator: Accelerator,
    pixels: int,
    *,
    utilisation: float = 0.9,
    max_tokens: int = 8192,
) -> int:
    """Images whose embeddings find room on an accelerator beside the vision encoder.

    Weights and embeddings in BF16; activations and the 1 GiB beside them as in `kv_blocks`.

    Raises
    ------
    ConfigError
        For a model without a vision encoder, or when the encoder does not fit.
    """
    tokens = image_tokens(model, pixels)
    assert model.vision is not None
    patches = max(1, max_tokens // tokens) * model.vision.patches(pixels, pixels)
    taken = (
        2.0 * model.vision.parameters(model.hidden)
        + patches * (8 * model.vision.hidden + 4 * model.vision.ffn) * 2.0
        + 2**30
    )
    there, each = accelerator.memory_bytes * utilisation, 2.0 * model.hidden * tokens
    if there - taken < each:
        raise ConfigError(
            f"the vision encoder of `{model.name}` needs {taken / 2**30:.1f} GiB and leaves no room for an "
            f"image in {there / 2**30:.1f} GiB of {accelerator.name}; let a step take fewer tokens"
        )
    return int((there - taken) // each)
