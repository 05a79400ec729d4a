"""Bytes on every link against closed forms, and what must never change an iteration's outcome.

Oracle: the volumes of section 6 of Megatron-LM's papers: 2(n-1)/n per all-reduce, (n-1)/n per half of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import euston as eu
from euston.catalog import accelerator
from euston.cluster import Parallel, Placement, Site
from euston.collectives.network_rates import SCALE_OUT_EFFICIENCY
from euston.devices import GPU
from euston.fabrics import LinkKind, clos
from euston.models import Transformer
from euston.training import Conditions, Iteration, TrainingJob, job_result, run_iteration

MODEL = Transformer("tiny", layers=8, hidden=1024, heads=16, vocab=32000, ffn=2816)
H100 = accelerator("h100-sxm")
TOKENS = 2048


def make_site(hosts: int, per_host: int = 4, nic: float = 12.5e9) -> Site:
    fabric = clos(hosts, per_host, nic=nic, hosts_per_tor=4, aggs_per_pod=2, scale_up=450e9)
    return Site("test", H100, hosts, per_host, fabric)


def make_job(parallel: Parallel, **changes: Any) -> TrainingJob:
    schedule = "interleaved" if parallel.virtual > 1 else "1f1b"
    settings = {"global_batch": 4 * parallel.data, "sequence": TOKENS, "schedule": schedule}
    return TrainingJob(MODEL, parallel, **{**settings, **changes})


def run(job: TrainingJob, site: Site, hosts: list[int] | None = None) -> Iteration:
    placement = Placement(job.parallel, site.accelerators_per_host, hosts=hosts)
    return run_iteration([(job, placement)], site, [GPU(site.accelerator)], Conditions())


def carried(iteration: Iteration, site: Site, kind: LinkKind) -> NDArray[np.float64]:
    return site.fabric.link_load(iteration.row_bytes)[site.fabric.kind == kind]


def parameters(stage_layers: int, tensor: int, embedding: bool, head: bool) -> int:
    total = stage_layers * MODEL.rank_parameters("layer", tensor)
    total += MODEL.rank_parameters("embedding", tensor) if embedding else 0
    return total + (MODEL.rank_parameters("head", tensor) if head else 0)


@pytest.mark.parametrize("sequence", [False, True])
def test_tensor_parallel_bytes(sequence: bool) -> None:
    """Each accelerator sends (t-1)/t of the activations per half of an all-reduce: 4 + 4 halves a layer, 2
    more with sequence parallelism; and embedding and head one collective each way."""
    site = make_site(1)
    found = run(make_job(Parallel(tensor=4, sequence=sequence)), site)
    half = 3 / 4 * 2 * TOKENS * MODEL.hidden
    ends = 2 * 2 * (half if sequence else 2 * half)
    each = 4 * (8 * (8 + 2 * sequence) * half + ends)
    for kind in (LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN):
        np.testing.assert_allclose(carried(found, site, kind), each, rtol=1e-12)
    assert carried(found, site, LinkKind.NIC_UP).sum() == 0


@pytest.mark.parametrize("virtual", [1, 2])
def test_pipeline_bytes(virtual: int) -> None:
    """Activations / t per micro-batch and chunk boundary, forward and back; at the ends where chunks wrap."""
    site = make_site(4)
    parallel = Parallel(tensor=4, sequence=True, pipeline=4, virtual=virtual)
    up, down = (carried(run(make_job(parallel), site), site, k) for k in (LinkKind.NIC_UP, LinkKind.NIC_DOWN))
    one = 4 * 2 * TOKENS * MODEL.hidden / 4
    inside = [2 * virtual] * 2  # stages 1 and 2: every chunk sends both ways
    ends = 2 * virtual - 1  # stage 0 sends no gradients of chunk 0, stage 3 no activations of the last
    np.testing.assert_allclose(up.reshape(4, 4), np.outer([ends, *inside, ends], [one] * 4), rtol=1e-12)
    np.testing.assert_allclose(up.sum(), down.sum())


@pytest.mark.parametrize(
    ("sharding", "gathers", "reductions"),
    [("none", 0, 2), ("zero1", 1, 1), ("zero2", 1, 1), ("zero3", 2 * 4, 4)],
)
def test_data_parallel_bytes(sharding: Any, gathers: int, reductions: int) -> None:
    """Per NIC and step: 2 bytes a parameter gathered, 4 bytes a gradient reduced, each (d-1)/d times. ZeRO-3
    gathers twice and reduces once per micro-batch."""
    site = make_site(4)
    found = run(make_job(Parallel(tensor=4, data=4, sharding=sharding)), site)
    held = parameters(8, 4, True, True)
    expected = 3 / 4 * held * (2 * gathers + 4 * reductions)
    for kind in (LinkKind.NIC_UP, LinkKind.NIC_DOWN):
        np.testing.assert_allclose(carried(found, site, kind), expected, rtol=1e-9)


def test_replicas_inside_hosts_share_the_nics() -> None:
    """16 replicas on 4 hosts: 4 rings of a quarter each; a NIC carries (15/16) / 4 of the bytes, once."""
    site = make_site(4)
    found = run(make_job(Parallel(data=16)), site)
    each = 2 * 15 / 16 * 4 * parameters(8, 1, True, True) / 4
    np.testing.assert_allclose(carried(found, site, LinkKind.NIC_UP), each, rtol=1e-9)
    np.testing.assert_allclose(carried(found, site, LinkKind.SCALE_UP_OUT), 3 * each, rtol=1e-9)


def test_stages_that_lie_differently_on_hosts_still_carry_their_own_bytes() -> None:
    """4 replicas x 3 stages on hosts of 6: each stage's ranks send 2(d-1)/d of its gradients between them."""
    site = make_site(2, 6)
    job = make_job(Parallel(pipeline=3, data=4), stages=(3, 3, 2))
    found = run(job, site)
    up, nic = (carried(found, site, k) for k in (LinkKind.SCALE_UP_OUT, LinkKind.NIC_UP))
    gradients = sum(
        4 * 2 * 3 / 4 * 4 * parameters(n, 1, s == 0, s == 2) for s, n in enumerate(job.stages or ())
    )
    activations = 4 * 4 * 2 * (3 - 1) * 2 * TOKENS * MODEL.hidden
    assert up.sum() + nic.sum() == pytest.approx(gradients + activations, rel=1e-9)


