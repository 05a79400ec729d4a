"""The time of kernels that wait for memory: bytes over the HBM bandwidth their kind reaches."""

from __future__ import annotations

from typing import Literal

from euston.devices._tables import constants
from euston.devices.base import Provenance

Elementwise = Literal["profile", "upper"]

#: What a well-written streaming kernel reaches of the datasheet's bandwidth; used where nothing was measured
#: and as the upper bracket where the measured kernels belong to an inference library.
UPPER = 0.85
#: Whose fractions stand in on a machine without a layer profile of its own.
RELATIVE = {
    "h200-sxm": "h100-sxm", "gb200": "h100-sxm", "rtx-pro-6000": "h100-sxm", "rtx-4090": "a100-sxm-80gb",
}  # fmt: skip
#: Bytes per second and multiprocessor of element-wise kernels that load and store 16-bit elements one by one,
#: as PyTorch's do where an operand is strided or broadcast: they wait for instructions, not for the memory.
#: 1.18 TB/s on an H200 (tile-ai/TileOPs pull request 500: prelu of 1,024 x 10,240 with PyTorch 2.9.1, where
#: operations on contiguous tensors of that size reach 2.5 to 3.0). A B200's rotations agree within 15 %
#: (pytorch/pytorch pull request 176223; `tests/devices/test_gpu.py`).
SINGLE = 1.18e12 / 132


def fraction(table: str | None, kernel: str, elementwise: Elementwise) -> tuple[float, Provenance]:
    """Share of peak memory bandwidth that ``kernel`` reaches on the device of ``table``, and how sure it is.

    Notes
    -----
    ``profile`` takes norm, activation, rotary and residual add from the layer profiles (norm .32, SwiGLU
    .5-.6, rotary .4-.5, add .9); all other kernels and ``upper`` take .85.
    """
    if elementwise == "upper" or table is None:
        return UPPER, "roofline"
    fractions = constants()["bandwidth"]
    own = fractions.get(table, {}).get(kernel)
    if own is not None:
        return float(own), "interpolated"
    borrowed = fractions.get(RELATIVE.get(table, ""), {}).get(kernel)
    return (float(borrowed), "transferred") if borrowed is not None else (UPPER, "roofline")
