"""The GEMM model against its own table, against shapes it has not seen, and against a second kernel table."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.catalog import Accelerator
from euston.devices import GPU, _gemm, fit
from euston.devices._model import Machine


def plain_gemm_seconds(f: Machine, c: dict[str, float], tiles: str, m: int, n: int, k: int) -> float:
    """The formula in plain Python, one GEMM at a time: the oracle of the vectorised one."""
    best = math.inf
    for rows, columns, relative in _gemm.TILES[tiles]:
        waves = math.ceil(math.ceil(m / rows) * math.ceil(n / columns) / f.multiprocessors)
        area = waves * f.multiprocessors * rows * columns
        best = min(best, area * 2 * k / (f.peak * c["eff"] * relative * k / (k + c["k0"])))
    cast = 2 if f.input_bytes < 2 else 0
    nbytes = (m * k + k * n) * f.input_bytes + m * k * cast + 2 * m * n
    moved, p = nbytes / (f.bandwidth * c["eff_mem"]), c["sharpness"]
    return c["launch"] * 1e-6 + (best**p + moved**p) ** (1 / p)


@given(
    m=st.integers(1, 20000), n=st.integers(1, 70000), k=st.integers(1, 20000),
    size=st.sampled_from([2.0, 1.0, 0.5625]), tiles=st.sampled_from(sorted(_gemm.TILES)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_formula_equals_plain_python(m: int, n: int, k: int, size: float, tiles: str) -> None:
    machine = Machine(312e12, 2.039e12, 108, size)
    constants = {"eff": 0.87, "k0": 180.0, "eff_mem": 0.8, "launch": 4.0, "sharpness": 3.0}
    columns = {"m": np.array([m], float), "n": np.array([n], float), "k": np.array([k], float)}
    ours = float(_gemm.formula(machine, constants, tiles, columns)[0])
    assert ours == pytest.approx(plain_gemm_seconds(machine, constants, tiles, m, n, k), rel=1e-12)


@pytest.mark.parametrize(
    ("device", "key"), [("a100-sxm-80gb", "a100"), ("h100-sxm", "h100"), ("h200-sxm", "h200")]
)
def test_table_points_come_back(device: str, key: str, accelerators: dict[str, Accelerator]) -> None:
    gpu = GPU(accelerators[key], gemm_source="table")
    table = _gemm.measured(device, "bf16")
    assert table is not None
    (m, n, k), seconds = (table.columns[c] for c in "mnk"), table.seconds
    for i in range(0, m.size, 37):
        ours, provenance = gpu.gemm_seconds(int(m[i]), int(n[i]), int(k[i]))
        assert provenance == "measured"
        assert ours == pytest.approx(seconds[i], rel=1e-9)


@given(
    m=st.integers(1, 65536),
    n=st.integers(64, 65536),
    k=st.integers(64, 65536),
    dtype=st.sampled_from(["bf16", "fp16"]),
)
@settings(max_examples=80, deadline=None)
def test_never_beats_the_sustained_rate(
    m: int, n: int, k: int, dtype: str, accelerators: dict[str, Accelerator]
) -> None:
    flops = 2.0 * m * n * k
    for key in ("a100", "h100", "h800", "mi300x", "tpu"):
        gpu = GPU(accelerators[key])
        seconds, _ = gpu.gemm_seconds(m, n, k, "bf16" if key in ("mi300x", "tpu") else dtype)
        band = gpu.sustained("bf16")
        assert flops / seconds <= (band[0] if band else gpu.peak("bf16")) * (1 + 1e-12)
        raw, _ = GPU(accelerators[key], gemm_source="table").gemm_seconds(m, n, k)
        assert raw <= seconds * (1 + 1e-12)
        assert flops / raw <= accelerators[key].peak["bf16"] * (1 + 1e-12)


def test_transposed_shapes_outside_the_hull_use_the_table(a100: Accelerator) -> None:
    """m = 24,576 is not in the table; its transpose (m = 4,096, n = 24,576) is inside."""
    gpu = GPU(a100)
    assert gpu.gemm_seconds(24576, 4096, 8192)[1] == "interpolated"
    assert gpu.gemm_seconds(24576, 4096, 8192)[0] == pytest.approx(
        gpu.gemm_seconds(4096, 24576, 8192)[0], rel=0.02
    )
    assert gpu.gemm_seconds(200000, 100000, 8192)[1] == "roofline"


@pytest.mark.parametrize(("device", "key"), [("a100-sxm-80gb", "a100"), ("h100-sxm", "h100")])
def test_second_kernel_table(
    device: str, key: str, accelerators: dict[str, Accelerator], capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: another project's projections, >= 2,048 tokens, >= 100 GFLOP; the cap brings the two nearer."""
    columns = fit.projections()[device]
    ratio = {}
    for source in ("table", "table+cap", "profile"):
        gpu = GPU(accelerators[key], gemm_source=source)  # type: ignore[arg-type]
        ratio[source] = float(np.median([gpu.gemm_seconds(m, n, k)[0] / t for m, n, k, t in columns]))
    with capsys.disabled():
        print(f"\n{device}: our time over the second table's, median {ratio} of {len(columns)}", end="")
    assert 0.85 <= ratio["table+cap"] <= 1.1
    assert abs(ratio["table+cap"] - 1) <= abs(ratio["table"] - 1)
    assert ratio["profile"] == pytest.approx(1.0, abs=0.02)


def test_published_achievable_peaks_are_an_upper_bound(accelerators: dict[str, Accelerator]) -> None:
    """Oracle: MAMF, the best shape of a long search. No price beats it."""
    for key, published in (("a100", 271.2e12), ("h100", 794.5e12), ("mi300x", 668.4e12 * 1307 / 1300)):
        gpu = GPU(accelerators[key])
        shapes = itertools.product((1024, 4096, 8192, 16384), (2048, 10240, 16384), (1024, 5120, 16384))
        rates = [2.0 * m * n * k / gpu.gemm_seconds(m, n, k)[0] for m, n, k in shapes]
        assert max(rates) <= published * 1.001


def test_clock_derate_slows_compute(a100: Accelerator) -> None:
    slow = GPU(replace(a100, clock_derate=0.5), gemm_source="table")
    fast = GPU(a100, gemm_source="table")
    assert slow.gemm_seconds(8192, 8192, 8192)[0] == pytest.approx(
        2 * fast.gemm_seconds(8192, 8192, 8192)[0], rel=0.01
    )
