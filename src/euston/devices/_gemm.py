"""The time of one GEMM: tiles in waves over the multiprocessors, or bytes, whichever is longer.

A GEMM of m x n x k is cut into a x b output tiles; the tiles run in waves over the multiprocessors, and the
last wave is as long as a full one. Constants per device and dtype are fitted on the packaged table; the field
of what they leave lies over (log m, log n, log k) and how full the waves of two usual tiles are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from euston.devices import _tables
from euston.devices._field import Array
from euston.devices._model import Columns, Constant, Family, Machine, Table, smooth_max

#: Output tiles (rows, columns) that GEMM libraries choose from, and what each reaches of the best tile's
#: rate; tiles of 192 came with Hopper.
TILES: dict[str, list[tuple[float, float, float]]] = {
    "plain": [(256, 128, 1), (128, 256, 1), (128, 128, 0.95), (128, 64, 0.8), (64, 128, 0.8), (64, 64, 0.6)],
    "small": [
        (256, 128, 1), (128, 256, 1), (128, 128, 0.95), (256, 64, 0.9), (64, 256, 0.9), (128, 64, 0.8),
        (64, 128, 0.8), (64, 64, 0.6), (64, 32, 0.35), (32, 64, 0.35), (16, 64, 0.2),
    ],
    "rich": [
        (256, 128, 1), (128, 256, 1), (128, 192, 1), (192, 128, 1), (128, 128, 0.95), (64, 256, 0.9),
        (128, 64, 0.8), (64, 128, 0.8), (64, 64, 0.6), (64, 32, 0.35), (32, 64, 0.35), (16, 64, 0.2),
    ],
}  # fmt: skip
#: Tiles whose waves are coordinates of the field.
WAVES = ((128, 128), (128, 256))
#: Few large matrix units (TPU, NPU): the unit streams tiles, waves are not quantised.
STREAMING = 16
#: The input of an 8-bit or 4-bit GEMM is read in 16 bit and cast within the call (serving engines).
OUTPUT_BYTES = 2.0


def formula(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    """Seconds of ``batch`` (1 where absent) equal GEMMs in one kernel.

    Parameters
    ----------
    constants
        ``eff`` share of peak that a long GEMM of full waves reaches, ``k0`` the k at which half of that is
        reached, ``eff_mem`` share of bandwidth, ``launch`` microseconds, ``sharpness`` of the maximum.
    variant
        The set of tiles.
    columns
        m, n, k.
    """
    tiles = np.asarray(TILES[variant])
    m, n, k = columns["m"], columns["n"], columns["k"]
    batch = columns.get("batch", np.ones(1))
    area = tiles[:, 0] * tiles[:, 1]
    if machine.multiprocessors >= STREAMING:
        count = batch[:, None] * np.ceil(m[:, None] / tiles[:, 0]) * np.ceil(n[:, None] / tiles[:, 1])
        count = np.ceil(count / machine.multiprocessors) * machine.multiprocessors
    else:
        count = (batch * m * n)[:, None] / area
    work = np.min(count * area / tiles[:, 2], axis=1)
    compute = 2 * work * (k + constants["k0"]) / (machine.peak * constants["eff"])
    cast = OUTPUT_BYTES if machine.input_bytes < 2 else 0.0
    nbytes = batch * ((m * k + k * n) * machine.input_bytes + m * k * cast + m * n * OUTPUT_BYTES)
    moved = nbytes / (machine.bandwidth * constants["eff_mem"])
    return constants["launch"] * 1e-6 + smooth_max(compute, moved, constants["sharpness"])


def features(machine: Machine, columns: Columns) -> Array:
    """Log m, log n, log k, and the log of how full the waves of two tiles are, [N, 5]."""
    m, n, k = columns["m"], columns["n"], columns["k"]
    full = []
    for rows, width in WAVES:
        waves = np.ceil(m / rows) * np.ceil(n / width) / max(machine.multiprocessors, 1)
        full.append(np.log(waves / np.ceil(waves)))
    return np.column_stack((np.log(m), np.log(n), np.log(k), *full))


FAMILY = Family(
    "gemm",
    ("m", "n", "k"),
    (
        # no table holds a rate above .96 of peak; beyond it, eff and k0 only trade against each other
        Constant("eff", 0.8, 0.2, 0.96),
        Constant("k0", 150.0, 0.0, 3000.0),
        Constant("eff_mem", 0.8, 0.2, 1.3),
        Constant("launch", 4.0, 0.3, 30.0),
        Constant("sharpness", 4.0, 1.2, 12.0),
    ),
    formula,
    features,
    tuple(TILES),
)


def measured(device: str, dtype: str, directory: Path = _tables.DATA) -> Table | None:
    """The packaged table of a device and dtype, or None."""
    return _tables.wide("gemm.csv", {"device": device, "dtype": dtype}, ("n", "k"), "m", directory)
