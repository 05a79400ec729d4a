"""One training iteration on a site: the jobs' programs, written, replicated and executed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from euston.clock import (
    CapacityEvent,
    Execution,
    Program,
    QueueTable,
    SpeedEvent,
    TransferTable,
    execute,
)  # fmt: skip
from euston.cluster import Placement, Site
from euston.devices import GPU
from euston.errors import ConfigError, SimulationError
from euston.network import Lowered, Transfers
from euston.network.allocation import Allocator, assign
from euston.training._table import KINDS, join_tables, transfer_table
from euston.training.conditions import Conditions, LinkFault
from euston.training.costs import Costs, costs
from euston.training.job import TrainingJob
from euston.training.routes import Traits
from euston.training.stages import Stages
from euston.training.wiring import JobWiring, Wiring, wire
from euston.training.write import Template, write_iteration

__all__ = [
    "Composed", "Iteration", "JobRun", "collect", "compose", "compute_streams", "run_iteration",
    "stage_starts",
]  # fmt: skip


@dataclass(frozen=True)
class JobRun:
    """One job's part of an iteration.

    Attributes
    ----------
    index : int64[classes, N]
        Where operation i of replica class k is in the executed program.
    replicas : int64[classes]
        How many replicas each class stands for.
    step_time : float
        Seconds until its last operation ended.
    """

    job: TrainingJob
    stages: Stages
    cost: Costs
    template: Template
    index: NDArray[np.int64]
    replicas: NDArray[np.int64]
    representative: NDArray[np.int64]
    step_time: float


@dataclass(frozen=True)
class Iteration:
    """Everything that happened: the execution, the lowered routes and each job's part."""

    run: Execution
    jobs: tuple[JobRun, ...]
    wiring: Wiring
    lowered: Lowered
    table: TransferTable
    row_bytes: NDArray[np.float64]
    conditions: Conditions
    columns: int
    classes: int
    rounds: int