def test_every_byte_that_is_sent_is_received() -> None:
    site = make_site(8)
    found = run(make_job(Parallel(tensor=2, pipeline=4, data=4, sharding="zero3")), site)
    load = site.fabric.link_load(found.row_bytes)
    at = np.zeros(site.fabric.node_kind.size)
    np.add.at(at, site.fabric.link_dst, load)
    np.subtract.at(at, site.fabric.link_src, load)
    switches = at[site.fabric.endpoints :]
    np.testing.assert_allclose(switches, 0.0, atol=1e-6 * load.max())


# ---- what must not matter, and what must help --------------------------------------------------------------

LAYOUTS = [
    Parallel(tensor=4, sequence=True, pipeline=2, data=4, sharding="zero1"),
    Parallel(tensor=2, pipeline=4, data=4),
    Parallel(tensor=8, sequence=True, pipeline=2, data=2, sharding="zero2"),
    Parallel(tensor=4, pipeline=2, virtual=2, data=4, sharding="zero3"),
    Parallel(data=32, sharding="zero3"),
]


@given(st.sampled_from(LAYOUTS), st.permutations(range(4)))
@settings(max_examples=12)
def test_which_leaf_is_which_does_not_matter(parallel: Parallel, order: list[int]) -> None:
    """Whole leaves of hosts trade places."""
    fabric = clos(8, 4, nic=12.5e9, hosts_per_tor=2, aggs_per_pod=2, oversubscription=(2, 1), scale_up=450e9)
    site = Site("test", H100, 8, 4, fabric)
    hosts = [2 * leaf + i for leaf in order for i in range(2)]
    moved = run(make_job(parallel), site, hosts).jobs[0].step_time
    assert moved == pytest.approx(run(make_job(parallel), site).jobs[0].step_time, rel=1e-9)


@given(st.sampled_from(LAYOUTS), st.floats(1e9, 1e11), st.floats(1.0, 8.0))
@settings(max_examples=12)
def test_faster_nics_never_hurt(parallel: Parallel, nic: float, more: float) -> None:
    """On a fabric that is nowhere oversubscribed (where sharing is unfair to the late, anomalies exist)."""
    slow, fast = (run(make_job(parallel), make_site(8, nic=n)).jobs[0].step_time for n in (nic, nic * more))
    assert fast <= slow * (1 + 1e-6)


