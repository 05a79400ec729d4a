"""Operators against a hand-written enumeration of matrix products, bytes per tensor and FLOP conventions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.models import Operator, Transformer, transformer

TINY = Transformer("tiny", layers=3, hidden=48, heads=6, kv_heads=2, head_dim=16, ffn=80, vocab=112)
GPT = Transformer(
    "gpt",
    layers=4,
    hidden=64,
    heads=4,
    vocab=96,
    gated=False,
    norm="layernorm",
    positions="learned",
    max_positions=32,
    biases=True,
    tied=True,
)


def flops(operators: Iterable[Operator], *phases: str) -> float:
    return sum(op.flops for op in operators if op.phase in phases)


def by_name(operators: Iterable[Operator], phase: str) -> dict[str, Operator]:
    found = [op for op in operators if op.phase == phase]
    assert len({op.name for op in found}) == len(found)
    return {op.name: op for op in found}


def enumerate_products(model: Transformer, batch: int, sequence: int) -> list[tuple[str, int, int, int, int]]:
    """Every forward product of a model as (name, count, m, n, k), matrix by matrix, attention per head."""
    tokens, h, d = batch * sequence, model.hidden, model.head_dim
    products = []
    for _ in range(model.layers):
        products += [
            ("q", 1, tokens, model.heads * d, h),
            ("k", 1, tokens, model.kv_heads * d, h),
            ("v", 1, tokens, model.kv_heads * d, h),
            ("scores", batch * model.heads, sequence, sequence, d),
            ("values", batch * model.heads, sequence, d, sequence),
            ("out", 1, tokens, h, model.heads * d),
        ]
        products += [("up", 1, tokens, model.ffn, h)] * (2 if model.gated else 1)
        products += [("down", 1, tokens, h, model.ffn)]
    return [*products, ("logits", 1, tokens, model.vocab, h)]


@pytest.mark.parametrize("model", [TINY, GPT], ids=lambda m: m.name)
def test_conventions_against_the_enumeration(model: Transformer) -> None:
    batch, sequence = 2, 16
    products = enumerate_products(model, batch, sequence)
    everything = sum(2 * c * m * n * k for _, c, m, n, k in products)
    attention = sum(2 * c * m * n * k for name, c, m, n, k in products if name in ("scores", "values"))
    logits = 2 * batch * sequence * model.vocab * model.hidden
    tokens = batch * sequence
    assert model.flops_per_token(sequence, "full") * tokens == 3 * everything
    assert model.flops_per_token(sequence, "causal") * tokens == 3 * (everything - attention / 2)
    assert model.flops_per_token(sequence, "hardware") * tokens == 4 * everything - logits
    assert (
        model.flops_per_token(sequence, "hardware", recompute="selective") * tokens
        == 3 * everything + attention
    )
    assert model.flops_per_token(sequence, "hardware", recompute="none") * tokens == 3 * everything

    def total(**options: object) -> list[Operator]:
        settings = {"part": "layer"} | options
        layer = model.operators(tokens, sequence, **settings)  # type: ignore[arg-type]
        return layer * model.layers + model.operators(tokens, sequence, part="head")

    unfused = total(attention="unfused", recompute="full")
    assert flops(unfused, "forward") == everything
    assert flops(unfused, "forward", "backward") == 3 * everything
    assert flops(unfused, "forward", "backward", "recompute") == 4 * everything - logits
    flash = total()
    assert flops(flash, "forward") == everything - attention / 2
    # flash recomputes the scores in its backward: 5 products instead of 4
    assert flops(flash, "backward") == 2 * (everything - attention / 2) + 0.5 * attention / 2
    assert flops(total(attention="unfused", recompute="selective"), "recompute") == attention
    assert flops(total(recompute="selective"), "recompute") == 0


@given(
    st.integers(1, 128),
    st.sampled_from([1024, 4096, 25600]),
    st.sampled_from([512, 2048]),
    st.integers(1, 500),
)
def test_hardware_is_the_sc21_formula(layers: int, hidden: int, sequence: int, thousands: int) -> None:
    """SC'21: 96 B s l h^2 (1 + s/(6h) + V/(16lh)) with recompute, 72 ... V/(12lh) without."""
    vocab = 1024 * thousands
    model = Transformer("gpt", layers=layers, hidden=hidden, heads=hidden // 64, vocab=vocab, gated=False)
    s, h, length = sequence, hidden, layers
    with_recompute = 96 * length * h**2 * (1 + s / (6 * h) + vocab / (16 * length * h))
    without = 72 * length * h**2 * (1 + s / (6 * h) + vocab / (12 * length * h))
    assert model.flops_per_token(s, "hardware") == pytest.approx(with_recompute, rel=1e-12)
    assert model.flops_per_token(s, "full") == pytest.approx(without, rel=1e-12)


def test_conventions_of_llama() -> None:
    """full = 6N + 12 L h s and causal = 6N + 6 L h s per token; N: matrices of the layers and the logits."""
    model = transformer("llama3-405b")
    norms = (2 * model.layers + 1) * model.hidden
    n = model.parameters(embedding=False) - norms
    assert model.flops_per_token(8192, "full") == 6 * n + 12 * 126 * 16384 * 8192
    assert model.flops_per_token(8192, "causal") == 6 * n + 6 * 126 * 16384 * 8192


@pytest.mark.parametrize(
    ("name", "sequence", "convention", "tokens_per_s", "tflops"),
    [
        ("llama3-70b", 8192, "causal", 5248, 2348),
        ("llama3-8b", 8192, "causal", 37556, 1933),
        ("qwen3-30b-a3b", 4096, "causal", 44544, 1029),
        ("qwen3-235b-a22b", 4096, "causal", 8816, 1306),
        ("llama3-8b", 8192, "full", 13812, 800),
        ("llama3-70b", 8192, "full", 1621, 780),
    ],
)
def test_conventions_against_published_rates(
    name: str, sequence: int, convention: Any, tokens_per_s: float, tflops: float
) -> None:
    """Tokens/s and TFLOP/s printed side by side, per GPU, imply FLOPs per token.

    causal: NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md and its archive at 067f987; full:
    NVIDIA/Megatron-LM examples/llama/README.md.
    """
    ours = transformer(name).flops_per_token(sequence, convention) * tokens_per_s / 1e12
    assert ours == pytest.approx(tflops, rel=0.005)


def test_mla_attention_flops() -> None:
    """Scores 2 a (d_nope + d_rope) and values 2 a d_v per key and layer (DeepSeek-V3 shapes)."""
    model = transformer("deepseek-v3")
    per_key = model.flops_per_token(2, "full") - model.flops_per_token(1, "full")
    layers = 61 + 1  # the prediction layer is trained too
    assert per_key == 3 * layers * (2 * 128 * 192 + 2 * 128 * 128)


def test_gemm_shapes_and_backward_permutations() -> None:
    tokens, sequence, t = 64, 32, 2
    ops = TINY.operators(tokens, sequence, tensor_parallel=t)
    forward, backward = by_name(ops, "forward"), by_name(ops, "backward")
    assert forward["qkv"].shape == (tokens, (6 + 2 * 2) * 16 // t, 48)
    assert forward["attention_output"].shape == (tokens, 48, 6 * 16 // t)
    assert forward["ffn_up"].shape == (tokens, 2 * 80 // t, 48)
    assert forward["ffn_down"].shape == (tokens, 48, 80 // t)
    for name in ("qkv", "attention_output", "ffn_up", "ffn_down"):
        m, n, k = forward[name].shape
        assert backward[f"{name}_dgrad"].shape == (m, k, n)
        assert backward[f"{name}_wgrad"].shape == (n, k, m)
        for op in (forward[name], backward[f"{name}_dgrad"], backward[f"{name}_wgrad"]):
            assert op.flops == 2 * m * n * k
            assert op.bytes == 2 * (m * n + n * k + m * k)
    assert forward["attention"].shape == (2, 32, 3, 1, 16)
    assert forward["attention"].causal
    head = by_name(TINY.operators(tokens, sequence, part="head", tensor_parallel=t), "forward")
    assert head["logits"].shape == (tokens, 56, 48)
    assert {op.layer for op in head.values()} == {"head"}


def test_backward_runs_in_reverse() -> None:
    ops = GPT.operators(32, 32, attention="unfused", dropout=True, grad_accumulation="none")
    forward = [op.name for op in ops if op.phase == "forward"]
    backward = [
        op.name.removesuffix("_dgrad") for op in ops if op.phase == "backward" and "wgrad" not in op.name
    ]
    plain = [name for name in backward if not name.endswith("residual_dropout")]
    assert plain == forward[::-1]


def test_bytes_of_bandwidth_bound_kernels() -> None:
    """Tensors read and written once per fused kernel, 2 bytes each, counted by hand for T tokens."""
    tokens, sequence, h, f = 64, 32, 48, 80
    ops = TINY.operators(tokens, sequence)
    forward, backward = by_name(ops, "forward"), by_name(ops, "backward")
    for name in ("attention_norm", "ffn_norm"):
        assert forward[name].bytes == 2 * 2 * tokens * h  # x -> y
        assert backward[name].bytes == 3 * 2 * tokens * h  # dy, x -> dx
    for name in ("attention_residual", "ffn_residual"):
        assert forward[name].bytes == backward[name].bytes == 3 * 2 * tokens * h
    assert forward["rotary"].bytes == backward["rotary"].bytes == 2 * 2 * tokens * (6 + 2) * 16
    assert forward["ffn_activation"].bytes == 3 * 2 * tokens * f  # gate, up -> product
    assert backward["ffn_activation"].bytes == 5 * 2 * tokens * f  # gate, up, dy -> dgate, dup
    assert forward["attention"].bytes == 2 * tokens * 16 * (6 + 2 + 2 + 6) + 4 * tokens * 6
    # q, k, v, o, do, log-sum-exp -> dq, dk, dv
    assert backward["attention"].bytes == 2 * tokens * 16 * (3 * 6 + 2 * 2 + 6 + 2 * 2) + 4 * tokens * 6
    plain = by_name(GPT.operators(32, 32), "forward")
    assert plain["ffn_activation"].bytes == 2 * 2 * 32 * 256
    assert "rotary" not in plain
    normed = by_name(transformer("qwen3-8b").operators(128, 128), "forward")
    assert normed["qk_norm"].bytes == 2 * 2 * 128 * (32 + 8) * 128


def test_sequence_parallelism_splits_only_what_it_may() -> None:
    alone = by_name(GPT.operators(64, 32, tensor_parallel=4, dropout=True), "forward")
    split = by_name(GPT.operators(64, 32, tensor_parallel=4, sequence_parallel=True, dropout=True), "forward")
    for name, op in alone.items():
        share = 4 if name in ("attention_norm", "ffn_norm", "attention_residual", "ffn_residual") else 1
        assert split[name].bytes == op.bytes / share
        assert split[name].flops == op.flops


def test_unfused_attention_reads_and_writes_the_square() -> None:
    batch, s, heads, d = 2, 32, 4, 16
    ops = GPT.operators(batch * s, s, attention="unfused", dropout=True, recompute="selective")
    forward, backward = by_name(ops, "forward"), by_name(ops, "backward")
    square = batch * heads * s * s
    assert forward["attention_softmax"].bytes == 4 * square
    assert backward["attention_softmax"].bytes == 6 * square  # dP, P -> dS
    assert forward["attention_dropout"].bytes == 5 * square  # with a one-byte mask
    assert backward["attention_dropout"].bytes == 5 * square
    both, grads = forward["attention"], backward["attention"]
    assert both.flops == 4 * square * d and grads.flops == 8 * square * d
    assert both.kernel == "attention_unfused" and not both.causal
    head = 2 * batch * s * heads * d  # bytes of q, k, v or o
    # forward: q, k -> scores; p, v -> o. Backward: do, v -> dp; p, do -> dv; ds, k -> dq; ds, q -> dk
    assert both.bytes == (2 * head + 2 * square) + (2 * square + 2 * head)
    assert grads.bytes == 4 * (2 * square + 2 * head)
    repeated = by_name(ops, "recompute")
    assert list(repeated) == ["attention", "attention_softmax", "attention_dropout"]
    assert all(repeated[name].bytes == forward[name].bytes for name in repeated)
    without = by_name(GPT.operators(batch * s, s, attention="unfused"), "forward")
    assert "attention_dropout" not in without


def test_full_recompute_repeats_the_forward() -> None:
    ops = GPT.operators(32, 32, recompute="full", dropout=True)
    forward, again = by_name(ops, "forward"), by_name(ops, "recompute")
    assert list(forward) == list(again)
    assert sum(op.bytes for op in forward.values()) == sum(op.bytes for op in again.values())
    for part in ("embedding", "head"):
        assert not by_name(GPT.operators(32, 32, part=part, recompute="full"), "recompute")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "bytes_per_weight"), [("fused-fp32", 8), ("autograd-fp16", 6), ("unfused-fp32", 10), ("none", 0)]
)
def test_gradient_accumulation(mode: str, bytes_per_weight: int) -> None:
    for part in ("layer", "embedding", "head"):
        ops = GPT.operators(32, 32, part=part, tensor_parallel=2, grad_accumulation=mode)  # type: ignore[arg-type]
        found = [op for op in ops if op.kernel == "accumulate"]
        weights = GPT.rank_parameters(part, 2)  # type: ignore[arg-type]
        assert sum(op.bytes for op in found) == bytes_per_weight * weights


def test_cross_entropy_is_40_bytes_per_logit() -> None:
    ops = TINY.operators(64, 32, part="head", tensor_parallel=2)
    assert sum(op.bytes for op in ops if op.kernel == "cross_entropy") == 40 * 64 * 56


def test_embedding() -> None:
    ops = GPT.operators(64, 32, part="embedding", tensor_parallel=2, sequence_parallel=True, dropout=True)
    forward = by_name(ops, "forward")
    assert list(forward) == ["embedding", "position_add", "embedding_dropout"]
    assert forward["embedding"].bytes == 2 * 2 * 64 * 64
    assert forward["embedding_dropout"].bytes == 5 * 32 * 64
    assert list(by_name(TINY.operators(64, 32, part="embedding"), "forward")) == ["embedding"]


def test_fp8_casts_and_narrow_gemms() -> None:
    """Each GEMM input and output gradient: read 2, write 1 + 1 transposed; attention, logits stay BF16."""
    tokens = 64
    ops = TINY.operators(tokens, 32, precision="fp8")
    casts = [op for op in ops if op.kernel == "cast"]
    inputs, outputs = 48 + 96 + 48 + 80, 160 + 48 + 160 + 48
    assert sum(op.bytes for op in casts if op.phase == "forward") == 4 * tokens * inputs
    assert sum(op.bytes for op in casts if op.phase == "backward") == 4 * tokens * outputs
    assert {op.dtype for op in ops if op.kind == "gemm"} == {"fp8"}
    assert {op.dtype for op in ops if op.kind == "attention"} == {"bf16"}
    logits = by_name(TINY.operators(tokens, 32, part="head", precision="fp8"), "forward")["logits"]
    assert logits.dtype == "bf16"
    bf16 = TINY.operators(tokens, 32)
    assert flops(ops, "forward", "backward") == flops(bf16, "forward", "backward")
    weight_casts = [op for op in TINY.optimizer_operators(100, precision="fp8") if op.name == "weight_cast"]
    assert sum(op.bytes for op in weight_casts) == 400


def test_optimizer_passes() -> None:
    """58 bytes per parameter; with sharding 52/d + 6 (the cast fills the whole 16-bit copy)."""
    model = transformer("gpt-22b")
    assert sum(op.bytes for op in model.optimizer_operators(1000)) == 58_000
    assert sum(op.bytes for op in model.optimizer_operators(1000, shard=4)) == 52_000 / 4 + 6_000
    adam = next(op for op in model.optimizer_operators(1000) if op.name == "adam")
    assert adam.bytes == 28_000
    assert {op.phase for op in model.optimizer_operators(1000)} == {"step"}
    # 22B on 8 GPUs at .85 x 2.039 TB/s: 94 ms of the 126 ms that Korthikanti et al. leave outside the layers
    seconds = sum(op.bytes for op in model.optimizer_operators(model.parameters() / 8)) / (0.85 * 2.039e12)
    assert seconds == pytest.approx(0.094, abs=0.002)


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["flash", "unfused"]),
    st.sampled_from(["none", "selective", "full"]),
    st.booleans(),
)
def test_work_is_conserved_over_ranks(
    t: int, attention: str, recompute: str, sequence_parallel: bool
) -> None:
    """t ranks do the same matrix FLOPs as one, and context-parallel halves as one whole."""
    model = transformer("llama3-8b")
    options = {"attention": attention, "recompute": recompute}
    whole = model.operators(4096, 2048, **options)  # type: ignore[arg-type]
    split = model.operators(
        4096,
        2048,
        tensor_parallel=t,
        sequence_parallel=sequence_parallel,
        **options,  # type: ignore[arg-type]
    )
    half = model.operators(1024, 2048, **options)  # type: ignore[arg-type]
    for phase in ("forward", "recompute", "backward"):
        assert t * flops(split, phase) == flops(whole, phase) == 4 * flops(half, phase)
    shapes = {op.shape for op in half if op.kind == "attention"}
    assert shapes == {(0.5, 2048, 32, 8, 128)}


def test_operators_are_hashable_and_equal_when_they_cost_the_same() -> None:
    first, second = TINY.operators(64, 32), TINY.operators(64, 32)
    assert len(set(first + second)) == len(first)
    assert first is not second
    first.clear()
    assert TINY.operators(64, 32) == second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel": 12}, "`tensor_parallel`: 12 does not divide 32 heads"),
        ({"tensor_parallel": 0}, "`tensor_parallel`: 0 must be a positive integer"),
        ({"tokens": 0}, "`tokens`: 0 must be a positive integer"),
        ({"precision": "bf61"}, "`precision`: unknown precision 'bf61'; did you mean 'bf16'?"),
        ({"part": "heads"}, "`part`: unknown part 'heads'; did you mean 'head'?"),
        (
            {"tokens": 100, "tensor_parallel": 8, "sequence_parallel": True},
            "`tokens`: sequence parallelism splits 100 tokens over tensor_parallel = 8; choose a multiple or "
            "sequence_parallel=False",
        ),
    ],
)
def test_bad_settings(options: dict[str, object], message: str) -> None:
    arguments = {"tokens": 2048, "sequence": 2048} | options
    with pytest.raises(ConfigError) as error:
        transformer("llama3-8b").operators(**arguments)  # type: ignore[arg-type]
    assert str(error.value) == message
