"""Fits the constants of the device models on the packaged kernel tables and writes ``data/constants.json``.

``python -m euston.devices.fit [--output FILE]`` is deterministic: the same tables give the same constants.
It reads only kernel tables (:data:`TABLES`); no published iteration time can move a constant.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.devices import _collective, _gemm, _library, _model, _tables

Array = NDArray[np.float64]

#: Every file that the fit opens.
TABLES = (
    "devices.csv", "gemm.csv", "attention.csv", "decode.csv", "mixed_attention.csv", "encoder_attention.csv",
    "mla.csv", "moe.csv.gz", "collectives.csv", "layers.csv", "serving_layers.csv",
)  # fmt: skip
ELEMENTWISE_TOKENS = 4096
#: The serving profiles of one model (hidden 4096, ffn 14336, 32 + 8 heads of 128), at their most tokens:
#: which kernel a layer is, and the elements per token it moves (its norm adds the residual, too).
SERVING_MODEL, SERVING_TOKENS = "meta-llama/Llama-3.1-8B", 2048
SERVING_ELEMENTS = {
    "layernorm": ("norm", 4 * 4096),
    "act_fn": ("activation", 3 * 14336),
    "rotary_emb": ("rotary", 2 * 40 * 128),
}


def _bandwidth_constants(directory: Path) -> dict[str, dict[str, float]]:
    """Share of memory bandwidth of element-wise kernels on unsharded layers, median over models."""
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
    for row in _tables.rows("serving_layers.csv", directory):
        if row["model"] != SERVING_MODEL or row["layer"] not in SERVING_ELEMENTS:
            continue
        kernel, count = SERVING_ELEMENTS[row["layer"]]
        rate = 2 * count * SERVING_TOKENS / (float(row[str(SERVING_TOKENS)]) * 1e-6)
        # what the last-level cache holds beats the memory; larger tensors will not
        share = min(rate / devices[row["device"]].memory_bandwidth, 1.0)
        shares.setdefault(row["device"], {}).setdefault(kernel, []).append(share)
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


def _profile_constants(directory: Path, models: Mapping[str, Any]) -> dict[str, Any]:
    """Rate of the second kernel table over the first's, against the first's share of peak, in four bins."""
    result: dict[str, Any] = {}
    devices = _tables.tabled(directory)
    for name, columns in projections(directory).items():
        machine, table = _library.machine_of(devices[name], "bf16"), _gemm.measured(name, "bf16", directory)
        assert machine is not None and table is not None
        model = _model.Model(_gemm.FAMILY, machine, models[f"gemm/{name}/bf16"], table)
        shapes = dict(zip(("m", "n", "k"), columns[:, :3].T, strict=True))
        first, _ = model.seconds(shapes)
        share = 2 * columns[:, 0] * columns[:, 1] * columns[:, 2] / first / machine.peak
        ratio = first / columns[:, 3]
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
    models = {
        name: _model.fit(family, machine, table)
        for name, family, machine, table in _library.tables(directory)
    }
    return {
        "version": 2,
        "made_by": "python -m euston.devices.fit",
        "method": "least squares on log time (soft L1), four digits kept; lengths by likelihood, two digits; "
        "shares and ratios are medians",
        "tables": {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in TABLES},
        "models": models,
        "collectives": _collective.fit(directory),
        "bandwidth": _bandwidth_constants(directory),
        "profile": _profile_constants(directory, models),
    }


def dumps(constants: Mapping[str, Any]) -> str:
    """The constants file's text."""
    return json.dumps(constants, indent=1, default=float) + "\n"


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
