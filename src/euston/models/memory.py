"""Bytes a rank keeps: activations saved for the backward pass, parameters, gradients and optimiser state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from euston.errors import ConfigError

from . import _parameters
from ._settings import Precision, Settings, choice, positive

if TYPE_CHECKING:
    from ._transformer import Transformer

__all__ = ["StateBytes", "layer_activations", "state_bytes"]

Sharding = Literal["none", "zero1", "zero2", "zero3"]
GradientDtype = Literal["fp32", "bf16", "fp16"]


def layer_activations(model: Transformer, settings: Settings) -> float:
    """Bytes one layer saves per micro-batch on one rank.

    Tensor by tensor as Korthikanti et al. (arXiv:2205.05198, section 4) list them. With unfused attention and
    dropout a GPT layer gives their formulas: s*b*h*(10 + 24/t + 5as/(ht)), divided throughout by t under
    sequence parallelism, 34*s*b*h/t with selective recompute, 2*s*b*h with full. With flash attention, SwiGLU
    and no dropout: 2T*(4h + (a+2k)d + ad + 3f)/t + 4Ta/t. Full recompute keeps the layer's input only; while
    its backward runs, one layer at a time holds what ``recompute="none"`` gives.
    """
    _parameters.require_dense(model)
    t = settings.tensor_parallel
    heads, kv_heads = _parameters.split_heads(model, t)
    ffn = _parameters.split_ffn(model, t)
    element = settings.width
    tokens, h, d = settings.tokens, model.hidden, model.head_dim
    if settings.recompute == "full":
        return float(element * settings.split_tokens * h)
    # inputs and outputs of both norms (the outputs are the inputs of qkv and ffn_up); masks of both dropouts
    around = 4 * element * h + (2 * h if settings.dropout else 0)
    # query, key, value; input of the output projection
    inside = element * ((heads + 2 * kv_heads) * d + heads * d)
    if model.qk_norm:
        inside += element * (heads + kv_heads) * d
    # input (gate and up) and output of the activation function
    inside += element * (3 if model.gated else 2) * ffn
    return float(settings.split_tokens * around + tokens * inside) + _attention_core(settings, heads)


def _attention_core(settings: Settings, heads: int) -> float:
    """What attention keeps between scores and values."""
    if settings.attention == "flash":
        return 4.0 * settings.tokens * heads  # log-sum-exp of every row, FP32
    if settings.recompute == "selective":
        return 0.0
    # softmax output; with dropout its mask and its output too
    per_score = settings.width + (1 + settings.width if settings.dropout else 0)
    return float(per_score * settings.tokens * settings.sequence * heads)


@dataclass(frozen=True)
class StateBytes:
    """Bytes of one rank's share of the training state."""

    parameters: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """All of them together."""
        return self.parameters + self.gradients + self.optimizer


def state_bytes(
    parameters: float,
    precision: Precision = "bf16",
    sharding: Sharding = "none",
    degree: int = 1,
    gradient_dtype: GradientDtype | None = None,
    main_gradients: bool | None = None,
) -> StateBytes:
    """Parameters, gradients and Adam state of a rank that holds `parameters` before sharding.

    Parameters
    ----------
    parameters : float
        Parameters of the rank's layers, i.e. after tensor and pipeline parallelism.
    precision : "bf16" | "fp16" | "fp8" | "fp32"
        16-bit parameters keep an FP32 master copy with the optimiser; fp8 adds two one-byte copies (GEMM
        operands).
    sharding : "none" | "zero1" | "zero2" | "zero3"
        Shards optimiser state / and gradients / and parameters over `degree` ranks.
    gradient_dtype : "fp32" | "bf16" | "fp16", optional
        Type gradients are accumulated in; default fp32, and fp16 for fp16 parameters.
    main_gradients : bool, optional
        An FP32 copy of 16-bit gradients beside the optimiser state. Default: as Megatron-LM does for FP16
        (unsharded or with its distributed optimiser, i.e. ZeRO-1), and not otherwise.

    Notes
    -----
    Bytes per parameter, d the degree. BF16 with FP32 gradients: 18, or 6 + 12/d; FP16: 20, or 4 + 16/d; FP32:
    16, or 8 + 8/d (Megatron-LM, table of its distributed optimiser). FP16 without main gradients: 16, 4 +
    12/d, 2 + 14/d, 16/d for stages 0-3 (Rajbhandari et al. 2020, arXiv:1910.02054).
    """
    choice("precision", precision, Precision)
    choice("sharding", sharding, Sharding)
    positive("degree", degree)
    if not parameters >= 0 or parameters == float("inf"):
        raise ConfigError(f"`parameters`: {parameters!r} must be a finite number of at least 0")
    dtype: GradientDtype = gradient_dtype or ("fp16" if precision == "fp16" else "fp32")
    choice("gradient_dtype", dtype, GradientDtype)
    if main_gradients is None:
        main_gradients = dtype == "fp16" and sharding in ("none", "zero1")
    master = 0 if precision == "fp32" else 4
    copy = 4 if main_gradients and dtype != "fp32" else 0
    weight = {"fp32": 4, "fp8": 4}.get(precision, 2)
    gradient = 4 if dtype == "fp32" else 2
    state = master + 8 + copy
    stage = ("none", "zero1", "zero2", "zero3").index(sharding)
    return StateBytes(
        parameters * weight / (degree if stage >= 3 else 1),
        parameters * gradient / (degree if stage >= 2 else 1),
        parameters * state / (degree if stage >= 1 else 1),
    )
