"""Two jobs on one fabric under allocation policies, and accelerators with speeds of their own.

Oracles: a job of the first strict level takes as long as alone; equal queues of equal jobs give equal steps;
the order statistics of a lognormal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from euston.catalog import accelerator
from euston.cluster import Parallel, Placement, Site
from euston.devices import GPU
from euston.errors import ConfigError
from euston.fabrics import clos
from euston.models import Transformer
from euston.network.allocation import AllocationPolicy
from euston.network.allocation.per_job import PerJob
from euston.network.allocation.strict_priority import StrictPriority
from euston.training import (
    Conditions,
    Iteration,
    TrainingJob,
    host_speeds,
    relative_speed,
    run_iteration,
)

MODEL = Transformer("tiny", layers=4, hidden=2048, heads=16, vocab=32000, ffn=5632)
H100 = accelerator("h100-sxm")


def make_site() -> Site:
    """Leaves of two hosts with half the uplinks: one host of each job under every leaf."""
    fabric = clos(8, 4, nic=12.5e9, hosts_per_tor=2, aggs_per_pod=2, oversubscription=(2, 1), scale_up=450e9)
    return Site("test", H100, 8, 4, fabric)


def steps(conditions: Conditions, jobs: tuple[str, ...] = ("first", "second")) -> list[float]:
    found = run(conditions, jobs)
    return [part.step_time for part in found.jobs]


def run(conditions: Conditions, jobs: tuple[str, ...]) -> Iteration:
    site, parallel = make_site(), Parallel(tensor=4, sequence=True, data=4, sharding="zero1")
    placed = []
    for name in jobs:
        first = int(name == "second")
        job = TrainingJob(MODEL, parallel, global_batch=8, sequence=2048, name=name)
        placed.append((job, Placement(parallel, 4, hosts=[first + 2 * i for i in range(4)])))
    return run_iteration(placed, site, [GPU(H100)] * len(jobs), conditions)


@pytest.mark.parametrize("folding", [True, False])
def test_the_first_level_never_notices_the_second(folding: bool) -> None:
    alone = steps(Conditions(folding=folding), ("first",))[0]
    shared = steps(Conditions(folding=folding))
    strict = steps(Conditions(allocation=StrictPriority({"first": 0, "second": 1}), folding=folding))
    assert shared[0] > alone * 1.01
    assert strict[0] == pytest.approx(alone, rel=1e-9)
    assert strict[1] > shared[1] * (1 - 1e-9)


def test_queues_of_equal_weight_are_fair_and_others_are_not() -> None:
    plain, even = steps(Conditions()), steps(Conditions(allocation=PerJob()))
    uneven = steps(Conditions(allocation=PerJob({"first": 3.0})))
    assert even == pytest.approx(plain, rel=1e-6)
    assert uneven[0] < even[0]
    assert uneven[0] < uneven[1]


def test_folding_changes_nothing_with_queues() -> None:
    policy = PerJob({"second": 2.0})
    on, off = (steps(Conditions(allocation=policy, folding=f)) for f in (True, False))
    assert on == pytest.approx(off, rel=1e-9)


def test_policies_that_plan_anew_are_refused() -> None:
    @dataclass(frozen=True)
    class Dynamic:
        name: ClassVar[str] = "dynamic"
        dynamic: ClassVar[bool] = True
        settings: dict[str, Any] = field(default_factory=dict)

    policy: AllocationPolicy = Dynamic()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="dynamic plans anew at starts and ends"):
        steps(Conditions(allocation=policy))


# ---- speeds of their own -----------------------------------------------------------------------------------


def test_jitter_slows_to_the_slowest_and_folds_nothing() -> None:
    usual = run(Conditions(speed_spread=0.0), ("first",))
    found = run(Conditions(jitter=0.05, seed=3), ("first",))
    assert found.jobs[0].replicas.tolist() == [1, 1, 1, 1]
    speeds = Conditions(jitter=0.05, seed=3).own_speeds(32)
    mine = np.array([speeds[8 * i : 8 * i + 4].min() for i in range(4)])
    cost = usual.jobs[0].cost.chunks[0][0]
    compute = 2 * (cost.forward + cost.backward)
    more = found.jobs[0].step_time - usual.jobs[0].step_time
    assert more == pytest.approx(compute * (1 / mine.min() - 1), rel=0.3)


def test_speeds_are_lognormal_and_seeded() -> None:
    c = Conditions(jitter=0.01, seed=1)
    drawn = np.log(c.own_speeds(100_000))
    assert np.array_equal(c.own_speeds(100_000), c.own_speeds(100_000))
    assert not np.array_equal(c.own_speeds(8), replace(c, seed=2).own_speeds(8))
    assert abs(drawn.mean()) < 4 * 0.01 / np.sqrt(1e5)
    assert drawn.std() == pytest.approx(0.01, rel=0.02)


# ---- accelerators of two kinds -----------------------------------------------------------------------------

A100 = GPU(accelerator("a100-sxm-80gb"))
PIPELINE = Parallel(tensor=4, sequence=True, pipeline=2)


def mixed(conditions: Conditions, stages: tuple[int, ...] = (2, 2), folding: bool = True) -> Iteration:
    site = make_site()
    job = TrainingJob(MODEL, PIPELINE, global_batch=16, sequence=2048, stages=stages)
    return run_iteration(
        [(job, Placement(PIPELINE, 4))], site, [GPU(H100)], replace(conditions, folding=folding)
    )


def test_a_slower_kind_of_host_takes_its_own_time() -> None:
    """Stage 1 on A100: its passes take as long as on A100 alone; the last one's seconds are in the ratio."""
    site = make_site()
    job = TrainingJob(MODEL, PIPELINE, global_batch=16, sequence=2048, stages=(2, 2))
    ratio = relative_speed(job, GPU(H100), A100)
    assert 0.2 < ratio < 0.7
    speeds = host_speeds(job, site, GPU(H100), {1: A100})
    assert speeds.tolist() == [1.0, ratio, *[1.0] * 6]
    plain, found = mixed(Conditions()), mixed(Conditions(host_speed=tuple(speeds)))
    for run_, factor in ((plain, 1.0), (found, 1 / ratio)):
        program = run_.run.program
        ops = np.flatnonzero(
            (program.label == program.labels.index("forward"))
            & np.array([program.streams[s].endswith("stage 1 compute") for s in program.stream])
        )
        took = (run_.run.end - run_.run.start)[ops]
        assert took == pytest.approx(plain.jobs[0].cost.chunks[1][0].forward * factor, rel=0.05)


def test_fewer_layers_on_the_slower_kind_help() -> None:
    """An asymmetric pipeline: 3 + 1 layers beat 2 + 2 where the second stage is much slower."""
    slow = Conditions(host_speed=(1.0, 0.3, *[1.0] * 6))
    even, uneven = (mixed(slow, stages).jobs[0].step_time for stages in ((2, 2), (3, 1)))
    assert uneven < even
    on, off = (mixed(slow, (3, 1), folding).jobs[0].step_time for folding in (True, False))
    assert on == pytest.approx(off, rel=1e-12)


def test_speeds_of_hosts_are_checked() -> None:
    site = make_site()
    job = TrainingJob(MODEL, PIPELINE, global_batch=16, sequence=2048)
    with pytest.raises(ConfigError, match="host 9 does not exist"):
        host_speeds(job, site, GPU(H100), {9: A100})
    with pytest.raises(ConfigError, match="8 positive numbers"):
        mixed(Conditions(host_speed=(1.0, 2.0)))
