"""Costs of passes: collectives per layer, layer times of a published table, linearity in layers.

Oracles: section 6 of Megatron-LM's papers (counts), Korthikanti et al. (arXiv:2205.05198) Table 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from euston.catalog import accelerator
from euston.cluster import Parallel
from euston.collectives import ring_bytes
from euston.devices import GPU
from euston.errors import ConfigError
from euston.models import transformer
from euston.training import SoftwareProfile, TrainingJob, software
from euston.training.costs import ChunkCost, Costs, costs

A100 = GPU(accelerator("a100-sxm-80gb"))
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


def test_experts_have_no_operators_yet() -> None:
    job = TrainingJob(transformer("mixtral-8x7b"), Parallel(), global_batch=1, sequence=4096)
    with pytest.raises(ConfigError):
        costs(job, job.place(), A100)
