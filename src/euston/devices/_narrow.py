"""Products in 8 and 4 bit without the cast of their input, as the library of training frameworks runs them.

The packaged tables of narrow types are of serving engines: one call casts the 16-bit input and multiplies.
Training frameworks cast operands in kernels of their own (they need both directions), and multiply with the
dense library (cuBLAS).
"""

from __future__ import annotations

from functools import cache

from euston.devices import _gemm, _tables
from euston.devices._field import Array

#: Types whose products the tables measured with the input's cast in the call.
CAST_INSIDE = ("fp8", "fp8-block", "mxfp8", "fp4", "nvfp4")
#: Bytes per element that the cast reads.
WIDE_BYTES = 2.0


@cache
def as_wide(table: str | None, dtype: str) -> bool:
    """Whether a type's products are priced as those of 16 bit with as many matrix instructions and bytes.

    The 8-bit instruction takes twice as many elements of the inner side at the pace of the 16-bit one, with
    or without hardware block scales (CUTLASS documentation, "Blackwell SM100 GEMMs": f8f6f4 and mxf8f6f4 at
    twice the rate of f16), so the library's kernel for half the inner side does the same work. It stands in
    for MXFP8, which no table holds, and for FP8 where the table's best rate is below the library's published
    best: then the table is of another kernel.
    """
    if table is None or _tables.PEAK_DTYPE.get(dtype, dtype) != "fp8" or dtype == "fp8-block":
        return False
    if dtype == "mxfp8":
        return "fp4" in _tables.tabled()[table].peak  # block scales in hardware came with FP4
    library = _tables.achievable(table, "fp8")
    measured = _gemm.measured(table, dtype)
    if library is None or measured is None:
        return False
    c = measured.columns
    return bool((2.0 * c["m"] * c["n"] * c["k"] / measured.seconds).max() < library[0])


def cast_bytes(columns: dict[str, Array], input_bytes: float) -> Array:
    """Bytes that casting the m x k input moves."""
    moved: Array = columns["m"] * columns["k"] * (WIDE_BYTES + input_bytes)
    return moved


def operand_bytes(columns: dict[str, Array], input_bytes: float) -> Array:
    """Bytes of operands and output of the product alone."""
    m, n, k = columns["m"], columns["n"], columns["k"]
    moved: Array = (m * k + k * n) * input_bytes + m * n * _gemm.OUTPUT_BYTES
    return moved
