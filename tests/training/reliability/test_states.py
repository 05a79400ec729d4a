"""Steps by state: one simulation each, equal replicas are one state, faults against a plain run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from euston.catalog import accelerator
from euston.cluster import Parallel, Site, place
from euston.devices import GPU
from euston.fabrics import clos
from euston.models import Transformer
from euston.training import Conditions, HostFault, TrainingJob, run_iteration
from euston.training.reliability import Fault, SimulatedSteps, State


@pytest.fixture(scope="module")
def steps() -> SimulatedSteps:
    fabric = clos(8, 8, nic="100 Gb/s", hosts_per_tor=2, tors_per_pod=4, aggs_per_pod=4, scale_up="300 GB/s")
    site = Site("lab", accelerator("a100-sxm-80gb"), 8, 8, fabric)
    model = Transformer(
        "tiny", layers=8, hidden=2048, heads=16, kv_heads=16, head_dim=128, ffn=8192, vocab=32_000
    )
    parallel = Parallel(tensor=8, pipeline=2, data=4)
    job = TrainingJob(model, parallel, global_batch=32, sequence=2048, micro_batch=1)
    return SimulatedSteps(job, place(parallel, site), site, GPU(site.accelerator), Conditions())


def test_the_healthy_step_is_the_public_runs(steps: SimulatedSteps) -> None:
    run = run_iteration([(steps.job, steps.placement)], steps.site, [steps.device])
    assert steps.step(State()).seconds == run.jobs[0].step_time
    assert steps.step(State()).tokens == 32 * 2048
    assert steps.step(State()).energy > 0


def test_a_state_is_simulated_once(steps: SimulatedSteps) -> None:
    mine = replace(steps, known={})
    told: list[str] = []
    mine.tell = told.append
    slow = State(0, (Fault(1, 0.8),))
    assert mine.step(slow) is mine.step(slow)
    assert len(told) == 1


def test_permuting_replicas_changes_nothing(steps: SimulatedSteps) -> None:
    """Any host of a stage gives one state; a direct simulation of each host agrees."""
    data = np.asarray(steps.placement.coordinates()["data"]).reshape(8, 8)[:, 0]
    stage = np.asarray(steps.placement.coordinates()["pipeline"]).reshape(8, 8)[:, 0]
    places = set(zip(data.tolist(), stage.tolist(), strict=True))
    assert places == {(d, s) for d in range(4) for s in (0, 1)}
    for s in (0, 1):
        hosts = np.flatnonzero(stage == s)
        found = {steps.step(State(0, (Fault(int(h), 0.8),))).seconds for h in hosts}
        assert len(found) == 1
        for h in hosts:
            direct = run_iteration(
                [(steps.job, steps.placement)], steps.site, [steps.device],
                Conditions(hosts=(HostFault(int(h), 0.8),)),
            )  # fmt: skip
            assert direct.jobs[0].step_time == pytest.approx(next(iter(found)), rel=1e-9)


def test_two_faults_in_one_replica_are_not_two_in_two(steps: SimulatedSteps) -> None:
    stage = np.asarray(steps.placement.coordinates()["pipeline"]).reshape(8, 8)[:, 0]
    data = np.asarray(steps.placement.coordinates()["data"]).reshape(8, 8)[:, 0]
    host = {(int(d), int(s)): h for h, (d, s) in enumerate(zip(data, stage, strict=True))}
    before = len(steps.known)
    same = steps.step(State(0, (Fault(host[1, 0], 0.7), Fault(host[1, 1], 0.7))))
    apart = steps.step(State(0, (Fault(host[1, 0], 0.7), Fault(host[2, 1], 0.7))))
    again = steps.step(State(0, (Fault(host[3, 0], 0.7), Fault(host[0, 1], 0.7))))
    assert len(steps.known) == before + 2
    assert again is apart
    assert same.seconds >= apart.seconds


def test_a_halved_nic_slows_and_a_lost_replica_takes_its_tokens(steps: SimulatedSteps) -> None:
    healthy, half = steps.step(State()), steps.step(State(0, (Fault(0, 0.5, 3),)))
    assert half.seconds > healthy.seconds
    assert half.tokens == healthy.tokens
    three = steps.step(State(1))
    assert steps.hosts(1) == 6
    assert three.tokens == healthy.tokens * 3 / 4
    kept = replace(steps, keep_batch=True, known={}).step(State(1))
    assert kept.tokens == healthy.tokens
    assert kept.seconds > three.seconds  # eleven micro-batches for each of three replicas instead of eight
