"""The transfer table of a job: bytes, rates and latencies of everything its program sends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.clock import TransferTable
from euston.collectives import ring_bytes, ring_steps
from euston.collectives.network_rates import P2P_LATENCY, SCALE_OUT_STEP_LATENCY, SM_SHARE
from euston.devices.interconnect import RING_EFFICIENCY
from euston.training.costs import Costs
from euston.training.job import TrainingJob
from euston.training.wiring import JobWiring, Wiring

__all__ = ["join_tables", "transfer_table"]

_ELEMENT = {"fp32": 4, "bf16": 2, "fp16": 2}


def transfer_table(
    job: TrainingJob, cost: Costs, pieces: list[list[int]], wiring: Wiring, mine: JobWiring
) -> tuple[TransferTable, NDArray[np.int32]]:
    """The job's transfers, and which of them each replica class uses, int32[classes, slots].

    Each class has its own tensor and pipeline transfers; all share the data-parallel ones. ``pieces``: how
    many equal collectives the data-parallel traffic of each (stage, chunk) is cut into.
    """
    r = mine.routes
    p = r.grid.stages
    v, k = len(cost.chunks[0]), mine.representative.size
    own = mine.first + r.own(mine.representative)  # [3, k, p]
    tensor, between = own[0].ravel(), own[1:].ravel()
    tensor_rate = wiring.alone[tensor]
    tensor_bytes = tensor_latency = 0.0
    if cost.collective is not None:
        tensor_bytes = cost.collective.wire_bytes / r.tensor_rings
        tensor_latency = cost.collective.latency + _between_domains(job, r.tensor_domains)
        if r.tensor_domains == 1:
            tensor_rate = np.minimum(tensor_rate / RING_EFFICIENCY, cost.collective.rate)
    data = np.tile(np.repeat(mine.first + r.data, v), 2)
    data_bytes, data_latency = _data(job, cost, pieces, mine)
    column = wiring.column_of[np.concatenate((tensor, between, data))].astype(np.int32)
    rate = np.concatenate((tensor_rate, wiring.alone[between], wiring.alone[data]))
    counts = (tensor.size, between.size, data.size)
    n = sum(counts)
    table = TransferTable(
        ptr=np.arange(n + 1, dtype=np.int64),
        column=column,
        size=np.concatenate(
            (np.full(tensor.size, tensor_bytes), np.full(between.size, cost.pipeline_bytes), data_bytes)
        ),
        weight=np.ones(n),
        rate_cap=np.where(np.isfinite(rate), rate, 1e18),  # of transfers that use no link: never sent
        latency=np.concatenate(
            (np.full(tensor.size, tensor_latency), np.full(between.size, P2P_LATENCY), data_latency)
        ),
        slow_share=np.repeat([SM_SHARE["scale_up"], SM_SHARE["scale_out"], SM_SHARE["scale_out"]], counts),
        columns=wiring.columns,
        names=_names(job, mine, v),
    )
    number = np.arange(3 * k * p).reshape(3, k, p).transpose(1, 0, 2).reshape(k, 3 * p)
    shared = np.broadcast_to(3 * k * p + np.arange(data.size), (k, data.size))
    return table, np.concatenate((number, shared), axis=1).astype(np.int32)


def _between_domains(job: TrainingJob, domains: int) -> float:
    """Seconds that a tensor-parallel collective's steps between scale-up domains add."""
    kind = "all_gather" if job.parallel.sequence else "all_reduce"
    return ring_steps(kind, domains) * SCALE_OUT_STEP_LATENCY


def _data(
    job: TrainingJob, cost: Costs, pieces: list[list[int]], mine: JobWiring
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bytes and latency of one piece of each chunk's gathers, then reductions, in `Slots` order."""
    d, r = mine.routes.grid.replicas, mine.routes
    reduce = "all_reduce" if job.parallel.sharding == "none" else "reduce_scatter"
    size, latency = [], []
    for collective, element in (("all_gather", 2), (reduce, _ELEMENT[job.software.gradient_dtype])):
        for s, row in enumerate(cost.chunks):
            for c, chunk in enumerate(row):
                buffer = element * chunk.parameters / (pieces[s][c] * int(r.data_rings[s]))
                size.append(ring_bytes(collective, d, buffer))
                # Inside a host the few microseconds of a step do not show beside megabytes.
                latency.append(ring_steps(collective, int(r.data_domains[s])) * SCALE_OUT_STEP_LATENCY)
    return np.array(size), np.array(latency)


def _names(job: TrainingJob, mine: JobWiring, virtual: int) -> tuple[str, ...]:
    """Names for messages, in the table's order."""
    p = mine.routes.grid.stages
    kinds = ("tensor collective", "activations", "gradients of activations")
    own = [
        f"{job.name} replica {r} stage {s} {kind}"
        for kind in kinds
        for r in mine.representative
        for s in range(p)
    ]
    shared = ("parameter gather", "gradient reduction")
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

    def all_of(name: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(t, name) for t in tables])

    n = sum(len(t) for t in tables)
    return TransferTable(
        np.arange(n + 1, dtype=np.int64), all_of("column").astype(np.int32), all_of("size"), all_of("weight"),
        all_of("rate_cap"), all_of("latency"), all_of("slow_share"), tables[0].columns,
        tuple(name for t in tables for name in t.names),
    )  # fmt: skip
