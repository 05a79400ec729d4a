"""Memory per stage against Korthikanti et al.'s published numbers, closed forms and a plain walk."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston import catalog
from euston.cluster import Parallel
from euston.errors import ConfigError, DoesNotFit
from euston.models import Transformer, transformer
from euston.training import SoftwareProfile, TrainingJob, fits, memory, order, require_fit
from euston.training.memory import GIB

A100 = catalog.accelerator("a100-sxm-80gb")
H100 = catalog.accelerator("h100-sxm")

# Korthikanti et al. trained without flash attention, with dropout and FP32 main gradients
MEGATRON_2022 = SoftwareProfile(name="test", attention="unfused", dropout=True, gradient_dtype="fp32")


def gpt(name: str, layers: int, hidden: int, heads: int) -> Transformer:
    return Transformer(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=4 * hidden,
        vocab=51200,
        gated=False,
        norm="layernorm",
        positions="learned",
        max_positions=2048,
        biases=True,
        tied=True,
    )


# Korthikanti et al. (arXiv:2205.05198), Table 3:
# layers, hidden, heads, pipeline, virtual, micro-batch, global batch
KORTHIKANTI = {
    "gpt-22b": (48, 6144, 64, 1, 1, 4, 4),
    "gpt3-175b": (96, 12288, 96, 8, 3, 1, 64),
    "mt-nlg-530b": (105, 20480, 128, 35, 3, 1, 280),
    "gpt-1t": (128, 25600, 160, 64, 1, 1, 512),
}


def korthikanti(name: str, recompute: str, sequence: bool) -> TrainingJob:
    layers, hidden, heads, pipeline, virtual, micro, batch = KORTHIKANTI[name]
    return TrainingJob(
        gpt(name, layers, hidden, heads),
        Parallel(tensor=8, sequence=sequence, pipeline=pipeline, virtual=virtual),
        global_batch=batch,
        micro_batch=micro,
        sequence=2048,
        precision="fp16",
        schedule="interleaved" if virtual > 1 else "1f1b",
        recompute=recompute,  # type: ignore[arg-type]
        software=MEGATRON_2022,
    )


# Figure 1 of the same paper as tabulated by calculon-ai/calculon@caa4b11 calculon/llm/validation.py (GiB):
# parameters and optimiser state; activations without recompute; with selective recompute, sequence parallel
FIGURE_1 = {
    "gpt-22b": (45.5625, 59.25, 9.5625),
    "gpt3-175b": (45.5625, 66.84375, 12.3515625),
    "mt-nlg-530b": (31.640625, 114.0234375, 23.076171875),
    "gpt-1t": (32.958984375, 131.25, 26.5625),
}

# Figure 7, same tabulation, percent of the tensor-parallel baseline:
# sequence parallel, selective, selective + sequence parallel, full
FIGURE_7 = {
    "gpt-22b": (66.84, 49.42, 16.18, 7.64),
    "gpt3-175b": (62.04, 56.53, 18.49, 8.71),
    "mt-nlg-530b": (58.31, 62.04, 20.27, 9.42),
    "gpt-1t": (58.31, 62.04, 20.27, 9.42),
}


@pytest.mark.parametrize("name", list(KORTHIKANTI))
def test_korthikanti_figure_1(name: str) -> None:
    """Within 5 %. The figure's states leave the embedding out: they are compared where there is none."""
    states, none, selective = FIGURE_1[name]
    table = memory(korthikanti(name, "none", False), A100)
    plain = table.row(1 if table.height > 1 else 0, named=True)
    ours = (plain["parameters"] + plain["gradients"] + plain["optimizer"]) / GIB
    assert ours == pytest.approx(states, rel=0.05)
    assert table["activations"][0] / GIB == pytest.approx(none, rel=0.05)
    table = memory(korthikanti(name, "selective", True), A100)
    assert table["activations"][0] / GIB == pytest.approx(selective, rel=0.05)


@pytest.mark.parametrize("name", list(KORTHIKANTI))
def test_korthikanti_figure_7(name: str) -> None:
    """Within 5 %, on a stage without the embedding's dropout mask, which the figure leaves out."""

    def held(recompute: str, sequence: bool) -> float:
        table = memory(korthikanti(name, recompute, sequence), A100)
        return float(table["activations"][min(1, table.height - 1)])

    baseline = held("none", False) / 100
    ours = [held("none", True), held("selective", False), held("selective", True), held("full", False)]
    assert [value / baseline for value in ours] == pytest.approx(FIGURE_7[name], rel=0.05)


# sequence, context, data, peak GiB: Llama 3 8B under FSDP2 on 8 H100 with full recompute
# (pytorch/torchtitan benchmarks/llama3_h100_202412_torchtitan.md, Table 2)
TORCHTITAN = [(32768, 1, 8, 83.9), (65536, 2, 4, 84.2), (131072, 4, 2, 84.0), (262144, 8, 1, 84.5)]


