"""Work of a model's layers as serving engines profile them: products and bytes, by tokens or sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.models import Transformer

__all__ = ["SAMPLER_BYTES", "Shape", "shapes"]

_A = NDArray[np.float64]
#: Passes over a sampled row's logits: cast to FP32, scale, sort or threshold, draw (4 bytes each way;
#: assumed,
#: 2.2 to 4.7 passes in the measured samplers of the RTX tables).
SAMPLER_BYTES = 16


@dataclass(frozen=True)
class Shape:
    """One profiled layer.

    Attributes
    ----------
    count : int
        Calls of it in a step.
    n, k : float
        Its product, tokens x k by k x n; 0: none.
    row : float
        Bytes read and written per token.
    weights : float
        Bytes read whatever the tokens.
    per_sequence : bool
        By sampled sequences, not tokens.
    replaces : tuple of str
        The operators of `Transformer.operators` that it stands for.
    """

    count: int
    n: float = 0.0
    k: float = 0.0
    row: float = 0.0
    weights: float = 0.0
    per_sequence: bool = False
    replaces: tuple[str, ...] = ()

    def roofline(self, x: _A, peak: float, bandwidth: float) -> _A:
        """Seconds of one call on x rows at peak and at full bandwidth, whichever is longer."""
        work = 2.0 * x * self.n * self.k / peak
        moved = (x * self.row + self.weights) / bandwidth
        return np.maximum(np.maximum(work, moved), 1e-12)


def _product(count: int, n: float, k: float, *replaces: str, per_sequence: bool = False) -> Shape:
    return Shape(count, n, k, 2.0 * (n + k), 2.0 * n * k, per_sequence, replaces)


def shapes(model: Transformer, tensor: int) -> dict[str, Shape]:
    """Layers by the names that vLLM's modules have, on one of `tensor` accelerators, 16 bit."""
    t, h, d = float(tensor), float(model.hidden), float(model.head_dim)
    heads, kv = model.heads / t, max(1.0, model.kv_heads / t)
    kinds = model.layer_kinds
    attend = sum(kind.attends for kind in kinds)
    dense = sum(kind.ffn == "dense" for kind in kinds)
    experts = sum(kind.ffn == "moe" for kind in kinds)
    blocks = sum((kind.mixer != "none") + (kind.ffn != "none") for kind in kinds)
    f = model.ffn / t
    found = {
        "embedding": Shape(1, row=4.0 * h, replaces=("embedding",)),
        # the residual is added and written in the same kernel
        "layernorm": Shape(
            blocks, row=8.0 * h,
            replaces=("attention_norm", "ffn_norm", "attention_residual", "ffn_residual"),
        ),
        "qkv_proj": _product(attend, (heads + 2 * kv) * d, h, "qkv"),
        "qk_norm": Shape(attend, row=4.0 * (heads + kv) * d, replaces=("qk_norm",)),
        "rotary_emb": Shape(attend, row=4.0 * (heads + kv) * d, replaces=("rotary",)),
        "o_proj": _product(attend, h, heads * d, "attention_output"),
        "gate_up_proj": _product(dense, (2 if model.gated else 1) * f, h, "ffn_up"),
        "act_fn": Shape(dense, row=2.0 * f * (3 if model.gated else 2), replaces=("ffn_activation",)),
        "down_proj": _product(dense, h, f, "ffn_down"),
        "final_layernorm": Shape(1, row=4.0 * h),
        "lm_head": _product(1, float(-(-model.vocab // tensor)), h, per_sequence=True),
        "sampler": Shape(1, row=float(model.vocab * SAMPLER_BYTES), per_sequence=True),
    }  # fmt: skip
    moe = model.moe
    if moe is not None:
        touched = float(min(moe.experts, 1e9))
        per_token = moe.top_k * 3.0 * moe.ffn / t
        found["moe"] = Shape(
            experts, n=per_token, k=h, row=4.0 * h * moe.top_k, weights=2.0 * touched * 3.0 * h * moe.ffn / t,
            replaces=("expert_dispatch", "expert_up", "expert_activation", "expert_down", "expert_combine"),
        )  # fmt: skip
    return found