@dataclass(frozen=True)
class Composed:
    """The jobs' programs side by side with everything that an executor needs.

    Attributes
    ----------
    program, table, events, speed
        What ``clock.Executor`` takes.
    parts : tuple of (Stages, Costs, Template, int64[classes, N])
        Of each job; the last says where its operations are in ``program``.
    first : int64[jobs + 1]
        First operation of every job; then one behind the last.
    first_guest : int
        Number of the first guest's transfer in ``table``.
    """

    jobs: tuple[TrainingJob, ...]
    wiring: Wiring
    conditions: Conditions
    program: Program
    table: TransferTable
    events: tuple[CapacityEvent | SpeedEvent, ...]
    speed: NDArray[np.float64]
    parts: tuple[tuple[Stages, Costs, Template, NDArray[np.int64]], ...]
    first: NDArray[np.int64]
    first_guest: int

    def step_time(self, number: int, start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
        """Seconds of a step of job ``number``, by start and end of every operation since it began."""
        _, _, template, index = self.parts[number]
        return _step_time(start, end, template, index)


def compose(
    jobs: Sequence[tuple[TrainingJob, Placement]],
    site: Site,
    devices: Sequence[GPU],
    conditions: Conditions | None = None,
    *,
    wiring: Wiring | None = None,
    guests: Sequence[tuple[str, Transfers]] = (),
    ends: bool = False,
) -> Composed:
    """Write one optimiser step of every job on one site; see ``run_iteration``.

    Parameters
    ----------
    guests : sequence of (str, Transfers)
        What others, by name, send beside the jobs: coupled transfers, of one byte per repeat in the table.
    ends : bool
        Close every job's program with an operation that tells when it is over.
    """
    c = conditions or Conditions()
    traits = [_traits(job) for job, _ in jobs]
    everyone = [*(job.name for job, _ in jobs), *(name for name, _ in guests)]
    allocator = _allocator(c, site, everyone)
    if wiring is None:
        plan = allocator.plan if allocator else None
        beside = Transfers.concatenate([sent for _, sent in guests]) if guests else None
        wiring = wire([(job.parallel, placement) for job, placement in jobs], site, c, traits, plan, beside)
    elif not wiring.fits([job.parallel for job, _ in jobs], traits):
        raise ConfigError("`wiring`: was made for jobs of another layout; make a new one")
    events: list[CapacityEvent | SpeedEvent] = [*wiring.events]
    tables: list[TransferTable] = []
    kinds: list[NDArray[np.int64]] = []
    programs: list[Program] = []
    parts: list[tuple[Stages, Costs, Template, NDArray[np.int64]]] = []
    speed: list[NDArray[np.float64]] = [np.zeros(0)]
    transfers = streams = 0
    for (job, _), device, mine in zip(jobs, devices, wiring.jobs, strict=True):
        stages = job.place()
        cost = costs(job, stages, device, speed_spread=0.0 if c.jitter else c.speed_spread)
        template = write_iteration(job, stages, cost)
        table, transfer_of, kind = transfer_table(job, cost, template.pieces, wiring, mine)
        kinds.append(kind)
        program, index = template.program.replicate(
            mine.representative.size,
            shared=template.shared,
            shared_stream=template.shared_stream,
            transfer_of=transfer_of + np.int32(transfers),
            count=mine.count,
            prefix=tuple(f"{job.name} replica {r} " for r in mine.representative),
        )
        of_job, changes = _speeds(c, site, mine, program, compute_streams(program, template, index))
        speed.append(of_job)
        events += [SpeedEvent(e.time, e.stream + streams, e.speed) for e in changes]
        transfers += len(table)
        streams += len(program.streams)
        tables.append(table)
        programs.append(program.with_end() if ends else program)
        parts.append((stages, cost, template, index))
    first = np.cumsum([0, *map(len, programs)])
    program = Program.concatenate(programs)[0] if len(programs) > 1 else programs[0]
    del programs
    if guests:
        tables.append(TransferTable.units(wiring.columns, wiring.guests))
        kinds += [np.full(len(sent), KINDS.index("kv")) for _, sent in guests]
    table = join_tables(tables) if len(tables) > 1 else tables[0]
    if allocator is not None:
        table = _queued(table, allocator, wiring, everyone, kinds)
    for part, begin in zip(parts, first, strict=False):
        if begin:
            part[3][...] += begin
    return Composed(
        tuple(job for job, _ in jobs),
        wiring,
        c,
        program,
        table,
        tuple(events),
        np.concatenate(speed),
        tuple(parts),
        first,
        transfers,
    )


def run_iteration(
    jobs: Sequence[tuple[TrainingJob, Placement]],
    site: Site,
    devices: Sequence[GPU],
    conditions: Conditions | None = None,
    *,
    wiring: Wiring | None = None,
) -> Iteration:
    """Execute one optimiser step of every job, all starting together on one site.

    Parameters
    ----------
    jobs : sequence of (TrainingJob, Placement)
        Checked jobs; their placements must not overlap.
    devices : sequence of GPU
        Prices each job's operators.
    wiring : Wiring, optional
        Of an earlier iteration with the same site, conditions, layouts and placements: saves making it again.

    Raises
    ------
    RouteError, SimulationError
        When the network is partitioned; the stuck transfers are named.
    ConfigError
        When a link fails that only a change of routes in the middle of the step could save.
    """
    made = compose(jobs, site, devices, conditions, wiring=wiring)
    wiring = made.wiring
    try:
        run = execute(made.program, made.table, wiring.capacity, events=made.events, speed=made.speed)
    except SimulationError:
        _refuse(wiring.failing, site)
        raise
    _refuse([fault for fault in wiring.failing if fault.at < run.makespan], site)
    return collect(made, run)


def collect(made: Composed, run: Execution) -> Iteration:
    """An executed step of all jobs, with each one's part."""
    done = []
    for j, (stages, cost, template, index) in enumerate(made.parts):
        mine = made.wiring.jobs[j]
        step = made.step_time(j, run.start, run.end)
        done.append(
            JobRun(made.jobs[j], stages, cost, template, index, mine.count, mine.representative, step)
        )
    low = made.wiring.lowered
    row_bytes = low.columns.load(_column_bytes(made.program, made.table, made.wiring.column_of))
    return Iteration(
        run,
        tuple(done),
        made.wiring,
        low,
        made.table,
        row_bytes,
        made.conditions,
        len(low.columns),
        len(made.wiring.columns),
        made.wiring.rounds,
    )


def _allocator(c: Conditions, site: Site, jobs: Sequence[str]) -> Allocator | None:
    """The decisions of the allocation policy, if there is one.

    Raises
    ------
    ConfigError
        For a policy that must be told of every start and end.
    """
    if c.allocation is None:
        return None
    if c.allocation.dynamic:
        raise ConfigError(
            f"`policies.allocation`: {c.allocation.name} plans anew at starts and ends, which a step of "
            "training does not tell; take one that decides beforehand (per_job, strict_priority, ...)"
        )
    return c.allocation.begin(site.fabric, jobs, KINDS)


def _queued(
    table: TransferTable,
    allocator: Allocator,
    wiring: Wiring,
    jobs: Sequence[str],
    kinds: Sequence[NDArray[np.int64]],
) -> TransferTable:
    """The table with every transfer in its queue."""
    job = np.repeat(np.arange(len(jobs)), [kind.size for kind in kinds])
    placed = assign(allocator, jobs=jobs, job=job, kinds=KINDS, kind=np.concatenate(kinds))
    flows = np.diff(table.ptr)
    weighted = replace(table, weight=table.weight * np.repeat(placed.factor, flows))
    if placed.plain or wiring.queue_weights is None:
        return weighted
    queue, priority = np.repeat(placed.queue, flows), np.repeat(placed.priority, flows)
    return replace(weighted, queues=QueueTable(queue, priority, wiring.queue_weights))


def _traits(job: TrainingJob) -> Traits:
    """What the routes of a job depend on besides its layout; nothing that it does not use."""
    return Traits(
        both_ways=job.schedule == "dualpipe",
        context=job.software.context if job.parallel.context > 1 else "ring",
        tied=job.model.tied and job.parallel.pipeline > 1 and job.schedule != "dualpipe",
    )


def stage_starts(
    start: NDArray[np.float64], template: Template, index: NDArray[np.int64]
) -> NDArray[np.float64]:
    """When each stage of each class begins its step, float64[classes, stages]: at 0 unless steps roll."""
    stages = len(template.compute_stream)
    out = np.zeros((index.shape[0], stages))
    if template.rolling:
        out[:] = np.inf
        for s in range(stages):
            mine = template.program.stream == template.compute_stream[s]
            out[:, s] = start[index[:, mine]].min(axis=1)
    return out


def _step_time(
    start: NDArray[np.float64], end: NDArray[np.float64], template: Template, index: NDArray[np.int64]
) -> float:
    """Seconds from one step to the next.

    Where stages roll on one after the other, every stage may begin its next step as soon as its own is over:
    the longest of them sets the period.
    """
    if not template.rolling:
        return float(end[index].max())
    begin = stage_starts(start, template, index)
    return max(
        float((end[index[:, template.stage == s]].max(axis=1) - begin[:, s]).max())
        for s in range(begin.shape[1])
    )


def _speeds(
    c: Conditions, site: Site, mine: JobWiring, program: Program, compute: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[SpeedEvent]]:
    """Speed of the program's streams at the start, float64[S], and what changes of it."""
    start, changes = c.speeds(site, mine.routes.grid, mine.representative)
    speed = np.ones(len(program.streams))
    speed[compute] = start
    return speed, [SpeedEvent(t, int(compute[k, s]), v) for t, k, s, v in changes]


def _refuse(failing: Sequence[LinkFault], site: Site) -> None:
    for fault in failing:
        raise ConfigError(
            f"`faults`: {site.fabric.link_name(fault.link)} fails {fault.at:g} s into the step while flows "
            "use it that have other paths, and this version does not re-route them in the middle of a step; "
            "let it fail from the start (`at: 0 s`) or keep a `factor` above 0"
        )


def compute_streams(program: Program, template: Template, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stream of every (replica class, stage)'s compute, int64[classes, stages]."""
    first = [int(np.flatnonzero(template.program.stream == s)[0]) for s in template.compute_stream]
    return program.stream[index[:, first]].astype(np.int64)


def _column_bytes(
    program: Program, table: TransferTable, column_of: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Bytes per member of every unfolded column, float64[C]: all members of a class carry the same."""
    moving = program.transfer >= 0
    times = np.bincount(program.transfer[moving], weights=program.work[moving], minlength=len(table))
    times = np.repeat(times, np.diff(table.ptr))
    classes = int(column_of.max(initial=-1)) + 1
    per_class = np.bincount(table.column, weights=table.size * times, minlength=classes)
    return np.asarray(per_class, np.float64)[column_of]
