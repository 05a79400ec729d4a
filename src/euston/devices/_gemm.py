"""The time of one GEMM: tiles and waves, corrected by the measured table inside its hull.

A GEMM of m x n x k is cut into a x b output tiles; the tiles run in waves over the multiprocessors, and the
last wave is as long as a full one. Time is ``launch + max(waves, bytes)``. Four constants per device and
dtype (``eff_max``, ``k0``, ``eff_mem``, ``launch``) are fitted on the packaged table; what they leave is
interpolated in (log m, log n, log k).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.devices._tables import DATA, ELEMENT_BYTES, Tabled, floats, rows
from euston.devices.base import Provenance

Array = NDArray[np.float64]

#: Output tiles (rows, columns) that GEMM libraries choose from, and what each reaches of the best tile's
#: rate.
TILES: dict[str, list[tuple[float, float, float]]] = {
    "plain": [(256, 128, 1), (128, 256, 1), (128, 128, 0.95), (128, 64, 0.8), (64, 128, 0.8), (64, 64, 0.6)],
    "rich": [
        (256, 128, 1), (128, 256, 1), (128, 192, 1), (192, 128, 1), (128, 128, 0.95), (64, 256, 0.9),
        (128, 64, 0.8), (64, 128, 0.8), (64, 64, 0.6), (64, 32, 0.35), (32, 64, 0.35), (16, 64, 0.2),
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Formula:
    """The constants of the tile-and-wave formula on one machine.

    ``peak`` FLOP/s dense, ``bandwidth`` B/s, ``input_bytes``/``output_bytes`` per element, ``launch``
    seconds, ``eff_max`` the share of peak a long GEMM of full waves reaches, ``k0`` the k at which half of
    that is reached.
    """

    peak: float
    bandwidth: float
    multiprocessors: int
    input_bytes: float
    output_bytes: float
    eff_max: float
    k0: float
    eff_mem: float
    launch: float
    tiles: str = "plain"

    def seconds(self, m: Array | float, n: Array | float, k: Array | float, batch: float = 1.0) -> Array:
        """Time of ``batch`` equal GEMMs in one kernel; m, n, k are scalars or arrays of one shape."""
        tiles = np.asarray(TILES[self.tiles])
        rate = self.peak * self.eff_max
        m1, n1, k1 = (np.asarray(x, dtype=np.float64)[..., None] for x in (m, n, k))
        count = batch * np.ceil(m1 / tiles[:, 0]) * np.ceil(n1 / tiles[:, 1])
        area = tiles[:, 0] * tiles[:, 1]
        if self.multiprocessors >= 16:
            count = np.ceil(count / self.multiprocessors) * self.multiprocessors
        else:  # few large matrix units (TPU, NPU): the unit streams tiles, waves are not quantised
            count = batch * m1 * n1 / area
        compute = (
            np.min(count * area / tiles[:, 2], axis=-1) * 2 * k1[..., 0] / rate * (1 + self.k0 / k1[..., 0])
        )
        m0, n0, k_ = m1[..., 0], n1[..., 0], k1[..., 0]
        nbytes = batch * ((m0 * k_ + k_ * n0) * self.input_bytes + m0 * n0 * self.output_bytes)
        result: Array = self.launch + np.maximum(compute, nbytes / (self.bandwidth * self.eff_mem))
        return result


def formula_of(device: Tabled, dtype: str, entry: dict[str, Any]) -> Formula:
    """The GEMM formula of a tabled device from its entry in the constants file."""
    return Formula(
        device.peak[dtype], device.memory_bandwidth, device.multiprocessors, ELEMENT_BYTES[dtype], 2,
        entry["eff_max"], entry["k0"], entry["eff_mem"], entry["launch"], entry["tiles"],
    )  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One device's GEMM table: ``seconds[shape, m]`` over ``shapes`` (n, k) and a common grid ``m``."""

    m: Array
    shapes: NDArray[np.int64]
    seconds: Array

    def columns(self) -> tuple[Array, Array, Array, Array]:
        """The table as flat m, n, k and seconds."""
        m, n = np.meshgrid(self.m, self.shapes[:, 0].astype(np.float64))
        k = np.broadcast_to(self.shapes[:, 1:].astype(np.float64), m.shape)
        return m.ravel(), n.ravel(), k.ravel().copy(), self.seconds.ravel()


def measured(device: str, dtype: str, directory: Path = DATA) -> Measured | None:
    """The packaged table of a device and dtype, or None."""
    found = [row for row in rows("gemm.csv", directory) if row["device"] == device and row["dtype"] == dtype]
    if not found:
        return None
    grid = [key for key in found[0] if key.isdigit()]
    microseconds = np.array([floats([row[key] for key in grid]) for row in found])
    kept = ~np.isnan(microseconds).any(axis=0)  # a device's grid of m is the same for all its shapes
    return Measured(
        m=np.array([float(key) for key in grid])[kept],
        shapes=np.array([(int(row["n"]), int(row["k"])) for row in found], dtype=np.int64),
        seconds=microseconds[:, kept] * 1e-6,
    )


class Correction:
    """Log of (measured / formula), interpolated inside the table's hull.

    Linear in log m, and linear in (log n, log k) over triangles of the measured shapes; outside the hull
    there is no correction. As m x n x k and n x m x k are the same product transposed, a shape outside the
    hull is also looked for with m and n exchanged.
    """

    def __init__(self, table: Measured, formula: Formula, triangles: Sequence[Sequence[int]]) -> None:
        m, n, k, seconds = table.columns()
        self._log_m: list[float] = np.log(table.m).tolist()
        self._residual = (np.log(seconds) - np.log(formula.seconds(m, n, k))).reshape(table.seconds.shape)
        self._points = {(int(n), int(k)) for n, k in table.shapes}
        self._grid = {int(m) for m in table.m}
        self._triangles = np.asarray(triangles, dtype=np.int64)
        corners = np.log(table.shapes.astype(np.float64))[self._triangles]  # [triangle, corner, (n, k)]
        self._origin = corners[:, 2]
        edges = (corners[:, :2] - corners[:, 2:]).transpose(0, 2, 1)
        self._inverse = np.linalg.inv(edges)

    def at(self, m: float, n: float, k: float) -> tuple[float, Provenance] | None:
        """Correction (a logarithm) and how sure it is; None outside the hull."""
        for rows_, columns in ((m, n), (n, m)):
            value = self._inside(rows_, columns, k)
            if value is not None:
                exact = rows_ in self._grid and (columns, k) in self._points
                return value, "measured" if exact else "interpolated"
        return None

    def _inside(self, m: float, n: float, k: float) -> float | None:
        log_m = math.log(m)
        grid = self._log_m
        if not grid[0] - 1e-9 <= log_m <= grid[-1] + 1e-9:
            return None
        offset = np.array((math.log(n), math.log(k))) - self._origin
        first = np.einsum("tij,tj->ti", self._inverse, offset)
        weights = np.column_stack((first, 1 - first.sum(axis=1)))
        depth = weights.min(axis=1)
        best = int(depth.argmax())
        if depth[best] < -1e-9:
            return None
        upper = min(max(bisect_left(grid, log_m), 1), len(grid) - 1)
        part = (log_m - grid[upper - 1]) / (grid[upper] - grid[upper - 1])
        corners = self._residual[self._triangles[best]]
        along = (1 - part) * corners[:, upper - 1] + part * corners[:, upper]
        return float(weights[best] @ along)
