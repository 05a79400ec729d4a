"""Flows on the fluid engine: lowered once per state of the routes, folded where that gains, executed.

A flow ends when its last byte has arrived: transfer at its max-min rates, then the latency of its paths, one
packet stored and forwarded on every hop after the first, and the hosts' overhead.
"""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.clock import Executor, QueueTable, TransferTable
from euston.errors import ConfigError, SimulationError
from euston.fabrics import Fabric
from euston.network import Columns, FlowResult, Flows
from euston.network._grouping import group
from euston.network._stuck import never_end
from euston.network.allocation import AllocationPolicy, assign_flows
from euston.network.allocation.max_min import MaxMin
from euston.network.balancing import Balancing
from euston.network.faults import LinkFault
from euston.traffic._follow import follow
from euston.traffic._program import flow_classes, flow_program
from euston.traffic._states import route_states, stack

__all__ = ["FluidSettings", "run_fluid"]


@dataclass(frozen=True)
class FluidSettings:
    """What a fluid run assumes; every value stands in the result.

    Attributes
    ----------
    mtu, header : int
        Payload of a full packet and bytes of its headers: 4096 and 58 (Ethernet, IPv4, UDP, IB BTH and CRCs,
        as RoCEv2 frames them).
    host_latency : float
        Seconds that the hosts add to every flow.
    tol : float
        Relative change of a link's fair share that is let pass; 0 is exact.
    window : float
        Seconds within which events count as one moment.
    folding : bool
        Treat equal flows as one; changes speed, never results.
    reconvergence : float
        Seconds from a link's death (or return) until routes know of it.
    utilisation, queue_delay, lag : float
        Effects of congestion control, off by default: the share of every link that it fills (HPCC 0.95),
        seconds of standing queue added to a flow's latency, and the time constant in seconds with which a
        running flow climbs to a larger rate.
    """

    mtu: int = 4096
    header: int = 58
    host_latency: float = 0.0
    tol: float = 0.0
    window: float = 1e-9
    folding: bool = True
    reconvergence: float = 0.0
    utilisation: float = 1.0
    queue_delay: float = 0.0
    lag: float = 0.0

    def __post_init__(self) -> None:
        if self.mtu < 1 or self.header < 0:
            raise ConfigError(f"`settings`: mtu {self.mtu} and header {self.header}; at least 1 and 0 bytes")
        for name in ("host_latency", "window", "reconvergence", "queue_delay", "lag"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"`settings.{name}`: {getattr(self, name)}; it must be seconds >= 0")
        if not 0 < self.utilisation <= 1 or not 0 <= self.tol < 1:
            raise ConfigError("`settings`: utilisation must be in (0, 1], tol in [0, 1)")

    def wire_bytes(self, payload: NDArray[np.int64]) -> NDArray[np.float64]:
        """Bytes on the wire: the payload and a header per packet."""
        return payload + np.ceil(payload / self.mtu) * self.header


class _Names(Sequence[str]):
    """Names of flows, made when somebody asks."""

    def __init__(self, flows: Flows, fabric: Fabric, number: NDArray[np.int64]) -> None:
        self._flows, self._fabric, self._number = flows, fabric, number

    def __len__(self) -> int:
        return int(self._number.size)

    def __getitem__(self, i: Any) -> Any:
        f, name = int(self._number[i]), self._fabric.endpoint_name
        return f"flow {f} ({name(int(self._flows.src[f]))} -> {name(int(self._flows.dst[f]))})"


