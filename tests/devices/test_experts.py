"""Expert layers, grouped GEMMs and the all-to-alls between experts, against tables, bytes and brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.catalog import Accelerator, accelerator
from euston.devices import GPU, Exchange, _moe, _tables, exchange
from euston.devices._deal import deal
from euston.devices.kernels import DEVICE_LAUNCH
from euston.errors import ConfigError
from euston.models import transformer
from euston.models.operator import Operator


@given(rows=st.integers(1, 20000), experts=st.sampled_from([1, 4, 16, 64, 256]), skew=st.floats(1.0, 6.0))
@settings(max_examples=60, deadline=None)
def test_spread_keeps_its_bounds(rows: int, experts: int, skew: float) -> None:
    """No more experts are touched than there are, or rows; padding adds, and at most a tile per expert."""
    busiest = min(max(rows / experts * skew, 1.0), float(rows))
    touched, padded = _moe.spread(np.array([rows], float), np.array([experts], float), np.array([busiest]))
    assert 0 < touched[0] <= min(experts, rows) * (1 + 1e-6)
    assert rows <= padded[0] * (1 + 1e-9)
    assert padded[0] <= rows + 128 * experts + 1e-6


def test_random_routing_touches_what_a_draw_touches() -> None:
    """Oracle: multinomial draws with equal weights; the busiest expert as drawn."""
    rng = np.random.Generator(np.random.Philox(3))
    for rows, experts in ((64, 64), (512, 64), (96, 256), (4096, 32)):
        counts = rng.multinomial(rows, np.full(experts, 1 / experts), size=200)
        touched, _ = _moe.spread(
            np.array([rows], float), np.array([experts], float), np.array([counts.max(axis=1).mean()])
        )
        assert touched[0] == pytest.approx((counts > 0).sum(axis=1).mean(), rel=0.25)


def test_an_even_deal() -> None:
    """Oracle: the collector's strided deal by hand: 32 tokens, 8 of 256 experts each, all experts once."""
    dealt = deal(32, 256, 8, 1, 0.0)
    assert (dealt.rows, dealt.touched) == (256.0, 256.0)
    assert deal(1, 256, 8, 1, 0.0).touched == 8
    assert deal(64, 8, 2, 4, 0.0).rows == 32  # a quarter of 128 assignments


def test_the_busiest_rank_has_more_than_its_share() -> None:
    even, skewed = deal(1024, 128, 8, 16, 0.0), deal(1024, 128, 8, 16, 1.2)
    assert skewed.rows > 1.2 * even.rows
    assert skewed.touched <= even.touched == 8


def grouped(rows: float, n: int, k: int, experts: int, busiest: float) -> Operator:
    work = 2.0 * rows * n * k
    return Operator(
        "expert", "grouped_gemm", "forward", (rows, n, k, experts, busiest), work,
        2.0 * (rows * k + experts * n * k), 2.0 * rows * n, "bf16", kernel="moe",
    )  # fmt: skip


def test_grouped_gemms_obey_bytes_and_peak(h100: Accelerator) -> None:
    """Oracles: weights of all touched experts over the bandwidth; the sustained rate."""
    gpu = GPU(h100)
    thin, thick = grouped(64, 4096, 7168, 32, 2), grouped(65536, 4096, 7168, 32, 2048)
    weights = 2.0 * 32 * 4096 * 7168 / h100.memory_bandwidth
    assert weights < gpu.price(thin).seconds < 3 * weights
    assert thick.flops / gpu.price(thick).seconds <= 780e12
    assert (
        gpu.price(grouped(8192, 4096, 7168, 32, 1024)).seconds
        >= gpu.price(grouped(8192, 4096, 7168, 32, 256)).seconds
    )
    assert gpu.price(grouped(0, 4096, 7168, 32, 0)).seconds >= gpu.launch_floor


def test_two_grouped_gemms_are_most_of_a_measured_layer(h100: Accelerator) -> None:
    """The layer also activates, sums and launches five kernels: its GEMMs take 55 to 105 % of long ones."""
    gpu = GPU(h100)
    for rows, experts, hidden, ffn in ((65536, 128, 4096, 1536), (16384, 8, 4096, 14336)):
        layer = float(gpu.kernels.moe_layer(rows, experts, hidden, ffn)[0][0])
        each = rows / experts
        parts = sum(
            gpu.price(grouped(rows, n, k, experts, each)).seconds
            for n, k in ((2 * ffn, hidden), (hidden, ffn))
        )
        assert 0.55 * layer < parts < 1.05 * layer


def test_prices_of_many_are_prices_of_one(h100: Accelerator) -> None:
    operators = [grouped(r, 4096, 2048, 16, r / 8) for r in (16, 300, 5000)]
    operators.append(Operator("g", "gemm", "forward", (512, 512, 512), 1.0, 1.0, 1.0, "bf16"))
    one = [GPU(h100).price(op) for op in operators]
    many = GPU(h100).price_many(operators)
    for a, b in zip(one, many, strict=True):
        assert (a.seconds, a.joules, a.provenance) == (
            pytest.approx(b.seconds),
            pytest.approx(b.joules),
            b.provenance,
        )


