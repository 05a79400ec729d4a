"""Prices operators on one accelerator: kernel tables where there are any, else a formula; and a power cap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from euston.devices import _bandwidth
from euston.devices._attention import BACKWARD_FLOPS, BACKWARD_RATE
from euston.devices._power import Band, Power
from euston.devices.base import PROVENANCES, Price, Provenance
from euston.devices.kernels import DEVICE_LAUNCH, Casts, GemmSource, Generation, Kernels, Priced
from euston.errors import ConfigError, unknown

if TYPE_CHECKING:
    from euston.catalog import Accelerator
    from euston.models.operator import Operator

#: Time from one kernel launch to the next when a framework launches eagerly (5-8 us; about 1 us with CUDA
#: graphs).
EAGER_LAUNCH = 6e-6
Experts = Literal["library", "fused"]
KINDS = ("gemm", "grouped_gemm", "attention", "scan", "memory")
ATTENTION = (
    "attention", "attention_fa1", "attention_fa2", "attention_fa3", "attention_unfused", "attention_decode",
    "mla_prefill", "mla_decode",
)  # fmt: skip


class GPU:
    """One accelerator as a :class:`~euston.devices.base.Device`.

    Parameters
    ----------
    accelerator
        From the catalogue: peaks, memory bandwidth, multiprocessors, power, sustained rates and
        ``clock_derate``.
    gemm_source
        ``"table"``: the packaged GEMM table (short runs, near-zero weights: optimistic at high rates).
        ``"table+cap"``: the same, never faster than the rate the chip sustains under its power limit.
        ``"profile"``: the table times the ratio of a second, independent kernel table at the same rate.
        The truth lies between the last two; quote both as the model's own uncertainty.
    elementwise
        ``"profile"``: measured shares of HBM bandwidth (an inference library's kernels, the lower bracket);
        ``"upper"``: .85 for every memory-bound kernel.
    launch_floor
        Seconds below which no kernel call can fall because the host has to launch it; 1e-6 with CUDA graphs.
    attention_kernel
        FlashAttention generation for operators whose kernel is plain ``"attention"``; ``"best"`` is what the
        device's table was measured with (FlashAttention-2 on Ampere, -3 on Hopper). ``attention_fa1`` ...
        override it.
    sustained
        Which end of the published range of sustained rates caps a GEMM.
    experts
        ``"library"``: a GEMM of the dense library for every expert, as training frameworks run them
        (Transformer Engine's GroupedLinear gives cuBLAS one product per expert, on several streams);
        ``"fused"``: the one kernel of serving engines, which the measured tables of experts are of.
    casts
        ``"inside"``: a product in 8 or 4 bit casts its 16-bit input within the call, as serving engines and
        the measured tables do; ``"apart"``: the product alone, by the dense library, as training frameworks
        run it behind casts of their own.

    Attributes
    ----------
    kernels : Kernels
        The same prices for many kernels at once, as arrays.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        *,
        gemm_source: GemmSource = "table+cap",
        elementwise: _bandwidth.Elementwise = "profile",
        launch_floor: float = EAGER_LAUNCH,
        attention_kernel: Generation = "best",
        sustained: Band = "value",
        experts: Experts = "fused",
        casts: Casts = "inside",
    ) -> None:
        for name, value, allowed in (
            ("gemm_source", gemm_source, ("table", "table+cap", "profile")),
            ("elementwise", elementwise, ("profile", "upper")),
            ("attention_kernel", attention_kernel, ("best", "fa1", "fa2", "fa3")),
            ("sustained", sustained, ("value", "low", "high")),
            ("experts", experts, ("library", "fused")),
            ("casts", casts, ("inside", "apart")),
        ):
            if value not in allowed:
                raise ConfigError(f"`{name}`: {unknown('choice', str(value), allowed)}")
        if not (math.isfinite(launch_floor) and launch_floor >= 0):
            raise ConfigError(
                f"`launch_floor`: {launch_floor} s is not a time; eager launches take 5e-6 to 8e-6 s"
            )
        self.accelerator = accelerator
        self.launch_floor, self.attention_kernel, self.experts = launch_floor, attention_kernel, experts
        self.power = Power(accelerator, sustained)
        self.kernels = Kernels(accelerator, gemm_source, elementwise, self.power, casts)
        self._prices: dict[Operator, Price] = {}

    @property
    def name(self) -> str:
        """The accelerator's name."""
        return self.accelerator.name

    @property
    def table(self) -> str | None:
        """The device whose tables speak for this one, or None."""
        return self.kernels.table

    def price(self, operator: Operator) -> Price:
        """Seconds, joules and provenance of one operator, all its calls included.

        Raises
        ------
        ConfigError
            The accelerator has no such dtype, or the operator's kind or kernel is unknown.
        """
        found = self._prices.get(operator)
        return found if found is not None else self.price_many((operator,))[0]

    def price_many(self, operators: Iterable[Operator]) -> list[Price]:
        """Prices in the order of the operators; those of one kind are priced together."""
        asked = list(operators)
        groups: dict[tuple[object, ...], dict[Operator, None]] = {}
        for op in asked:
            if op not in self._prices:
                fixed = op.shape[3:5] if op.kernel == "mla_decode" else op.shape[4:5]
                key = (
                    op.kind, op.kernel, op.dtype, op.phase == "backward", op.causal, len(op.shape),
                    fixed if op.kind == "attention" else (),
                )  # fmt: skip
                groups.setdefault(key, {})[op] = None
        for group in groups.values():
            self._price_group(tuple(group))
        return [self._prices[op] for op in asked]

    def peak(self, dtype: str) -> float:
        """Dense peak of a dtype in FLOP/s, clock derate included."""
        return self.power.peak(dtype)

    def sustained(self, dtype: str) -> tuple[float, float, float] | None:
        """GEMM rate under the power limit as (value, low, high), FLOP/s; None where nothing is published."""
        return self.power.sustained(dtype)

    def gemm_seconds(
        self, m: float, n: float, k: float, dtype: str = "bf16", batch: float = 1
    ) -> tuple[float, Provenance]:
        """Time of one GEMM call (``batch`` equal ones in a single kernel) without the launch floor."""
        return _one(self.kernels.gemm(m, n, k, dtype, float(batch)))

    def attention_seconds(
        self,
        batch: float,
        sequence: float,
        heads: float,
        kv_heads: float,
        head_dim: float,
        *,
        causal: bool = True,
        backward: bool = False,
        generation: Generation = "best",
    ) -> tuple[float, Provenance]:
        """Time of one fused attention call without the launch floor."""
        return _one(
            self.kernels.prefill(
                batch, sequence, heads, kv_heads, head_dim,
                causal=causal, backward=backward, generation=generation,
            )
        )  # fmt: skip

    def _price_group(self, group: Sequence[Operator]) -> None:
        """Price operators that differ in shape, bytes and calls only."""
        one = group[0]
        calls = np.array([op.calls for op in group], dtype=np.float64)
        seconds, sure = self._seconds(one, group)
        if one.kind == "memory":  # bytes are those of all calls
            total = seconds + (calls - 1) * DEVICE_LAUNCH
        elif one.kind == "scan":
            total = seconds
        else:
            total = seconds * calls
        total = np.maximum(total, calls * self.launch_floor)
        for op, time, index in zip(group, total.tolist(), sure.tolist(), strict=True):
            flops = 0.0 if op.kind == "memory" else op.flops
            joules = self.power.joules(time, flops, op.bytes_read + op.bytes_written, op.dtype)
            self._prices[op] = Price(time, joules, PROVENANCES[index])

    def _seconds(self, one: Operator, group: Sequence[Operator]) -> Priced:
        kernels = self.kernels
        if one.kind == "memory":
            nbytes = [op.bytes_read + op.bytes_written for op in group]
            return kernels.memory(one.kernel, nbytes, [op.bytes_single for op in group])
        if one.kind == "scan":
            nbytes = [op.bytes_read + op.bytes_written for op in group]
            return kernels.scan([op.flops for op in group], nbytes, one.dtype)
        shape = np.array([op.shape for op in group], dtype=np.float64).T
        if one.kind == "gemm":
            return kernels.gemm(shape[0], shape[1], shape[2], one.dtype)
        if one.kind == "grouped_gemm":
            if self.experts == "fused":
                return kernels.grouped_gemm(shape[0], shape[1], shape[2], shape[3], shape[4], one.dtype)
            to_weights = np.array([op.name.endswith("_wgrad") for op in group])
            return self._expert_by_expert(one.dtype, shape, to_weights)
        if one.kind == "attention":
            return self._attention(one, shape)
        raise ConfigError(unknown("operator kind", one.kind, KINDS))

    def _expert_by_expert(
        self, dtype: str, shape: NDArray[np.float64], to_weights: NDArray[np.bool_]
    ) -> Priced:
        """The fullest expert's product and as many of the others' mean, back to back.

        Where gradients go `to_weights` the tokens are the inner side. Their starts hide behind one another,
        but the chip's power does not: all together they are never faster than the rate it sustains.
        """
        rows, n, k, experts, busiest = shape
        rest = np.where(experts > 1, (rows - busiest) / np.maximum(experts - 1, 1), 0.0)
        seconds, sure = np.full(rows.size, DEVICE_LAUNCH), np.zeros(rows.size, np.int8)
        for count, m in ((np.ones(rows.size), busiest), (experts - 1, rest)):
            there = (m > 0) & (count > 0)
            if not there.any():
                continue
            sides = np.stack((np.maximum(m[there], 1.0), n[there], k[there]))
            sides = np.where(to_weights[there], np.roll(sides, -1, axis=0), sides)
            found, how = self.kernels.gemm(sides[0], sides[1], sides[2], dtype)
            seconds[there] += count[there] * np.maximum(found - DEVICE_LAUNCH, 0.0)
            sure[there] = np.maximum(sure[there], how)
        rate = self.power.cap(dtype) if self.kernels.gemm_source == "table+cap" else None
        if rate:
            seconds = np.maximum(seconds, 2.0 * rows * n * k / rate)
        return seconds, sure

    def _attention(self, one: Operator, shape: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Priced:
        kernels, backward = self.kernels, one.phase == "backward"
        batch, length, heads, fourth, fifth = shape[:5]
        cached = shape[5] if len(shape) > 5 else np.zeros(1)
        dim = float(fifth[0])
        if one.kernel not in ATTENTION:
            raise ConfigError(unknown("attention kernel", one.kernel, ATTENTION))
        if one.kernel == "attention_decode":
            return kernels.decode(batch, length, heads, fourth, dim)
        if one.kernel == "mla_decode":
            return kernels.mla_decode(batch, length, heads, float(fourth[0]), dim)
        if one.kernel == "mla_prefill":
            seconds, sure = kernels.mla_prefill(batch, length, heads, dim, cached)
            return (
                (seconds * BACKWARD_FLOPS / BACKWARD_RATE, np.maximum(sure, 2))
                if backward
                else (seconds, sure)
            )
        if one.kernel == "attention_unfused":
            return self._unfused(one, shape, backward)
        word = one.kernel.removeprefix("attention").removeprefix("_")
        generation: Generation = {"fa1": "fa1", "fa2": "fa2", "fa3": "fa3"}.get(word, self.attention_kernel)  # type: ignore[assignment]
        if not (one.causal or backward or cached.any()) and generation == "best":
            return kernels.encoder(batch, length, heads, dim)
        return kernels.prefill(
            batch, length, heads, fourth, dim, cached,
            causal=one.causal, backward=backward, generation=generation,
        )  # fmt: skip

    def _unfused(
        self, one: Operator, shape: np.ndarray[tuple[int, ...], np.dtype[np.float64]], backward: bool
    ) -> Priced:
        """Scores s x s x d and values s x d x s; their gradients once and three times over."""
        seconds, sure = [], []
        for batch, s, heads, _, dim in shape.T[:, :5]:
            scores, how = self.kernels.gemm(s, s, dim, one.dtype, batch * heads)
            values, _ = self.kernels.gemm(s, dim, s, one.dtype, batch * heads)
            seconds.append(float((scores + 3 * values if backward else scores + values)[0]))
            sure.append(int(how[0]))
        return np.array(seconds), np.array(sure, dtype=np.int8)


def _one(found: Priced) -> tuple[float, Provenance]:
    return float(found[0][0]), PROVENANCES[int(found[1][0])]
