"""Products in 8 and 4 bit without their input's cast, against the tables, peaks and published rates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.catalog import Accelerator, accelerator
from euston.devices import GPU, _narrow, _tables

SHAPES = [(8192, 8192, 8192), (16384, 10240, 8192), (4096, 4096, 7168), (8192, 1536, 2048)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["fp8", "fp8-block"])
def test_the_cast_is_charged_once(h100: Accelerator, shape: tuple[int, int, int], dtype: str) -> None:
    """Oracle: the call of the table is the product and a kernel that reads 16 bit and writes the copy."""
    m, n, k = shape
    inside = GPU(h100, launch_floor=0.0, gemm_source="table")
    apart = GPU(h100, launch_floor=0.0, gemm_source="table", casts="apart")
    moved = m * k * (2.0 + _tables.ELEMENT_BYTES[dtype])
    cast = float(inside.kernels.memory("cast", moved)[0][0])
    least = 2.0 * m * n * k / h100.peak["fp8"]
    whole = inside.gemm_seconds(m, n, k, dtype)[0]
    assert apart.gemm_seconds(m, n, k, dtype)[0] == pytest.approx(max(whole - cast, least), rel=1e-9)
    assert cast < 0.4 * whole


def test_wide_types_stay_as_they_are(h100: Accelerator) -> None:
    inside, apart = GPU(h100), GPU(h100, casts="apart")
    assert inside.gemm_seconds(8192, 8192, 8192) == apart.gemm_seconds(8192, 8192, 8192)


def test_which_tables_are_of_the_library() -> None:
    """Oracle: published best rates 1,403 (H100), 1,453 (H200), 3,616 TFLOP/s (GB200, above its table)."""
    assert not _narrow.as_wide("h100-sxm", "fp8")
    assert not _narrow.as_wide("h200-sxm", "fp8")
    assert _narrow.as_wide("gb200", "fp8")
    assert _narrow.as_wide("gb200", "mxfp8")  # no table: block scales in hardware
    assert not _narrow.as_wide("h100-sxm", "mxfp8")  # no such hardware
    assert not _narrow.as_wide("gb200", "fp8-block")
    assert not _narrow.as_wide("gb200", "nvfp4")
    assert not _narrow.as_wide(None, "fp8")


@pytest.mark.parametrize("name", ["gb200-nvl72", "gb300-nvl72", "b200-sxm", "b300-sxm"])
def test_the_instruction_takes_twice_the_elements(name: str) -> None:
    """Oracle: the 16-bit product with half the inner side, never above the published sustained rate."""
    chip = accelerator(name)
    gpu = GPU(chip, launch_floor=0.0, gemm_source="table", casts="apart")
    capped = GPU(chip, launch_floor=0.0, casts="apart")
    cap = capped.sustained("fp8")
    assert cap is not None
    for m, n, k in SHAPES:
        wide = gpu.gemm_seconds(m, n, k / 2)[0]
        for dtype in ("fp8", "mxfp8"):
            found, how = gpu.gemm_seconds(m, n, k, dtype)
            assert found == pytest.approx(wide, rel=1e-9)
            assert how in ("transferred", "roofline")
            rate = 2.0 * m * n * k / capped.gemm_seconds(m, n, k, dtype)[0]
            assert rate <= cap[0] * (1 + 1e-9)


@given(
    m=st.integers(64, 32768), n=st.integers(256, 32768), k=st.integers(256, 16384),
    name=st.sampled_from(["h100-sxm", "gb200-nvl72", "mi300x"]),
    dtype=st.sampled_from(["fp8", "fp8-block"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_bytes_and_peak_bound_every_product(m: int, n: int, k: int, name: str, dtype: str) -> None:
    chip = accelerator(name)
    seconds, _ = GPU(chip, launch_floor=0.0, casts="apart").gemm_seconds(m, n, k, dtype)
    assert seconds >= 2.0 * m * n * k / chip.peak["fp8"] * (1 - 1e-9)
    assert seconds >= 0.5 * (m * k + k * n) / chip.memory_bandwidth  # operands may sit in a cache