def run_fluid(
    flows: Flows,
    fabric: Fabric,
    balancing: Balancing,
    *,
    faults: Sequence[LinkFault] = (),
    settings: FluidSettings | None = None,
    allocation: AllocationPolicy | None = None,
    jobs: Sequence[str] = ("",),
    job: ArrayLike = 0,
    seed: int = 0,
    until: float = np.inf,
) -> FlowResult:
    """Run flows to their ends (or to ``until`` seconds) with weighted max-min fair rates.

    ``allocation`` puts flows into weighted queues and strict levels (one queue when left out); ``jobs`` are
    the names that it may know, ``job`` int[F] or int says whose each flow is.

    Raises
    ------
    RouteError
        When two endpoints have no path at the start.
    SimulationError
        When flows can never end because their links stay dead; they are named.
    ConfigError
        For endpoints that do not exist.
    """
    began = clock.perf_counter()
    s = FluidSettings() if settings is None else settings
    flows.check(fabric)
    given = flows
    policy = MaxMin() if allocation is None else allocation
    allocator = policy.begin(fabric, jobs, (*flows.tags, ""))
    placed = assign_flows(allocator, flows, jobs=jobs, job=job) if not policy.dynamic else None
    if placed is not None:
        flows = placed.on(flows)
    queued = placed is None or not placed.plain
    states = route_states(flows, fabric, balancing, s.wire_bytes(flows.bytes), faults, allocator.plan, seed)
    system = stack(states, fabric, balancing, faults, s.utilisation, s.reconvergence, allocator.plan)
    low = states[0].lowered
    latency = path_latency(flows, fabric, s, low.columns, low.column)
    of = np.arange(len(flows))
    if s.folding and len(flows) > 1 and system.foldable and not policy.dynamic:
        found = flow_classes(flows, latency, system)
        if found is not None:
            of = found.column_class.astype(np.int64)
            system = system.folded(of, found.columns, found.row_representative)
    number = group(of)[0]
    program, sends = flow_program(flows, of, number, tell=policy.dynamic)
    table = TransferTable(
        ptr=np.arange(number.size + 1),
        column=system.column,
        size=low.size[number],
        weight=flows.weight[number],
        rate_cap=flows.rate_cap[number],
        latency=latency[number],
        slow_share=np.zeros(number.size),
        columns=system.columns,
        names=_Names(flows, fabric, number),
        choices=system.choices,
        queues=QueueTable(
            flows.queue[number].astype(np.int64),
            flows.priority[number].astype(np.int64),
            system.queue_weights,
        )
        if queued
        else None,
    )
    executor = Executor(
        program, table, system.capacity, events=system.events, tol=s.tol, window=s.window, lag=s.lag
    )
    if policy.dynamic:
        follow(allocator, executor, flows, fabric, system, sends, jobs, job, until)
    else:
        while not executor.done and executor.next_time() <= until and executor.next_time() < np.inf:
            executor.advance(until)
    begin, end, left = executor.progress()
    if not executor.done and executor.next_time() == np.inf:
        why = "their links are dead for good"
        raise SimulationError(
            never_end(given, fabric, np.isfinite(end[sends])[of], np.isfinite(begin[sends])[of], why)
        )
    run = executor.result()
    done = np.where(end[sends] <= until, 1.0, 1.0 - left[sends] / low.size[number])
    share = np.where(np.isfinite(begin[sends]), done, 0.0)[of]
    arrived = np.asarray(share * given.bytes, np.float64)
    return FlowResult(
        flows=given,
        start=run.start[sends][of],
        end=np.where(run.end[sends] <= until, run.end[sends], np.nan)[of],
        link_bytes=fabric.link_load(system.row_bytes(run.column_bytes, of)),
        stats={
            "events": float(run.events),
            "solves": float(run.solves),
            "repaired": float(run.repaired),
            "full_solves": float(run.full),
            "route_changes": float(len(states) - 1),
            "unsettled_solves": float(run.unsettled),
        },
        meta={
            "fidelity": "fluid",
            "ends": "the last byte has arrived",
            "balancing": balancing.name,
            "allocation": policy.name,
            "seed": seed,
            "fold_ratio": len(flows) / max(number.size, 1),
            "wall_s": clock.perf_counter() - began,
            "mtu": s.mtu + s.header,
            "header": s.header,
            "settings": asdict(s),
            "goodput_factor": s.mtu / (s.mtu + s.header),
        },
        arrived=arrived,
    )


def path_latency(
    flows: Flows,
    fabric: Fabric,
    s: FluidSettings,
    columns: Columns,
    column: NDArray[np.int32] | None = None,
) -> NDArray[np.float64]:
    """Seconds of a flow beyond its transfer, float64[F]: the mean over its bytes of the paths they take.

    ``columns`` are over rows of ``fabric``; ``column`` int32[F] is which a flow has, its own if left out.
    To the femtosecond: what is equal stays equal however it was summed.
    """
    own = np.arange(len(flows)) if column is None else column
    link = np.concatenate((fabric.bundle_start[:-1], np.arange(fabric.links)))[columns.row]
    of = np.repeat(np.arange(len(columns)), np.diff(columns.ptr))
    src = np.full(len(columns), -1, np.int64)
    src[own] = flows.src
    # A packet is stored and forwarded on every link but the first.
    forward = np.where(fabric.link_src[link] == src[of], 0.0, columns.coefficient / fabric.capacity[link])
    delay = np.bincount(of, columns.coefficient * fabric.latency[link], len(columns))[own]
    packet = np.minimum(s.mtu, flows.bytes) + s.header
    out = delay + packet * np.bincount(of, forward, len(columns))[own]
    return np.asarray(np.round(out, 15) + s.host_latency + s.queue_delay, np.float64)
