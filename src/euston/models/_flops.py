"""FLOPs of training per token, by the conventions people publish with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from . import _parameters
from ._attention import keys_per_query
from ._mamba import ssd_flops
from ._settings import Recompute, choice, positive

if TYPE_CHECKING:
    from ._kinds import LayerKind
    from ._transformer import Transformer

Convention = Literal["causal", "full", "hardware"]


def _per_key(model: Transformer) -> int:
    """Scores and values of one layer, forward, per query and key."""
    if model.mla is None:
        return 4 * model.heads * model.head_dim
    # scores over nope + rope, values over the value head
    return 2 * model.heads * (model.mla.nope_dim + model.mla.rope_dim + model.mla.value_dim)


def mixing_forward(model: Transformer, kind: LayerKind, sequence: int, causal: bool) -> float:
    """What one layer does between its weight products, forward, per token."""
    if kind.mixer == "mamba" and model.mamba is not None:
        # version 1 scans element by element and has no products
        m = model.mamba
        return ssd_flops(m, m.heads, m.groups)[0] if m.version == 2 else 0.0
    if not kind.attends:
        return 0.0
    window = model.window if kind.mixer == "sliding" else 0
    keys = keys_per_query(sequence, window) if causal else float(min(sequence, window or sequence))
    return _per_key(model) * keys


def attention_forward(model: Transformer, sequence: int, causal: bool = False) -> float:
    """Scores and values (or scans) of all layers, forward, per token; `causal` counts the triangle only."""
    return sum(n * mixing_forward(model, kind, sequence, causal) for kind, n in model.kind_counts.items())


def per_token(model: Transformer, sequence: int, convention: Convention, recompute: Recompute) -> float:
    """FLOPs per token, see `Transformer.flops_per_token`."""
    positive("sequence", sequence)
    choice("convention", convention, Convention)
    choice("recompute", recompute, Recompute)
    matrices = _parameters.in_matrix_products(model)
    mixing = attention_forward(model, sequence, causal=convention == "causal")
    head = model.vocab * model.hidden
    if model.prediction_layers:
        # a layer of the last kind, the projection of two hidden sizes to one, and the head again
        kind, n = model.layer_kinds[-1], model.prediction_layers
        layer = _parameters.mixer_matrices(model, kind) + _parameters.ffn_matrices(model, kind, True)
        matrices += n * (layer + 2 * model.hidden**2 + head)
        head += n * head
        mixing += n * mixing_forward(model, kind, sequence, convention == "causal")
    # backward is twice the forward for matrix products; flash attention's recomputed scores are not model
    # FLOPs
    model_flops = 6.0 * matrices + 3 * mixing
    if convention != "hardware" or recompute == "none":
        return model_flops
    if recompute == "selective":
        return model_flops + mixing
    # one more forward of every layer but not of the logits: 96 B s L h^2 (1 + s/6h + V/16Lh) for GPT (SC'21)
    return model_flops + 2.0 * (matrices - head) + mixing
