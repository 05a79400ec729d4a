"""Attention as links of a layer: grouped-query and latent projections, fused, windowed and unfused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _parameters
from ._settings import Settings
from ._steps import Step, linear, memory, norm, residual
from .operator import Operator, Phase

if TYPE_CHECKING:
    from ._transformer import Transformer

__all__ = ["FLASH_BACKWARD", "attention", "flash", "keys_per_query"]

#: FlashAttention's backward: five matrix products (scores are recomputed) against two (Dao et al. 2022).
FLASH_BACKWARD = 2.5


#: Elements read and written per element rotated by `_apply_rotary_pos_emb_bshd` of Megatron-Core 0.16 (and
#: its `_rotate_half`), which runs where a model scales its rotations (YaRN). Forward: product with cosines,
#: half negated, halves joined, product with sines, sum, joined with an empty rest. Backward: both products,
#: half negated, the halves' gradients put together, their sum, and the gradients of the slices. Counted by
#: running it: `tests/models/test_unfused.py`.
EAGER_ROTARY = ((6.5, 5.5), (7.5, 7.5))
#: Of them, those of operations on strided halves or with broadcast cosines and sines, which move one element
#: at a time: the products, the negation, and the joining of halves of which one is strided.
EAGER_ROTARY_SINGLE = (7.0, 7.0)
#: Their launches for queries and keys, with six on the table of angles forward.
EAGER_ROTARY_KERNELS = (24, 18)


def keys_per_query(sequence: int, window: int = 0, causal: bool = True) -> float:
    """Keys a query attends to on average: all, the lower triangle's half, or a window of it."""
    if not causal:
        return float(sequence)
    if not window or window >= sequence:
        return sequence / 2
    return window * (1.0 - window / (2.0 * sequence))


def attention(model: Transformer, settings: Settings, window: int = 0) -> list[Step]:
    """Norm, projections, attention over everything before (or a `window`), output and residual."""
    h = model.hidden
    steps = [norm("attention_norm", settings, settings.split_tokens, h)]
    heads, kv_heads = _parameters.split_heads(model, settings.tensor_parallel)
    if model.mla is not None:
        steps += _latent(model, settings, heads)
        value = model.mla.value_dim
    else:
        steps += _grouped(model, settings, heads, kv_heads, window)
        value = model.head_dim
    steps.append(linear("attention_output", settings, h, heads * value))
    if model.post_norms:
        steps.append(norm("attention_post_norm", settings, settings.split_tokens, h))
    steps.append(residual("attention_residual", settings, h))
    return steps


def _rotary(settings: Settings, columns: int) -> Step:
    """Rotary positions of queries and keys, as many `columns`."""
    e = settings.width
    if settings.rotary_kernel == "fused":
        return memory("rotary", "rotary", settings, settings.tokens, columns, (e, e), (e, e))
    moved = [(read * e, written * e) for read, written in EAGER_ROTARY]
    single = (EAGER_ROTARY_SINGLE[0] * e, EAGER_ROTARY_SINGLE[1] * e)
    calls = EAGER_ROTARY_KERNELS if settings.graphs == "none" else (1, 1)
    return memory("rotary", "add", settings, settings.tokens, columns, *moved, calls=calls, single=single)


def _grouped(model: Transformer, settings: Settings, heads: int, kv_heads: int, window: int) -> list[Step]:
    d, tokens = model.head_dim, settings.tokens
    steps = [linear("qkv", settings, (heads + 2 * kv_heads) * d, model.hidden)]
    if settings.qkv_split == "copies":
        steps += _split(model, settings, heads, kv_heads)
    if model.qk_norm:
        steps.append(norm("qk_norm", settings, tokens * (heads + kv_heads), d))
    if model.positions == "rotary":
        columns = (heads + kv_heads) * d
        steps.append(_rotary(settings, columns))
    if settings.attention == "flash":
        steps.append(flash(settings, heads, kv_heads, d, window=window))
    else:
        steps += _unfused(settings, heads, kv_heads, d)
    return steps


def _split(model: Transformer, settings: Settings, heads: int, kv_heads: int) -> list[Step]:
    """Queries, keys and values out of one matrix whose columns go group by group, as Megatron-Core does it.

    Queries of several heads a group are copied to lie together (`SelfAttention.get_query_key_value_tensors`:
    reshape); a norm copies its strided keys; what is strided still when attention begins is copied there
    (Transformer Engine: `get_qkv_layout`), but for three equal ones that nothing has moved. Rotations write
    their results anew. Backward, the three gradients are concatenated.
    """
    equal = heads == kv_heads
    moved = model.positions == "rotary" or model.qk_norm
    if equal and not moved:
        return []
    alone = kv_heads == 1
    copied = 0.0 if alone or equal else float(heads)  # a single group's queries lie together, row by row
    if model.qk_norm:
        copied = heads + kv_heads
    elif not moved:
        copied += kv_heads  # keys
    copied += kv_heads  # values
    columns, e = (heads + 2 * kv_heads), settings.width
    share = copied / columns * e
    return [
        memory(
            "qkv_split", "add", settings, settings.tokens, columns * model.head_dim, (share, share), (e, e),
            calls=(2, 1), single=(2 * share, 0.0),
        )
    ]  # fmt: skip


