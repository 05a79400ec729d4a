"""FLOPs of training per token, by the conventions people publish with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from . import _parameters
from ._settings import Recompute, choice, positive

if TYPE_CHECKING:
    from ._transformer import Transformer

Convention = Literal["causal", "full", "hardware"]


def attention_forward(model: Transformer, sequence: int) -> float:
    """Scores and values of all layers, forward, per token, over the full square."""
    if model.mla is None:
        per_key = 4 * model.heads * model.head_dim
    else:
        # scores over nope + rope, values over the value head
        per_key = 2 * model.heads * (model.mla.nope_dim + model.mla.rope_dim + model.mla.value_dim)
    return float(model.layers * per_key * sequence)


def per_token(model: Transformer, sequence: int, convention: Convention, recompute: Recompute) -> float:
    """FLOPs per token, see `Transformer.flops_per_token`."""
    positive("sequence", sequence)
    choice("convention", convention, Convention)
    choice("recompute", recompute, Recompute)
    matrices = _parameters.in_matrix_products(model)
    square = attention_forward(model, sequence)
    # backward is twice the forward for matrix products; flash attention's recomputed scores are not model
    # FLOPs
    model_flops = 6.0 * matrices + 3 * square * (0.5 if convention == "causal" else 1.0)
    if convention != "hardware" or recompute == "none":
        return model_flops
    if recompute == "selective":
        return model_flops + square
    # one more forward of every layer but not of the logits: 96 B s L h^2 (1 + s/6h + V/16Lh) for GPT (SC'21)
    return model_flops + 2.0 * (matrices - model.vocab * model.hidden) + square
