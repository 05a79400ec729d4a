"""The time of fused (flash) attention over whole prompts, chunks of them, and images.

``launch + max(work / rate, longest row / one multiprocessor's rate, bytes / bandwidth)``: work counts a fixed
cost per query row (``s0`` extra keys: softmax rescaling, prologue, the masked half of diagonal blocks). What
it leaves is a field over (batch x heads, new tokens, heads per KV head, cached tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from euston.devices import _tables
from euston.devices._field import Array
from euston.devices._model import Columns, Constant, Family, Machine, Table, smooth_max

Generation = Literal["fa1", "fa2", "fa3"]

#: Backward against forward FLOP/s: 322/370 (FlashAttention-2), 561/648 (-3), 516/595 (cuDNN) TFLOP/s on H100
#: at 16k tokens (Shah et al. 2024, FlashAttention-3, figures 5 and 6).
BACKWARD_RATE = 0.87
#: Backward FLOPs over forward FLOPs: five matrix products (scores are recomputed) against two (Dao et al.
#: 2022).
BACKWARD_FLOPS = 2.5
#: Query rows one thread block works on.
BLOCK = 128.0
TABLE_HEAD_DIM = 128
ELEMENT = 2.0

#: Rate of a kernel generation over that of the device's table, at long sequences.
#: a100 table: FlashAttention-2. fa1: forward and backward together 101 TFLOP/s (the middle of the 25-40 % of
#: peak that Dao 2023 gives for it), against .903 x the table's 176. h100 table: FlashAttention-3. fa2: 370
#: against 648 TFLOP/s forward (Shah et al. 2024); fa1: half of fa2 (derived).
GENERATION_RATE: dict[str, dict[str, float]] = {
    "a100-sxm-80gb": {"fa1": 101 / (0.903 * 176), "fa2": 1.0, "fa3": 1.0},
    "h100-sxm": {"fa1": 0.5 * 370 / 648, "fa2": 370 / 648, "fa3": 1.0},
}
#: Time per score is (matrix part ~ d) + (exponential ~ d0). H100: the best rate published at head size 64 is
#: 467 TFLOP/s (encoder attention, aiconfigurator) against 740 at 128. A100: assumed .92 of the rate at head
#: size 64, its exponential units being less of a limit.
D0 = {"a100-sxm-80gb": 13.0, "h100-sxm": 180.0}
DEFAULT_D0 = 100.0


def formula(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    """Forward seconds; ``causal`` and ``head_dim`` (1 and 128 where absent) go beyond the tables."""
    heads, kv_heads, new, cached = columns["heads"], columns["kv_heads"], columns["new"], columns["cached"]
    head_dim = columns.get("head_dim", np.full(1, float(TABLE_HEAD_DIM)))
    causal = columns.get("causal", np.ones(1))
    d0 = constants.get("d0", DEFAULT_D0)
    pairs = columns["batch"] * heads
    size = (head_dim / (head_dim + d0)) * ((TABLE_HEAD_DIM + d0) / TABLE_HEAD_DIM)
    rate = machine.peak * constants["eff"] * size
    keys = cached + (1.0 - 0.5 * causal) * new + 0.5 * constants["s0"]
    work = 4 * head_dim * pairs * new * keys / rate
    reach = cached + new + constants["s0"]
    longest = 4 * head_dim * np.minimum(new, BLOCK) * reach / (rate / max(machine.multiprocessors, 1))
    kept = new * heads + (cached + new) * kv_heads
    moved = 2 * ELEMENT * head_dim * columns["batch"] * kept / (machine.bandwidth * constants["eff_mem"])
    return constants["launch"] * 1e-6 + smooth_max(np.maximum(work, longest), moved, constants["sharpness"])


def features(machine: Machine, columns: Columns) -> Array:
    """Logs of batch x heads, new tokens, heads per KV head and 1 + cached / 64, [N, 4]."""
    return np.column_stack(
        (
            np.log(columns["batch"] * columns["heads"]),
            np.log(columns["new"]),
            np.log(columns["heads"] / columns["kv_heads"]),
            np.log1p(columns["cached"] / 64.0),
        )
    )


_SHARED = (
    Constant("eff", 0.6, 0.1, 1.2),
    Constant("s0", 100.0, 0.0, 4000.0),
    Constant("eff_mem", 0.8, 0.1, 1.3),
    Constant("launch", 6.0, 0.3, 30.0),
    Constant("sharpness", 3.0, 1.0, 12.0),
)

#: Causal attention of new tokens to themselves and to cached ones, head size 128.
PREFILL = Family(
    "prefill", ("batch", "new", "heads", "kv_heads", "cached"), _SHARED, formula, features,
    weight=lambda columns: np.where(columns["new"] >= 512, 1.0, 0.5), edge=True,
)  # fmt: skip


def _encoder(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    zeros, heads = np.zeros_like(columns["batch"]), columns["heads"]
    # kernels exist for head sizes that are multiples of 32; smaller ones are padded
    padded = np.ceil(columns["head_dim"] / 32.0) * 32.0
    wide = {
        "batch": columns["batch"], "new": columns["sequence"], "heads": heads, "kv_heads": heads,
        "cached": zeros, "head_dim": padded, "causal": zeros,
    }  # fmt: skip
    return formula(machine, constants, variant, wide)


#: Attention of every patch to every patch; sequence is that of one image.
ENCODER = Family(
    "encoder", ("batch", "sequence", "heads", "head_dim"), _SHARED, _encoder,
    lambda machine, columns: np.column_stack(
        [np.log(columns["batch"] * columns["heads"])]
        + [np.log(columns[name]) for name in ("sequence", "head_dim")]
    ),
    edge=True,
)  # fmt: skip


def _mla(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    """MLA over a prompt: keys and values expanded to full heads of (192, 128), as DeepSeek-V3's are."""
    pairs, s = columns["batch"] * columns["heads"], columns["sequence"]
    work = 2 * pairs * s * (0.5 * s + 0.5 * constants["s0"]) * (MLA_QUERY + MLA_VALUE)
    moved = ELEMENT * pairs * s * 2 * (MLA_QUERY + MLA_VALUE)
    return constants["launch"] * 1e-6 + smooth_max(
        work / (machine.peak * constants["eff"]),
        moved / (machine.bandwidth * constants["eff_mem"]),
        constants["sharpness"],
    )


