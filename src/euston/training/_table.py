"""The transfer table of a job: bytes, rates and latencies of everything its program sends."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from euston.clock import TransferTable
from euston.collectives import ring_bytes, ring_steps
from euston.collectives.network_rates import P2P_LATENCY, SCALE_OUT_STEP_LATENCY, SM_SHARE
from euston.devices.interconnect import RING_EFFICIENCY
from euston.training.communication import Exchange
from euston.training.costs import Costs
from euston.training.job import TrainingJob
from euston.training.routes import OWN, Lane, Routes
from euston.training.slots import UNIT
from euston.training.wiring import JobWiring, Wiring

__all__ = ["KINDS", "join_tables", "transfer_table"]

KINDS = ("tensor", "context", "expert", "pipeline", "data", "kv")
"""Kinds of transfers that an allocation policy is told of; ``kv`` is what services beside the jobs send."""

_KIND_OF = {"forward": "pipeline", "backward": "pipeline", "tied": "data"}

_ELEMENT = {"fp32": 4, "bf16": 2, "fp16": 2}

Floats = NDArray[np.float64]


class _Flow(NamedTuple):
    """One flow of a kind's transfers: routes, bytes of a member and the rate it reaches alone."""

    route: NDArray[np.int64]
    size: Floats
    rate: Floats


class _Kind(NamedTuple):
    """Transfers of one kind: one or two flows each, latency, and the share of SMs they take."""

    flows: list[_Flow]
    latency: Floats
    slow_share: float


def transfer_table(
    job: TrainingJob, cost: Costs, pieces: list[list[int]], wiring: Wiring, mine: JobWiring
) -> tuple[TransferTable, NDArray[np.int32], NDArray[np.int64]]:
    """The job's transfers, which of them each class uses, int32[classes, slots], and their kinds (`KINDS`).

    Each class has its own tensor, context, expert and pipeline transfers; all share the data-parallel ones.
    ``pieces``: how many equal collectives the data-parallel traffic of each (stage, chunk) is cut into.
    """
    r = mine.routes
    p, k = r.grid.stages, mine.representative.size
    v = len(cost.chunks[0])
    own = _own(job, cost, wiring, mine)
    shared = _shared(job, cost, pieces, wiring, mine)
    kinds = [*own, *shared]
    flows = np.concatenate([np.full(kind.latency.size, len(kind.flows)) for kind in kinds])
    n = flows.size

    def stacked(i: int) -> NDArray[np.float64]:
        """A flow's column by transfer, the flows of one transfer beside each other."""
        return np.concatenate([np.stack([f[i] for f in kind.flows], axis=1).ravel() for kind in kinds])

    rate = stacked(2)
    table = TransferTable(
        ptr=np.concatenate(([0], np.cumsum(flows))).astype(np.int64),
        column=wiring.column_of[stacked(0).astype(np.int64)].astype(np.int32),
        size=stacked(1),
        weight=np.ones(rate.size),
        rate_cap=np.where(np.isfinite(rate), rate, 1e18),  # of transfers that use no link: never sent
        latency=np.concatenate([kind.latency for kind in kinds]),
        slow_share=np.concatenate([np.full(kind.latency.size, kind.slow_share) for kind in kinds]),
        columns=wiring.columns,
        names=_names(job, mine, v),
    )
    of_class = len(own) * p
    number = np.arange(len(own) * k * p).reshape(len(own), k, p).transpose(1, 0, 2).reshape(k, of_class)
    rest = np.broadcast_to(len(own) * k * p + np.arange(n - len(own) * k * p), (k, n - len(own) * k * p))
    names = [*(_KIND_OF.get(name, name) for name in UNIT), *["data"] * len(shared)]
    sizes = [kind.latency.size for kind in kinds]
    of_kind = np.repeat([KINDS.index(name) for name in names], sizes)
    return table, np.concatenate((number, rest), axis=1).astype(np.int32), of_kind


