"""One training iteration on a site: routes lowered, replicas folded, programs executed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.clock import CapacityEvent, Execution, SpeedEvent, TransferTable, execute
from euston.clock.program import Program
from euston.cluster import Placement, Site
from euston.collectives import ring_bytes, ring_steps
from euston.collectives.network_rates import (
    P2P_LATENCY,
    SCALE_OUT_EFFICIENCY,
    SCALE_OUT_STEP_LATENCY,
    SM_SHARE,
)
from euston.devices import GPU
from euston.devices.interconnect import RING_EFFICIENCY
from euston.errors import ConfigError
from euston.fabrics import LinkKind
from euston.network import Columns, Lowered, Transfers, fold, lower
from euston.training.conditions import Conditions, fold_events
from euston.training.costs import Costs, costs
from euston.training.job import TrainingJob
from euston.training.routes import Grid, grid, routes
from euston.training.stages import Stages
from euston.training.write import Slots, Template, write_iteration

__all__ = ["Iteration", "JobRun", "compute_streams", "run_iteration"]

_ELEMENT = {"fp32": 4, "bf16": 2, "fp16": 2}
_SCALE_UP = (LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN)


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
    lowered: Lowered
    table: TransferTable
    row_bytes: NDArray[np.float64]
    conditions: Conditions
    columns: int
    classes: int
    rounds: int


def run_iteration(
    jobs: Sequence[tuple[TrainingJob, Placement]],
    site: Site,
    devices: Sequence[GPU],
    conditions: Conditions | None = None,
) -> Iteration:
    """Execute one optimiser step of every job, all starting together on one site.

    Parameters
    ----------
    jobs : sequence of (TrainingJob, Placement)
        Checked jobs; their placements must not overlap.
    devices : sequence of GPU
        Prices each job's operators.

    Raises
    ------
    RouteError, SimulationError
        When the network is partitioned; the stuck transfers are named.
    """
    c = conditions or Conditions()
    fabric = site.fabric
    places = [grid(job.parallel, placement) for job, placement in jobs]
    _disjoint(places)
    domain = fabric.domain
    parts, rings, first_owner, first_role = [], [], 0, 0
    owners = []
    for g in places:
        unit, *n = routes(g, domain, first_owner=first_owner, first_role=first_role)
        parts.append(unit)
        rings.append((n[0], n[1]))  # of gradients, of tensor-parallel collectives
        owners.append(first_owner)
        first_owner += g.replicas
        first_role += 4 * g.stages
    capacity, floor = c.capacities(fabric)
    low = lower(Transfers.concatenate(parts), fabric, c.balancing, capacity=capacity, floor=floor)
    best = _best_rate(low, site)
    events: list[CapacityEvent | SpeedEvent] = []
    row_label = low.capacity
    if c.links:
        changes, row_label = c.capacity_events(fabric, low)
        events += changes
    columns = low.binding
    column_of: NDArray[np.int64] = np.arange(len(low.columns))
    representative = [np.arange(g.replicas, dtype=np.int64) for g in places]
    count = [np.ones(g.replicas, np.int64) for g in places]
    cap, rounds, row_class = low.capacity, 0, None
    if not c.contention:
        columns = Columns(
            np.zeros(len(low.columns) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0), low.columns.rows
        )
    if c.folding:
        folding = fold(
            columns, row_label=row_label, column_label=low.transfers.role + 1,
            owner=low.transfers.owner, owner_label=c.owner_labels(site, places),
        )  # fmt: skip
        rounds = folding.rounds
        if folding.ratio > 1.0:
            columns, row_class = folding.columns, folding.row_class
            column_of = folding.column_class.astype(np.int64)
            cap = low.capacity[folding.row_representative]
            events = [*fold_events(changes, row_class)] if c.links else []
            for j, g in enumerate(places):
                mine = folding.owner_class[owners[j] : owners[j] + g.replicas]
                _, earliest, times = np.unique(mine, return_index=True, return_counts=True)
                order = np.argsort(earliest)
                representative[j], count[j] = earliest[order].astype(np.int64), times[order].astype(np.int64)
    tables, programs, runs = [], [], []
    speed: list[NDArray[np.float64]] = []
    table_offset, first_stream = 0, 0
    for j, (job, _) in enumerate(jobs):
        stages = job.place()
        cost = costs(job, stages, devices[j], speed_spread=c.speed_spread)
        template = write_iteration(job, stages, cost)
        slots = Slots(stages.pipeline, stages.virtual)
        first = int(sum(len(p) for p in parts[:j]))
        job_table, transfer_of = _table(
            job,
            cost,
            slots,
            places[j],
            representative[j],
            first,
            rings[j],
            best,
            column_of,
            table_offset,
            domain,
        )
        table_offset += len(job_table)
        program, index = template.program.replicate(
            representative[j].size,
            shared=template.shared,
            shared_stream=template.shared_stream,
            transfer_of=transfer_of,
            count=count[j],
            prefix=tuple(f"{job.name} replica {r} " for r in representative[j]),
        )
        host_speed, changes_of_speed = c.speeds(site, places[j], representative[j])
        streams = compute_streams(program, template, index)
        at_start = np.ones(len(program.streams))
        at_start[streams] = host_speed
        speed.append(at_start)
        events += [SpeedEvent(t, first_stream + int(streams[k, s]), v) for t, k, s, v in changes_of_speed]
        first_stream += len(program.streams)
        tables.append(job_table)
        programs.append(program)
        runs.append((job, stages, cost, template, index))
    program, op_offsets = Program.concatenate(programs)
    table = _join_tables(tables, columns)
    run = execute(program, table, cap, events=events, speed=np.concatenate(speed))
    row_bytes = low.columns.load(_column_bytes(program, table, column_of, len(low.columns)))
    done = []
    for j, (job, stages, cost, template, index) in enumerate(runs):
        where = index + op_offsets[j]
        done.append(
            JobRun(
                job, stages, cost, template, where, count[j], representative[j],
                float(run.end[where].max()),
            )
        )  # fmt: skip
    return Iteration(run, tuple(done), low, table, row_bytes, c, len(low.columns), len(columns), rounds)


def _disjoint(places: Sequence[Grid]) -> None:
    everyone = np.concatenate([g.endpoint.ravel() for g in places])
    if np.unique(everyone).size != everyone.size:
        raise ConfigError("`jobs`: two jobs are placed on the same accelerators; give them different hosts")


def _best_rate(low: Lowered, site: Site) -> NDArray[np.float64]:
    """Bytes/s that one member of each column reaches alone, as a collective library does, float64[C].

    The tightest row, at the share of its capacity that a library's traffic achieves there.
    """
    fabric = site.fabric
    row_kind = np.concatenate((fabric.kind[fabric.bundle_start[:-1]], fabric.kind))
    achieved = np.where(np.isin(row_kind, _SCALE_UP), RING_EFFICIENCY, SCALE_OUT_EFFICIENCY)
    rate = (low.capacity * achieved)[low.columns.row] / low.columns.coefficient
    out = np.full(len(low.columns), np.inf)
    filled = np.diff(low.columns.ptr) > 0
    if rate.size:
        out[filled] = np.minimum.reduceat(rate, low.columns.ptr[:-1][filled])
    return out


def _table(
    job: TrainingJob,
    cost: Costs,
    slots: Slots,
    places: Grid,
    representative: NDArray[np.int64],
    first: int,
    rings: tuple[int, int],
    best: NDArray[np.float64],
    column_of: NDArray[np.int64],
    offset: int,
    domain: NDArray[np.int32],
) -> tuple[TransferTable, NDArray[np.int32]]:
    """The job's transfer table, and which of its rows each replica class uses, int32[classes, slots]."""
    d, p, _ = places.endpoint.shape
    v, k = slots.virtual, representative.size
    route, size, rate, latency = [], [], [], []
    stage = np.arange(p)
    for kind in range(3):
        # Transfers of one kind are ordered by replica, then stage.
        mine = first + kind * d * p + representative[:, None] * p + stage
        route.append(mine.ravel())
        if kind == 0 and cost.collective is not None:
            inside = (domain[places.endpoint] == domain[places.endpoint[:, :, :1]]).all()
            alone = best[mine.ravel()]
            rate.append(np.minimum(alone / RING_EFFICIENCY, cost.collective.rate) if inside else alone)
            size.append(np.full(k * p, cost.collective.wire_bytes / rings[1]))
            hops = 0.0 if inside else _hops(job, places, domain)
            latency.append(np.full(k * p, cost.collective.latency + hops))
        else:
            rate.append(best[mine.ravel()])
            size.append(np.full(k * p, cost.pipeline_bytes if kind else 0.0))
            latency.append(np.full(k * p, P2P_LATENCY if kind else 0.0))
    data = first + 3 * d * p + stage
    hosts = np.unique(domain[places.endpoint[:, 0, 0]]).size
    gradient = _ELEMENT[job.software.gradient_dtype]
    reduce = "all_reduce" if job.parallel.sharding == "none" else "reduce_scatter"
    for collective, element in (("all_gather", 2), (reduce, gradient)):
        steps = ring_steps(collective, hosts) if hosts > 1 else 0
        for s in range(p):
            for c in range(v):
                route.append(data[s : s + 1])
                buffer = element * cost.chunks[s][c].parameters / rings[0]
                size.append(np.array([ring_bytes(collective, d, buffer)]))
                rate.append(best[data[s : s + 1]])
                latency.append(np.array([steps * SCALE_OUT_STEP_LATENCY]))
    column = column_of[np.concatenate(route)].astype(np.int32)
    n = column.size
    cap = np.concatenate(rate)
    table = TransferTable(
        ptr=np.arange(n + 1, dtype=np.int64),
        column=column,
        size=np.concatenate(size),
        weight=np.ones(n),
        rate_cap=np.where(np.isfinite(cap), cap, 1e18),
        latency=np.concatenate(latency),
        slow_share=np.concatenate(
            (np.full(k * p, SM_SHARE["scale_up"]), np.full(n - k * p, SM_SHARE["scale_out"]))
        ),
        columns=Columns(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0), 0),
    )
    own = np.arange(3)[None, :, None] * k * p + np.arange(k)[:, None, None] * p + stage
    shared = 3 * k * p + np.arange(2 * p * v)
    transfer_of = np.concatenate((own.reshape(k, 3 * p), np.broadcast_to(shared, (k, shared.size))), axis=1)
    return table, (transfer_of + offset).astype(np.int32)


