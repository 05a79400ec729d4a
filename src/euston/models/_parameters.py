"""How many parameters a transformer has: in all, per layer, per tensor-parallel rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from euston.errors import ConfigError

from ._settings import choice, positive
from .operator import Part

if TYPE_CHECKING:
    from ._transformer import Transformer


def norm_width(model: Transformer) -> int:
    """Parameters of one norm over the hidden size: a scale, and a shift for layer norm."""
    return model.hidden * (2 if model.norm == "layernorm" else 1)


def attention_matrices(model: Transformer) -> int:
    """Weights multiplied with in one layer's attention (no norms, no biases)."""
    h, a = model.hidden, model.heads
    if model.mla is None:
        # query, key, value; output projection
        return h * (a + 2 * model.kv_heads) * model.head_dim + a * model.head_dim * h
    mla = model.mla
    query_head = mla.nope_dim + mla.rope_dim
    query = h * mla.query_rank + mla.query_rank * a * query_head if mla.query_rank else h * a * query_head
    key_value = h * (mla.kv_rank + mla.rope_dim) + mla.kv_rank * a * (mla.nope_dim + mla.value_dim)
    return query + key_value + a * mla.value_dim * h


def _attention_rest(model: Transformer) -> int:
    """Biases and inner norms of one layer's attention."""
    if model.mla is not None:
        return model.mla.query_rank + model.mla.kv_rank  # RMSNorm on both compressed vectors
    rest = 2 * model.head_dim if model.qk_norm else 0
    if model.biases or model.qkv_biases:
        rest += (model.heads + 2 * model.kv_heads) * model.head_dim
    return rest + (model.hidden if model.biases else 0)


def has_experts(model: Transformer, index: int) -> bool:
    return model.moe is not None and index >= model.moe.first_dense_layers


def ffn_matrices(model: Transformer, index: int, active: bool) -> int:
    """Weights multiplied with in the feed-forward network (or router and experts) of layer `index`."""
    per_width = (3 if model.gated else 2) * model.hidden
    moe = model.moe
    if moe is None or index < moe.first_dense_layers:
        return per_width * model.ffn
    routed = (moe.top_k if active else moe.experts) * moe.ffn
    return per_width * (routed + moe.shared_experts * moe.shared_ffn) + model.hidden * moe.experts


def _ffn_rest(model: Transformer, index: int) -> int:
    """Biases of the feed-forward network of layer `index`."""
    if model.moe is not None and has_experts(model, index):
        return model.moe.experts if model.moe.router_bias else 0
    return (2 if model.gated else 1) * model.ffn + model.hidden if model.biases else 0


def layer(model: Transformer, index: int, active: bool = False) -> int:
    """Parameters of layer `index` with its two norms."""
    if not 0 <= index < model.layers:
        raise ConfigError(f"`layer`: {index} is outside 0 ... {model.layers - 1}")
    matrices = attention_matrices(model) + ffn_matrices(model, index, active)
    return matrices + _attention_rest(model) + _ffn_rest(model, index) + 2 * norm_width(model)


def _over_layers(model: Transformer, dense: int, experts: int) -> int:
    """Sum over layers of a quantity that is `dense` in dense layers and `experts` in expert layers."""
    first = model.layers if model.moe is None else model.moe.first_dense_layers
    return first * dense + (model.layers - first) * experts


def total(model: Transformer, active: bool = False, embedding: bool = True) -> int:
    """Parameters of the whole model."""
    matrix = model.vocab * model.hidden
    positions = model.max_positions * model.hidden if model.positions == "learned" else 0
    layers = _over_layers(model, layer(model, 0, active), layer(model, model.layers - 1, active))
    ends = matrix + norm_width(model)  # logits, final norm
    if embedding:
        ends += positions + (0 if model.tied else matrix)
    return layers + ends


def in_matrix_products(model: Transformer) -> int:
    """Active parameters a token is multiplied with, logits included: the N of 6N."""
    attention = attention_matrices(model)
    dense, experts = ffn_matrices(model, 0, True), ffn_matrices(model, model.layers - 1, True)
    return _over_layers(model, attention + dense, attention + experts) + model.vocab * model.hidden


# -- one tensor-parallel rank
# ------------------------------------------------------------------------------------


def require_dense(model: Transformer) -> None:
    """Refuse models whose operators are not described."""
    if model.moe is not None or model.mla is not None:
        raise ConfigError(
            f"`model`: {model.name} has experts or latent attention, which give counts only; "
            "choose a dense model"
        )


def split_vocab(model: Transformer, tensor_parallel: int) -> int:
    """Rows of the vocabulary one rank holds, padded up."""
    return -(-model.vocab // tensor_parallel)


def split_heads(model: Transformer, tensor_parallel: int) -> tuple[int, int]:
    """Query and KV heads of one rank; KV heads are replicated where there are fewer than ranks."""
    positive("tensor_parallel", tensor_parallel)
    t = tensor_parallel
    if model.heads % t:
        raise ConfigError(f"`tensor_parallel`: {t} does not divide {model.heads} heads")
    if model.kv_heads % t and t % model.kv_heads:
        raise ConfigError(
            f"`tensor_parallel`: {t} neither divides {model.kv_heads} KV heads nor is a multiple of them"
        )
    return model.heads // t, max(1, model.kv_heads // t)


def split_ffn(model: Transformer, tensor_parallel: int) -> int:
    """Inner width of one rank's feed-forward network."""
    if model.ffn % tensor_parallel:
        raise ConfigError(f"`tensor_parallel`: {tensor_parallel} does not divide ffn = {model.ffn}")
    return model.ffn // tensor_parallel


def rank(model: Transformer, part: Part, tensor_parallel: int) -> int:
    """Parameters of `part` on one of `tensor_parallel` ranks."""
    require_dense(model)
    choice("part", part, Part)
    positive("tensor_parallel", tensor_parallel)
    h, d = model.hidden, model.head_dim
    if part == "embedding":
        positions = model.max_positions * h if model.positions == "learned" else 0
        return split_vocab(model, tensor_parallel) * h + positions
    if part == "head":
        return split_vocab(model, tensor_parallel) * h + norm_width(model)
    heads, kv_heads = split_heads(model, tensor_parallel)
    ffn = split_ffn(model, tensor_parallel)
    qkv = (heads + 2 * kv_heads) * d
    up = (2 if model.gated else 1) * ffn
    count = h * (qkv + heads * d + up + ffn) + 2 * norm_width(model)
    if model.biases or model.qkv_biases:
        count += qkv
    if model.biases:
        count += up + 2 * h  # the biases of output projection and ffn_down are not split
    return count + (2 * d if model.qk_norm else 0)
