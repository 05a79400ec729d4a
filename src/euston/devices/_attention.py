"""The time of fused (flash) attention, from the measured prefill table.

The formula ``launch + max(work / rate, longest row / one multiprocessor's rate, bytes / bandwidth)`` counts a
fixed cost per query row (``s0`` extra keys: softmax rescaling, prologue, the masked half of diagonal blocks);
what it leaves on the table is interpolated over (batch * heads, sequence, heads / KV heads).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from euston.devices._tables import DATA, rows
from euston.devices.base import Provenance

Array = NDArray[np.float64]
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

#: Rate of a kernel generation over that of the device's table, at long sequences.
#: a100 table: FlashAttention-2. fa1: forward and backward together 101 TFLOP/s (the middle of the 25-40 % of
#: peak that Dao 2023 gives for it), against .903 x the table's 176. h100 table: FlashAttention-3. fa2: 370
#: against 648 TFLOP/s forward (Shah et al. 2024); fa1: half of fa2 (derived).
GENERATION_RATE: dict[str, dict[str, float]] = {
    "a100-sxm-80gb": {"fa1": 101 / (0.903 * 176), "fa2": 1.0, "fa3": 1.0},
    "h100-sxm": {"fa1": 0.5 * 370 / 648, "fa2": 370 / 648, "fa3": 1.0},
}


@dataclass(frozen=True)
class Formula:
    """Constants of the attention formula on one machine (FLOP/s, B/s, s); ``d0``: see below."""

    peak: float
    bandwidth: float
    multiprocessors: int
    eff: float
    s0: float
    eff_mem: float
    launch: float
    d0: float

    def seconds(
        self,
        batch: Array | float,
        sequence: Array | float,
        heads: Array | float,
        kv_heads: Array | float,
        head_dim: float = TABLE_HEAD_DIM,
        causal: bool = True,
    ) -> Array:
        """Forward time; arguments are scalars or arrays of one shape."""
        pairs = np.asarray(batch, dtype=np.float64) * heads
        s = np.asarray(sequence, dtype=np.float64)
        # time per score is (matrix part ~ d) + (exponential ~ d0): the share of the first is d / (d + d0)
        size = (head_dim / (head_dim + self.d0)) * ((TABLE_HEAD_DIM + self.d0) / TABLE_HEAD_DIM)
        rate = self.peak * self.eff * size
        keys = (0.5 if causal else 1.0) * s + 0.5 * self.s0
        work = 4 * head_dim * pairs * s * keys / rate
        longest = 4 * head_dim * np.minimum(s, BLOCK) * (s + self.s0) / (rate / self.multiprocessors)
        nbytes = 2 * 2 * head_dim * s * pairs * (1 + np.asarray(kv_heads, dtype=np.float64) / heads)
        result: Array = self.launch + np.maximum(
            np.maximum(work, longest), nbytes / (self.bandwidth * self.eff_mem)
        )
        return result


@dataclass(frozen=True)
class Measured:
    """Columns of one device's prefill table (seconds)."""

    batch: Array
    sequence: Array
    heads: Array
    kv_heads: Array
    seconds: Array


def measured(device: str, directory: Path = DATA) -> Measured | None:
    """The packaged prefill table of a device, or None."""
    found = [row for row in rows("attention.csv", directory) if row["device"] == device]
    if not found:
        return None
    columns = {
        key: np.array([float(row[key]) for row in found])
        for key in ("batch", "sequence", "heads", "kv_heads", "us")
    }
    seconds = columns.pop("us") * 1e-6
    return Measured(**columns, seconds=seconds)


class Correction:
    """Log of (measured / formula) over (batch * heads, sequence) for each ratio of heads to KV heads.

    Repeated points (2 x 32 heads, 4 x 16 heads) are averaged. Outside the measured range the nearest edge is
    used: more heads only add full waves, and the rate is flat in the sequence by then.
    """

    def __init__(self, table: Measured, formula: Formula) -> None:
        base = formula.seconds(table.batch, table.sequence, table.heads, table.kv_heads)
        residual = np.log(table.seconds / base)
        cells: dict[float, dict[float, dict[float, list[float]]]] = {}
        pairs = np.log(table.batch * table.heads)
        for ratio, s, p, value in zip(
            table.heads / table.kv_heads, np.log(table.sequence), pairs, residual, strict=True
        ):
            cells.setdefault(math.log(ratio), {}).setdefault(float(s), {}).setdefault(float(p), []).append(
                float(value)
            )
        # ratio -> [(log sequence, log pairs, mean residual)] sorted by sequence
        self._ratios = sorted(cells)
        self._rows = {
            ratio: [
                (s, np.array(sorted(row)), np.array([float(np.mean(row[p])) for p in sorted(row)]))
                for s, row in sorted(by_sequence.items())
            ]
            for ratio, by_sequence in cells.items()
        }

    def at(self, pairs: float, sequence: float, ratio: float) -> tuple[float, Provenance]:
        """Correction (a logarithm) for batch * heads, sequence and heads / KV heads."""
        r = math.log(ratio)
        low = max((x for x in self._ratios if x <= r + 1e-9), default=self._ratios[0])
        high = min((x for x in self._ratios if x >= r - 1e-9), default=self._ratios[-1])
        value, inside = self._row(low, math.log(pairs), math.log(sequence))
        if high > low:
            other, other_inside = self._row(high, math.log(pairs), math.log(sequence))
            part = (r - low) / (high - low)
            value, inside = (1 - part) * value + part * other, inside and other_inside
        inside = inside and self._ratios[0] - 1e-9 <= r <= self._ratios[-1] + 1e-9
        return value, "interpolated" if inside else "roofline"

    def _row(self, ratio: float, pairs: float, sequence: float) -> tuple[float, bool]:
        rows_ = self._rows[ratio]
        upper = next((i for i, row in enumerate(rows_) if row[0] >= sequence - 1e-9), len(rows_) - 1)
        lower = upper if abs(rows_[upper][0] - sequence) < 1e-9 else max(upper - 1, 0)
        inside = rows_[0][0] - 1e-9 <= sequence <= rows_[-1][0] + 1e-9
        values = []
        for i in (lower, upper):
            _, grid, residual = rows_[i]
            inside = inside and bool(grid[0] - 1e-9 <= pairs <= grid[-1] + 1e-9)
            values.append(float(np.interp(pairs, grid, residual)))
        if upper == lower:
            return values[0], inside
        span = rows_[upper][0] - rows_[lower][0]
        part = min(max((sequence - rows_[lower][0]) / span, 0.0), 1.0)
        return (1 - part) * values[0] + part * values[1], inside


#: ``d0`` of the formula. H100: the best rate published at head size 64 is 467 TFLOP/s (encoder attention,
#: aiconfigurator) against 740 at 128. A100: assumed .92 of the rate at head size 64, its exponential units
#: being less of a limit.
D0 = {"a100-sxm-80gb": 13.0, "h100-sxm": 180.0}
