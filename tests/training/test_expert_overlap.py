"""Forward and backward at once: where Megatron-Core has it, with one more forward ahead, and what it buys."""

from __future__ import annotations

from typing import Any

import pytest

from euston.assemble import device
from euston.assemble import site as make_site
from euston.cluster import Parallel, place
from euston.models import transformer
from euston.scenario import from_data
from euston.training import Conditions, TrainingJob, in_flight, memory, run_iteration, software, stage_order


def job(overlap: bool, **layout: Any) -> TrainingJob:
    parallel = Parallel(expert=8, sharding="zero1", **layout)
    return TrainingJob(
        transformer("qwen3-30b-a3b"), parallel, global_batch=8 * parallel.data, sequence=4096,
        schedule="interleaved" if parallel.virtual > 1 else "1f1b",
        software=software("bridge-2026", expert_overlap=overlap),
    )  # fmt: skip


def seconds(one: TrainingJob) -> float:
    s = from_data(
        {
            "version": 1,
            "sites": [
                {
                    "name": "x", "accelerator": "h100-sxm", "hosts": 4,
                    "fabric": {"preset": "generic-400g-rail"},
                }
            ],
            "jobs": [
                {
                    "name": "t", "kind": "training", "model": "gpt-22b", "parallel": {"data": 8},
                    "batch": {"global": 8, "sequence": 2048},
                }
            ],
        }
    )  # fmt: skip
    site = make_site(s, s.sites[0])
    gpu = device(site.accelerator, one)
    run = run_iteration([(one, place(one.parallel, site))], site, [gpu], Conditions(contention=False))
    return run.jobs[0].step_time


@pytest.mark.parametrize("layout", [{"data": 32}, {"pipeline": 2, "virtual": 4, "data": 16}])
def test_it_hides_the_exchange_and_never_costs(layout: dict[str, int]) -> None:
    assert job(True, **layout).passes_overlap
    assert seconds(job(True, **layout)) < seconds(job(False, **layout))


def test_plain_1f1b_has_none() -> None:
    """Its order makes stages wait for pairs in both directions; Megatron-Core refuses the combination."""
    layout = {"pipeline": 2, "data": 16}
    assert not job(True, **layout).passes_overlap
    assert seconds(job(True, **layout)) == seconds(job(False, **layout))


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_one_more_forward_runs_ahead(stage: int) -> None:
    usual, more = (stage_order("interleaved", 4, 2, 8, stage, ahead=n) for n in (0, 1))
    assert sorted(zip(usual.kind, usual.chunk, usual.micro_batch, strict=True)) == sorted(
        zip(more.kind, more.chunk, more.micro_batch, strict=True)
    )
    first = [int(one.is_backward.argmax()) for one in (usual, more)]
    assert first[1] == first[0] + 1
    held = [int((one.held.cumsum()).max()) for one in (usual, more)]
    assert held[1] == held[0] + 1
    assert held[1] <= in_flight("interleaved", 4, 2, 8, stage, ahead=1)


def test_and_holds_its_activations() -> None:
    from euston import catalog

    layout = {"pipeline": 2, "virtual": 4, "data": 16}
    usual, more = (memory(job(on, **layout), catalog.accelerator("h100-sxm")) for on in (False, True))
    assert (more["activations"] > usual["activations"]).all()
