"""Fused attention against the prefill tables, and its physical bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston import catalog
from euston.catalog import Accelerator
from euston.devices import GPU, _attention, _decode


@pytest.mark.parametrize(("device", "key"), [("a100-sxm-80gb", "a100"), ("h100-sxm", "h100")])
def test_table_points_come_back(device: str, key: str, accelerators: dict[str, Accelerator]) -> None:
    """Oracle: the measured tables, prefill and decode (points measured once)."""
    kernels = GPU(accelerators[key]).kernels
    for table, price in (
        (_attention.measured(device), kernels.prefill),
        (_decode.measured(device), kernels.decode),
    ):
        assert table is not None
        c = table.columns
        if "new" in c:
            found, sure = price(c["batch"], c["new"], c["heads"], c["kv_heads"], 128.0, c["cached"])
        else:
            found, sure = price(c["batch"], c["context"], c["heads"], c["kv_heads"])
        assert (sure == 0).all()
        np.testing.assert_allclose(found, table.seconds, rtol=1e-9)


def test_decode_reads_its_cache(h100: Accelerator) -> None:
    """Oracle: bytes of keys and values over the datasheet's bandwidth bound every long decode from below."""
    for batch, context, heads, kv_heads in ((16, 8192, 32, 8), (64, 3000, 64, 8), (7, 20000, 40, 5)):
        seconds, _ = GPU(h100).kernels.decode(batch, context, heads, kv_heads)
        floor = 2 * 2 * 128 * kv_heads * context * batch / h100.memory_bandwidth
        assert floor <= float(seconds[0]) <= 3 * floor


def test_a_chunk_after_a_cache_costs_what_it_adds(h100: Accelerator) -> None:
    """Oracle: work is new x (cached + new / 2) pairs; long chunks run at the rate of a whole prompt."""
    kernels = GPU(h100).kernels
    whole = float(kernels.prefill(1, 16384, 32, 8)[0][0])
    first = float(kernels.prefill(1, 8192, 32, 8)[0][0])
    second = float(kernels.prefill(1, 8192, 32, 8, 128.0, 8192)[0][0])
    assert first + second == pytest.approx(whole, rel=0.1)


def test_mixed_calls_are_measured_or_summed(h100: Accelerator) -> None:
    """With no table the two parts add; with one, a measured point comes back."""
    kernels = GPU(h100).kernels
    both, _ = kernels.mixed(512, 1024, 32, 2048, 32, 8)
    parts = kernels.prefill(1, 512, 32, 8, 128.0, 1024)[0] + kernels.decode(32, 2048, 32, 8)[0]
    assert both[0] == pytest.approx(parts[0])
    assert kernels.mixed(0, 0, 32, 2048, 32, 8)[0][0] == kernels.decode(32, 2048, 32, 8)[0][0]
    rtx = GPU(catalog.accelerator("rtx-pro-6000")).kernels
    table = _decode.measured_mixed("rtx-pro-6000")
    assert table is not None
    c = table.columns
    found, sure = rtx.mixed(c["new"], c["cached"], c["batch"], c["context"], 32, 8)
    assert (sure == 0).all()
    np.testing.assert_allclose(found, table.seconds, rtol=1e-9)


@given(
    batch=st.integers(1, 64), sequence=st.integers(1, 65536), kv_heads=st.sampled_from([1, 2, 8]),
    group=st.sampled_from([1, 2, 4, 8, 16]), head_dim=st.sampled_from([64, 96, 128]), causal=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_never_above_peak(
    batch: int,
    sequence: int,
    kv_heads: int,
    group: int,
    head_dim: int,
    causal: bool,
    accelerators: dict[str, Accelerator],
) -> None:
    heads = kv_heads * group
    flops = (2.0 if causal else 4.0) * batch * heads * sequence**2 * head_dim
    for accelerator in accelerators.values():
        gpu = GPU(accelerator)
        forward, _ = gpu.attention_seconds(batch, sequence, heads, kv_heads, head_dim, causal=causal)
        backward, _ = gpu.attention_seconds(
            batch, sequence, heads, kv_heads, head_dim, causal=causal, backward=True
        )
        assert flops / forward <= accelerator.peak["bf16"]
        assert 2.5 * flops / backward <= accelerator.peak["bf16"]
        assert backward >= forward


def test_backward_is_two_and_a_half_times_the_work_at_87_per_cent(h100: Accelerator) -> None:
    """Oracle: FlashAttention-3 paper, H100, 16k tokens: backward 561 against forward 648 TFLOP/s."""
    gpu = GPU(h100)
    forward, _ = gpu.attention_seconds(1, 16384, 32, 32, 128)
    backward, _ = gpu.attention_seconds(1, 16384, 32, 32, 128, backward=True)
    assert backward / forward == pytest.approx(2.5 * 648 / 561, rel=0.01)


def test_kernel_generations(a100: Accelerator, h100: Accelerator) -> None:
    """Oracles: FlashAttention-1 about 101 (A100) and 167 TFLOP/s (H100) forward and backward together."""
    flops = 3.5 * 2.0 * 32 * 16384.0**2 * 128
    for device, rate in ((a100, 101e12), (h100, 167e12)):
        gpu = GPU(device)
        both = sum(
            gpu.attention_seconds(1, 16384, 32, 32, 128, backward=b, generation="fa1")[0]
            for b in (False, True)
        )
        assert flops / both == pytest.approx(rate, rel=0.12)
    fa2 = GPU(h100).attention_seconds(1, 16384, 32, 32, 128, generation="fa2")[0]
    assert 2.0 * 32 * 16384.0**2 * 128 / fa2 == pytest.approx(
        370e12, rel=0.12
    )  # the paper's FlashAttention-2 on H100


def test_causal_is_cheaper_but_not_twice_as_cheap_per_flop(a100: Accelerator) -> None:
    gpu = GPU(a100)
    causal, _ = gpu.attention_seconds(4, 2048, 16, 16, 128, causal=True)
    full, _ = gpu.attention_seconds(4, 2048, 16, 16, 128, causal=False)
    assert causal < full < 2 * causal


def test_a_power_limit_binds_attention_as_it_binds_products() -> None:
    """Oracle: the same die at 700 W and at 500 W; no fused attention above the products' sustained rate."""
    full, less = (
        GPU(catalog.accelerator(name), launch_floor=0.0) for name in ("h100-sxm", "h100-sxm-96gb-500w")
    )
    cap = less.sustained("bf16")
    assert cap is not None
    for backward in (False, True):
        work = (2.5 if backward else 1.0) * 2.0 * 32 * 65536.0**2 * 128
        usual, _ = full.attention_seconds(1, 65536, 32, 8, 128, backward=backward)
        found, _ = less.attention_seconds(1, 65536, 32, 8, 128, backward=backward)
        assert found >= usual * (1 - 1e-9)
        assert work / found <= cap[0] * (1 + 1e-9)
    forward = [gpu.attention_seconds(1, 65536, 32, 8, 128)[0] for gpu in (full, less)]
    assert forward[1] > 1.05 * forward[0]
