"""Prices operators on one accelerator: kernel tables where there are any, else a formula; and a power cap."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from euston.devices import _attention, _bandwidth, _gemm, _tables
from euston.devices.base import Price, Provenance, least_sure
from euston.errors import ConfigError, unknown

if TYPE_CHECKING:
    from euston.catalog import Accelerator
    from euston.models.operator import Operator

GemmSource = Literal["table", "table+cap", "profile"]
Generation = Literal["best", "fa1", "fa2", "fa3"]
Band = Literal["value", "low", "high"]

#: Time from one kernel launch to the next when a framework launches eagerly (5-8 us; about 1 us with CUDA
#: graphs).
EAGER_LAUNCH = 6e-6
#: Start of a kernel on the device itself, as fitted on the GEMM tables (2.0 to 2.3 us).
DEVICE_LAUNCH = 2e-6
#: Constants of a machine without a related table: typical of the fitted ones (see data/constants.json).
DEFAULT_EFF, DEFAULT_K0, DEFAULT_EFF_MEM, DEFAULT_LAUNCH = 0.75, 150.0, 0.8, 4e-6
DEFAULT_ATTENTION_EFF, DEFAULT_ATTENTION_S0 = 0.5, 400.0
#: Idle power as a share of the limit where the catalogue has none.
DEFAULT_IDLE = 0.15
#: Whose attention table stands in for a device that has none.
ATTENTION_RELATIVE = {"h200-sxm": "h100-sxm", "gb200": "h100-sxm"}
#: fp16 runs on the same units at the same rate as bf16.
TABLE_DTYPE = {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8"}


@cache
def _gemm_correction(table: str, dtype: str) -> _gemm.Correction:
    entry = _tables.constants()["gemm"][f"{table}/{dtype}"]
    measured = _gemm.measured(table, dtype)
    assert measured is not None
    return _gemm.Correction(measured, _gemm_formula(table, dtype), entry["triangles"])


@cache
def _gemm_formula(table: str, dtype: str) -> _gemm.Formula:
    return _gemm.formula_of(_tables.tabled()[table], dtype, _tables.constants()["gemm"][f"{table}/{dtype}"])


@cache
def _attention_formula(table: str) -> _attention.Formula:
    device, entry = _tables.tabled()[table], _tables.constants()["attention"][table]
    return _attention.Formula(
        device.peak["bf16"], device.memory_bandwidth, device.multiprocessors,
        entry["eff"], entry["s0"], entry["eff_mem"], entry["launch"], _attention.D0[table],
    )  # fmt: skip


@cache
def _attention_correction(table: str) -> _attention.Correction:
    measured = _attention.measured(table)
    assert measured is not None
    return _attention.Correction(measured, _attention_formula(table))


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
    ) -> None:
        for name, value, allowed in (
            ("gemm_source", gemm_source, ("table", "table+cap", "profile")),
            ("elementwise", elementwise, ("profile", "upper")),
            ("attention_kernel", attention_kernel, ("best", "fa1", "fa2", "fa3")),
            ("sustained", sustained, ("value", "low", "high")),
        ):
            if value not in allowed:
                raise ConfigError(f"`{name}`: {unknown('choice', str(value), allowed)}")
        if not (math.isfinite(launch_floor) and launch_floor >= 0):
            raise ConfigError(
                f"`launch_floor`: {launch_floor} s is not a time; eager launches take 5e-6 to 8e-6 s"
            )
        self.accelerator = accelerator
        self.gemm_source, self.elementwise = gemm_source, elementwise
        self.launch_floor, self.attention_kernel, self.band = launch_floor, attention_kernel, sustained
        table, self._table_provenance = _tables.nearest_table(accelerator)
        self.table: str | None = table.name if table else None
        self._formulas: dict[str, _gemm.Formula] = {}
        self._attention: _attention.Formula | None = None
        self._prices: dict[Operator, Price] = {}

    @property
    def name(self) -> str:
        """The accelerator's name."""
        return self.accelerator.name

    def price(self, operator: Operator) -> Price:
        """Seconds, joules and provenance of one operator, all its calls included.

        Raises
        ------
        ConfigError
            The accelerator has no such dtype, or the operator's kind or kernel is unknown.
        """
        found = self._prices.get(operator)
        if found is None:
            found = self._prices[operator] = self._price(operator)
        return found

    def price_many(self, operators: Iterable[Operator]) -> list[Price]:
        """Prices in the order of the operators."""
        return [self.price(operator) for operator in operators]

    def peak(self, dtype: str) -> float:
        """Dense peak of a dtype in FLOP/s, clock derate included."""
        peaks = self.accelerator.peak
        rate = peaks.get(dtype) or peaks.get(TABLE_DTYPE.get(dtype, dtype))
        if not rate:
            raise ConfigError(f"{self.name} has no {dtype} arithmetic; it has {', '.join(sorted(peaks))}")
        return rate * self.accelerator.clock_derate

    def sustained(self, dtype: str) -> tuple[float, float, float] | None:
        """GEMM rate under the power limit as (value, low, high), FLOP/s; None where nothing is published.

        The catalogue's range; else the best published matmul rate, of a relative scaled by peak and, where
        this accelerator's power limit is lower, by an assumed square root of power.
        """
        published = self.accelerator.sustained
        band = published.get(dtype) or published.get(TABLE_DTYPE.get(dtype, dtype))
        if band:
            return band[0], band[1], band[2]
        table_dtype = TABLE_DTYPE.get(dtype, dtype)
        for name in (self.name, self.table or ""):
            best = _tables.achievable(name, table_dtype)
            if best:
                rate = best[0] * self.peak(dtype) / best[1]
                power = (
                    self._power_share() if best == _tables.achievable(self.table or "", table_dtype) else 1.0
                )
                # assumed: under a lower power limit the rate falls with its square root (clock and voltage
                # fall together); between not at all and in proportion
                return rate * math.sqrt(power), rate * power, rate
        return None

    def gemm_seconds(
        self, m: float, n: float, k: float, dtype: str = "bf16", batch: float = 1
    ) -> tuple[float, Provenance]:
        """Time of one GEMM call (``batch`` equal ones in a single kernel) without the launch floor."""
        formula = self._formula(dtype)
        seconds = float(formula.seconds(float(m), float(n), float(k), float(batch)))
        provenance: Provenance = "roofline"
        table_dtype = TABLE_DTYPE.get(dtype)
        if batch == 1 and self._has_table(table_dtype):
            correction = _gemm_correction(str(self.table), str(table_dtype)).at(m, n, k)
            if correction is not None:
                seconds *= math.exp(correction[0])
                provenance = least_sure((correction[1], self._table_provenance))
        flops = 2.0 * batch * m * n * k
        peak = self.peak(dtype)
        if self.gemm_source == "profile":
            seconds /= self._profile_ratio(flops / seconds / peak)
        elif self.gemm_source == "table+cap":
            rates = self.sustained(dtype)
            if rates is not None:
                seconds = max(seconds, flops / rates[("value", "low", "high").index(self.band)])
        return max(seconds, flops / peak), provenance

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
        formula, table = self._attention_formula_here()
        seconds = float(formula.seconds(batch, sequence, heads, kv_heads, head_dim, causal))
        provenance: Provenance = "roofline"
        if table is not None:
            value, provenance = _attention_correction(table).at(batch * heads, sequence, heads / kv_heads)
            seconds *= math.exp(value)
            transferred: Provenance = self._table_provenance if table == self.table else "transferred"
            provenance = least_sure((provenance, transferred))
        flops = (2.0 if causal else 4.0) * batch * heads * float(sequence) ** 2 * head_dim
        seconds = max(seconds, flops / self.peak("bf16"))
        rate = 1.0
        if generation != "best":
            rate = _attention.GENERATION_RATE[table or "a100-sxm-80gb"][generation]
        if backward:
            rate *= _attention.BACKWARD_RATE / _attention.BACKWARD_FLOPS
        if rate != 1.0:
            provenance = least_sure((provenance, "transferred"))
        launch = min(formula.launch, seconds)
        return launch + (seconds - launch) / rate, provenance

    def _price(self, operator: Operator) -> Price:
        if operator.kind == "gemm":
            m, n, k = operator.shape
            seconds, provenance = self.gemm_seconds(m, n, k, operator.dtype)
            seconds *= operator.calls
        elif operator.kind == "attention":
            seconds, provenance = self._attention_price(operator)
            seconds *= operator.calls
        elif operator.kind == "memory":
            share, provenance = _bandwidth.fraction(self.table, operator.kernel, self.elementwise)
            if self._table_provenance == "transferred":
                provenance = least_sure((provenance, "transferred"))
            nbytes = operator.bytes_read + operator.bytes_written
            seconds = nbytes / (self.accelerator.memory_bandwidth * share) + operator.calls * DEVICE_LAUNCH
        else:
            raise ConfigError(unknown("operator kind", operator.kind, ("gemm", "attention", "memory")))
        seconds = max(seconds, operator.calls * self.launch_floor)
        return Price(seconds, self._joules(operator, seconds), provenance)

    def _attention_price(self, operator: Operator) -> tuple[float, Provenance]:
        batch, sequence, heads, kv_heads, head_dim = operator.shape
        backward = operator.phase == "backward"
        kernel = operator.kernel.removeprefix("attention").removeprefix("_")
        if (
            kernel == "unfused"
        ):  # scores s x s x d and values s x d x s; their gradients once and three times over
            scores, provenance = self.gemm_seconds(
                sequence, sequence, head_dim, operator.dtype, batch * heads
            )
            values, _ = self.gemm_seconds(sequence, head_dim, sequence, operator.dtype, batch * heads)
            return (scores + 3 * values if backward else scores + values), provenance
        known_generations: dict[str, Generation] = {
            "": self.attention_kernel,
            "fa1": "fa1",
            "fa2": "fa2",
            "fa3": "fa3",
        }
        if kernel not in known_generations:
            known = ("attention", "attention_fa1", "attention_fa2", "attention_fa3", "attention_unfused")
            raise ConfigError(unknown("attention kernel", operator.kernel, known))
        return self.attention_seconds(
            batch, sequence, heads, kv_heads, head_dim,
            causal=operator.causal, backward=backward, generation=known_generations[kernel],
        )  # fmt: skip

    def _power_share(self) -> float:
        """Power limit over that of the nearest table's device, at most 1."""
        if self.table is None or math.isnan(self.accelerator.power_limit):
            return 1.0
        return min(self.accelerator.power_limit / _tables.tabled()[self.table].power_limit, 1.0)

    def _has_table(self, table_dtype: str | None) -> bool:
        return f"{self.table}/{table_dtype}" in _tables.constants()["gemm"]

    def _formula(self, dtype: str) -> _gemm.Formula:
        """The GEMM formula with this accelerator's own figures and the nearest table's constants."""
        if dtype not in self._formulas:
            accelerator, table_dtype = self.accelerator, TABLE_DTYPE.get(dtype)
            size = _tables.ELEMENT_BYTES.get(dtype)
            if size is None:
                raise ConfigError(unknown("dtype", dtype, _tables.ELEMENT_BYTES))
            eff, k0, eff_mem, launch, tiles = (
                DEFAULT_EFF,
                DEFAULT_K0,
                DEFAULT_EFF_MEM,
                DEFAULT_LAUNCH,
                "plain",
            )
            if self._has_table(table_dtype):
                near = _gemm_formula(str(self.table), str(table_dtype))
                eff, k0, eff_mem, launch, tiles = near.eff_max, near.k0, near.eff_mem, near.launch, near.tiles
            elif (best := _tables.achievable(self.name, table_dtype or dtype)) is not None:
                eff = best[0] / best[1]
            self._formulas[dtype] = _gemm.Formula(
                self.peak(dtype), accelerator.memory_bandwidth, accelerator.multiprocessors or 0,
                size, max(size, 2), eff, k0, eff_mem, launch, tiles,
            )  # fmt: skip
        return self._formulas[dtype]

    def _attention_formula_here(self) -> tuple[_attention.Formula, str | None]:
        """The attention formula with this accelerator's own figures, and the table it is corrected by."""
        table = ATTENTION_RELATIVE.get(self.table, self.table) if self.table else None
        if self._attention is None:
            accelerator = self.accelerator
            eff, s0, eff_mem, launch, d0 = DEFAULT_ATTENTION_EFF, DEFAULT_ATTENTION_S0, 0.6, 1e-5, 100.0
            if table is not None:
                near = _attention_formula(table)
                eff, s0, eff_mem, launch, d0 = near.eff, near.s0, near.eff_mem, near.launch, near.d0
            self._attention = _attention.Formula(
                self.peak("bf16"), accelerator.memory_bandwidth, max(accelerator.multiprocessors or 1, 1),
                eff, s0, eff_mem, launch, d0,
            )  # fmt: skip
        return self._attention, table

    def _profile_ratio(self, share: float) -> float:
        """Rate of the second kernel table over the first's where the first reaches ``share`` of peak."""
        profiles = _tables.constants()["profile"]
        entry = profiles.get(self.table) or profiles.get(_bandwidth.RELATIVE.get(self.table or "", ""))
        if entry is None:
            return 1.0
        # assumed: the two agree at half the rate of the slowest bin, where neither is limited by power
        shares = [entry["share_of_peak"][0] / 2, *entry["share_of_peak"]]
        return float(np.interp(share, shares, [1.0, *entry["rate_ratio"]]))

    def _joules(self, operator: Operator, seconds: float) -> float:
        """Idle power plus the rest of the limit times the busier of arithmetic and memory.

        NaN where the vendor publishes no power limit.
        """
        accelerator = self.accelerator
        limit = accelerator.power_limit
        if math.isnan(limit):
            return math.nan
        idle = accelerator.idle_power if accelerator.idle_power is not None else DEFAULT_IDLE * limit
        if seconds <= 0.0:
            return 0.0
        memory = (operator.bytes_read + operator.bytes_written) / seconds
        activity = memory / (_bandwidth.UPPER * accelerator.memory_bandwidth)
        if operator.flops > 0 and operator.kind != "memory":
            band = self.sustained(operator.dtype)
            best = band[0] if band else DEFAULT_EFF * self.peak(operator.dtype)
            activity = max(activity, operator.flops / seconds / best)
        return (idle + (limit - idle) * min(activity, 1.0)) * seconds
