"""The kernels of a dense decoder: one micro-batch through a layer, the embedding or the head.

Every `_Step` is one link of the chain: what runs forward, what runs backward, and whether selective recompute
repeats it. `operators` strings them together; the backward pass walks them in reverse. Bytes are those of
fused kernels: each tensor read or written once per kernel. T are the micro-batch's tokens, t the
tensor-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from . import _parameters
from ._settings import Settings, choice
from .operator import Kernel, Operator, Part, Phase

if TYPE_CHECKING:
    from ._transformer import Transformer

#: Bytes read and written per weight to add a micro-batch's gradient to the accumulated one: in the GEMM's
#: epilogue (read 4, write 4); by autograd in FP16 (read 2 + 2, write 2); from a 16-bit gradient to an FP32
#: buffer (read 2 + 4, write 4). Megatron-LM's `gradient_accumulation_fusion` chooses between the first and
#: the last.
ACCUMULATE = {"fused-fp32": (4, 4), "autograd-fp16": (4, 2), "unfused-fp32": (6, 4), "none": (0, 0)}
#: Bytes per FP32 logit of a vocabulary-parallel cross entropy, 40 in all. Forward: cast (2 -> 4), maximum
#: (4 ->), subtract and exponentiate (4 -> 4), divide (4 -> 4). Backward: subtract the target and scale
#: (4 -> 4), cast (4 -> 2).
CROSS_ENTROPY = {"forward": (14, 12), "backward": (8, 6)}
#: FlashAttention's backward: five matrix products (scores are recomputed) against two (Dao et al. 2022).
FLASH_BACKWARD = 2.5


@dataclass(frozen=True)
class _Step:
    forward: tuple[Operator, ...]
    backward: tuple[Operator, ...]
    selective: bool = False  # repeated by selective recompute


def _dtype(settings: Settings) -> str:
    """Type outside the FP8 GEMMs."""
    return "bf16" if settings.precision == "fp8" else settings.precision


def _memory(
    name: str,
    kernel: Kernel,
    settings: Settings,
    rows: int,
    columns: int,
    forward: tuple[float, float],
    backward: tuple[float, float],
    *,
    selective: bool = False,
) -> _Step:
    """A bandwidth-bound kernel; `forward` and `backward` are bytes (read, written) per element."""

    def one(phase: Phase, per_element: tuple[float, float]) -> Operator:
        read, written = (rows * columns * b for b in per_element)
        return Operator(
            name,
            "memory",
            phase,
            (rows, columns),
            0.0,
            float(read),
            float(written),
            _dtype(settings),
            kernel=kernel,
        )

    return _Step((one("forward", forward),), (one("backward", backward),), selective)


def _gemm(name: str, phase: Phase, m: int, n: int, k: int, element: int, out: int, dtype: str) -> Operator:
    read, written = (m * k + k * n) * element, m * n * out
    return Operator(name, "gemm", phase, (m, n, k), 2.0 * m * n * k, float(read), float(written), dtype)


def _linear(name: str, settings: Settings, outputs: int, inputs: int, *, low_precision: bool = True) -> _Step:
    """y[T, outputs] = x[T, inputs] @ W.T, with dgrad [T, inputs, outputs] and wgrad [outputs, inputs, T]."""
    tokens, out = settings.tokens, settings.width
    fp8 = settings.precision == "fp8" and low_precision
    element, dtype = (1, "fp8") if fp8 else (out, _dtype(settings))
    forward = [_gemm(name, "forward", tokens, outputs, inputs, element, out, dtype)]
    backward = [
        _gemm(f"{name}_dgrad", "backward", tokens, inputs, outputs, element, out, dtype),
        _gemm(f"{name}_wgrad", "backward", outputs, inputs, tokens, element, out, dtype),
    ]
    if fp8:
        # read 16 bits, write FP8 and its transposed copy, which Hopper's K-major GEMMs need in the backward
        # pass
        cast = _memory(f"{name}_input_cast", "cast", settings, tokens, inputs, (2, 2), (0, 0))
        grad_cast = _memory(f"{name}_gradient_cast", "cast", settings, tokens, outputs, (0, 0), (2, 2))
        forward.insert(0, cast.forward[0])
        backward.insert(0, grad_cast.backward[0])
    return _Step(tuple(forward), tuple(backward))


def _norm(name: str, settings: Settings, rows: int, columns: int) -> _Step:
    e = settings.width
    # forward x -> y; backward dy, x -> dx
    return _memory(name, "norm", settings, rows, columns, (e, e), (2 * e, e))


def _residual(name: str, settings: Settings, hidden: int) -> _Step:
    """Residual add (with dropout and bias in the same kernel) and, backward, the sum of the two gradients."""
    e, rows = settings.width, settings.split_tokens
    mask = 1 if settings.dropout else 0
    step = _memory(name, "add", settings, rows, hidden, (2 * e, e + mask), (2 * e, e))
    if not settings.dropout:
        return step
    drop = _memory(f"{name}_dropout", "dropout", settings, rows, hidden, (0, 0), (e + 1, e))
    # the gradients are summed where the residual branches off, i.e. after the branch's own backward
    return _Step(step.forward, (*drop.backward, *step.backward))


def _flash(settings: Settings, heads: int, kv_heads: int, head_dim: int) -> list[_Step]:
    tokens, e = settings.tokens, settings.width
    # scores and values over the lower triangle
    flops = 4.0 * tokens * settings.sequence * heads * head_dim / 2
    q, kv, lse = e * tokens * heads * head_dim, 2 * e * tokens * kv_heads * head_dim, 4 * tokens * heads
    shape = (_batch(settings), settings.sequence, heads, kv_heads, head_dim)

    def one(phase: Phase, work: float, read: float, written: float) -> Operator:
        return Operator(
            "attention",
            "attention",
            phase,
            shape,
            work,
            float(read),
            float(written),
            _dtype(settings),
            kernel="attention",
            causal=True,
        )

    forward = one("forward", flops, q + kv, q + lse)
    # q, o, do, k, v -> dq, dk, dv
    backward = one("backward", FLASH_BACKWARD * flops, 3 * q + kv + lse, q + kv)
    return [_Step((forward,), (backward,))]


def _unfused(settings: Settings, heads: int, kv_heads: int, head_dim: int) -> list[_Step]:
    """Scores and values as batched products over the full square; softmax and dropout as kernels between.

    One operator stands for both products (its shape says what they multiply); backward has four.
    """
    tokens, s, e = settings.tokens, settings.sequence, settings.width
    flops = 4.0 * tokens * s * heads * head_dim
    square, q = e * tokens * s * heads, e * tokens * heads * head_dim
    k = e * tokens * kv_heads * head_dim  # or v
    shape = (_batch(settings), s, heads, kv_heads, head_dim)

    def products(phase: Phase, work: float, read: float, written: float) -> Operator:
        return Operator(
            "attention",
            "attention",
            phase,
            shape,
            work,
            float(read),
            float(written),
            _dtype(settings),
            kernel="attention_unfused",
        )

    # q, k -> scores; probabilities, v -> o
    forward = products("forward", flops, (q + k) + (square + k), square + q)
    # do, v -> dp; probabilities, do -> dv; ds, k -> dq; ds, q -> dk
    backward = products(
        "backward", 2 * flops, (q + k) + (square + q) + (square + k) + (square + q), square + 2 * k + q
    )
    rows = tokens * heads
    steps = [
        _Step((forward,), (backward,), selective=True),
        # scale, mask and softmax in one kernel; backward reads the gradient and the saved output
        _memory("attention_softmax", "softmax", settings, rows, s, (e, e), (2 * e, e), selective=True),
    ]
    if settings.dropout:
        mask = ((e, e + 1), (e + 1, e))  # read or written, one byte per element
        steps.append(_memory("attention_dropout", "dropout", settings, rows, s, *mask, selective=True))
    return steps


def _batch(settings: Settings) -> float:
    """Sequences in the micro-batch; a fraction where context-parallel ranks share one."""
    whole, rest = divmod(settings.tokens, settings.sequence)
    return settings.tokens / settings.sequence if rest else whole


def _layer(model: Transformer, settings: Settings) -> list[_Step]:
    h, d, e, tokens = model.hidden, model.head_dim, settings.width, settings.tokens
    heads, kv_heads = _parameters.split_heads(model, settings.tensor_parallel)
    ffn = _parameters.split_ffn(model, settings.tensor_parallel)
    steps = [
        _norm("attention_norm", settings, settings.split_tokens, h),
        _linear("qkv", settings, (heads + 2 * kv_heads) * d, h),
    ]
    if model.qk_norm:
        steps.append(_norm("qk_norm", settings, tokens * (heads + kv_heads), d))
    if model.positions == "rotary":
        columns = (heads + kv_heads) * d
        steps.append(_memory("rotary", "rotary", settings, tokens, columns, (e, e), (e, e)))
    core = _flash if settings.attention == "flash" else _unfused
    steps += core(settings, heads, kv_heads, d)
    steps.append(_linear("attention_output", settings, h, heads * d))
    steps.append(_residual("attention_residual", settings, h))
    steps.append(_norm("ffn_norm", settings, settings.split_tokens, h))
    steps.append(_linear("ffn_up", settings, (2 if model.gated else 1) * ffn, h))
    # SwiGLU: gate, up -> product; backward gate, up, dy -> dgate, dup. GELU: x -> y; x, dy -> dx
    forward, backward = ((2 * e, e), (3 * e, 2 * e)) if model.gated else ((e, e), (2 * e, e))
    steps.append(_memory("ffn_activation", "activation", settings, tokens, ffn, forward, backward))
    steps.append(_linear("ffn_down", settings, h, ffn))
    steps.append(_residual("ffn_residual", settings, h))
    return steps


def _embedding(model: Transformer, settings: Settings) -> list[_Step]:
    h, e = model.hidden, settings.width
    # rows gathered; backward adds each token's gradient to its row
    steps = [_memory("embedding", "embedding", settings, settings.tokens, h, (e, e), (2 * e, e))]
    if model.positions == "learned":
        # token and position rows -> sum; the gradient is added to the position's row
        steps.append(_memory("position_add", "add", settings, settings.tokens, h, (2 * e, e), (2 * e, e)))
    if settings.dropout:
        rows = settings.split_tokens
        steps.append(_memory("embedding_dropout", "dropout", settings, rows, h, (e, e + 1), (e + 1, e)))
    return steps


def _head(model: Transformer, settings: Settings) -> list[_Step]:
    vocab = _parameters.split_vocab(model, settings.tensor_parallel)
    forward, backward = CROSS_ENTROPY["forward"], CROSS_ENTROPY["backward"]
    return [
        _norm("final_norm", settings, settings.split_tokens, model.hidden),
        _linear("logits", settings, vocab, model.hidden, low_precision=False),
        _memory("cross_entropy", "cross_entropy", settings, settings.tokens, vocab, forward, backward),
    ]


_PARTS = {"layer": _layer, "embedding": _embedding, "head": _head}


def _accumulate(model: Transformer, part: Part, settings: Settings) -> list[Operator]:
    read, written = ACCUMULATE[settings.grad_accumulation]
    if not read:
        return []
    weights = _parameters.rank(model, part, settings.tensor_parallel)
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


def _repeated(steps: Iterable[_Step], settings: Settings) -> list[Operator]:
    """The forward kernels that recompute runs again before the backward pass."""
    if settings.recompute == "none":
        return []
    everything = settings.recompute == "full"
    again = [op for step in steps if everything or step.selective for op in step.forward]
    return [replace(op, phase="recompute") for op in again]


@lru_cache(maxsize=1024)
def operators(model: Transformer, part: Part, settings: Settings) -> tuple[Operator, ...]:
    """Kernels of `part`: forward, recompute (layers only), backward. See `Transformer.operators`."""
    _parameters.require_dense(model)
    choice("part", part, Part)
    steps = _PARTS[part](model, settings)
    chain = [op for step in steps for op in step.forward]
    if part == "layer":
        chain += _repeated(steps, settings)
    chain += [op for step in reversed(steps) for op in step.backward]
    chain += _accumulate(model, part, settings)
    return tuple(op if part == "layer" else replace(op, layer=part) for op in chain)