@pytest.mark.parametrize(("length", "context", "data", "published"), TORCHTITAN)
def test_torchtitan_long_sequences(length: int, context: int, data: int, published: float) -> None:
    """Within 5 %; nearly half of it is the loss, which PyTorch does not compute in place."""
    job = TrainingJob(
        transformer("llama3-8b"),
        Parallel(context=context, data=data, sharding="zero3"),
        global_batch=data,
        sequence=length,
        recompute="full",
        software=SoftwareProfile(loss="pytorch"),
    )
    row = memory(job, H100).row(0, named=True)
    assert (row["peak"] + row["allocator"]) / GIB == pytest.approx(published, rel=0.05)


def llama(**changes: object) -> TrainingJob:
    """Llama 3 405B on 16,384 H100 (arXiv:2407.21783, Table 4); optimiser and gradients sharded (3.3.2)."""
    job = TrainingJob(
        transformer("llama3-405b"),
        Parallel(tensor=8, sequence=True, pipeline=16, data=128, sharding="zero2"),
        global_batch=2048,
        sequence=8192,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def test_llama3_405b_fits_without_recompute() -> None:
    """As published: "without activation checkpointing" on 80 GB."""
    fit = fits(llama(), H100)
    assert fit.ok and fit.shortfall_bytes == 0
    assert fit.reason.startswith("fits: needs ")
    assert 0.8 * H100.memory_bytes < fit.needed_bytes < H100.memory_bytes


def test_one_layer_fewer_relieves_the_first_stage() -> None:
    table = memory(llama(), H100)
    assert table["layers"].to_list() == [7, *[8] * 14, 7]
    assert table["in_flight"].to_list() == [min(16, 16 - r) for r in range(16)]
    assert table["activations"][0] < table["activations"][1] * 16 / 15


@pytest.mark.parametrize(
    ("precision", "gradient", "sharding", "per_parameter"),
    [
        ("bf16", "fp32", "none", 18.0),
        ("bf16", "fp32", "zero1", 6 + 12 / 4),
        ("fp16", "fp16", "none", 20.0),
        ("fp16", "fp16", "zero1", 4 + 16 / 4),
        ("bf16", "fp32", "zero2", 2 + 16 / 4),
        ("bf16", "fp32", "zero3", 16 / 4),
    ],
)
def test_bytes_per_parameter(precision: str, gradient: str, sharding: str, per_parameter: float) -> None:
    """Megatron-Core's distributed-optimiser table; zero3 the ZeRO paper's 16 / d."""
    model = transformer("llama3-8b")
    job = TrainingJob(
        model,
        Parallel(pipeline=4, data=4, sharding=sharding),
        global_batch=16,
        sequence=1024,
        precision=precision,  # type: ignore[arg-type]
        software=SoftwareProfile(gradient_dtype=gradient),  # type: ignore[arg-type]
    )
    row = memory(job, H100).row(1, named=True)
    states = row["parameters"] + row["gradients"] + row["optimizer"]
    assert states == pytest.approx(per_parameter * 8 * model.layer_parameters(), rel=1e-12)


@pytest.mark.parametrize("pipeline", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_no_parameter_is_lost(pipeline: int, tied: bool) -> None:
    """Unsplit, the stages hold the model's parameters, and a tied matrix twice if on two stages."""
    model = replace(transformer("llama3-8b"), tied=tied)
    job = TrainingJob(model, Parallel(pipeline=pipeline), global_batch=4, sequence=1024)
    expected = model.parameters() + (model.vocab * model.hidden if tied and pipeline > 1 else 0)
    assert memory(job, H100)["parameters"].sum() == pytest.approx(2 * expected, rel=1e-12)


@given(
    st.sampled_from(["1f1b", "gpipe", "interleaved"]),
    st.integers(2, 4),
    st.integers(2, 3),
    st.integers(1, 12),
    st.lists(st.integers(1, 5), min_size=12, max_size=12),
    st.sampled_from(["none", "full"]),
)
@settings(max_examples=40, deadline=None)
def test_peak_against_a_plain_walk(
    schedule: str, pipeline: int, virtual: int, micro_batches: int, layers: list[int], recompute: str
) -> None:
    """Oracle: add at each forward, take away after each backward, in plain Python."""
    virtual = virtual if schedule == "interleaved" else 1
    counts = layers[: pipeline * virtual]
    model = replace(transformer("llama3-8b"), layers=sum(counts))
    job = TrainingJob(
        model,
        Parallel(pipeline=pipeline, virtual=virtual),
        global_batch=micro_batches,
        sequence=512,
        schedule=schedule,  # type: ignore[arg-type]
        recompute=recompute,  # type: ignore[arg-type]
        stages=tuple(counts),
    )
    job.check()
    table = memory(job, H100, communication_buffers=0.0)
    per_layer = model.activation_bytes(512, 512, attention="flash", recompute=recompute)
    whole = (
        model.activation_bytes(512, 512, attention="flash", recompute="none") if recompute == "full" else 0
    )
    width = 2 * 512 * (2 * model.hidden + 2 * model.ffn)
    for stage, passes in enumerate(order(schedule, pipeline, virtual, micro_batches)):
        held = peak = 0.0
        for backward, chunk in zip(passes.is_backward, passes.chunk, strict=True):
            own = counts[chunk * pipeline + stage] * per_layer
            while_it_runs = whole if backward else 0
            if stage == pipeline - 1 and chunk == virtual - 1:
                own += 2 * 2 * 512 * model.hidden + 4 * 512 * model.vocab
                while_it_runs += 2 * 512 * model.vocab
            held += 0 if backward else own
            peak = max(peak, held + while_it_runs)
            held -= own if backward else 0
        assert held == pytest.approx(0, abs=1)
        row = table.row(stage, named=True)
        assert row["activations"] + row["temporary"] == pytest.approx(peak + width)


def test_what_does_not_fit_says_how_to_fit() -> None:
    fit = fits(llama(parallel=replace(llama().parallel, pipeline=4, data=512), global_batch=8192), H100)
    assert not fit.ok
    assert fit.needed_bytes - fit.capacity_bytes == fit.shortfall_bytes > 0
    assert f"{fit.shortfall_bytes / GIB:.1f} GiB too much" in fit.reason
    assert fit.largest in fit.reason


def test_advice_is_true() -> None:
    """What the message recommends fits when it is done."""
    job = TrainingJob(
        transformer("llama3-8b"),
        Parallel(data=8, sharding="zero3"),
        global_batch=32,
        micro_batch=2,
        sequence=8192,
    )
    fit = fits(job, H100)
    assert not fit.ok and "`batch.micro: 1` would fit with " in fit.reason
    assert fits(replace(job, micro_batch=1), H100).ok
    message = (
        r"^`jobs\[3\]`: does not fit: needs \d+\.\d GiB of 80\.0 GiB on stage 0 \(activations \d+\.\d GiB, .*"
        r"allocator \d+\.\d GiB.*\); \d+\.\d GiB too much; `batch\.micro: 1` would fit with \d+\.\d GiB$"
    )
    with pytest.raises(DoesNotFit, match=message):
        require_fit(job, replace(H100, memory_bytes=80 * GIB), where="jobs[3]")


def test_allocator_is_reported_apart() -> None:
    table = memory(llama(), H100, allocator_factor=1.1)
    assert (table["allocator"] / table["peak"]).to_list() == pytest.approx([0.1] * 16)
    parts = ("parameters", "gradients", "optimizer", "activations", "temporary")
    assert sum(table[part] for part in parts).to_list() == pytest.approx(table["peak"].to_list())


def test_refused_job_is_not_sized() -> None:
    with pytest.raises(ConfigError, match="160 stages are more than 126 layers"):
        memory(llama(parallel=Parallel(tensor=8, pipeline=160)), H100)


def test_experts_shard_over_their_own_replicas() -> None:
    """ZeRO-1, BF16: 6 bytes per parameter held, 12 / 64 for dense ones, 12 / 8 for experts of 8 ranks."""
    model = transformer("deepseek-v3")
    layout = Parallel(data=64, expert=8, sharding="zero1")
    job = TrainingJob(model, layout, global_batch=64, sequence=4096)
    held = memory(job, catalog.accelerator("h100-sxm")).row(0, named=True)
    experts = (58 + 1) * 256 // 8 * 3 * 7168 * 2048
    dense = model.parameters(prediction_layers=True) - 8 * experts
    assert held["parameters"] == 2 * (dense + experts)
    assert held["gradients"] == 4 * (dense + experts)
    assert held["optimizer"] == pytest.approx(12 * dense / 64 + 12 * experts / 8)


def test_modules_of_selective_recompute_free_what_they_make_again() -> None:
    model = transformer("deepseek-v3")

    def kept(*modules: str) -> float:
        return model.activation_bytes(
            4096, 4096, expert_parallel=64, recompute="selective", recompute_modules=modules
        )

    everything = model.activation_bytes(4096, 4096, expert_parallel=64)
    assert kept("core_attn") == everything
    norms = 2 * 2 * 4096 * 7168
    assert everything - kept("layernorm") == norms
    up = 2 * 4096 * 128 * (2 * 192 + 128)
    assert everything - kept("mla_up_proj") == up
    assert everything - kept("moe_act") == 2 * 8 * 4096 * 2048