#: Head sizes of DeepSeek-V3 that the MLA tables were measured with: query and key 128 + 64, value 128.
MLA_QUERY, MLA_VALUE = 192.0, 128.0
MLA_PREFILL = Family(
    "mla_prefill", ("batch", "sequence", "heads"), _SHARED, _mla,
    lambda machine, columns: np.column_stack(
        (
            np.log(columns["batch"] * columns["heads"]),
            np.log(columns["sequence"]),
            np.log(columns["heads"]),
        )
    ),
    edge=True,
)  # fmt: skip


def measured(device: str, directory: Path = _tables.DATA) -> Table | None:
    """The packaged prefill table of a device, chunks against a cache included, or None."""
    return _tables.wide(
        "attention.csv", {"device": device}, ("batch", "heads", "kv_heads", "cached"), "new", directory
    )


def measured_encoder(device: str, directory: Path = _tables.DATA) -> Table | None:
    """The packaged encoder table of a device, or None."""
    return _tables.wide(
        "encoder_attention.csv", {"device": device}, ("batch", "heads", "head_dim"), "sequence", directory
    )


def measured_mla(device: str, directory: Path = _tables.DATA) -> Table | None:
    """The packaged MLA prefill table of a device, or None."""
    return _tables.wide(
        "mla.csv", {"device": device, "phase": "prefill"}, ("batch", "heads"), "sequence", directory
    )
