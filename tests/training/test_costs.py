"""Costs of passes: collectives per layer, layer times of a published table, linearity in layers.

Oracles: section 6 of Megatron-LM's papers (counts), Korthikanti et al. (arXiv:2205.05198) Table 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from euston.catalog import accelerator
from euston.cluster import Parallel
from euston.collectives import ring_bytes
from euston.devices import GPU
from euston.errors import ConfigError
from euston.models import Balance, ImageMix, transformer
from euston.training import SoftwareProfile, TrainingJob, software
from euston.training.costs import ChunkCost, Costs, costs

A100 = GPU(accelerator("a100-sxm-80gb"))
H100 = GPU(accelerator("h100-sxm"))
GPT22 = transformer("gpt-22b")
Recompute = Literal["none", "selective", "full"]


def price(
    layers: int, sequence: bool = True, recompute: Recompute = "none", profile: SoftwareProfile | None = None,
    tensor: int = 8,
) -> Costs:  # fmt: skip
    job = TrainingJob(
        replace(GPT22, layers=layers),
        Parallel(tensor=tensor, sequence=sequence),
        global_batch=4,
        micro_batch=4,
        sequence=2048,
        precision="fp16",
        recompute=recompute,
        software=profile or software("megatron-2022"),
    )
    return costs(job, job.place(), A100, speed_spread=0.0)


def per_layer(one: Costs, two: Costs) -> dict[str, float]:
    """What the second layer adds: the embedding and the head stand in both."""
    a, b = one.chunks[0][0], two.chunks[0][0]
    names = ("forward", "backward", "recompute", "tensor_forward", "tensor_backward", "tensor_hidden")
    return {name: getattr(b, name) - getattr(a, name) for name in names}


def layer(
    sequence: bool, recompute: Recompute = "none", profile: SoftwareProfile | None = None
) -> dict[str, float]:
    return per_layer(price(1, sequence, recompute, profile), price(2, sequence, recompute, profile))


# (sequence parallel, recompute, overlapped backward) -> forward, backward on the path, backward beside it.
# Forward: 2 all-reduces; with sequence parallelism 2 all-gathers and 2 reduce-scatters. Backward: the same,
# and with sequence parallelism the inputs of two layers are gathered again for their weight gradients.
COUNTS = {
    (False, "none", False): (2, 2, 0),
    (False, "none", True): (2, 0, 2),
    (True, "none", False): (4, 4, 2),
    (True, "none", True): (4, 2, 4),
    (False, "selective", True): (2, 0, 2),
    (False, "full", False): (2, 4, 0),
    (True, "full", False): (4, 8, 2),
}


@pytest.mark.parametrize("case", COUNTS)
def test_collectives_of_a_layer(case: tuple[bool, Recompute, bool]) -> None:
    sequence, recompute, overlapped = case
    found = layer(sequence, recompute, SoftwareProfile(tensor_backward_overlap=overlapped))
    assert (found["tensor_forward"], found["tensor_backward"], found["tensor_hidden"]) == COUNTS[case]


@pytest.mark.parametrize("sequence", [False, True])
def test_bytes_of_a_collective(sequence: bool) -> None:
    """Activations of 4 x 2,048 tokens x 6,144 in 16 bit; an all-reduce moves what gather and scatter do."""
    found = price(1, sequence).collective
    assert found is not None
    kind = "all_gather" if sequence else "all_reduce"
    assert found.wire_bytes == pytest.approx(ring_bytes(kind, 8, 2.0 * 4 * 2048 * 6144))
    assert found.seconds == pytest.approx(found.latency + found.wire_bytes / found.rate)


def test_without_tensor_parallelism_there_is_no_collective() -> None:
    found = price(1, sequence=False, tensor=1)
    chunk = found.chunks[0][0]
    assert found.collective is None
    assert (chunk.tensor_forward, chunk.tensor_backward, chunk.tensor_hidden) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("sequence", "recompute", "forward", "backward"),
    [
        (False, "none", 7.7, 11.9),
        (True, "none", 7.2, 11.8),
        (False, "selective", 7.7, 13.2),
        (True, "selective", 7.2, 13.1),
        (False, "full", 7.7, 19.5),
    ],
)
def test_published_layer_times(sequence: bool, recompute: Recompute, forward: float, backward: float) -> None:
    """Milliseconds of one layer of the 22B model on 8 A100 (Korthikanti et al., Table 4), within 8 %."""
    found = layer(sequence, recompute)
    collective = price(1, sequence, recompute).collective
    assert collective is not None
    ours = found["forward"] + found["tensor_forward"] * collective.seconds
    assert ours * 1e3 == pytest.approx(forward, rel=0.08)
    ours = found["backward"] + found["tensor_backward"] * collective.seconds
    assert ours * 1e3 == pytest.approx(backward, rel=0.08)


@pytest.mark.parametrize("sequence", [False, True])
def test_selective_recomputation_adds_what_the_table_says(sequence: bool) -> None:
    """1.3 ms more in both columns of the table, within 8 %; nothing else changes."""
    none, selective = layer(sequence), layer(sequence, "selective")
    assert selective["recompute"] * 1e3 == pytest.approx(1.3, rel=0.08)
    assert selective["backward"] - none["backward"] == pytest.approx(selective["recompute"])
    assert selective["forward"] == none["forward"]


def test_slower_chips_pace_what_computes() -> None:
    """Operators bound by memory do not depend on the clock; the others scale with the slowest chip."""
    job = TrainingJob(GPT22, Parallel(tensor=8, data=64), global_batch=256, micro_batch=4, sequence=2048)
    found = [costs(job, job.place(), A100, speed_spread=s).chunks[0][0].forward for s in (0.0, 0.01, 0.02)]
    assert found[0] < found[1] < found[2] < found[0] * 1.06
    assert found[2] - found[1] == pytest.approx(found[1] - found[0])


def test_chunks_add_up_whatever_the_layout() -> None:
    """Forward seconds, parameters and FLOPs of all chunks together are those of one."""
    whole = price(8)
    split = TrainingJob(
        replace(GPT22, layers=8), Parallel(tensor=8, sequence=True, pipeline=2, virtual=2),
        global_batch=4, micro_batch=4, sequence=2048, precision="fp16", schedule="interleaved",
        software=software("megatron-2022"),
    )  # fmt: skip
    parts = costs(split, split.place(), A100, speed_spread=0.0)

    def total(found: Costs, name: str) -> float:
        chunks: list[ChunkCost] = [chunk for row in found.chunks for chunk in row]
        return float(sum(getattr(chunk, name) for chunk in chunks))

    for name in ("forward", "backward", "tensor_forward", "tensor_hidden", "layers"):
        assert total(parts, name) == pytest.approx(total(whole, name), rel=1e-12), name
    assert parts.flops_per_step == pytest.approx(whole.flops_per_step)
    assert parts.operators["share"].sum() == pytest.approx(1.0)


V3 = transformer("deepseek-v3")


def expert_job(**parallel: Any) -> TrainingJob:
    layout = Parallel(**({"data": 8, "expert": 8, "pipeline": 2} | parallel))
    return TrainingJob(V3, layout, global_batch=16, sequence=4096)


def test_a_chunk_is_a_multiset_of_layer_kinds() -> None:
    """The first stage has the three dense layers, the last the head and the prediction layer."""
    job = expert_job()
    found = costs(job, job.place(), H100)
    first, last = found.chunks[0][0], found.chunks[1][0]
    assert [str(kind) for kind in first.kinds[:4]] == ["attention+dense"] * 3 + ["attention+moe"]
    assert {str(kind) for kind in last.kinds} == {"attention+moe"}
    assert first.layers + last.layers == 61
    held = first.parameters + last.parameters
    dense = V3.parameters(prediction_layers=True) - (58 + 1) * 256 * 3 * 7168 * 2048
    assert held - first.expert_parameters - last.expert_parameters == dense
    assert (first.expert_parameters + last.expert_parameters) * 8 == (58 + 1) * 256 * 3 * 7168 * 2048


def test_experts_are_dealt_out_but_their_tokens_stay() -> None:
    """Every rank gets tokens x top_k rows whatever the degree; small batches per expert are what changes."""
    one, eight = (costs(job, job.place(), H100) for job in (expert_job(expert=2), expert_job(expert=8)))
    assert eight.flops_per_step == pytest.approx(one.flops_per_step, rel=1e-9)
    assert eight.chunks[1][0].expert_parameters * 4 == one.chunks[1][0].expert_parameters
    assert eight.chunks[1][0].forward <= 1.02 * one.chunks[1][0].forward


def test_weight_gradients_are_inside_the_backward() -> None:
    job = expert_job()
    for chunk in (row[0] for row in costs(job, job.place(), H100).chunks):
        assert 0.2 * chunk.backward < chunk.weight_gradient < 0.6 * chunk.backward
        assert chunk.recompute == 0.0
    again = replace(job, recompute="selective", recompute_modules=("mla_up_proj",))
    more = costs(again, again.place(), H100).chunks[1][0]
    plain = costs(job, job.place(), H100).chunks[1][0]
    assert more.recompute > 0.0
    assert more.backward - more.recompute == pytest.approx(plain.backward)
    assert more.weight_gradient == pytest.approx(plain.weight_gradient)


def test_slow_experts_slow_the_chunk() -> None:
    job = expert_job()
    uneven = replace(job, balance=Balance("zipf", alpha=0.8))
    even, slow = (costs(j, j.place(), H100).chunks[1][0].forward for j in (job, uneven))
    assert slow > 1.1 * even


def test_experts_kept_whole_need_no_tensor_collectives() -> None:
    """Mixtral has no shared expert: with whole experts only attention gathers and scatters."""
    model = transformer("mixtral-8x7b")

    def forward(split: int) -> float:
        layout = Parallel(tensor=2, sequence=True, data=4, expert=4, expert_tensor=split)
        job = TrainingJob(model, layout, global_batch=4, sequence=4096)
        return costs(job, job.place(), H100).chunks[0][0].tensor_forward

    assert forward(2) - forward(1) == 2.0 * model.layers


def test_hybrid_layers_cost_what_they_are() -> None:
    """Nemotron-H: a third stage without attention is not the time of one with it."""
    model = transformer("nemotron-h-8b")
    job = TrainingJob(model, Parallel(pipeline=4), global_batch=4, sequence=8192)
    found = costs(job, job.place(), H100)
    kinds = [sum(kind.attends for kind in row[0].kinds) for row in found.chunks]
    assert sum(kinds) == 4
    names = set(found.operators["name"])
    assert {"mixer_scan", "attention", "ffn_up"} <= names
    assert found.flops_per_step > model.flops_per_token(8192) * job.tokens_per_step * 0.95


def test_images_run_on_the_first_stage() -> None:
    model = transformer("qwen2-vl-7b")
    job = TrainingJob(model, Parallel(pipeline=2), global_batch=8, sequence=4096)
    mix = ImageMix(1024, counts=(0, 2, 6), shares=(1.0, 1.0, 1.0))
    with_images = job.with_images(mix)
    plain, seen = (costs(j, j.place(), H100).chunks for j in (job, with_images))
    assert seen[0][0].forward > plain[0][0].forward
    assert seen[1][0].forward == plain[1][0].forward
    assert seen[0][0].parameters - plain[0][0].parameters == model.rank_parameters("encoder")
    assert with_images.work is not None and len(set(with_images.work)) > 1
    with pytest.raises(ConfigError, match="has no vision encoder"):
        replace(job, model=transformer("llama3-8b")).with_images(mix)