def _latent(model: Transformer, settings: Settings, heads: int) -> list[Step]:
    """Compressed queries, keys and values (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    The two projections down are small and every tensor-parallel rank has them whole; under sequence
    parallelism each works on its own tokens.
    """
    mla = model.mla
    assert mla is not None
    h, e, tokens, split = model.hidden, settings.width, settings.tokens, settings.split_tokens
    query_head = mla.nope_dim + mla.rope_dim
    steps = []
    if mla.query_rank:
        steps += [
            linear("query_down", settings, mla.query_rank, h, tokens=split),
            norm("query_norm", settings, split, mla.query_rank),
            linear("query_up", settings, heads * query_head, mla.query_rank).within("mla_up_proj"),
        ]
    else:
        steps.append(linear("query", settings, heads * query_head, h))
    steps += [
        linear("key_value_down", settings, mla.kv_rank + mla.rope_dim, h, tokens=split),
        norm("key_value_norm", settings, split, mla.kv_rank),
        linear("key_value_up", settings, heads * (mla.nope_dim + mla.value_dim), mla.kv_rank).within(
            "mla_up_proj"
        ),
        # rotates the query's share in place and writes whole key heads, the shared rotary key in each
        memory("rotary", "rotary", settings, tokens, heads * 2 * query_head, (e, e), (e, e)).within(
            "mla_up_proj"
        ),
    ]
    # training does not absorb the projections: plain heads, as wide on average as query and value heads
    width = (query_head + mla.value_dim) // 2
    shape = (_batch(settings), settings.sequence, heads, heads, width)
    keys = keys_per_query(settings.sequence)
    steps.append(_fused(settings, heads, heads, query_head, mla.value_dim, shape, keys, True))
    return steps


def flash(
    settings: Settings, heads: int, kv_heads: int, head_dim: int, *, window: int = 0, causal: bool = True
) -> Step:
    """One fused kernel: the lower triangle, the whole square, or a sliding window below the diagonal.

    A window of w keys is written as blocks of w queries against w cached keys' average of w / 2 and their own
    triangle: the shape of a chunk of prefill.
    """
    s = settings.sequence
    shape: tuple[float, ...] = (_batch(settings), s, heads, kv_heads, head_dim)
    if causal and window and window < s:
        blocks = settings.tokens / window
        shape = (blocks, window, heads, kv_heads, head_dim, window * (0.5 - window / (2.0 * s)))
    keys = keys_per_query(s, window, causal)
    return _fused(settings, heads, kv_heads, head_dim, head_dim, shape, keys, causal)


def _fused(
    settings: Settings,
    heads: int,
    kv_heads: int,
    query_dim: int,
    value_dim: int,
    shape: tuple[float, ...],
    keys: float,
    causal: bool,
) -> Step:
    tokens, e = settings.tokens, settings.width
    scores = 2.0 * tokens * keys * heads * query_dim
    values = 2.0 * tokens * keys * heads * value_dim
    q, o = e * tokens * heads * query_dim, e * tokens * heads * value_dim
    kv, lse = e * tokens * kv_heads * (query_dim + value_dim), 4 * tokens * heads

    def one(phase: Phase, work: float, read: float, written: float) -> Operator:
        return Operator(
            "attention", "attention", phase, shape, work, float(read), float(written),
            settings.dtype, kernel="attention", causal=causal,
        )  # fmt: skip

    forward = one("forward", scores + values, q + kv, o + lse)
    # scores again, dq, dk over the query head; dp, dv over the value head. q, o, do, k, v -> dq, dk, dv
    backward = one("backward", 3 * scores + 2 * values, q + 2 * o + kv + lse, q + kv)
    return Step((forward,), (backward,))


def _unfused(settings: Settings, heads: int, kv_heads: int, head_dim: int) -> list[Step]:
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
            settings.dtype,
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
        Step((forward,), (backward,), "core_attn"),
        # scale, mask and softmax in one kernel; backward reads the gradient and the saved output
        memory("attention_softmax", "softmax", settings, rows, s, (e, e), (2 * e, e), module="core_attn"),
    ]
    if settings.dropout:
        mask = ((e, e + 1), (e + 1, e))  # read or written, one byte per element
        steps.append(memory("attention_dropout", "dropout", settings, rows, s, *mask, module="core_attn"))
    return steps


def _batch(settings: Settings) -> float:
    """Sequences in the micro-batch; a fraction where context-parallel ranks share one."""
    whole, rest = divmod(settings.tokens, settings.sequence)
    return settings.tokens / settings.sequence if rest else whole