def _own(job: TrainingJob, cost: Costs, wiring: Wiring, mine: JobWiring) -> list[_Kind]:
    """Transfers of every unit class, in the order of `slots.UNIT`; of each kind by (class, stage)."""
    r = mine.routes
    route = dict(zip(OWN, mine.first + r.own(mine.representative), strict=True))
    count = route["tensor"].size
    found = cost.communication

    def flow(kind: str, size: float, cap: float | None = None) -> _Flow:
        """``cap``: what the library reaches inside a scale-up domain, where the links would give more."""
        mine_ = route[kind].ravel()
        rate = wiring.alone[mine_]
        if cap is not None:
            rate = np.minimum(rate / RING_EFFICIENCY, cap)
        return _Flow(mine_, np.full(count, size), rate)

    def kind(flows: list[_Flow], latency: float, where: str) -> _Kind:
        return _Kind(flows, np.full(count, latency), SM_SHARE[where])

    tensor = kind([flow("tensor", 0.0)], 0.0, "scale_up")
    if cost.collective is not None:
        lane, one = r.lanes["tensor"], cost.collective
        cap = one.rate if r.tensor_domains == 1 else None
        latency = one.latency + _between_domains(job, int(lane.domains.max()))
        tensor = kind([flow("tensor", one.wire_bytes * lane.share[0], cap)], latency, "scale_up")
    context = kind([flow("context", 0.0)], 0.0, "scale_up")
    if found is not None and found.context is not None:
        lane, exchange = r.lanes["context"], found.context
        spans = int(lane.domains.max())
        cap = exchange.rate * lane.share[0] if spans == 1 else None
        context = kind(
            [flow("context", exchange.bytes * lane.share[0], cap)], exchange.latency_over(spans),
            "scale_up" if spans == 1 else "scale_out",
        )  # fmt: skip
    expert = kind([flow("expert", 0.0)], 0.0, "scale_up")
    if found is not None and found.expert is not None:
        expert = _expert(r, found.expert, flow, kind)
    between = [
        kind([flow(name, cost.pipeline_bytes)], P2P_LATENCY, "scale_out") for name in ("forward", "backward")
    ]
    model = job.model
    matrix = model.vocab * model.hidden / job.parallel.tensor * _ELEMENT[job.software.gradient_dtype]
    tied = kind([flow("tied", matrix)], 2 * SCALE_OUT_STEP_LATENCY, "scale_out")
    made = {"tensor": tensor, "context": context, "expert": expert, "tied": tied}
    made |= dict(zip(("forward", "backward"), between, strict=True))
    return [made[name] for name in UNIT]


def _expert(r: Routes, exchange: Exchange, flow, kind) -> _Kind:  # type: ignore[no-untyped-def]
    """The all-to-all between experts: what leaves scale-up domains, and what moves inside them."""
    lane = r.lanes.get("expert", r.lanes.get("expert_inside"))
    assert lane is not None
    spans, ranks = int(lane.domains.max()), lane.ranks
    latency = exchange.latency_over(spans)
    inside = r.lanes.get("expert_inside")
    if inside is None and spans < ranks:  # groups that lie unevenly on domains: everybody with everybody
        size = exchange.bytes * (ranks - 1) / ranks * lane.share[0]
        return kind([flow("expert", size)], latency, "scale_up")
    volume = exchange.volume(ranks, spans)
    flows = []
    if "expert" in r.lanes:
        flows.append(flow("expert", volume.between * lane.share[0]))
    if inside is not None:
        flows.append(flow("expert_inside", volume.inside * inside.share[0], exchange.rate * inside.share[0]))
    alone = exchange.seconds_over(spans)
    if alone:  # no rank's part ends before the library's own time of the whole
        latency = min(latency, alone)
        flows = [
            _Flow(f.route, f.size, np.minimum(f.rate, f.size / max(alone - latency, 1e-12))) for f in flows
        ]
    return kind(flows, latency, "scale_up")


