"""Bytes a rank keeps: activations saved for the backward pass, parameters, gradients and optimiser state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from euston.errors import ConfigError

from . import _parameters
from ._settings import Precision, Settings, choice, positive
from .recipes import recipe

if TYPE_CHECKING:
    from ._kinds import LayerKind
    from ._transformer import Transformer

__all__ = ["StateBytes", "layer_activations", "state_bytes"]

Sharding = Literal["none", "zero1", "zero2", "zero3"]
GradientDtype = Literal["fp32", "bf16", "fp16"]


def layer_activations(model: Transformer, settings: Settings, kind: LayerKind) -> float:
    """Bytes one layer of a kind saves per micro-batch on one rank.

    Tensor by tensor as Korthikanti et al. (arXiv:2205.05198, section 4) list them. With unfused attention and
    dropout a GPT layer gives their formulas: s*b*h*(10 + 24/t + 5as/(ht)), divided throughout by t under
    sequence parallelism, 34*s*b*h/t with selective recompute, 2*s*b*h with full. With flash attention, SwiGLU
    and no dropout: 2T*(4h + (a+2k)d + ad + 3f)/t + 4Ta/t. An expert layer keeps the rows it was sent, what
    its experts keep of each, and the router's probabilities. A low-precision recipe keeps the cast copy of
    what only GEMMs read. Full recompute keeps the layer's input only; while its backward runs, one layer at a
    time holds what ``recompute="none"`` gives.
    """
    element = settings.width
    if settings.recompute == "full":
        return float(element * settings.split_tokens * model.hidden)
    mixer = 0.0
    if kind.attends:
        mixer = _attention(model, settings)
    elif kind.mixer == "mamba":
        mixer = _mamba(model, settings)
    ffn = 0.0
    if kind.ffn == "dense":
        inner = _parameters.split_ffn(model, settings.tensor_parallel)
        ffn = settings.tokens * _mlp(model, settings, inner) if settings.keeps("mlp") else 0.0
    elif kind.ffn == "moe":
        ffn = _experts(model, settings)
    blocks = int(kind.mixer != "none") + int(kind.ffn != "none")
    # input and output of each block's norm (the output is the input of a GEMM); masks of both dropouts
    around: float = element * model.hidden + (model.hidden if settings.dropout else 0)
    if settings.keeps("layernorm"):
        around += _for_gemm(settings) * model.hidden
    if model.post_norms:
        around += element * model.hidden
    return float(settings.split_tokens * blocks * around) + mixer + ffn


def _for_gemm(settings: Settings) -> float:
    """Bytes per element of a tensor that only a linear layer's weight gradient reads again."""
    return settings.width if settings.recipe is None else settings.recipe.element


def _mlp(model: Transformer, settings: Settings, inner: int) -> float:
    """Per token: input (gate and up) and output of the activation function."""
    return inner * (settings.width * (2 if model.gated else 1) + _for_gemm(settings))


def _attention(model: Transformer, settings: Settings) -> float:
    t, element, d = settings.tensor_parallel, settings.width, model.head_dim
    heads, kv_heads = _parameters.split_heads(model, t)
    if model.mla is not None:
        mla = model.mla
        # both compressed vectors with their norms' outputs; whole query, key, value and output heads
        compressed = (element + _for_gemm(settings)) * (mla.query_rank + mla.kv_rank)
        inside = heads * element * mla.value_dim  # attention's output
        if settings.keeps("mla_up_proj"):
            inside += heads * element * (2 * (mla.nope_dim + mla.rope_dim) + mla.value_dim)
        return float(settings.split_tokens * compressed + settings.tokens * inside) + _core(settings, heads)
    # query, key, value; input of the output projection
    inside = element * ((heads + 2 * kv_heads) * d + heads * d)
    if model.qk_norm:
        inside += element * (heads + kv_heads) * d
    return float(settings.tokens * inside) + _core(settings, heads)


def _core(settings: Settings, heads: int) -> float:
    """What attention keeps between scores and values."""
    if settings.attention == "flash":
        return 4.0 * settings.tokens * heads  # log-sum-exp of every row, FP32
    if not settings.keeps("core_attn"):
        return 0.0
    # softmax output; with dropout its mask and its output too
    per_score = settings.width + (1 + settings.width if settings.dropout else 0)
    return float(per_score * settings.tokens * settings.sequence * heads)


def _mamba(model: Transformer, settings: Settings) -> float:
    """The projection, the scan's output and its norm's: convolution and states are made again."""
    m = model.mamba
    assert m is not None
    heads, groups = m.split(settings.tensor_parallel)
    if m.version == 2:
        inner = heads * m.head_dim
        kept = settings.width * (3 * inner + 2 * groups * m.state + heads) + _for_gemm(settings) * inner
    else:  # projection, convolution's output, step sizes, scan's output; what they are made of
        kept = settings.width * (5 * heads + 2 * (m.time_rank + 2 * m.state))
    return float(settings.tokens * kept)


def _experts(model: Transformer, settings: Settings) -> float:
    moe = model.moe
    assert moe is not None
    load = settings.balance.load(
        settings.routed_tokens * moe.top_k * settings.expert_parallel, moe.experts, settings.expert_parallel
    )
    inner = _parameters.split_expert(model, settings.expert_tensor)
    # the rows sent here and inside the experts; their outputs, for the gradient of the weights they get
    per_row = _for_gemm(settings) * model.hidden + _mlp(model, settings, inner)
    if not settings.keeps("moe_act"):
        per_row -= _for_gemm(settings) * inner
    kept = load.rows * (per_row + settings.width * model.hidden)
    kept += 4.0 * settings.split_tokens * moe.experts  # probabilities, FP32
    if moe.shared_experts:
        kept += settings.tokens * _mlp(
            model, settings, _parameters.split_shared(model, settings.tensor_parallel)
        )
    return kept


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
    precision : str
        16-bit parameters keep an FP32 master copy with the optimiser; a low-precision recipe adds its copies
        of the weights (FP8: two of one byte, the GEMM operands).
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
    low = recipe(precision)
    weight = 4 if precision == "fp32" else 2 + (low.weight_copies if low else 0)
    gradient = 4 if dtype == "fp32" else 2
    state = master + 8 + copy
    stage = ("none", "zero1", "zero2", "zero3").index(sharding)
    return StateBytes(
        parameters * weight / (degree if stage >= 3 else 1),
        parameters * gradient / (degree if stage >= 2 else 1),
        parameters * state / (degree if stage >= 1 else 1),
    )
