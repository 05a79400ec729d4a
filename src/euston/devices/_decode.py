"""The time of attention that generates: one new query per sequence against its cached keys and values.

Bytes of the cache over bandwidth, or the longest stream of keys that one multiprocessor works through:
kernels split a sequence over idle multiprocessors, except FlashAttention-2 without grouped heads (variant
``unsplit``), which streams each head on one. ``copy`` and ``combine`` are extra launches of that kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from euston.devices import _tables
from euston.devices._field import Array
from euston.devices._model import Columns, Constant, Family, Machine, Table, smooth_max

ELEMENT = 2.0
TABLE_HEAD_DIM = 128
#: Cached tokens from which kernels split a sequence.
SPLIT = 256.0


def formula(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    """Seconds of one step; ``head_dim`` 128 where absent.

    ``eff_mem`` share of bandwidth, ``stream`` nanoseconds per key on one multiprocessor, ``shortest`` piece
    of a split sequence, ``copy`` and ``combine`` microseconds.
    """
    batch, context, heads, kv_heads = (columns[c] for c in ("batch", "context", "heads", "kv_heads"))
    head_dim = columns.get("head_dim", np.full(1, float(TABLE_HEAD_DIM)))
    lanes, group = batch * kv_heads, heads / kv_heads
    nbytes = 2 * ELEMENT * head_dim * batch * (kv_heads * context + heads)
    moved = nbytes / (machine.bandwidth * constants["eff_mem"])
    stream = constants["stream"] * 1e-9 * head_dim / TABLE_HEAD_DIM
    units = max(machine.multiprocessors, 1)
    split = np.maximum(context / np.maximum(1.0, units / lanes), np.minimum(context, constants["shortest"]))
    extra = constants["combine"] * (context >= SPLIT)
    if variant == "unsplit":
        alone = group <= 1.0
        split = np.where(alone, context * np.ceil(lanes / units), split)
        extra = np.where(alone, 0.0, extra + constants["copy"] * ((batch > 1) & (kv_heads > 1)))
    return (constants["launch"] + extra) * 1e-6 + smooth_max(moved, split * stream, constants["sharpness"])


def features(machine: Machine, columns: Columns) -> Array:
    """Logs of batch x KV heads, context, heads per KV head and batch; three switches of kernels, [N, 7]."""
    batch, context, heads, kv_heads = (columns[c] for c in ("batch", "context", "heads", "kv_heads"))
    return np.column_stack(
        (
            np.log(batch * kv_heads),
            np.log(context),
            np.log(heads / kv_heads),
            np.log(batch),
            (heads <= kv_heads).astype(np.float64),
            ((batch > 1) & (kv_heads > 1) & (heads > kv_heads)).astype(np.float64),
            (context >= SPLIT).astype(np.float64),
        )
    )


DECODE = Family(
    "decode",
    ("batch", "context", "heads", "kv_heads"),
    (
        Constant("eff_mem", 0.7, 0.1, 1.3),
        Constant("stream", 5.0, 0.01, 100.0),
        Constant("launch", 8.0, 0.5, 30.0),
        Constant("sharpness", 3.0, 1.0, 12.0),
        Constant("copy", 3.0, 0.0, 15.0),
        Constant("combine", 3.0, 0.0, 15.0),
        Constant("shortest", 256.0, 16.0, 4096.0),
    ),
    formula,
    features,
    variants=("split", "unsplit"),
    starts=({"stream": 25.0},),
    edge=True,
)


def _mla(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    """Absorbed MLA: every head against one latent of ``kv_rank`` + ``rope`` (512 + 64 where absent)."""
    rank, rope = columns.get("kv_rank", np.full(1, MLA_RANK)), columns.get("rope", np.full(1, MLA_ROPE))
    batch, context, heads = columns["batch"], columns["context"], columns["heads"]
    work = 2 * batch * heads * context * (2 * rank + rope) / (machine.peak * constants["eff"])
    nbytes = ELEMENT * batch * (context * (rank + rope) + heads * (2 * rank + rope))
    moved = nbytes / (machine.bandwidth * constants["eff_mem"])
    steps = constants["growth"] * np.log1p(context / SPLIT)
    return (constants["launch"] + steps) * 1e-6 + smooth_max(work, moved, constants["sharpness"])


#: Latent of DeepSeek-V3, which the MLA tables were measured with.
MLA_RANK, MLA_ROPE = 512.0, 64.0
MLA_DECODE = Family(
    "mla_decode",
    ("batch", "context", "heads"),
    (
        Constant("eff", 0.6, 0.05, 1.2),
        Constant("eff_mem", 0.7, 0.1, 1.3),
        Constant("launch", 8.0, 0.5, 40.0),
        Constant("sharpness", 3.0, 1.0, 12.0),
        Constant("growth", 0.5, 0.0, 30.0),
    ),
    _mla,
    lambda machine, columns: np.column_stack(
        (np.log(columns["batch"]), np.log(columns["context"]), np.log(columns["heads"]))
    ),
    edge=True,
)


def mixed_formula(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    """One call that attends for a chunk of a prompt and for generating sequences at once."""
    new, cached, batch, context = (columns[c] for c in ("new", "cached", "batch", "context"))
    heads = columns.get("heads", np.full(1, MIXED_HEADS))
    kv_heads = columns.get("kv_heads", np.full(1, MIXED_KV_HEADS))
    work = 4 * TABLE_HEAD_DIM * heads * new * (cached + 0.5 * new + 0.5 * constants["s0"])
    units = max(machine.multiprocessors, 1)
    reach = (cached + new + constants["s0"]) * (new > 0)
    longest = 4 * TABLE_HEAD_DIM * np.minimum(new, 128.0) * reach * units
    rate = machine.peak * constants["eff"]
    nbytes = 2 * ELEMENT * TABLE_HEAD_DIM * kv_heads * (batch * context + cached + new)
    compute = np.maximum(work, longest) / rate
    moved = nbytes / (machine.bandwidth * constants["eff_mem"])
    return (constants["launch"] + constants["sequence"] * batch) * 1e-6 + smooth_max(
        compute, moved, constants["sharpness"]
    )


MIXED_HEADS, MIXED_KV_HEADS = 32.0, 8.0
#: Chunk and decodes of one model (32 heads, 8 KV heads, head size 128) in one call.
MIXED = Family(
    "mixed",
    ("new", "cached", "batch", "context"),
    (
        Constant("eff", 0.5, 0.05, 1.2),
        Constant("s0", 100.0, 0.0, 4000.0),
        Constant("eff_mem", 0.7, 0.1, 1.3),
        Constant("launch", 8.0, 0.5, 40.0),
        Constant("sequence", 0.1, 0.0, 2.0),
        Constant("sharpness", 1.5, 1.0, 12.0),
    ),
    mixed_formula,
    lambda machine, columns: np.column_stack(
        (
            np.log1p(columns["new"]),
            np.log1p(columns["cached"] / 16.0),
            np.log1p(columns["batch"]),
            np.log1p(columns["context"] / 16.0),
        )
    ),
    edge=True,
)


def measured(device: str, directory: Path = _tables.DATA) -> Table | None:
    """The packaged decode table of a device, or None."""
    return _tables.wide(
        "decode.csv", {"device": device}, ("batch", "heads", "kv_heads"), "context", directory
    )


def measured_mla(device: str, directory: Path = _tables.DATA) -> Table | None:
    """The packaged MLA decode table of a device, or None."""
    return _tables.wide(
        "mla.csv", {"device": device, "phase": "decode"}, ("batch", "heads"), "context", directory
    )


def measured_mixed(device: str, directory: Path = _tables.DATA) -> Table | None:
    """The packaged table of mixed calls of a device, or None."""
    return _tables.wide(
        "mixed_attention.csv", {"device": device}, ("new", "cached", "batch"), "context", directory
    )
