"""The kernels of one part of a model: a layer of some kind, the embedding, the head, or the prediction layer.

`operators` strings the links together; the backward pass walks them in reverse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from euston.errors import ConfigError

from . import _attention, _feed_forward, _mamba, _parameters, _vision
from ._kinds import LayerKind
from ._settings import Settings, choice
from ._steps import Step, linear, memory, norm
from .operator import Operator, Part

if TYPE_CHECKING:
    from ._transformer import Transformer

__all__ = ["ACCUMULATE", "CROSS_ENTROPY", "operators"]

#: Bytes read and written per weight to add a micro-batch's gradient to the accumulated one: in the GEMM's
#: epilogue (read 4, write 4; half of it where the buffer has 16 bit); by autograd in FP16 (read 2 + 2, write
#: 2); from a 16-bit gradient to an FP32 buffer (read 2 + 4, write 4). Megatron-LM's
#: `gradient_accumulation_fusion` chooses between the first and the last, `grad_reduce_in_fp32` the buffer.
ACCUMULATE = {
    "fused-fp32": (4, 4), "fused-bf16": (2, 2), "autograd-fp16": (4, 2), "unfused-fp32": (6, 4),
    "none": (0, 0),
}  # fmt: skip
#: Bytes per FP32 logit of a vocabulary-parallel cross entropy, 40 in all. Forward: cast (2 -> 4), maximum
#: (4 ->), subtract and exponentiate (4 -> 4), divide (4 -> 4). Backward: subtract the target and scale
#: (4 -> 4), cast (4 -> 2).
CROSS_ENTROPY = {"forward": (14, 12), "backward": (8, 6)}
#: Bytes per 16-bit logit of Transformer Engine's cross entropy (`pytorch/triton/cross_entropy.py`), 10 in
#: all: forward a pass for the running maximum and sum (2 ->) and one that puts the gradient in the logits'
#: place (2 -> 2); backward their product with the loss's own gradient (2 -> 2).
FUSED_CROSS_ENTROPY = {"forward": (4, 2), "backward": (2, 2)}


def _layer(model: Transformer, settings: Settings, kind: LayerKind) -> list[Step]:
    steps: list[Step] = []
    if kind.mixer == "mamba":
        steps += _mamba.mamba(model, settings)
    elif kind.attends:
        steps += _attention.attention(model, settings, model.window if kind.mixer == "sliding" else 0)
    if kind.ffn == "moe":
        steps += _feed_forward.experts(model, settings)
    elif kind.ffn == "dense":
        steps += _feed_forward.dense(model, settings)
    return steps


def _embedding(model: Transformer, settings: Settings, kind: LayerKind) -> list[Step]:
    h, e = model.hidden, settings.width
    # rows gathered; backward adds each token's gradient to its row
    steps = [memory("embedding", "embedding", settings, settings.tokens, h, (e, e), (2 * e, e))]
    if model.positions == "learned":
        # token and position rows -> sum; the gradient is added to the position's row
        steps.append(memory("position_add", "add", settings, settings.tokens, h, (2 * e, e), (2 * e, e)))
    if settings.dropout:
        rows = settings.split_tokens
        steps.append(memory("embedding_dropout", "dropout", settings, rows, h, (e, e + 1), (e + 1, e)))
    return steps


def _head(model: Transformer, settings: Settings, kind: LayerKind) -> list[Step]:
    vocab = _parameters.split_vocab(model, settings.tensor_parallel)
    moved = FUSED_CROSS_ENTROPY if settings.loss == "fused" else CROSS_ENTROPY
    forward, backward = moved["forward"], moved["backward"]
    return [
        norm("final_norm", settings, settings.split_tokens, model.hidden),
        linear("logits", settings, vocab, model.hidden, low_precision=False),
        memory("cross_entropy", "cross_entropy", settings, settings.tokens, vocab, forward, backward),
    ]


def _prediction(model: Transformer, settings: Settings, kind: LayerKind) -> list[Step]:
    """One multi-token-prediction layer (DeepSeek-V3, arXiv:2412.19437, section 2.2).

    The next token's embedding and the hidden state, both normed, are joined and projected to the hidden size;
    a layer of the last kind follows, and the shared head.
    """
    h, split = model.hidden, settings.split_tokens
    columns = h // settings.tensor_parallel if h % settings.tensor_parallel == 0 else h
    return [
        *_embedding(model, replace(settings, dropout=False), kind),
        norm("prediction_embedding_norm", settings, split, h),
        norm("prediction_hidden_norm", settings, split, h),
        linear("prediction_projection", settings, columns, 2 * h),
        *_layer(model, settings, kind),
        *_head(model, settings, kind),
    ]


_PARTS = {"layer": _layer, "embedding": _embedding, "head": _head, "prediction": _prediction}


def _accumulate(weights: int, settings: Settings) -> list[Operator]:
    read, written = ACCUMULATE[settings.grad_accumulation]
    if not read or not weights:
        return []
    dtype = "fp16" if settings.grad_accumulation == "autograd-fp16" else "fp32"
    return [
        Operator(
            "gradient_accumulation",
            "memory",
            "backward",
            (weights, 1),
            0.0,
            float(read * weights),
            float(written * weights),
            dtype,
            kernel="accumulate",
        )
    ]


def _repeated(steps: Iterable[Step], settings: Settings) -> list[Operator]:
    """The forward kernels that recompute runs again before the backward pass."""
    if settings.recompute == "none":
        return []
    everything = settings.recompute == "full"
    again = [op for step in steps if everything or step.module in settings.modules for op in step.forward]
    return [replace(op, phase="recompute") for op in again]


@lru_cache(maxsize=4096)
def operators(model: Transformer, part: Part, settings: Settings, kind: LayerKind) -> tuple[Operator, ...]:
    """Kernels of `part`: forward, recompute (layers only), backward. See `Transformer.operators`."""
    choice("part", part, Part)
    if part == "encoder":
        raise ConfigError("`part`: the encoder's kernels depend on its images; use encoder_operators")
    steps = _PARTS[part](model, settings, kind)
    layered = part in ("layer", "prediction")
    chain = [op for step in steps for op in step.forward]
    if layered:
        chain += _repeated(steps, settings)
    chain += [op for step in reversed(steps) for op in step.backward]
    chain += _accumulate(_parameters.rank(model, part, settings, kind).total, settings)
    return tuple(op if part == "layer" else replace(op, layer=part) for op in chain)


@lru_cache(maxsize=1024)
def encoder_operators(model: Transformer, settings: Settings, patches: int) -> tuple[Operator, ...]:
    """Kernels of the whole encoder for `settings.tokens` patches, `patches` per image."""
    if model.vision is None:
        raise ConfigError(f"`model`: {model.name} has no vision encoder")
    layer, around = _vision.encoder(model.vision, model.hidden, settings, patches)
    ran = model.vision.layers - model.vision.unused_layers
    chain: list[Operator] = []
    for backward in (False, True):
        for steps, times in ((layer, ran), (around, 1)):
            for step in steps:
                for op in step.backward if backward else step.forward:
                    chain.append(_times(op, times))
    if settings.recompute == "full":
        again = [_times(replace(op, phase="recompute"), ran) for step in layer for op in step.forward]
        chain += again
    chain += _accumulate(model.vision.parameters(model.hidden), settings)
    return tuple(replace(op, layer="encoder") for op in chain)


def _times(op: Operator, times: int) -> Operator:
    return replace(
        op, calls=op.calls * times, flops=op.flops * times, bytes_read=op.bytes_read * times,
        bytes_written=op.bytes_written * times, bytes_single=op.bytes_single * times,
    )  # fmt: skip