def _hops(job: TrainingJob, places: Grid, domain: NDArray[np.int32]) -> float:
    """Seconds that a tensor-parallel collective's steps between scale-up domains add."""
    groups = domain[places.endpoint].reshape(-1, places.endpoint.shape[2])
    spanned = max(np.unique(group).size for group in groups)
    kind = "all_gather" if job.parallel.sequence else "all_reduce"
    return ring_steps(kind, spanned) * SCALE_OUT_STEP_LATENCY


def _join_tables(tables: Sequence[TransferTable], columns: Columns) -> TransferTable:
    def both(name: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(t, name) for t in tables])

    n = int(sum(len(t) for t in tables))
    return TransferTable(
        np.arange(n + 1, dtype=np.int64), both("column").astype(np.int32), both("size"), both("weight"),
        both("rate_cap"), both("latency"), both("slow_share"), columns,
    )  # fmt: skip


def compute_streams(program: Program, template: Template, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stream of every (replica class, stage)'s compute, int64[classes, stages]."""
    first = [int(np.flatnonzero(template.program.stream == s)[0]) for s in template.compute_stream]
    return program.stream[index[:, first]].astype(np.int64)


def _column_bytes(
    program: Program, table: TransferTable, column_of: NDArray[np.int64], columns: int
) -> NDArray[np.float64]:
    """Bytes per member of every unfolded column, float64[C]: all members of a class carry the same."""
    moving = program.transfer >= 0
    per_class = np.bincount(
        table.column[program.transfer[moving]],
        weights=table.size[program.transfer[moving]] * program.work[moving],
        minlength=int(column_of.max(initial=-1)) + 1,
    )
    return np.asarray(per_class, np.float64)[column_of][:columns]
