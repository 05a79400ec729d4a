"""The time of experts: a fused mixture-of-experts layer, and a single grouped GEMM of one.

Serving engines run gate and up, activation, down and the sum over a token's experts as one call, priced by
the measured tables. Two grouped GEMMs (tokens padded to tiles per expert, the weights of every expert
touched), plus activation and sum over *all* of a batch's assignments: with expert parallelism the kernels'
buffers still hold tokens x top-k rows, and those on other ranks are skipped only by the GEMMs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from euston.devices import _tables
from euston.devices._field import Array
from euston.devices._model import Columns, Constant, Family, Machine, Table, smooth_max

#: Rows that a tile of a grouped GEMM holds, by the rows per touched expert from which it is chosen.
TILE_ROWS = ((64.0, 128.0), (16.0, 64.0), (0.0, 16.0))
#: Points at which a skewed load over experts is sampled.
PROFILE = 16
ELEMENT = 2.0


def spread(rows: Array, experts: Array, busiest: Array) -> tuple[Array, Array]:
    """Experts touched, and rows after padding, when the fullest of `experts` has `busiest` of `rows` rows.

    Loads between the fullest and the rest fall off exponentially (the profile of that mean and maximum).
    Dealt evenly (busiest = rows / experts) fewer rows than experts touch as many experts as rows; random
    routing of the same load touches 1 - exp(-load) of them, and chance makes the fullest one fuller.
    """
    rows, experts = np.maximum(rows, 1e-9), np.maximum(experts, 1e-9)
    mean = rows / experts
    even = busiest <= mean * (1.0 + 1e-6)
    # what chance alone adds to the fullest of equal experts (Poisson; Bernstein's bound at one expert)
    chance = np.sqrt(2.0 * mean * np.log(experts + 1.0)) + np.log(experts + 1.0) / 3.0
    ratio = np.maximum((busiest - chance) / mean, 1.0)
    low, high = np.full_like(mean, 1e-9), np.full_like(mean, 1e4)
    for _ in range(50):  # (1 - exp(-c)) / c = 1 / ratio
        middle = np.sqrt(low * high)
        more = -np.expm1(-middle) / middle > 1.0 / ratio
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    place = (np.arange(PROFILE) + 0.5) / PROFILE
    load = np.exp(-low[:, None] * place)
    load *= (mean / load.mean(axis=1))[:, None]
    hit = np.where(even[:, None], np.minimum(load, 1.0), -np.expm1(-load))
    touched = hit.mean(axis=1) * experts
    each = rows / touched
    tile = np.select(
        [each > limit for limit, _ in TILE_ROWS[:-1]], [size for _, size in TILE_ROWS[:-1]], 16.0
    )
    # random loads leave an expert's last tile half full on average; an even deal fills every expert alike
    held = load / np.maximum(hit, 1e-12)
    random = (hit * np.maximum(held / tile[:, None] + 0.5, 1.0)).mean(axis=1) * experts * tile
    padded = np.where(even, touched * np.ceil(np.maximum(each, 1.0) / tile - 1e-9) * tile, random)
    return touched, np.maximum(padded, rows)


def grouped(machine: Machine, constants: Mapping[str, float], n: Array, k: Array, columns: Columns) -> Array:
    """Seconds of one grouped GEMM with weights n x k per expert, without its launch.

    `columns`: rows, touched, padded.
    """
    work = columns["rows"] + constants["padding"] * (columns["padded"] - columns["rows"])
    compute = 2 * work * n * k / (machine.peak * constants["eff"])
    nbytes = columns["touched"] * n * k * machine.input_bytes
    nbytes = nbytes + columns["rows"] * (k * machine.input_bytes + n * ELEMENT)
    return smooth_max(compute, nbytes / (machine.bandwidth * constants["eff_mem"]), constants["sharpness"])


def formula(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    """Seconds of the fused layer; columns as in `LAYER`."""
    hidden, ffn = columns["hidden"], columns["ffn"]
    up = grouped(machine, constants, 2 * ffn, hidden, columns)
    down = grouped(machine, constants, hidden, ffn, columns)
    # gate and up read, product written; then a token's rows read and one written
    rest = columns["assignments"] * (3 * ffn + 3 * hidden) * ELEMENT
    fixed = constants["launch"] * 1e-6 + constants["expert"] * 1e-9 * columns["touched"]
    return fixed + up + down + rest / (machine.bandwidth * constants["eff_rest"])


def features(machine: Machine, columns: Columns) -> Array:
    """Logs of rows per touched expert, touched experts, hidden, ffn, assignments per local row, [N, 5]."""
    touched = np.maximum(columns["touched"], 0.1)
    rows = np.maximum(columns["rows"], 1e-3)
    return np.column_stack(
        (
            np.log(rows / touched),
            np.log(touched),
            np.log(columns["hidden"]),
            np.log(columns["ffn"]),
            np.log(np.maximum(columns["assignments"] / rows, 1.0)),
        )
    )


#: `rows` on this rank, `touched` experts of it, rows `padded` to tiles, `assignments` tokens x top-k of the
#: whole batch, `hidden`, and the `ffn` width of this rank's slice of an expert.
LAYER = Family(
    "moe",
    ("rows", "touched", "padded", "assignments", "hidden", "ffn"),
    (
        Constant("eff", 0.6, 0.05, 1.2),
        Constant("eff_mem", 0.8, 0.2, 1.2),
        Constant("launch", 20.0, 1.0, 200.0),
        Constant("sharpness", 3.0, 1.0, 12.0),
        Constant("expert", 50.0, 0.0, 2000.0),
        Constant("eff_rest", 0.6, 0.1, 2.0),
        Constant("padding", 0.8, 0.0, 1.5),
    ),
    formula,
    features,
    edge=True,
)


def measured(device: str, dtype: str, directory: Path = _tables.DATA) -> Table | None:
    """The packaged table of a device and dtype, or None."""
    keys = ("hidden", "ffn", "rows", "touched", "padded")
    return _tables.long("moe.csv.gz", {"device": device, "dtype": dtype}, (*keys, "assignments"), directory)
