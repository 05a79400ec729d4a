"""Queues, levels and dynamic plans in a run of flows, against closed forms of weighted fair queueing."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import numpy as np
import pytest

from euston.fabrics import clos
from euston.network import Flows
from euston.network.allocation import Place, QueuePlan
from euston.network.allocation.per_job import PerJob
from euston.network.allocation.strict_priority import StrictPriority
from euston.network.balancing.spray import Spray
from euston.traffic.fluid import FluidSettings, run_fluid

RATE = 12.5e9
PLAIN = FluidSettings(header=0, window=0.0)


def fabric(hosts: int = 8):
    return clos(hosts, 1, nic=RATE, hosts_per_tor=hosts // 2, aggs_per_pod=2)


@pytest.mark.parametrize("folding", [True, False])
def test_jobs_share_by_weight_however_many_flows_they_open(folding):
    """Job a sends one flow, job b three, to one receiver: 1:1 by job and not 1:3 (closed form)."""
    flows = Flows.of([1, 2, 3, 4], 0, [3_000_000, 1_000_000, 1_000_000, 1_000_000])
    settings = FluidSettings(header=0, window=0.0, folding=folding)
    run = run_fluid(
        flows, fabric(), Spray(), settings=settings, allocation=PerJob(), jobs=("a", "b"), job=[0, 1, 1, 1]
    )
    # Both queues drain 3 MB at half the rate.
    assert run.end[0] == pytest.approx(run.end[1:3].max(), rel=1e-3)
    assert run.end[0] == pytest.approx(6e6 / RATE, rel=5e-3)
    weighted = run_fluid(
        flows,
        fabric(),
        Spray(),
        settings=settings,
        allocation=PerJob({"a": 3.0}),
        jobs="ab",
        job=[0, 1, 1, 1],
    )
    assert weighted.end[0] == pytest.approx(3e6 / (0.75 * RATE), rel=5e-3)
    assert run.meta["allocation"] == "per_job" and run.stats["unsettled_solves"] == 0


def test_strict_levels_go_one_after_the_other():
    """Two flows to one receiver, the second of a lower level: it waits for the first (closed form)."""
    flows = Flows.of([1, 2], 0, 1_000_000, priority=[0, 1])
    plain = run_fluid(flows, fabric(), Spray(), settings=PLAIN)
    run = run_fluid(flows, fabric(), Spray(), settings=PLAIN, allocation=StrictPriority({}))
    one = 1e6 / RATE
    assert plain.end[0] - run.end[0] == pytest.approx(one, rel=1e-6)
    assert run.end[1] - run.end[0] == pytest.approx(one, rel=1e-6)


@dataclass
class _Turns:
    """Gives the newest flow nine tenths of every link, planned anew ``delay`` s after each start."""

    delay: float
    log: list

    def __post_init__(self):
        self.plan = QueuePlan(np.array([1.0, 9.0]))
        self.running = []

    def place(self, transfer):
        return Place(0)

    def started(self, time, transfer):
        self.log.append(("start", transfer.number, round(time * 1e6, 3), transfer.links.size))
        self.running.append(transfer.number)
        return time + self.delay

    def ended(self, time, transfer):
        self.log.append(("end", transfer.number))
        self.running.remove(transfer.number)
        return inf

    def replan(self, time):
        newest = max(self.running, default=None)
        return QueuePlan(self.plan.weights, moves={f: Place(int(f == newest)) for f in self.running})


@dataclass(frozen=True)
class Newest:
    """A dynamic policy for the test."""

    delay: float
    log: list
    name: ClassVar[str] = "newest"
    dynamic: ClassVar[bool] = True

    def begin(self, fabric, jobs, kinds):
        return _Turns(self.delay, self.log)


def test_a_dynamic_policy_is_told_and_its_plans_hold():
    """Flow 1 joins flow 0, which has nine tenths, at 20 us and takes its place at 30 (by hand)."""
    log: list = []
    flows = Flows.of([1, 2], 0, [1_000_000, 500_000], start=[0.0, 20e-6])
    run = run_fluid(flows, fabric(), Spray(), settings=PLAIN, allocation=Newest(10e-6, log))
    base = 2 * 0.5e-6 + 4096 / RATE  # two hops and a packet stored between them
    left = 500_000 - 10e-6 * 0.1 * RATE
    end = 30e-6 + left / (0.9 * RATE)
    assert run.end[1] - base == pytest.approx(end, rel=1e-6)
    rest = 1e6 - 20e-6 * RATE - 10e-6 * 0.9 * RATE - left / 9
    assert run.end[0] - base == pytest.approx(end + rest / RATE, rel=1e-6)
    assert [entry[:2] for entry in log] == [("start", 0), ("start", 1), ("end", 1), ("end", 0)]
    assert log[1][2] == 20.0 and log[0][3] >= 2
