"""States of a cluster that a steady step depends on, each simulated once and remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from euston.cluster import Placement, Site, place
from euston.devices import GPU
from euston.errors import SimulationError
from euston.training.conditions import Conditions, HostFault, LinkFault
from euston.training.iteration import run_iteration
from euston.training.job import TrainingJob
from euston.training.outcome import job_scalars

__all__ = ["HEALTHY", "Fault", "FixedSteps", "SimulatedSteps", "State", "Step", "StepModel"]

AGREE = 1e-9
"""Two simulated steps of one state must agree to this before they stand for all."""


@dataclass(frozen=True, order=True)
class Fault:
    """A host of the job that is slower than usual: its speed (``nic`` -1) or one NIC's bandwidth."""

    host: int
    factor: float
    nic: int = -1


@dataclass(frozen=True)
class State:
    """Replicas lost by shrinking, and the faults of the hosts in use, in order."""

    missing: int = 0
    faults: tuple[Fault, ...] = ()


HEALTHY = State()


@dataclass(frozen=True)
class Step:
    """A steady step: seconds, tokens, joules of all accelerators of the job."""

    seconds: float
    tokens: float
    energy: float = 0.0


class StepModel(Protocol):
    """Says what a step is like in a state."""

    def step(self, state: State) -> Step:
        """The steady step."""

    def hosts(self, missing: int) -> int:
        """Hosts that the job needs when so many replicas are gone."""

    @property
    def replicas(self) -> int:
        """Replicas at full size."""


@dataclass
class FixedSteps:
    """Steps from a formula instead of a simulation: as slow as the slowest host.

    A halved NIC slows the share ``exposed`` of the step.
    """

    seconds: float
    tokens: float
    hosts_per_replica: int = 1
    replicas: int = 1
    exposed: float = 0.0
    energy: float = 0.0

    def step(self, state: State) -> Step:
        """The steady step of a state."""
        slow = max((1.0 / f.factor for f in state.faults if f.nic < 0), default=1.0)
        half = max((1.0 / f.factor for f in state.faults if f.nic >= 0), default=1.0)
        seconds = self.seconds * ((1.0 - self.exposed) * slow + self.exposed * half)
        return Step(seconds, self.tokens * (self.replicas - state.missing) / self.replicas, self.energy)

    def hosts(self, missing: int) -> int:
        """Hosts that the job needs when so many replicas are gone."""
        return self.hosts_per_replica * (self.replicas - missing)


