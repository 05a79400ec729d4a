"""Fits the constants of the device models on the packaged kernel tables and writes ``data/constants.json``.

``python -m euston.devices.fit [--output FILE]`` is deterministic: the same tables give the same constants.
It reads only kernel tables (:data:`TABLES`); no published iteration time can move a constant.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial import Delaunay

from euston.devices import _attention, _gemm, _tables

Array = NDArray[np.float64]

#: Every file that the fit opens.
TABLES = ("devices.csv", "gemm.csv", "attention.csv", "layers.csv")
ELEMENTWISE_TOKENS = 4096


def _least_squares(
    error: Callable[[Array], Array], start: list[float], low: list[float], high: list[float]
) -> tuple[list[float], float]:
    """Minimum of the soft-L1 of a log error; constants to four digits, the same on every machine."""
    found = least_squares(
        error, start, bounds=(low, high), x_scale=start, loss="soft_l1", f_scale=0.1, xtol=1e-12, ftol=1e-12
    )
    return [_digits(value) if value > 1e-3 else 0.0 for value in found.x], float(found.cost)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _quality(log_error: Array) -> dict[str, float]:
    relative = np.abs(np.expm1(log_error))
    return {
        "median": round(float(np.median(relative)), 4),
        "p90": round(float(np.quantile(relative, 0.9)), 4),
        "bias": round(float(np.median(np.expm1(log_error))), 4),
    }


def gemm_formula(device: _tables.Tabled, dtype: str, table: _gemm.Measured) -> _gemm.Formula:
    """The tile-and-wave constants of one table: least squares on log time.

    Rows of m < 256 (which hold launch and bandwidth) weigh a tenth; the tile set with the smaller cost is
    taken.
    """
    m, n, k, seconds = table.columns()
    weight = np.where(m >= 256, 1.0, 0.1)
    best: tuple[float, _gemm.Formula] | None = None
    for tiles in _gemm.TILES:
        start = _gemm.Formula(
            device.peak[dtype], device.memory_bandwidth, device.multiprocessors,
            _tables.ELEMENT_BYTES[dtype], 2, 0.87, 180.0, 0.8, 4e-6, tiles,
        )  # fmt: skip

        def formula(p: Array | list[float], start: _gemm.Formula = start) -> _gemm.Formula:
            return replace(
                start, eff_max=float(p[0]), k0=float(p[1]), eff_mem=float(p[2]), launch=float(p[3]) * 1e-6
            )

        def error(p: Array, formula: Callable[[Array], _gemm.Formula] = formula) -> Array:
            result: Array = weight * np.log(formula(p).seconds(m, n, k) / seconds)
            return result

        values, cost = _least_squares(error, [0.87, 180, 0.8, 4], [0.3, 0, 0.2, 0.5], [1.1, 2000, 1.2, 20])
        if best is None or cost < best[0]:
            best = cost, formula(values)
    assert best is not None
    return best[1]


def triangles(table: _gemm.Measured) -> list[list[int]]:
    """Delaunay triangles over the measured shapes in (log n, log k)."""
    simplices = Delaunay(np.log(table.shapes.astype(np.float64))).simplices
    return sorted([int(i) for i in sorted(simplex)] for simplex in simplices)


def _gemm_constants(directory: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for device in _tables.tabled(directory).values():
        for dtype in device.peak:
            table = _gemm.measured(device.name, dtype, directory)
            if table is None:
                continue
            formula = gemm_formula(device, dtype, table)
            m, n, k, seconds = table.columns()
            log_error = np.log(formula.seconds(m, n, k) / seconds)
            large = m >= 512
            result[f"{device.name}/{dtype}"] = {
                "eff_max": formula.eff_max,
                "k0": formula.k0,
                "eff_mem": formula.eff_mem,
                "launch": _digits(formula.launch),
                "tiles": formula.tiles,
                "rows": int(m.size),
                "formula_error": _quality(log_error),
                "formula_error_m512": _quality(log_error[large]),
                "triangles": triangles(table),
            }
    return result


def attention_formula(device: _tables.Tabled, table: _attention.Measured) -> _attention.Formula:
    """Constants of the flash-attention formula: least squares on log time over the prefill table."""
    start = _attention.Formula(
        device.peak["bf16"], device.memory_bandwidth, device.multiprocessors,
        0.6, 300.0, 0.8, 4e-6, _attention.D0[device.name],
    )  # fmt: skip

    def formula(p: Array | list[float]) -> _attention.Formula:
        return replace(start, eff=float(p[0]), s0=float(p[1]), eff_mem=float(p[2]), launch=float(p[3]) * 1e-6)

    def error(p: Array) -> Array:
        predicted = formula(p).seconds(table.batch, table.sequence, table.heads, table.kv_heads)
        result: Array = np.where(table.sequence >= 512, 1.0, 0.3) * np.log(predicted / table.seconds)
        return result

    return formula(_least_squares(error, [0.6, 300, 0.8, 4], [0.2, 0, 0.2, 0.5], [1, 4000, 1.2, 20])[0])


def _attention_constants(directory: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for device in _tables.tabled(directory).values():
        table = _attention.measured(device.name, directory)
        if table is None:
            continue
        formula = attention_formula(device, table)
        base = formula.seconds(table.batch, table.sequence, table.heads, table.kv_heads)
        log_error = np.log(base / table.seconds)
        result[device.name] = {
            "eff": formula.eff,
            "s0": formula.s0,
            "eff_mem": formula.eff_mem,
            "launch": _digits(formula.launch),
            "rows": int(table.seconds.size),
            "formula_error": _quality(log_error),
            "formula_error_s512": _quality(log_error[table.sequence >= 512]),
        }
    return result


def _bandwidth_constants(directory: Path) -> dict[str, dict[str, float]]:
    """Share of HBM bandwidth of element-wise kernels: unsharded layers, 4,096 tokens, median over models."""
    shares: dict[str, dict[str, list[float]]] = {}
    devices = _tables.tabled(directory)
    for row in _tables.rows("layers.csv", directory):
        if int(row["tensor_parallel"]) != 1 or int(row["tokens"]) != ELEMENTWISE_TOKENS:
            continue
        hidden, ffn = int(row["hidden"]), int(row["ffn"])
        rotated = (int(row["heads"]) + int(row["kv_heads"])) * 128
        elements = {"norm": 2 * hidden, "add": 3 * hidden, "activation": 3 * ffn, "rotary": 2 * rotated}
        peak = devices[row["device"]].memory_bandwidth
        for kernel, count in elements.items():
            rate = 2 * count * ELEMENTWISE_TOKENS / (float(row[kernel]) * 1e-6)
            shares.setdefault(row["device"], {}).setdefault(kernel, []).append(rate / peak)
    return {
        device: {kernel: round(float(np.median(values)), 3) for kernel, values in sorted(kernels.items())}
        for device, kernels in sorted(shares.items())
    }


def projections(directory: Path = _tables.DATA) -> dict[str, Array]:
    """GEMMs of the second kernel table (>= 100 GFLOP, >= 2,048 tokens): m, n, k, seconds by device."""
    result: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in _tables.rows("layers.csv", directory):
        tokens, tp = int(row["tokens"]), int(row["tensor_parallel"])
        hidden, heads, kv_heads, ffn = (int(row[key]) for key in ("hidden", "heads", "kv_heads", "ffn"))
        shapes = {
            "qkv": ((heads + 2 * kv_heads) * 128 // tp, hidden),
            "out": (hidden, heads * 128 // tp),
            "up": (2 * ffn // tp, hidden),
            "down": (hidden, ffn // tp),
        }
        for kernel, (n, k) in shapes.items():
            if tokens >= 2048 and 2 * tokens * n * k >= 1e11:
                result.setdefault(row["device"], []).append((tokens, n, k, float(row[kernel]) * 1e-6))
    return {device: np.array(values) for device, values in sorted(result.items())}


def _profile_constants(directory: Path, gemm: dict[str, Any]) -> dict[str, Any]:
    """Rate of the second kernel table over the first's, against the first's share of peak, in four bins."""
    result: dict[str, Any] = {}
    devices = _tables.tabled(directory)
    for name, columns in projections(directory).items():
        entry = gemm[f"{name}/bf16"]
        formula, table = (
            _gemm.formula_of(devices[name], "bf16", entry),
            _gemm.measured(name, "bf16", directory),
        )
        assert table is not None
        correction = _gemm.Correction(table, formula, entry["triangles"])
        first = []
        for m, n, k, _ in columns:
            found = correction.at(int(m), int(n), int(k))
            first.append(float(formula.seconds(m, n, k)) * float(np.exp(found[0] if found else 0.0)))
        share = 2 * columns[:, 0] * columns[:, 1] * columns[:, 2] / np.array(first) / formula.peak
        ratio = np.array(first) / columns[:, 3]
        order = np.array_split(np.argsort(share, kind="stable"), 4)
        result[name] = {
            "share_of_peak": [round(float(np.median(share[part])), 4) for part in order],
            "rate_ratio": [round(float(np.median(ratio[part])), 4) for part in order],
            "median_ratio": round(float(np.median(ratio)), 4),
            "rows": len(columns),
        }
    return result


def fit(directory: Path = _tables.DATA) -> dict[str, Any]:
    """All constants from the kernel tables of ``directory``."""
    gemm = _gemm_constants(directory)
    return {
        "version": 1,
        "made_by": "python -m euston.devices.fit",
        "method": "least squares on log time (soft L1), four digits kept; shares and ratios are medians",
        "tables": {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in TABLES},
        "gemm": gemm,
        "attention": _attention_constants(directory),
        "bandwidth": _bandwidth_constants(directory),
        "profile": _profile_constants(directory, gemm),
    }


def dumps(constants: dict[str, Any]) -> str:
    """The constants file's text: one line per triangle list, everything else indented."""
    text = json.dumps(constants, indent=1, default=float)
    compact = json.JSONEncoder(separators=(",", ":"))
    for entry in constants["gemm"].values():
        long = json.dumps(entry["triangles"], indent=1).replace("\n", "\n   ")
        text = text.replace(long, compact.encode(entry["triangles"]))
    return text + "\n"


def main() -> None:
    """Refit and write the constants file."""
    parser = argparse.ArgumentParser(description="Fit the device constants on the packaged kernel tables.")
    parser.add_argument("--output", type=Path, default=_tables.DATA / _tables.CONSTANTS)
    output: Path = parser.parse_args().output
    temporary = output.with_name(output.name + ".tmp")
    temporary.write_text(dumps(fit()), encoding="utf-8")
    temporary.replace(output)


if __name__ == "__main__":
    main()