@pytest.mark.parametrize(
    ("ranks", "dispatch", "combine"), [(8, 37e-6, 67e-6), (16, 102e-6, 186e-6), (32, 143e-6, 263e-6)]
)
def test_low_latency_exchanges(ranks: int, dispatch: float, combine: float, h100: Accelerator) -> None:
    """Oracle: DeepEP's published low-latency times, 128 tokens per rank, top-8, hidden 7168, within 10 %."""
    for step, published in (("dispatch", dispatch), ("combine", combine)):
        found = exchange(h100, step, "low_latency", ranks, 128, 7168, 8)  # type: ignore[arg-type]
        assert isinstance(found, Exchange)
        assert found.seconds == pytest.approx(published, rel=0.10)
        assert found.provenance == "measured"


def test_exchanges_elsewhere(h100: Accelerator) -> None:
    between = exchange(h100, "dispatch", "normal", 24, 4096, 7168, 8)
    assert between.provenance == "interpolated"
    around = [exchange(h100, "dispatch", "normal", n, 4096, 7168, 8).seconds for n in (16, 32)]
    assert min(around) <= between.seconds <= max(around)
    assert exchange(accelerator("mi300x"), "combine", "normal", 8, 4096, 7168, 8).provenance == "roofline"
    assert exchange(h100, "combine", "normal", 1, 4096, 7168, 8).seconds == 0.0
    with pytest.raises(ConfigError, match="normal"):
        exchange(h100, "combine", "norml", 8, 1, 1, 1)  # type: ignore[arg-type]


def test_every_table_row_is_finite_and_positive() -> None:
    for device in _tables.tabled():
        for dtype in ("bf16", "fp8", "fp8-block"):
            table = _moe.measured(device, dtype)
            if table is not None:
                assert (table.seconds > 0).all()
                assert (table.columns["touched"] <= table.columns["rows"] + 1e-9).all()


def test_an_expert_by_the_dense_library_is_a_product_of_its_own(accelerators: dict[str, Accelerator]) -> None:
    """Oracle: dense products by hand, the fullest expert's and the others' mean, less all but one launch.

    All together never beat the sustained rate, which they might less the launches. On its own tables and on
    transferred ones; with many rows an expert reaches the dense product's rate.
    """
    for name in ("h100", "h800", "a100"):
        gpu = GPU(accelerators[name], experts="library", launch_floor=0.0)
        rows, n, k, experts, busiest = 33792.0, 4096, 7168, 8, 5120.0
        full, _ = gpu.gemm_seconds(busiest, n, k)
        rest, _ = gpu.gemm_seconds((rows - busiest) / (experts - 1), n, k)
        by_hand = full + (experts - 1) * rest - (experts - 1) * DEVICE_LAUNCH
        cap = gpu.sustained("bf16")
        assert cap is not None
        by_hand = max(by_hand, 2.0 * rows * n * k / cap[0])
        priced = gpu.price(grouped(rows, n, k, experts, busiest)).seconds
        assert priced == pytest.approx(by_hand, rel=1e-9)
        even, _ = gpu.gemm_seconds(4096, n, k)
        op = grouped(8 * 4096, n, k, 8, 4096)
        assert gpu.price(op).seconds == pytest.approx(8 * even, rel=0.02)
        fused = GPU(accelerators[name], launch_floor=0.0)
        assert gpu.price(op).seconds <= fused.price(op).seconds  # the serving kernel is no faster here


def test_weight_gradients_of_experts_have_the_tokens_inside(h100: Accelerator) -> None:
    """Oracle: the product n x k with the tokens as its inner side; one expert, and experts without tokens."""
    gpu = GPU(h100, experts="library", launch_floor=0.0)
    op = replace(grouped(2048, 4096, 7168, 1, 2048), name="expert_up_wgrad", phase="backward")
    assert gpu.price(op).seconds == pytest.approx(gpu.gemm_seconds(4096, 7168, 2048)[0], rel=1e-9)
    alone, all_in_one = grouped(2048, 4096, 7168, 1, 2048), grouped(2048, 4096, 7168, 16, 2048)
    assert gpu.price(all_in_one).seconds == pytest.approx(gpu.price(alone).seconds, rel=1e-9)
    assert gpu.price(grouped(0, 4096, 7168, 8, 0)).seconds == pytest.approx(DEVICE_LAUNCH)
    with pytest.raises(ConfigError, match="experts"):
        GPU(h100, experts="librarry")  # type: ignore[arg-type]


@pytest.mark.parametrize("experts", ["library", "fused"])
def test_a_price_does_not_depend_on_company(h100: Accelerator, experts: Literal["library", "fused"]) -> None:
    """Oracle: every operator of a layer priced by a pricer that has seen no other."""
    families: tuple[tuple[str, dict[str, Any]], ...] = (
        ("gpt-oss-120b", {"rotary_kernel": "eager", "qkv_split": "copies"}),
        ("deepseek-v3", {"precision": "fp8-block"}), ("nemotron-h-8b", {}), ("qwen2-vl-7b", {}),
    )  # fmt: skip
    for name, keys in families:
        model = transformer(name)
        ops = [
            op
            for kind in model.kind_counts
            for op in model.operators(4096, 4096, kind=kind, expert_parallel=8, expert_tensor=1, **keys)
        ]
        together = GPU(h100, experts=experts).price_many(ops)
        for op, price in zip(ops, together, strict=True):
            alone = GPU(h100, experts=experts).price(op)
            assert price.seconds == pytest.approx(alone.seconds, rel=1e-12), (name, op.name, op.phase)
            assert price.provenance == alone.provenance, (name, op.name)
