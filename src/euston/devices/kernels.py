"""`Kernels`: the times of many kernels at once on one accelerator, as arrays, with how sure each is.

Every function takes numbers or arrays that broadcast and returns ``(seconds, sure)``, [N] each; ``sure``
holds indices of `euston.devices.PROVENANCES`. Arrays of more dimensions come back flat. Times are those of
the kernel on the device, without what a framework adds to launch it. `euston.devices.GPU` prices operators
with them; step-time tables of serving call them directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.devices import _attention, _bandwidth, _decode, _gemm, _library, _moe, _narrow, _tables
from euston.devices._field import Array
from euston.devices._model import ROOFLINE, TRANSFERRED, Columns, Family, Machine, Model
from euston.devices._power import Power
from euston.devices.base import PROVENANCES
from euston.errors import ConfigError, unknown

if TYPE_CHECKING:
    from euston.catalog import Accelerator

__all__ = ["Casts", "GemmSource", "Generation", "Kernels", "Priced"]

GemmSource = Literal["table", "table+cap", "profile"]
Generation = Literal["best", "fa1", "fa2", "fa3"]
Casts = Literal["inside", "apart"]
Sure = NDArray[np.int8]
Priced = tuple[Array, Sure]

#: Start of a kernel on the device itself, as fitted on the GEMM tables (2.0 to 2.3 us).
DEVICE_LAUNCH = 2e-6
#: Whose table stands in where a kind of kernel was not measured: the nearest related architecture first.
RELATIVES = {
    "a100-sxm-80gb": ("h100-sxm",),
    "h100-sxm": ("h200-sxm",),
    "h200-sxm": ("h100-sxm",),
    "gb200": ("h200-sxm", "h100-sxm"),
    "rtx-pro-6000": ("rtx-4090", "h100-sxm"),
    "rtx-4090": ("a100-sxm-80gb",),
}
#: Constants of a machine without a related table: typical of the fitted ones (see data/constants.json).
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemm": {"eff": 0.75, "k0": 150.0, "eff_mem": 0.8, "launch": 4.0, "sharpness": 4.0, "variant": "plain"},
    "prefill": {"eff": 0.5, "s0": 400.0, "eff_mem": 0.6, "launch": 10.0, "sharpness": 2.0, "variant": ""},
    "decode": {
        "eff_mem": 0.7, "stream": 5.0, "launch": 10.0, "sharpness": 4.0, "copy": 0.0, "combine": 2.0,
        "shortest": 256.0, "variant": "split",
    },
    "mla_prefill": {"eff": 0.3, "s0": 0.0, "eff_mem": 0.6, "launch": 12.0, "sharpness": 2.0, "variant": ""},
    "mla_decode": {
        "eff": 0.6, "eff_mem": 0.7, "launch": 12.0, "sharpness": 3.0, "growth": 2.0, "variant": "",
    },
    "moe": {
        "eff": 0.55, "eff_mem": 0.8, "launch": 30.0, "sharpness": 2.0, "expert": 50.0, "eff_rest": 0.7,
        "padding": 0.8, "variant": "",
    },
}  # fmt: skip
#: Share of peak that the matrix part of a chunked state-space scan reaches: assumed, no table.
SCAN_EFF = 0.5


class Kernels:
    """Times of kernels on one accelerator.

    Parameters
    ----------
    accelerator
        From the catalogue.
    gemm_source, elementwise, power, casts
        See `euston.devices.GPU`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        gemm_source: GemmSource = "table+cap",
        elementwise: _bandwidth.Elementwise = "profile",
        power: Power | None = None,
        casts: Casts = "inside",
    ) -> None:
        self.accelerator, self.gemm_source, self.elementwise = accelerator, gemm_source, elementwise
        self.casts = casts
        self.power = power or Power(accelerator)
        table, how = _tables.nearest_table(accelerator)
        self.table: str | None = table.name if table else None
        self.own = how == "measured" and accelerator.clock_derate == 1.0
        self._found: dict[tuple[str, str], tuple[Model | None, int]] = {}

    def gemm(
        self, m: ArrayLike, n: ArrayLike, k: ArrayLike, dtype: str = "bf16", batch: float = 1.0
    ) -> Priced:
        """Products m x k by k x n; `batch` equal ones in a single kernel."""
        columns = _columns(_gemm.FAMILY, m, n, k)
        apart = self.casts == "apart" and dtype in _narrow.CAST_INSIDE and self.table is not None
        if apart and batch == 1.0:
            seconds, sure = self._alone(dtype, columns)
        elif batch == 1.0:
            seconds, sure = self._transposed(dtype, columns, *self._seconds("gemm", dtype, columns))
        else:  # no table has batches: the formula alone
            model, _ = self._model("gemm", dtype)
            many = {**columns, "batch": np.full(1, batch)}
            machine = self.machine(dtype)
            if model is not None:
                seconds = model.formula(many, machine)
            else:
                seconds = _gemm.formula(machine, self._defaults("gemm", dtype), "plain", many)
            sure = np.full(len(seconds), ROOFLINE, dtype=np.int8)
        flops = 2.0 * batch * columns["m"] * columns["n"] * columns["k"]
        if self.gemm_source == "profile":
            seconds = seconds / self._profile_ratio(flops / seconds / self.machine(dtype).peak)
        elif self.gemm_source == "table+cap":
            rate = self.power.cap(dtype)
            if rate is not None:
                seconds = np.maximum(seconds, flops / rate)
        return np.maximum(seconds, flops / self.machine(dtype).peak), sure

    def _alone(self, dtype: str, columns: dict[str, Array]) -> Priced:
        """Narrow products without their input's cast."""
        if _narrow.as_wide(self.table, dtype):
            short = {**columns, "k": columns["k"] * self.power.peak("bf16") / self.power.peak(dtype)}
            seconds, sure = self._transposed("bf16", short, *self._seconds("gemm", "bf16", short))
            return seconds, np.maximum(sure, TRANSFERRED).astype(np.int8)
        seconds, sure = self._transposed(dtype, columns, *self._seconds("gemm", dtype, columns))
        size = self.machine(dtype).input_bytes
        cast, _ = self.memory("cast", _narrow.cast_bytes(columns, size))
        least = _narrow.operand_bytes(columns, size) / self.accelerator.memory_bandwidth
        return np.maximum(seconds - cast, np.minimum(least, seconds)), np.maximum(sure, 1).astype(np.int8)

    def _transposed(self, dtype: str, columns: dict[str, Array], seconds: Array, sure: Sure) -> Priced:
        """Shapes outside the table whose transpose is inside: m x n x k is the same product as n x m x k."""
        model, least = self._model("gemm", dtype)
        outside = sure == ROOFLINE
        if model is None or not outside.any():
            return seconds, sure
        machine = self.machine(dtype)
        here = {name: column[outside] for name, column in columns.items()}
        left, how = model.left({**here, "m": here["n"], "n": here["m"]}, machine)
        inside = how < ROOFLINE
        rows = np.nonzero(outside)[0][inside]
        seconds[rows] = model.formula(here, machine)[inside] * np.exp(left[inside])
        sure[rows] = np.maximum(how[inside], least)
        return seconds, sure

    def prefill(
        self,
        batch: ArrayLike,
        new: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: float = 128.0,
        cached: ArrayLike = 0.0,
        *,
        causal: bool = True,
        backward: bool = False,
        generation: Generation = "best",
    ) -> Priced:
        """Fused attention of `new` tokens per sequence after `cached` ones."""
        columns = {
            **_columns(_attention.PREFILL, batch, new, heads, kv_heads, cached),
            "head_dim": np.full(1, float(head_dim)),
            "causal": np.full(1, 1.0 if causal else 0.0),
        }
        model, _ = self._model("prefill", "bf16")
        name = self._name("prefill") or ""
        seconds, sure = self._seconds("prefill", "bf16", columns, {"d0": _attention.D0.get(name)})
        plain = causal and head_dim == _attention.TABLE_HEAD_DIM
        if not plain:
            sure = np.maximum(sure, 1)
        keys = columns["cached"] + (0.5 if causal else 1.0) * columns["new"]
        flops = 4.0 * columns["batch"] * columns["heads"] * columns["new"] * keys * head_dim
        seconds = np.maximum(seconds, flops / self.machine("bf16").peak)
        rate = 1.0
        if generation != "best":
            rates = _attention.GENERATION_RATE.get(name) or _attention.GENERATION_RATE["a100-sxm-80gb"]
            rate = rates[generation]
        if backward:
            rate *= _attention.BACKWARD_RATE / _attention.BACKWARD_FLOPS
        if rate != 1.0:
            sure = np.maximum(sure, TRANSFERRED)
        constants = model.constants if model is not None else DEFAULTS["prefill"]
        launch = np.minimum(float(constants["launch"]) * 1e-6, seconds)
        seconds = launch + (seconds - launch) / rate
        cap = None if self.own else self.power.cap("bf16")
        if cap is not None:  # what the power limit leaves of matrix products it leaves of attention's
            done = flops * (_attention.BACKWARD_FLOPS if backward else 1.0)
            seconds = np.maximum(seconds, done / cap)
        return seconds, sure.astype(np.int8)

    def encoder(self, batch: ArrayLike, sequence: ArrayLike, heads: ArrayLike, head_dim: ArrayLike) -> Priced:
        """Attention that is not causal, forward: the encoder table where it reaches, else as `prefill`."""
        columns = _columns(_attention.ENCODER, batch, sequence, heads, head_dim)
        dim = float(columns["head_dim"].max())
        seconds, sure = self.prefill(
            columns["batch"], columns["sequence"], columns["heads"], columns["heads"], dim, causal=False
        )
        if self._model("encoder", "bf16")[0] is not None:
            measured, how = self._seconds("encoder", "bf16", columns)
            inside = how < ROOFLINE
            seconds, sure = np.where(inside, measured, seconds), np.where(inside, how, sure).astype(np.int8)
        return seconds, sure

    def decode(
        self,
        batch: ArrayLike,
        context: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: float = 128.0,
    ) -> Priced:
        """One new query per sequence against `context` cached tokens (their mean over the batch)."""
        columns = {
            **_columns(_decode.DECODE, batch, np.maximum(context, 1.0), heads, kv_heads),
            "head_dim": np.full(1, float(head_dim)),
        }
        return self._seconds("decode", "bf16", columns)

    def mixed(
        self,
        new: ArrayLike,
        cached: ArrayLike,
        batch: ArrayLike,
        context: ArrayLike,
        heads: float,
        kv_heads: float,
        head_dim: float = 128.0,
    ) -> Priced:
        """A chunk of `new` tokens after `cached` ones and `batch` decodes in one call.

        The joint table where this accelerator has one for these heads, else the sum of the two parts. `new`
        or `batch` may be 0.
        """
        columns = _columns(_decode.MIXED, new, cached, batch, context)
        chunk, decodes = columns["new"] > 0, columns["batch"] > 0
        first = self.prefill(1.0, np.maximum(columns["new"], 1), heads, kv_heads, head_dim, columns["cached"])
        second = self.decode(np.maximum(columns["batch"], 1), columns["context"], heads, kv_heads, head_dim)
        seconds = np.where(chunk, first[0], 0.0) + np.where(decodes, second[0], 0.0)
        sure = np.maximum(np.where(chunk, first[1], 0), np.where(decodes, second[1], 0)).astype(np.int8)
        joint = (heads, kv_heads, head_dim) == (_decode.MIXED_HEADS, _decode.MIXED_KV_HEADS, 128.0)
        model, _ = self._model("mixed", "bf16")
        if joint and model is not None and self._name("mixed") == self.table:
            both = chunk & decodes
            if both.any():
                found, how = self._seconds("mixed", "bf16", {c: v[both] for c, v in columns.items()})
                seconds[both], sure[both] = found, how
        return seconds, sure

    def mla_prefill(
        self,
        batch: ArrayLike,
        sequence: ArrayLike,
        heads: ArrayLike,
        rope: float = 64.0,
        cached: ArrayLike = 0.0,
    ) -> Priced:
        """Latent attention over prompts, keys and values expanded to heads of 128 (+ `rope`)."""
        columns = _columns(_attention.MLA_PREFILL, batch, sequence, heads)
        seconds, sure = self._seconds("mla_prefill", "bf16", columns)
        past = np.broadcast_to(np.asarray(cached, dtype=np.float64).ravel(), seconds.shape)
        half, full = 0.5 * columns["sequence"], _attention.MLA_QUERY + _attention.MLA_VALUE
        share = (2 * _attention.MLA_VALUE + rope) / full * (past + half) / half
        launch = np.minimum(DEFAULTS["mla_prefill"]["launch"] * 1e-6, seconds)
        return launch + (seconds - launch) * share, np.where(past > 0, ROOFLINE, sure).astype(np.int8)

    def mla_decode(
        self,
        batch: ArrayLike,
        context: ArrayLike,
        heads: ArrayLike,
        kv_rank: float = 512.0,
        rope: float = 64.0,
    ) -> Priced:
        """Latent attention, absorbed: one new query per sequence against `context` cached latents."""
        columns = {
            **_columns(_decode.MLA_DECODE, batch, np.maximum(context, 1.0), heads),
            "kv_rank": np.full(1, kv_rank), "rope": np.full(1, rope),
        }  # fmt: skip
        seconds, sure = self._seconds("mla_decode", "bf16", columns)
        if (kv_rank, rope) != (_decode.MLA_RANK, _decode.MLA_ROPE):
            sure = np.maximum(sure, TRANSFERRED).astype(np.int8)
        return seconds, sure

    def moe_layer(
        self,
        rows: ArrayLike,
        experts: ArrayLike,
        hidden: ArrayLike,
        ffn: ArrayLike,
        busiest: ArrayLike | None = None,
        assignments: ArrayLike | None = None,
        dtype: str = "bf16",
    ) -> Priced:
        """A fused expert layer of a serving engine: gate and up, activation, down and the sum.

        Parameters
        ----------
        rows
            Token-expert pairs that this rank computes.
        experts
            Experts it holds; `ffn` is the width of its slice of one, `hidden` the model's.
        busiest
            Rows of its fullest expert; dealt evenly (rows / experts) where absent.
        assignments
            Tokens x top-k in the kernels' buffers; `rows` where absent (no expert parallelism).
        """
        full = np.asarray(rows, dtype=np.float64)
        even = full / np.asarray(experts, dtype=np.float64)
        wide = np.broadcast_arrays(
            full, np.asarray(experts, float), np.asarray(even if busiest is None else busiest, float),
            np.asarray(rows if assignments is None else assignments, float),
            np.asarray(hidden, float), np.asarray(ffn, float),
        )  # fmt: skip
        r, e, b, a, h, f = (x.ravel() for x in wide)
        touched, padded = _moe.spread(r, e, b)
        columns = {
            "rows": r, "touched": touched, "padded": padded, "assignments": a, "hidden": h, "ffn": f,
        }  # fmt: skip
        return self._seconds("moe", dtype, columns)

    def grouped_gemm(
        self,
        rows: ArrayLike,
        n: ArrayLike,
        k: ArrayLike,
        experts: ArrayLike,
        busiest: ArrayLike,
        dtype: str = "bf16",
    ) -> Priced:
        """One product per expert in a single kernel (shape as in `euston.models.Operator`).

        The measured layers hold two of them; what their formula leaves stands for both. As one does not say
        whether it is the first or the second, the mean of the two readings is taken.
        """
        wide = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (rows, n, k, experts, busiest)))
        r, n_, k_, e, b = (x.ravel() for x in wide)
        touched, padded = _moe.spread(r, e, b)
        columns = {"rows": r, "touched": touched, "padded": padded, "assignments": r}
        machine, (model, least) = self.machine(dtype), self._model("moe", dtype)
        constants = model.constants if model is not None else DEFAULTS["moe"]
        seconds = _moe.grouped(machine, constants, n_, k_, columns)
        sure = np.full(len(seconds), ROOFLINE, dtype=np.int8)
        if model is not None:
            first = {**columns, "hidden": k_, "ffn": n_ / 2}
            second = {**columns, "hidden": n_, "ffn": k_}
            left, how = zip(*(model.left(one, machine) for one in (first, second)), strict=True)
            seconds = seconds * np.exp(0.5 * (left[0] + left[1]))
            sure = np.maximum(np.maximum(how[0], how[1]), least).astype(np.int8)
        fixed = 0.5e-9 * float(constants["expert"]) * touched
        flops = 2.0 * r * n_ * k_
        rate = self.power.cap(dtype) if self.gemm_source == "table+cap" else None
        seconds = np.maximum(seconds, flops / (rate or machine.peak))
        return DEVICE_LAUNCH + fixed + seconds, sure

    def scan(self, flops: ArrayLike, nbytes: ArrayLike, dtype: str = "bf16") -> Priced:
        """A chunked state-space scan: half of peak (assumed) or memory, whichever is longer."""
        compute = np.asarray(flops, dtype=np.float64) / (SCAN_EFF * self.machine(dtype).peak)
        moved = np.asarray(nbytes, dtype=np.float64) / (_bandwidth.UPPER * self.accelerator.memory_bandwidth)
        seconds = DEVICE_LAUNCH + np.atleast_1d(np.maximum(compute, moved))
        return seconds, np.full(len(seconds), ROOFLINE, dtype=np.int8)

    def memory(self, kernel: str, nbytes: ArrayLike, single: ArrayLike = 0.0) -> Priced:
        """A kernel that waits for memory; `single` of its bytes are moved one element at a time."""
        share, provenance = _bandwidth.fraction(self.table, kernel, self.elementwise)
        rate = self.accelerator.memory_bandwidth * share
        one_by_one = rate
        if (count := self.accelerator.multiprocessors or 0) >= _gemm.STREAMING:
            one_by_one = min(rate, count * _bandwidth.SINGLE)
        alone = np.asarray(single, dtype=np.float64)
        seconds = np.atleast_1d(np.asarray(nbytes, dtype=np.float64))
        seconds = (seconds - alone) / rate + alone / one_by_one + DEVICE_LAUNCH
        least = PROVENANCES.index(provenance)
        if self.table is not None and not self.own:
            least = max(least, TRANSFERRED)
        return seconds, np.full(len(seconds), least, dtype=np.int8)

    def machine(self, dtype: str) -> Machine:
        """Figures of the accelerator for a dtype.

        Raises
        ------
        ConfigError
            An unknown dtype, or one that the accelerator has no arithmetic for.
        """
        size = _tables.ELEMENT_BYTES.get(dtype)
        if size is None:
            raise ConfigError(unknown("dtype", dtype, _tables.ELEMENT_BYTES))
        a = self.accelerator
        return Machine(self.power.peak(dtype), a.memory_bandwidth, a.multiprocessors or 0, size)

    def _name(self, kind: str, dtype: str = "bf16") -> str | None:
        model, _ = self._model(kind, dtype)
        return None if model is None else self._names[kind, dtype]

    def _model(self, kind: str, dtype: str) -> tuple[Model | None, int]:
        """The model that speaks for a kind of kernel and dtype here, and the least its prices are sure."""
        found = self._found.get((kind, dtype))
        if found is None:
            found = self._found[kind, dtype] = self._look(kind, dtype)
        return found

    def _look(self, kind: str, dtype: str) -> tuple[Model | None, int]:
        if self.table is None:
            return None, ROOFLINE
        wanted = _tables.TABLE_DTYPE.get(dtype, dtype) if kind in _library.TYPED else "bf16"
        for name in (self.table, *RELATIVES.get(self.table, ())):
            model = _library.model(kind, name, wanted)
            if model is not None:
                self._names[kind, dtype] = name
                return model, 0 if name == self.table and self.own else TRANSFERRED
        # another dtype of this very device: its tiles and launches, at this dtype's rate and bytes
        model = _library.model(kind, self.table, "bf16")
        self._names[kind, dtype] = self.table
        return model, TRANSFERRED

    @property
    def _names(self) -> dict[tuple[str, str], str]:
        return self.__dict__.setdefault("_table_names", {})

    def _defaults(self, kind: str, dtype: str) -> dict[str, Any]:
        constants = dict(DEFAULTS[kind])
        best = _tables.achievable(self.accelerator.name, _tables.PEAK_DTYPE.get(dtype, dtype))
        if kind == "gemm" and best is not None:
            constants["eff"] = best[0] / best[1]
        return constants

    def _seconds(
        self, kind: str, dtype: str, columns: Columns, extra: dict[str, float | None] | None = None
    ) -> Priced:
        model, least = self._model(kind, dtype)
        machine = self.machine(dtype)
        if model is None:
            family, _ = _library.FAMILIES[kind]
            constants = self._defaults(kind, dtype)
            seconds = family.formula(machine, constants, str(constants["variant"]), columns)
            return seconds, np.full(len(seconds), ROOFLINE, dtype=np.int8)
        more = {name: value for name, value in (extra or {}).items() if value is not None}
        plain = all(name in model.family.columns or np.all(_at_table(name, columns)) for name in columns)
        seconds, sure = model.seconds(
            columns, None if least == 0 else machine, exact=plain and least == 0, extra=more
        )
        return seconds, np.maximum(sure, least).astype(np.int8)

    def _profile_ratio(self, share: Array) -> Array:
        """Rate of the second kernel table over the first's where the first reaches ``share`` of peak."""
        profiles = _tables.constants()["profile"]
        entry = profiles.get(self.table) or profiles.get(_bandwidth.RELATIVE.get(self.table or "", ""))
        if entry is None:
            return np.ones_like(share)
        # assumed: the two agree at half the rate of the slowest bin, where neither is limited by power
        shares = [entry["share_of_peak"][0] / 2, *entry["share_of_peak"]]
        ratio: Array = np.interp(share, shares, [1.0, *entry["rate_ratio"]])
        return ratio


#: Values of columns beside a family's own at which a table was measured.
_TABLE_VALUES = {"head_dim": 128.0, "causal": 1.0, "kv_rank": 512.0, "rope": 64.0, "batch": 1.0}


def _at_table(name: str, columns: Columns) -> NDArray[np.bool_]:
    return np.asarray(columns[name] == _TABLE_VALUES.get(name), dtype=np.bool_)


def _columns(family: Family, *values: ArrayLike) -> dict[str, Array]:
    arrays = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in values))
    return {name: a.ravel() for name, a in zip(family.columns, arrays, strict=True)}
