"""Fused attention against the prefill tables, and its physical bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.catalog import Accelerator
from euston.devices import GPU, _attention, _tables, fit


@pytest.mark.parametrize(("device", "key"), [("a100-sxm-80gb", "a100"), ("h100-sxm", "h100")])
def test_table_and_batches_left_out(
    device: str, key: str, accelerators: dict[str, Accelerator], capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the measured table; then a quarter of the (batch, heads) pairs left out at a time."""
    table = _attention.measured(device)
    assert table is not None
    gpu = GPU(accelerators[key])
    rows = list(zip(table.batch, table.sequence, table.heads, table.kv_heads, table.seconds, strict=True))
    inside = [abs(gpu.attention_seconds(b, s, h, kv, 128)[0] / t - 1) for b, s, h, kv, t in rows if s >= 512]
    group = np.array([hash((b, h, kv)) for b, s, h, kv, t in rows])
    names = np.unique(group)
    fold = np.random.default_rng(0).permutation(len(names)) % 4
    of = dict(zip(names.tolist(), fold.tolist(), strict=True))
    member = np.array([of[g] for g in group.tolist()])
    errors = []
    for left_out in range(4):
        kept = member != left_out
        rest = _attention.Measured(
            *(getattr(table, c)[kept] for c in ("batch", "sequence", "heads", "kv_heads", "seconds"))
        )
        formula = fit.attention_formula(_tables.tabled()[device], rest)
        correction = _attention.Correction(rest, formula)
        for (b, s, h, kv, t), keep in zip(rows, kept, strict=True):
            if not keep and s >= 512:
                value, _ = correction.at(b * h, s, h / kv)
                errors.append(abs(float(formula.seconds(b, s, h, kv)) * math.exp(value) / t - 1))
    with capsys.disabled():
        print(
            f"\n{device} attention: median {np.median(inside):.3f} p90 {np.quantile(inside, 0.9):.3f}, "
            f"left out median {np.median(errors):.3f} p90 {np.quantile(errors, 0.9):.3f}",
            end="",
        )
    assert np.median(inside) <= 0.08
    assert np.median(errors) <= 0.08


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
    for accelerator, rate in ((a100, 101e12), (h100, 167e12)):
        gpu = GPU(accelerator)
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
