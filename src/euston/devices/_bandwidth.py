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
