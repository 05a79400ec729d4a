"""Times of collectives against message size: latency and rate fitted, what they leave interpolated by size.

``latency + step (n - 1) + (bytes on the wire / rate, or a part that grows with the root of the size)``: the
last stands for pipelines that only fill with size. What it leaves is a field over bytes and ranks, and what
that leaves is interpolated along log bytes for each number of ranks, so that measured times come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from euston.devices import _model, _tables
from euston.devices._field import Array
from euston.devices._model import Columns, Constant, Family, Machine, Table, smooth_max

#: The number of bytes each rank sends, over the buffer, at n ranks; any other collective sends (n - 1) / n.
TWICE = ("all_reduce",)


def share(collective: str, ranks: float) -> float:
    """Bytes a rank sends over the full buffer (nccl-tests convention); a send moves all of it."""
    if collective == "send":
        return 1.0
    return (2.0 if collective in TWICE else 1.0) * (ranks - 1) / ranks


def formula(machine: Machine, constants: Mapping[str, float], variant: str, columns: Columns) -> Array:
    """Seconds; ``bandwidth`` of the machine is the scale-up link's, per direction."""
    wire = columns["share"] * columns["bytes"]
    moved = wire / (machine.bandwidth * constants["eff"])
    filling = constants["filling"] * 1e-8 * np.sqrt(columns["bytes"])
    fixed = constants["latency"] + constants["step"] * (columns["ranks"] - 1)
    return fixed * 1e-6 + smooth_max(moved, filling, constants["sharpness"])


FAMILY = Family(
    "collective",
    ("share", "ranks", "bytes"),
    (
        Constant("latency", 5.0, 0.1, 100.0),
        Constant("eff", 0.7, 0.02, 3.0),
        Constant("sharpness", 1.0, 0.3, 8.0),
        Constant("step", 0.3, 0.0, 30.0),
        Constant("filling", 1.0, 0.0, 1000.0),
    ),
    formula,
    lambda machine, columns: np.column_stack((np.log(columns["bytes"]), np.log(columns["ranks"]))),
    edge=True,
)


class Curves:
    """One collective on one device: measured times against bytes for each number of ranks."""

    def __init__(self, machine: Machine, constants: Mapping[str, Any], table: Table) -> None:
        log_bytes = np.log(table.columns["bytes"])
        self._model = _model.Model(FAMILY, machine, constants, table)
        smooth, _ = self._model.seconds(table.columns, exact=False)
        left = np.log(table.seconds / smooth)
        self._left: dict[int, tuple[Array, Array]] = {}
        for ranks in np.unique(table.columns["ranks"]):
            chosen = np.nonzero(table.columns["ranks"] == ranks)[0]
            order = chosen[np.argsort(log_bytes[chosen], kind="stable")]
            self._left[int(ranks)] = log_bytes[order], left[order]

    @property
    def ranks(self) -> list[int]:
        """Numbers of ranks that were measured."""
        return sorted(self._left)

    def sizes(self, ranks: int) -> Array:
        """Log bytes that were measured at `ranks`, ascending."""
        return self._left[ranks][0]

    def seconds(self, collective: str, ranks: int, nbytes: Array) -> Array:
        """Times at a measured number of ranks."""
        columns = {
            "share": np.full(len(nbytes), share(collective, ranks)),
            "ranks": np.full(len(nbytes), float(ranks)),
            "bytes": nbytes,
        }
        return self.at(columns)

    def at(self, columns: Columns) -> Array:
        """Times of columns `share`, `ranks` (all one measured number) and `bytes`."""
        sizes, left = self._left[int(columns["ranks"][0])]
        smooth, _ = self._model.seconds(columns, exact=False)
        between = np.interp(np.log(np.maximum(columns["bytes"], 1.0)), sizes, left)
        result: Array = smooth * np.exp(between)
        return result


def machine_of(device: _tables.Tabled) -> Machine:
    """The link as a machine: only its bandwidth matters."""
    return Machine(1.0, device.scale_up_bandwidth, 1, 2.0)


def tables(directory: Path = _tables.DATA) -> dict[tuple[str, str, str], Table]:
    """Rows by (device, implementation, collective)."""
    found: dict[tuple[str, str, str], list[tuple[float, float, float, float]]] = {}
    for row in _tables.rows("collectives.csv", directory):
        key = row["device"], row["impl"], row["collective"]
        ranks = float(row["ranks"])
        found.setdefault(key, []).append(
            (share(key[2], ranks), ranks, float(row["bytes"]), float(row["us"]) * 1e-6)
        )
    return {
        key: Table(dict(zip(FAMILY.columns, np.array(rows).T, strict=False)), np.array(rows)[:, 3])
        for key, rows in found.items()
    }


def fit(directory: Path = _tables.DATA) -> dict[str, Any]:
    """Constants of every curve, by ``device/implementation/collective``."""
    devices = _tables.tabled(directory)
    return {
        "/".join(key): _model.fit(FAMILY, machine_of(devices[key[0]]), table)
        for key, table in tables(directory).items()
    }
