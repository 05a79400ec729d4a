"""Which families of kernels there are, their packaged tables, and the fitted model of each device's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from euston.devices import _attention, _decode, _gemm, _moe, _tables
from euston.devices._model import Family, Machine, Model, Table

Loader = Callable[[str, str, Path], Table | None]

#: Family and the table of (device, dtype, directory); attention tables are bf16.
FAMILIES: dict[str, tuple[Family, Loader]] = {
    "gemm": (_gemm.FAMILY, _gemm.measured),
    "prefill": (_attention.PREFILL, lambda device, _, folder: _attention.measured(device, folder)),
    "decode": (_decode.DECODE, lambda device, _, folder: _decode.measured(device, folder)),
    "mixed": (_decode.MIXED, lambda device, _, folder: _decode.measured_mixed(device, folder)),
    "mla_prefill": (
        _attention.MLA_PREFILL,
        lambda device, _, folder: _attention.measured_mla(device, folder),
    ),
    "mla_decode": (_decode.MLA_DECODE, lambda device, _, folder: _decode.measured_mla(device, folder)),
    "encoder": (_attention.ENCODER, lambda device, _, folder: _attention.measured_encoder(device, folder)),
    "moe": (_moe.LAYER, _moe.measured),
}
#: Families whose tables are there per dtype.
TYPED = ("gemm", "moe")
DTYPES = ("bf16", "fp8", "fp8-block", "fp4")


def machine_of(device: _tables.Tabled, dtype: str) -> Machine | None:
    """What formulas need of a tabled device; None where it has no such arithmetic."""
    peak = device.peak.get(_tables.PEAK_DTYPE.get(dtype, dtype))
    if peak is None:
        return None
    return Machine(peak, device.memory_bandwidth, device.multiprocessors, _tables.ELEMENT_BYTES[dtype])


def tables(directory: Path = _tables.DATA) -> Iterator[tuple[str, Family, Machine, Table]]:
    """Every packaged table as (``kind/device/dtype``, family, the device's figures, rows)."""
    for device in _tables.tabled(directory).values():
        for kind, (family, load) in FAMILIES.items():
            for dtype in DTYPES if kind in TYPED else ("bf16",):
                machine, table = machine_of(device, dtype), load(device.name, dtype, directory)
                if machine is not None and table is not None:
                    yield f"{kind}/{device.name}/{dtype}", family, machine, table


@cache
def model(kind: str, device: str, dtype: str = "bf16") -> Model | None:
    """The packaged model of a kind of kernel on a tabled device, or None."""
    constants = _tables.constants()["models"].get(f"{kind}/{device}/{dtype}")
    if constants is None:
        return None
    family, load = FAMILIES[kind]
    machine = machine_of(_tables.tabled()[device], dtype)
    table = load(device, dtype, _tables.DATA)
    assert machine is not None and table is not None
    return Model(family, machine, constants, table)