@given(st.sampled_from(LAYOUTS), st.floats(1.0, 4.0))
@settings(max_examples=8)
def test_faster_chips_never_hurt(parallel: Parallel, more: float) -> None:
    site = make_site(8)
    better = replace(
        H100,
        peak={k: v * more for k, v in H100.peak.items()},
        sustained={k: tuple(x * more for x in v) for k, v in H100.sustained.items()},  # type: ignore[misc]
    )
    fast = run(make_job(parallel), replace(site, accelerator=better)).jobs[0].step_time
    assert fast <= run(make_job(parallel), site).jobs[0].step_time * (1 + 1e-9)


@pytest.mark.parametrize("parallel", LAYOUTS)
def test_bounds_sums_and_equal_bits(parallel: Parallel) -> None:
    """MFU <= HFU <= 1; a stage's row sums to the step; the same again has the same bits."""
    site, job = make_site(8), make_job(parallel)
    result, again = (job_result(run(job, site), 0, site) for _ in range(2))
    assert 0 < result.mfu <= result.hfu <= 1
    stages = result.tables["stages"]
    parts = stages.select("compute", "tensor", "pipeline", "data", "optimizer", "bubble").to_numpy()
    assert (parts >= 0).all()
    np.testing.assert_allclose(parts.sum(axis=1), result.step_time, rtol=1e-9)
    assert result.scalars == again.scalars
    assert result.tables["links"].equals(again.tables["links"])


def test_links_report_every_tier_and_never_more_than_a_nic_delivers() -> None:
    site = make_site(8)
    found = run(make_job(LAYOUTS[0]), site)
    links = job_result(found, 0, site).tables["links"]
    assert links["tier"].to_list() == list(site.fabric.tier_links())
    assert (links["bytes"] > 0).all()
    nics = links.filter(links["tier"].str.starts_with("NIC"))
    assert 0 < nics["max_utilisation"].max() <= SCALE_OUT_EFFICIENCY


def test_links_of_two_jobs_are_judged_over_the_whole_run() -> None:
    """Regression: bytes of both jobs over the shorter job's step made links busier than full."""
    site = make_site(12)
    short, long = make_job(Parallel(tensor=4, data=4)), make_job(LAYOUTS[1], global_batch=64)
    jobs = [(short, Placement(short.parallel, 4)), (long, Placement(long.parallel, 4, first_host=4))]
    found = run_iteration(jobs, site, [GPU(H100)] * 2, Conditions())
    assert found.jobs[0].step_time < found.jobs[1].step_time
    tables = [job_result(found, i, site).tables["links"] for i in range(2)]
    assert tables[0].equals(tables[1])
    assert 0 < tables[0]["max_utilisation"].max() <= 1


def scenario(**changes: Any) -> dict[str, Any]:
    fabric = {"kind": "clos", "nic": "100 Gb/s", "endpoints_per_tor": 16, "aggs_per_pod": 2}
    job = {
        "name": "tiny", "kind": "training", "model": "llama2-7b",
        "parallel": {"tensor": 8, "sequence": True, "data": 2}, "placement": {"site": "main"},
        "batch": {"global": 4, "micro": 1, "sequence": 2048},
    }  # fmt: skip
    return {
        "version": 1,
        "sites": [{"name": "main", "accelerator": "h100-sxm", "hosts": 4, "fabric": fabric}],
        "jobs": [job],
        **changes,
    }


def test_a_scenario_names_the_links_that_carried_nothing() -> None:
    """The job's hosts stand under one of two leaves: no uplink carries anything, nor do the other hosts."""
    from euston.scenario import from_data

    result = eu.simulate(from_data(scenario()))
    idle = dict(result.tables["unused_links"].rows())
    assert idle == {
        "scale-up out": 16, "scale-up in": 16, "NIC up": 16, "NIC down": 16, "ToR up": 4, "ToR down": 4
    }  # fmt: skip


def test_simulate_stays_a_function_after_its_first_call() -> None:
    """Regression: the import system binds the submodule `simulate` over the function of that name."""
    from euston.scenario import from_data

    first = eu.simulate(from_data(scenario()))
    assert callable(eu.simulate)
    assert eu.simulate(from_data(scenario())).scalars == first.scalars


def test_a_fault_of_a_scenario_is_felt() -> None:
    from euston.scenario import from_data

    slow = scenario(faults=[{"link": "nic_up/h0/n3", "factor": 0.1}])
    usual, hurt = (eu.simulate(from_data(s)).scalars["step_time"] for s in (scenario(), slow))
    assert hurt > usual
    late = scenario(faults=[{"link": "nic_up/h0/n3", "factor": 0.1, "at": "100 s"}])
    assert eu.simulate(from_data(late)).scalars["step_time"] == pytest.approx(usual, rel=1e-9)