@dataclass
class SimulatedSteps:
    """Steps of a training job on a site, executed with its schedule and network; one run per state.

    Parameters
    ----------
    keep_batch : bool
        A shrunken job keeps its batch (more micro-batches for each replica) instead of losing a share of it.
    tell : callable
        Told when a state is simulated.
    """

    job: TrainingJob
    placement: Placement
    site: Site
    device: GPU
    conditions: Conditions
    keep_batch: bool = False
    tell: Callable[[str], None] = lambda _: None
    known: dict[State, Step] = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        """Replicas at full size."""
        return self.job.parallel.data

    def hosts(self, missing: int) -> int:
        """Whole hosts of the job that many replicas smaller."""
        world = self.job.parallel.world // self.replicas * (self.replicas - missing)
        return -(-world // self.site.accelerators_per_host)

    def step(self, state: State) -> Step:
        """The steady step of a state: simulated at its first use."""
        job, placement = self._layout(state.missing)
        key = State(state.missing, _canonical(state.faults, _blocks(job, placement)))
        if key not in self.known:
            self.tell(f"simulating state {len(self.known) + 1}: {_words(key)}")
            found = self._simulate(job, placement, key)
            if (
                not self.known
                and abs(self._simulate(job, placement, key).seconds / found.seconds - 1) > AGREE
            ):
                raise SimulationError("two steps of the same job differ; no steady state to extrapolate from")
            self.known[key] = found
        return self.known[key]

    def _layout(self, missing: int) -> tuple[TrainingJob, Placement]:
        if not missing:
            return self.job, self.placement
        data = self.replicas - missing
        each = self.job.global_batch // self.replicas
        if self.keep_batch:
            micro = self.job.micro_batch
            each = -(-self.job.global_batch // (data * micro)) * micro
        parallel = replace(self.job.parallel, data=data)
        job = replace(self.job, parallel=parallel, global_batch=each * data)
        job.check(where="a shrunken job")
        return job, place(parallel, self.site, hosts=self._host_list()[: self.hosts(missing)])

    def _host_list(self) -> list[int]:
        each = self.site.accelerators_per_host
        return [int(h) for h in dict.fromkeys((np.asarray(self.placement.endpoint) // each).tolist())]

    def _simulate(self, job: TrainingJob, placement: Placement, state: State) -> Step:
        where = self._host_list()
        hosts = tuple(HostFault(where[f.host], f.factor) for f in state.faults if f.nic < 0)
        links = [fault for f in state.faults if f.nic >= 0 for fault in self._halved(where[f.host], f)]
        conditions = replace(
            self.conditions,
            hosts=(*self.conditions.hosts, *hosts),
            links=(*self.conditions.links, *links),
        )
        found = run_iteration([(job, placement)], self.site, [self.device], conditions)
        scalars = job_scalars(found, 0, self.site)
        # a kept batch that does not divide is rounded up by the layout; its tokens are those asked for
        tokens = min(job.tokens_per_step, self.job.tokens_per_step)
        return Step(float(scalars["step_time"]), float(tokens), float(scalars["energy"]))

    def _halved(self, host: int, fault: Fault) -> list[LinkFault]:
        """The NIC's links at a share of their capacity; one of its ports gone where it has several."""
        endpoint = host * self.site.accelerators_per_host + fault.nic
        fabric = self.site.fabric
        up = [int(link) for link in fabric.tier_links()["NIC up"] if fabric.link_src[link] == endpoint]
        factor = fault.factor if len(up) < 2 else 0.0
        gone = up if len(up) < 2 else up[:1]
        down = [int(fabric.reverse[link]) for link in gone]
        return [LinkFault(link, factor) for link in (*gone, *down)]


Blocks = tuple[dict[int, tuple[int, int]], dict[tuple[int, int], int], bool]


def _blocks(job: TrainingJob, placement: Placement) -> Blocks:
    """Host -> (block of replicas, place in it), its inverse, and whether blocks are equal."""
    each = placement.accelerators_per_host
    data = np.asarray(placement.coordinates()["data"])
    hosts = placement.hosts_needed
    padded = np.full(hosts * each, -1, np.int64)
    padded[: data.size] = data
    sets = [tuple(np.unique(row[row >= 0]).tolist()) for row in padded.reshape(hosts, each)]
    order = {s: i for i, s in enumerate(dict.fromkeys(sets))}
    of: dict[int, tuple[int, int]] = {}
    filled = [0] * len(order)
    for host, s in enumerate(sets):
        of[host] = (order[s], filled[order[s]])
        filled[order[s]] += 1
    disjoint = sum(len(s) for s in order) == job.parallel.data
    equal = disjoint and len(set(filled)) == 1 and job.parallel.expert == 1
    return of, {where: host for host, where in of.items()}, equal


def _canonical(faults: tuple[Fault, ...], blocks: Blocks) -> tuple[Fault, ...]:
    """The same faults in the first replicas: which of equal replicas they hit makes no difference."""
    of, host_at, equal = blocks
    if not equal or not faults:
        return tuple(sorted(faults))
    by_block: dict[int, list[tuple[int, float, int]]] = {}
    for f in faults:
        block, position = of[f.host]
        by_block.setdefault(block, []).append((position, f.factor, f.nic))
    moved = []
    for number, found in enumerate(sorted(sorted(group) for group in by_block.values())):
        moved += [Fault(host_at[number, position], factor, nic) for position, factor, nic in found]
    return tuple(sorted(moved))


def _words(state: State) -> str:
    parts = [f"{state.missing} replicas fewer"] if state.missing else []
    slow, half = (sum((f.nic < 0) == kind for f in state.faults) for kind in (True, False))
    parts += [f"{slow} slow hosts"] if slow else []
    parts += [f"{half} NICs at part of their bandwidth"] if half else []
    return ", ".join(parts) or "healthy"
