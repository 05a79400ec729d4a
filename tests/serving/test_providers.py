"""Step times from the pricer: sums of operators, closed forms of tables, vLLM's capture sizes, cache sizes.

Oracles: a plain loop over the model's operators; `Kernels` at the knots; a table that is twice the roofline
everywhere (so anything between its points must be too); vLLM's list of sizes written out; DeepSeek-V3's
70,272 bytes of KV per token.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from euston import catalog
from euston.devices import GPU
from euston.errors import ConfigError
from euston.models import Transformer
from euston.serving import StepTime
from euston.serving.providers import (
    EngineSoftware,
    Layout,
    Measured,
    Prices,
    engine_software,
    kv_blocks,
    kv_bytes_per_token,
    step_time,
    weight_bytes,
)
from euston.serving.providers._shapes import shapes
from euston.serving.providers.measured import AttentionTable, LayerTable

H100 = catalog.accelerator("h100-sxm")
NONE = EngineSoftware(launch=0.0)


def model(name: str) -> Transformer:
    found = catalog.entry("models", name)
    return Transformer.from_values(found.name, found.values)


LLAMA = model("llama3-8b")


@pytest.fixture(scope="module")
def step() -> StepTime:
    return step_time(LLAMA, H100, software=NONE, max_tokens=1024, max_sequences=64)


def test_tokens_are_the_sum_of_the_models_operators(step: StepTime) -> None:
    gpu = GPU(H100, launch_floor=1e-6)
    for tokens in (1, 64, 512):
        layer = [o for o in LLAMA.operators(tokens, tokens) if o.phase == "forward" and o.kind != "attention"]
        other = [o for o in LLAMA.operators(tokens, tokens, part="embedding") if o.phase == "forward"]
        want = 32 * sum(gpu.price(o).seconds for o in layer) + sum(gpu.price(o).seconds for o in other)
        assert step.tokens[tokens] == pytest.approx(want, rel=1e-12)


def test_attention_at_knots_is_the_kernels_time(step: StepTime) -> None:
    kernels = GPU(H100).kernels
    found = step.breakdown(decode=[1024] * 32)
    want = 32 * float(kernels.decode(32, 1024, 32, 8)[0][0])
    assert found["decode"] + found["fixed"] == pytest.approx(want, rel=1e-9)
    found = step.breakdown([512], [1024])
    want = 32 * float(kernels.prefill(1, 512, 32, 8, 128.0, 1024)[0][0])
    assert found["prefill"] + found["fixed"] == pytest.approx(want, rel=1e-9)


def test_between_knots_attention_stays_close(step: StepTime) -> None:
    kernels = GPU(H100).kernels
    for batch, context in ((24, 1500), (48, 3000)):
        found = step.breakdown(decode=[context] * batch)
        want = 32 * float(kernels.decode(batch, context, 32, 8)[0][0])
        assert found["decode"] + found["fixed"] == pytest.approx(want, rel=0.08)


def test_steps_are_padded_to_capture_sizes() -> None:
    sizes = [1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)]
    tokens = np.arange(1, 600)
    want = [min((s for s in sizes if s >= t), default=t) for t in tokens.tolist()]
    assert EngineSoftware().padded(tokens).tolist() == want


@pytest.mark.parametrize("most", [1, 3, 7, 250, 500, 513])
def test_a_step_smaller_than_its_graph_costs_the_graph(most: int) -> None:
    """Oracle: the same steps of an engine that may take more; a budget need be no captured size."""
    small, large = (
        step_time(model("llama3-8b"), H100, max_tokens=tokens, provider="roofline").tokens
        for tokens in (most, 1024)
    )
    assert small.size == most + 1
    np.testing.assert_allclose(small[: min(most, 512) + 1], large[: min(most, 512) + 1], rtol=1e-9)


def test_provenance_says_shares_that_add_up(step: StepTime) -> None:
    shares = [float(word.split()[1].rstrip("%")) for word in step.provenance]
    assert 97 <= sum(shares) <= 103
    roof = step_time(LLAMA, H100, software=NONE, provider="roofline", max_tokens=64, max_sequences=8)
    assert {word.split()[0] for word in roof.provenance} == {"roofline"}


def test_host_constants_come_from_the_catalogue() -> None:
    engine = engine_software("vllm")
    origin = repr(catalog.entry("engines", "vllm"))
    assert "Llama-3.1-8B" in origin and "RTX PRO 6000" in origin
    assert engine.cpu_fixed > 0 and engine.bare().cpu_fixed == 0


def test_tensor_parallel_adds_collectives_and_divides_work() -> None:
    one = step_time(LLAMA, H100, software=NONE, max_tokens=256, max_sequences=8)
    four = step_time(LLAMA, H100, tensor=4, software=NONE, max_tokens=256, max_sequences=8)
    assert four.communication[256] > 0 and not one.communication.size
    assert 2.0 < one.tokens[256] / four.tokens[256] < 4.5


def test_experts_of_a_group_are_paid_by_its_tokens() -> None:
    moe = model("qwen3-30b-a3b")
    kw = {"software": NONE, "max_tokens": 64, "max_sequences": 8}
    alone = step_time(moe, H100, **kw)  # type: ignore[arg-type]
    apart = step_time(moe, H100, experts_apart=True, **kw)  # type: ignore[arg-type]
    assert not alone.group.size
    for tokens in (1, 8, 64):
        assert apart.tokens[tokens] + apart.group[tokens] == pytest.approx(alone.tokens[tokens], rel=1e-9)
    shared = step_time(moe, H100, data=4, expert=4, **kw)  # type: ignore[arg-type]
    assert shared.group.size == 4 * 64 + 1 and (np.diff(shared.group) > -1e-6).all()


def test_fewer_tokens_than_accelerators_cost_the_rows_there_are() -> None:
    prices = Prices(model("deepseek-v3"), H100, Layout(tensor=8, expert=8))
    rows = [op.shape[0] for op, _ in prices.operators(1) if op.kind == "grouped_gemm"]
    assert rows == [1.0, 1.0]  # 8 of 256 experts, an eighth of them here


@pytest.mark.parametrize(
    ("layout", "word"),
    [(Layout(tensor=3), "heads"), (Layout(tensor=4, expert=4), "no experts"), (Layout(data=0), "at least 1")],
)
def test_degrees_that_cannot_be_are_refused(layout: Layout, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Prices(LLAMA, H100, layout)


def _twice_the_roofline(tensor: int) -> Measured:
    peak, bandwidth = GPU(H100).peak("bf16"), H100.memory_bandwidth
    x = np.array([1.0, 64.0, 4096.0])
    layers = {
        name: LayerTable(x, 2.0 * shape.roofline(x, peak, bandwidth))
        for name, shape in shapes(LLAMA, tensor).items()
    }
    return Measured(layers, tensor)


def test_efficiencies_are_interpolated_not_latencies() -> None:
    step = step_time(
        LLAMA, H100, software=replace(NONE, graph_tokens=0), measured=_twice_the_roofline(1), max_tokens=2048,
        max_sequences=8,
    )  # fmt: skip
    peak, bandwidth = GPU(H100).peak("bf16"), H100.memory_bandwidth
    for tokens in (16, 512, 2048):
        x = np.array([float(tokens)])
        want = sum(
            2.0 * shape.count * float(shape.roofline(x, peak, bandwidth)[0])
            for shape in shapes(LLAMA, 1).values()
            if not shape.per_sequence
        )
        assert step.tokens[tokens] == pytest.approx(want, rel=1e-6)


def test_an_unknown_layer_is_refused() -> None:
    measured = Measured({"qkv_prj": LayerTable(np.ones(1), np.ones(1))})
    with pytest.raises(ConfigError, match="qkv_proj"):
        step_time(LLAMA, H100, software=NONE, measured=measured, max_tokens=8, max_sequences=2)


def test_a_joint_call_takes_what_the_table_says() -> None:
    """Attention table: 10 us + 1 ns per pair, 2 ns per cached token; together three times the sum."""
    rows = []
    for new in (0, 64, 1024):
        for cached in (0, 1024) if new else (0,):
            for batch in (0, 1, 32):
                for context in (256, 2048) if batch else (0,):
                    if new or batch:
                        pairs = new * cached + new * (new + 1) / 2
                        alone = [10e-6 + 1e-9 * pairs, 10e-6 + 2e-9 * batch * context]
                        t = 3 * sum(alone) if new and batch else alone[0] if new else alone[1]
                        rows.append((new, cached, batch, context, t))
    columns = np.array(rows, np.float64).T
    table = AttentionTable(*columns[:4], columns[4], 32.0, 8.0, 128.0)
    measured = replace(_twice_the_roofline(1), attention=table)
    step = step_time(LLAMA, H100, software=NONE, measured=measured, max_tokens=2048, max_sequences=64)
    chunk = step.breakdown([1024], [1024])["prefill"]
    decode = step.breakdown(decode=[2048] * 32)["decode"]
    both = step.breakdown([1024], [1024], [2048] * 32)
    assert both["prefill"] + both["decode"] == pytest.approx(3 * (chunk + decode), rel=1e-6)
    base = step.fixed
    assert decode == pytest.approx(32 * (10e-6 + 2e-9 * 32 * 2048) - base, rel=0.02)


def test_cache_and_weights() -> None:
    assert kv_bytes_per_token(model("deepseek-v3")) == 70272  # 61 layers x 576 x 2 bytes
    assert kv_bytes_per_token(LLAMA, tensor=8) == kv_bytes_per_token(LLAMA, tensor=16)  # 8 KV heads
    assert weight_bytes(LLAMA) == pytest.approx(2 * LLAMA.parameters(), rel=1e-6)
    deepseek = model("deepseek-v3")
    assert weight_bytes(deepseek, data=8) < weight_bytes(deepseek) / 5
    blocks = kv_blocks(LLAMA, H100)
    left = 0.9 * H100.memory_bytes - 2 * LLAMA.parameters()
    assert 0.85 * left < blocks * 16 * 131072 < left
    with pytest.raises(ConfigError, match="GiB"):
        kv_blocks(model("llama3-70b"), H100)
