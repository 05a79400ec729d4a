"""Kernels profiled on one machine for one model: tables of layers and of attention, as step times.

What is interpolated is efficiency: a measured time over the roofline's time of the same work. So a table of
one degree of tensor parallelism also prices another, and a step beyond the last point keeps the last
efficiency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from euston.devices.base import Provenance
from euston.devices.kernels import DEVICE_LAUNCH
from euston.errors import ConfigError, unknown
from euston.serving.providers._shapes import SAMPLER_BYTES, Shape, shapes
from euston.serving.step_time import Rate

if TYPE_CHECKING:
    from euston.serving.providers._model import Prices, Shares

__all__ = ["AttentionTable", "LayerTable", "Measured"]

_A = NDArray[np.float64]


@dataclass(frozen=True)
class LayerTable:
    """One layer's times: ``x`` tokens (or sequences), rising, and seconds of one call."""

    x: _A
    seconds: _A


@dataclass(frozen=True)
class AttentionTable:
    """Attention of one layer: [N] each; a chunk of `new` tokens after `cached`, `batch` decodes of `context`.

    `heads` and `kv_heads` are those of the call. 0 new tokens or 0 decodes: only the other half.
    """

    new: _A
    cached: _A
    batch: _A
    context: _A
    seconds: _A
    heads: float
    kv_heads: float
    head_dim: float

    def lookup(self) -> dict[tuple[float, float, float, float], float]:
        """Seconds by (new, cached, batch, context)."""
        keys = zip(self.new, self.cached, self.batch, self.context, strict=True)
        return dict(
            zip(
                ((float(a), float(b), float(c), float(d)) for a, b, c, d in keys),
                self.seconds.tolist(),
                strict=True,
            )
        )