def _between_domains(job: TrainingJob, domains: int) -> float:
    """Seconds that a tensor-parallel collective's steps between scale-up domains add."""
    kind = "all_gather" if job.parallel.sequence else "all_reduce"
    return ring_steps(kind, domains) * SCALE_OUT_STEP_LATENCY


def _shared(
    job: TrainingJob, cost: Costs, pieces: list[list[int]], wiring: Wiring, mine: JobWiring
) -> list[_Kind]:
    """One piece of each (stage, chunk)'s data-parallel collectives, in `Slots` order."""
    r, p = mine.routes, job.parallel
    gradient = _ELEMENT[job.software.gradient_dtype]
    reduce = "all_reduce" if p.sharding == "none" else "reduce_scatter"
    nothing = Lane(0, 1, np.ones(r.grid.stages), np.ones(r.grid.stages, np.int64))
    v = len(cost.chunks[0])
    shard = r.lanes["data"].ranks

    def one(kind: str, collective: str, element: float, experts: bool) -> _Kind:
        lane = r.lanes.get(kind, nothing)
        route = np.repeat(mine.first + r.shared(kind), v)
        size, latency = [], []
        for s, row in enumerate(cost.chunks):
            for c, chunk in enumerate(row):
                apart = chunk.expert_parameters if p.experts_apart else 0
                held = float(apart if experts else chunk.parameters - apart)
                if kind == "copy":
                    held = held / shard
                buffer = element * held / pieces[s][c]
                size.append(ring_bytes(collective, lane.ranks, buffer) * lane.share[s])
                # Inside a host the few microseconds of a step do not show beside megabytes.
                latency.append(ring_steps(collective, int(lane.domains[s])) * SCALE_OUT_STEP_LATENCY)
        # Rings that pass through several ranks of a domain run on its links too.
        where = "scale_up" if (lane.domains < lane.ranks).any() else "scale_out"
        flow = _Flow(route, np.array(size), wiring.alone[route])
        return _Kind([flow], np.array(latency), SM_SHARE[where])

    return [
        one("data", "all_gather", 2.0, False),
        one("data", reduce, gradient, False),
        one("copy", "all_reduce", gradient, False),
        one("expert_data", "all_gather", 2.0, True),
        one("expert_data", reduce, gradient, True),
    ]


_WORDS = {
    "tensor": "tensor collective", "forward": "activations", "backward": "gradients of activations",
    "context": "context collective", "expert": "expert all-to-all", "tied": "embedding reduction",
}  # fmt: skip


def _names(job: TrainingJob, mine: JobWiring, virtual: int) -> tuple[str, ...]:
    """Names for messages, in the table's order."""
    p = mine.routes.grid.stages
    own = [
        f"{job.name} replica {r} stage {s} {_WORDS[kind]}"
        for kind in UNIT
        for r in mine.representative
        for s in range(p)
    ]
    shared = (
        "parameter gather", "gradient reduction", "reduction over copies", "expert gather",
        "expert gradient reduction",
    )  # fmt: skip
    return (
        *own,
        *(
            f"{job.name} stage {s} chunk {c} {kind}"
            for kind in shared
            for s in range(p)
            for c in range(virtual)
        ),
    )


def join_tables(tables: list[TransferTable]) -> TransferTable:
    """The tables of all jobs as one; transfer numbers are shifted by the lengths of those before."""

    def all_of(name: str) -> Floats:
        return np.concatenate([getattr(t, name) for t in tables])

    first = np.cumsum([0] + [t.column.size for t in tables])
    ptr = [t.ptr[:-1] + f for t, f in zip(tables, first, strict=False)] + [first[-1:]]
    return TransferTable(
        np.concatenate(ptr).astype(np.int64), all_of("column").astype(np.int32), all_of("size"),
        all_of("weight"), all_of("rate_cap"), all_of("latency"), all_of("slow_share"), tables[0].columns,
        tuple(name for t in tables for name in t.names),
    )  # fmt: skip
