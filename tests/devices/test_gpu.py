"""Prices of operators: kinds, provenance, floors, energy, refusals, and one whole published layer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from euston import catalog
from euston.catalog import Accelerator
from euston.devices import GPU, Device, scale_up_collective
from euston.devices.interconnect import wire_bytes
from euston.errors import ConfigError
from euston.models.operator import Operator


def gemm(m: int, n: int, k: int, dtype: str = "bf16", calls: int = 1) -> Operator:
    read, written = 2.0 * calls * (m * k + k * n), 2.0 * calls * m * n
    return Operator(
        "gemm", "gemm", "forward", (m, n, k), 2.0 * calls * m * n * k, read, written, dtype, calls
    )


def memory(kernel: str, nbytes: float, calls: int = 1) -> Operator:
    return Operator("x", "memory", "forward", (1, 1), 0.0, nbytes / 2, nbytes / 2, "bf16", calls, kernel)  # type: ignore[arg-type]


def attention(
    shape: tuple[int, ...], phase: str = "forward", kernel: str = "attention", causal: bool = True
) -> Operator:
    b, s, h, kv, d = shape
    flops = (2.0 if causal else 4.0) * b * h * s * s * d * (2.5 if phase == "backward" else 1)
    io = 2.0 * b * s * (h + kv) * d
    return Operator("attention", "attention", phase, shape, flops, io, io, "bf16", 1, kernel, causal)  # type: ignore[arg-type]


def test_provenance(accelerators: dict[str, Accelerator]) -> None:
    point, between = gemm(4096, 4096, 4096), gemm(4000, 5000, 6000)
    expected = {
        **dict.fromkeys(("a100", "h100", "h200"), ("measured", "interpolated")),
        **dict.fromkeys(("a100-40", "h800"), ("transferred", "transferred")),
        **dict.fromkeys(("mi300x", "tpu"), ("roofline", "roofline")),
    }  # fmt: skip
    for name, accelerator in accelerators.items():
        gpu = GPU(accelerator)
        assert isinstance(gpu, Device)
        assert (gpu.price(point).provenance, gpu.price(between).provenance) == expected[name]


def test_a_power_limited_variant_is_not_the_measured_device(h100: Accelerator) -> None:
    assert GPU(replace(h100, power_limit=500.0)).price(gemm(4096, 4096, 4096)).provenance == "transferred"
    assert GPU(replace(h100, power_limit=math.nan)).price(gemm(4096, 4096, 4096)).provenance == "measured"


def test_less_power_sustains_less(h100: Accelerator) -> None:
    """A 500 W H100 without a rate of its own is not capped at the 700 W rate (MAMF 794.5 TFLOP/s)."""
    value, low, high = GPU(replace(h100, power_limit=500.0, sustained={})).sustained("bf16") or (0, 0, 0)
    assert low < value < high == pytest.approx(794.5e12)
    assert GPU(replace(h100, sustained={})).sustained("bf16") == pytest.approx((794.5e12,) * 3)


def test_transferred_prices_scale_with_what_binds(accelerators: dict[str, Accelerator]) -> None:
    """H800 computes like an H100; a 40 GB A100 differs from the 80 GB one only in bandwidth."""
    h100, h800 = GPU(accelerators["h100"]), GPU(accelerators["h800"])
    a80, a40 = GPU(accelerators["a100"]), GPU(accelerators["a100-40"])
    big, thin = gemm(8192, 8192, 8192), gemm(8, 16384, 16384)
    assert h800.price(big).seconds == h100.price(big).seconds
    assert a40.price(big).seconds == pytest.approx(a80.price(big).seconds, rel=1e-9)
    assert a40.price(thin).seconds / a80.price(thin).seconds == pytest.approx(2.039 / 1.555, rel=0.05)
    norm = memory("norm", 1e9)
    assert a40.price(norm).seconds / a80.price(norm).seconds == pytest.approx(2.039 / 1.555, rel=0.01)


def test_calls_add_and_the_launch_floor_holds(a100: Accelerator) -> None:
    gpu = GPU(a100)
    assert gpu.price(gemm(2048, 2048, 2048, calls=7)).seconds == pytest.approx(
        7 * gpu.price(gemm(2048, 2048, 2048)).seconds
    )
    assert gpu.price(memory("add", 10.0, calls=5)).seconds == pytest.approx(5 * 6e-6)
    assert GPU(a100, launch_floor=1e-6).price(memory("add", 10.0)).seconds < 6e-6


def test_single_elements_take_as_long_as_published_rotations() -> None:
    """Oracle: PyTorch's rotary positions, eager, on a B200 (pytorch/pytorch pull request 176223).

    Batch 4, 2,048 tokens, 32 heads of 128, BF16, queries and keys: 8.675 ms in ten runs of ten kernels.
    Products with broadcast cosines and sines, a negated half and its joining with the other one move single
    elements; the sum does not.
    """
    b200 = GPU(catalog.accelerator("b200-sxm"))
    tensor = 4 * 2048 * 32 * 128 * 2.0
    single, whole = (2 + 1 + 2 + 2) * tensor, 3 * tensor
    op = replace(memory("add", 2 * (single + whole), calls=10), bytes_single=2 * single)
    assert b200.price(op).seconds == pytest.approx(0.8675e-3, rel=0.15)
    assert b200.price(replace(op, bytes_single=0.0)).seconds < 0.3 * 0.8675e-3


def test_single_elements_never_beat_the_memory(accelerators: dict[str, Accelerator]) -> None:
    plain = memory("add", 1e9)
    for name, accelerator in accelerators.items():
        gpu = GPU(accelerator)
        times = [gpu.price(replace(plain, bytes_single=part)).seconds for part in (0.0, 0.5e9, 1e9)]
        assert times == sorted(times), name
        if name == "tpu":  # streams tiles: no multiprocessors that wait for instructions
            assert times[0] == times[-1]


def test_memory_kernels(a100: Accelerator) -> None:
    profile, upper = GPU(a100), GPU(a100, elementwise="upper")
    assert upper.price(memory("norm", 2e9)).seconds == pytest.approx(2e9 / (0.85 * 2.039e12), rel=0.01)
    assert profile.price(memory("norm", 2e9)).seconds == pytest.approx(2e9 / (0.315 * 2.039e12), rel=0.01)
    assert profile.price(memory("optimizer", 2e9)) == upper.price(memory("optimizer", 2e9))
    assert profile.price(memory("optimizer", 2e9)).provenance == "roofline"


def test_energy_lies_between_idle_and_the_limit(accelerators: dict[str, Accelerator]) -> None:
    for operator in (
        gemm(8192, 8192, 8192),
        gemm(1, 1024, 1024),
        memory("norm", 1e8),
        attention((1, 2048, 8, 8, 128)),
    ):
        price = GPU(accelerators["h100"]).price(operator)
        assert 0.15 * 700 <= price.joules / price.seconds <= 700 * (1 + 1e-12)
    assert math.isnan(
        GPU(accelerators["tpu"]).price(gemm(8192, 8192, 8192)).joules
    )  # no published power limit


def test_fp8_is_faster_and_refused_where_there_is_none(a100: Accelerator, h100: Accelerator) -> None:
    gpu = GPU(h100)
    ratio = gpu.price(gemm(8192, 16384, 8192)).seconds / gpu.price(gemm(8192, 16384, 8192, "fp8")).seconds
    assert 1.3 < ratio < 2.0
    with pytest.raises(ConfigError, match="no fp8"):
        GPU(a100).price(gemm(1024, 1024, 1024, "fp8"))


def test_bad_choices_are_refused(a100: Accelerator) -> None:
    with pytest.raises(ConfigError, match="did you mean 'table"):
        GPU(a100, gemm_source="tabel")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="attention kernel"):
        GPU(a100).price(attention((1, 128, 8, 8, 128), kernel="attention_fa9"))
    with pytest.raises(ConfigError, match="launch_floor"):
        GPU(a100, launch_floor=-1.0)


def test_the_bands_are_ordered(a100: Accelerator) -> None:
    seconds = [
        GPU(a100, sustained=band).price(gemm(8192, 16384, 8192)).seconds for band in ("high", "value", "low")
    ]  # type: ignore[arg-type]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[2]


def layer_22b(gpu: GPU, sequence_parallel: bool) -> tuple[float, float, float]:
    """Forward, backward and what selective recomputation adds, of one 22B layer, kernel by kernel."""
    hidden, heads, sequence, batch, tp = 6144, 64, 2048, 4, 8
    tokens, local, head_dim, ffn = sequence * batch, heads // tp, hidden // heads, 4 * hidden
    shapes = [
        (tokens, 3 * hidden // tp, hidden), (tokens, hidden, hidden // tp),
        (tokens, ffn // tp, hidden), (tokens, hidden, ffn // tp),
    ]  # fmt: skip
    forward = sum(gpu.price(gemm(*shape)).seconds for shape in shapes)
    backward = sum(gpu.price(gemm(m, k, n)).seconds + gpu.price(gemm(n, k, m)).seconds for m, n, k in shapes)
    shape = (batch, sequence, local, local, head_dim)
    core = gpu.price(attention(shape, kernel="attention_unfused", causal=False)).seconds
    scores, hidden_bytes = batch * local * sequence**2, 2 * tokens * hidden
    soft = gpu.price(memory("softmax", 4 * scores)).seconds + gpu.price(memory("dropout", 5 * scores)).seconds
    forward += core + soft + gpu.price(memory("activation", 4 * tokens * ffn / tp)).seconds
    backward += gpu.price(attention(shape, "backward", "attention_unfused", causal=False)).seconds
    backward += (
        gpu.price(memory("softmax", 6 * scores)).seconds + gpu.price(memory("dropout", 5 * scores)).seconds
    )
    backward += gpu.price(memory("activation", 6 * tokens * ffn / tp)).seconds
    backward += gpu.price(memory("accumulate", 8 * 12 * hidden**2 / tp)).seconds
    part = tp if sequence_parallel else 1
    forward += 2 * gpu.price(memory("norm", 2 * hidden_bytes / part)).seconds
    forward += 2 * gpu.price(memory("add", (3.5 * hidden_bytes) / part)).seconds
    backward += 2 * gpu.price(memory("norm", 3 * hidden_bytes / part)).seconds
    backward += 2 * gpu.price(memory("dropout", 2.5 * hidden_bytes / part)).seconds
    kinds = ("all_gather", "reduce_scatter") if sequence_parallel else ("all_reduce",)
    wire = 0.0
    for kind in kinds:
        cost = scale_up_collective(gpu.accelerator, kind, tp, hidden_bytes)
        wire += 2 * (cost.latency + wire_bytes(kind, tp, hidden_bytes) / cost.wire_rate)
    return forward + wire, backward + wire, core + soft


def test_22b_layer(a100: Accelerator) -> None:
    """Oracle: Korthikanti et al. (arXiv:2205.05198) Table 4, gpt-22b, 8 A100: 7.2 + 11.8 ms with sequence
    parallelism, 7.7 + 11.9 ms without, selective recomputation + 1.3 ms. Nothing here was fitted to it."""
    forward, backward, selective = layer_22b(GPU(a100), sequence_parallel=True)
    assert forward == pytest.approx(7.2e-3, rel=0.06)
    assert backward == pytest.approx(11.8e-3, rel=0.06)
    assert selective == pytest.approx(1.3e-3, rel=0.10)
    forward, backward, _ = layer_22b(GPU(a100), sequence_parallel=False)
    assert forward == pytest.approx(7.7e-3, rel=0.10)
    assert backward == pytest.approx(11.9e-3, rel=0.10)
