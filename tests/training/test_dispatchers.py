"""Exchanges between experts by a library's own tables, and what is known of published runs' dispatchers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from euston.assemble import device
from euston.assemble import site as make_site
from euston.catalog import accelerator
from euston.cluster import Parallel, place
from euston.devices import scale_up_collective
from euston.devices.interconnect import wire_bytes
from euston.models import Balance, transformer
from euston.scenario import from_data
from euston.studies._facts import software_of
from euston.training import Conditions, TrainingJob, run_iteration, software
from euston.training.analytic import analyse
from euston.training.costs import costs

#: DeepEP on H100, 16 ranks, hidden 7168, top 8, 20 multiprocessors (the published table), microseconds:
#: dispatch in FP8 of 4,096 and 8,192 tokens, combine of 4,096.
DISPATCH, COMBINE = {4096: 843.5, 8192: 1609.0}, 2099.0


def job(model: str = "deepseek-v3", ranks: int = 16, **keys: Any) -> TrainingJob:
    data = keys.pop("data", ranks)
    return TrainingJob(
        transformer(model), Parallel(data=data, expert=ranks, sharding="zero1"), global_batch=data,
        sequence=4096, software=software("bridge-2026", **keys),
    )  # fmt: skip


def site(hosts: int) -> Any:
    s = from_data(
        {
            "version": 1,
            "sites": [
                {
                    "name": "x", "accelerator": "h100-sxm", "hosts": hosts,
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
    return make_site(s, s.sites[0])


def exchanged(one: TrainingJob) -> Any:
    found = costs(one, one.place(), device(accelerator("h100-sxm"), one)).communication
    assert found is not None and found.expert is not None
    return found.expert


def test_a_use_takes_the_tables_time() -> None:
    """Oracle: the table by hand; a token in 16 bit is two in FP8 less their scales."""
    tokens = 4096 * 2.0 / (1.0 + 4 / 128)
    at = math.log(tokens / 4096) / math.log(2.0)
    dispatch = math.exp((1 - at) * math.log(DISPATCH[4096]) + at * math.log(DISPATCH[8192]))
    use = exchanged(job(expert_dispatcher="deepep"))
    assert use.seconds_over(2) == pytest.approx((dispatch + COMBINE) / 2.0 * 1e-6, rel=1e-3)
    narrow = exchanged(job(expert_dispatcher="deepep", expert_dispatch="fp8"))
    assert narrow.seconds_over(2) == pytest.approx((DISPATCH[4096] + COMBINE) / 2.0 * 1e-6, rel=1e-3)
    assert use.seconds_over(1) == use.seconds_over(4) == 0.0  # another spread has another time


def test_probabilities_and_counts_travel_beside_the_tokens() -> None:
    """Oracle: four uses of a layer carry two small all-to-alls and one gathering, which NCCL's figures price.

    Experts filled to their capacity are counted beforehand; a library sends all in one.
    """
    h100 = accelerator("h100-sxm")
    plain, filled = job(), replace(job(), balance=Balance(capacity_factor=1.0))
    model = transformer("deepseek-v3")
    assert model.moe is not None
    rows = 4096 * model.moe.top_k
    tokens = scale_up_collective(h100, "all_to_all", 16, rows * model.hidden * 2.0).latency
    each = []
    for name, nbytes in (("all_to_all", rows * 4.0), ("all_gather", model.moe.experts * 8.0 * 16)):
        one = scale_up_collective(h100, name, 16, nbytes)
        each.append(one.latency + wire_bytes(name, 16, nbytes) / one.wire_rate)
    assert exchanged(filled).latency == pytest.approx(tokens + 2 * each[0] / 4)
    assert exchanged(plain).latency == pytest.approx(tokens + (2 * each[0] + each[1]) / 4)
    assert exchanged(plain).step_latency == pytest.approx(exchanged(filled).step_latency * 1.75 / 1.5)
    assert exchanged(job(expert_dispatcher="deepep")).latency == pytest.approx(tokens)


def test_only_libraries_have_tables() -> None:
    assert exchanged(job()).measured == 0.0
    assert exchanged(job(expert_dispatcher="hybridep")).measured > 0.0


def test_the_executed_step_waits_for_the_tables_time() -> None:
    """Oracle: so many uses of so many seconds, as a difference between two widths and nothing else."""
    here = site(2)
    seconds = {}
    for width in ("bf16", "fp8"):
        one = job("qwen3-30b-a3b", expert_dispatcher="deepep", expert_dispatch=width)
        run = run_iteration(
            [(one, place(one.parallel, here))],
            here,
            [device(here.accelerator, one)],
            Conditions(contention=False),
        )
        seconds[width] = run.jobs[0].step_time, exchanged(one).seconds_over(2)
    uses = 4 * one.model.layers
    step, use = (seconds["bf16"][i] - seconds["fp8"][i] for i in (0, 1))
    assert use > 0
    assert step == pytest.approx(uses * use, rel=0.02)


def test_closed_form_and_execution_agree() -> None:
    here = site(2)
    one = job("qwen3-30b-a3b", expert_dispatcher="deepep")
    gpu = device(here.accelerator, one)
    run = run_iteration([(one, place(one.parallel, here))], here, [gpu], Conditions(contention=False))
    assert analyse(one, here, gpu).estimate.step_time == pytest.approx(run.jobs[0].step_time, rel=0.03)


@pytest.mark.parametrize(
    ("model", "container", "dispatcher", "overlap", "padding"),
    [
        ("qwen3-235b-a22b", "25.09", "alltoall", False, False),
        ("qwen3-235b-a22b", "25.11", "alltoall", True, True),
        ("qwen3-235b-a22b", "26.04", "alltoall", True, True),
        ("qwen3-30b-a3b", "25.09", "alltoall", False, False),
        ("qwen3-30b-a3b", "25.11", "alltoall", True, True),
        ("qwen3-30b-a3b", "26.02", "deepep", True, True),
        ("qwen3-30b-a3b", "26.02.01", "hybridep", False, False),
        ("qwen3-30b-a3b", "26.06", "hybridep", False, False),
        ("deepseek-v3", "25.09", "deepep", True, True),
    ],
)
def test_facts_about_published_runs(
    model: str, container: str, dispatcher: str, overlap: bool, padding: bool
) -> None:
    """Oracle: the recipes of Megatron-Bridge at the container's release, read by hand."""
    cells = {
        "framework": "Megatron-Bridge", "model": model, "accelerator": "H100-SXM-80GB", "precision": "fp8",
        "source": f'docs/performance-summary-archive.md "{container} NeMo Container"',
    }  # fmt: skip
    found = software_of(cells).profile
    assert (found.expert_dispatcher, found.expert_overlap, found.expert_padding) == (
        dispatcher,
        overlap,
        padding,
    )
    assert found.loss == "fused"