@dataclass(frozen=True)
class Measured:
    """Tables of one machine and model.

    Attributes
    ----------
    layers : mapping of str to LayerTable
        By the layer's name, of one call: `qkv_proj`, `o_proj`, `gate_up_proj`, `act_fn`, `down_proj`,
        `layernorm`, `rotary_emb`, `qk_norm`, `embedding`, `final_layernorm` by tokens; `lm_head` and
        `sampler` by sequences; `moe` by tokens: the whole expert layer.
    tensor : int
        Degree of tensor parallelism they were profiled at.
    attention : AttentionTable, optional
    """

    layers: Mapping[str, LayerTable]
    tensor: int = 1
    attention: AttentionTable | None = None

    def replace(
        self,
        prices: Prices,
        knots: NDArray[np.int64],
        rows: NDArray[np.int64],
        own: _A,
        head: _A,
        by_name: Mapping[str, _A],
        shares: Shares,
    ) -> tuple[_A, _A]:
        """The curves by tokens and by sequences, with the profiled layers in the place of the priced ones."""
        here = shapes(prices.model, prices.layout.tensor)
        there = shapes(prices.model, self.tensor)
        for name in self.layers:
            if name not in here:
                raise ConfigError(f"`layers`: {unknown('layer', name, here)}")
        own, covered = own.copy(), set()
        for name, shape in here.items():
            table = self.layers.get(name)
            if table is None or shape.per_sequence:
                continue
            if name == "moe" and (prices.layout.data > 1 or prices.experts_apart):
                continue  # priced by the group's tokens, not the rank's
            x = knots.astype(np.float64)
            seconds = shape.count * self._scaled(prices, table, there[name], shape, x)
            own += seconds
            for word in shape.replaces:
                if word in by_name and word not in covered:
                    own -= by_name[word]
                    covered.add(word)
            how: Provenance = "interpolated" if prices.layout.tensor == self.tensor else "transferred"
            shares.add(float(seconds[len(knots) // 2]), how)
        left = float(own[len(knots) // 2])
        counted = sum(shares.seconds.values())
        if left > counted:
            shares.add(left - counted, "transferred")
        return np.maximum(own, 0.0), self._head(prices, rows, head, here, there, shares)

    def _head(
        self,
        prices: Prices,
        rows: NDArray[np.int64],
        head: _A,
        here: Mapping[str, Shape],
        there: Mapping[str, Shape],
        shares: Shares,
    ) -> _A:
        x = rows.astype(np.float64)
        vocab = float(-(-prices.model.vocab // prices.layout.tensor))
        logits, _ = prices.gpu.kernels.gemm(x, vocab, float(prices.model.hidden))
        drawn, _ = prices.gpu.kernels.memory("softmax", x * prices.model.vocab * SAMPLER_BYTES)
        for name, priced in (("lm_head", logits), ("sampler", drawn)):
            if name in self.layers:
                seconds = self._scaled(prices, self.layers[name], there[name], here[name], x)
                shares.add(float(seconds[len(rows) // 2]), "interpolated")
                head = head - priced + seconds
        return np.maximum(head, 0.0)

    def _scaled(self, prices: Prices, table: LayerTable, there: Shape, here: Shape, x: _A) -> _A:
        """Seconds at x: the roofline there over the interpolated efficiency, brought to the shape asked.

        Another degree of tensor parallelism has other shapes: products are scaled as the pricer scales them
        (smaller ones fill the chip less), other kernels by their bytes beyond the start.
        """
        a = prices.accelerator
        peak = prices.gpu.peak("bf16")
        slower = np.log(table.seconds / there.roofline(table.x, peak, a.memory_bandwidth))
        log_x = np.log(np.maximum(x, 1.0))
        # held at the ends: the last efficiency goes on
        found = np.exp(np.interp(log_x, np.log(table.x), slower))
        seconds = np.asarray(found * there.roofline(x, peak, a.memory_bandwidth), np.float64)
        if here == there:
            return seconds
        if here.n > 0 and here.weights == 2.0 * here.n * here.k:
            small, _ = prices.gpu.kernels.gemm(x, here.n, here.k)
            large, _ = prices.gpu.kernels.gemm(x, there.n, there.k)
            return np.asarray(seconds * small / large, np.float64)
        ratio = (here.row + here.weights) / (there.row + there.weights)
        start = np.minimum(DEVICE_LAUNCH, seconds)
        return np.asarray(start + (seconds - start) * ratio, np.float64)

    # -- attention ----------------------------------------------------------------------------------------

    def rates(self, prices: Prices, shares: Shares) -> tuple[float, Rate, Rate, _A]:
        """(seconds of every step, rate of chunks, rate of decodes, both in one call over their sum)."""
        table = self.attention
        assert table is not None
        layers = sum(kind.attends for kind in prices.model.layer_kinds)
        heads, kv_heads = (
            max(1.0, n / prices.layout.tensor) for n in (prices.model.heads, prices.model.kv_heads)
        )
        work, moved = heads / table.heads, kv_heads / table.kv_heads
        found = table.lookup()
        base = min(found.values())
        chunks = _grid({(n, c): t for (n, c, b, _), t in found.items() if n > 0 and b == 0})
        decodes = _grid({(b, c): t for (n, _, b, c), t in found.items() if n == 0 and b > 0})
        x, y, seconds = chunks
        pairs = x[:, None] * y[None, :] + 0.5 * (x * (x + 1.0))[:, None]
        chunk = Rate(np.maximum(x, 1.0), _ones(y), layers * work * np.maximum(seconds - base, 0.0) / pairs)
        x, y, seconds = decodes
        per = np.maximum(seconds - base, 0.0) / (x[:, None] * y[None, :])
        decode = Rate(np.maximum(x, 1.0), _ones(y), layers * moved * per)
        how: Provenance = "interpolated" if (work, moved) == (1.0, 1.0) else "transferred"
        shares.add(layers * float(np.median(seconds)), how)
        return layers * base, _finer(chunk, True), _finer(decode, False), _mixed(found)


def _ones(axis: _A) -> _A:
    """An axis that starts at 1, which stands for none."""
    return np.asarray(np.where(axis < 1, 1.0, axis), np.float64)


def _grid(found: Mapping[tuple[float, float], float]) -> tuple[_A, _A, _A]:
    """Points as a full grid: missing values of a row are interpolated in logarithms, held at ends."""
    if not found:
        raise ConfigError("`attention`: needs rows of chunks alone (n_decode 0) and of decodes alone")
    x = np.array(sorted({a for a, _ in found}))
    y = np.array(sorted({b for _, b in found}))
    z = np.empty((len(x), len(y)))
    for i, a in enumerate(x):
        known = sorted((b, t) for (c, b), t in found.items() if c == a)
        at, times = np.array(known).T
        z[i] = np.exp(np.interp(np.log1p(y), np.log1p(at), np.log(times)))
        past = y > at[-1]  # proportional to the context beyond
        if past.any():
            z[i, past] = times[-1] * (y[past] + a / 2) / (at[-1] + a / 2)
    return x, y, z


def _finer(rate: Rate, chunks: bool) -> Rate:
    """The same rate on knots dense enough for straight lines in between, in logarithms."""
    x = np.unique(np.concatenate([rate.x, 2.0 ** np.arange(0, np.log2(rate.x[-1]) + 0.25, 0.25)]))
    y = np.unique(np.concatenate([rate.y, 2.0 ** np.arange(0, np.log2(rate.y[-1]) + 0.25, 0.25)]))
    z = np.log(np.maximum(rate.seconds, 1e-30))
    along = np.array([np.interp(np.log(x), np.log(rate.x), column) for column in z.T]).T
    fine = np.array([np.interp(np.log(y), np.log(rate.y), row) for row in along])
    return Rate(x, y, np.exp(fine))


def _mixed(found: Mapping[tuple[float, float, float, float], float]) -> _A:
    """Median of joint over sum by sequences that decode, straight in between; empty if none."""
    ratios: dict[float, list[float]] = {}
    for (n, c, b, d), t in found.items():
        first, second = found.get((n, c, 0.0, 0.0)), found.get((0.0, 0.0, b, d))
        if n > 0 and b > 0 and first and second:
            ratios.setdefault(b, []).append(t / (first + second))
    if not ratios:
        return np.zeros(0)
    at = sorted(ratios)
    middle = [float(np.median(ratios[b])) for b in at]
    return np.interp(np.arange(int(at[-1]) + 1), at, middle)
