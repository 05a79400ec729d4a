"""A dynamic allocation policy beside a running executor: told of starts and ends, it plans anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.clock import Executor
from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network import Flows
from euston.network.allocation import Allocator, QueuePlan, TransferInfo
from euston.traffic._states import System

__all__ = ["follow"]


def follow(
    allocator: Allocator,
    executor: Executor,
    flows: Flows,
    fabric: Fabric,
    system: System,
    sends: NDArray[np.int64],
    jobs: Sequence[str],
    job: ArrayLike,
    until: float,
) -> None:
    """Run ``executor`` to its end (or ``until``), with the allocator's places and plans in force.

    ``sends`` int64[F] are the operations that send; the one before each tells of its start.
    """
    whose = np.broadcast_to(np.asarray(job, np.int64), (len(flows),))
    flow_of = {int(op): f for f, op in enumerate(sends)}
    infos: dict[int, TransferInfo] = {}
    wake = np.inf

    def enforce(plan: QueuePlan) -> None:
        weights = plan.on_rows(fabric)
        if len(weights) == 1:
            weights = np.broadcast_to(weights, system.queue_weights.shape)
        elif len(system.queue_weights) == 1:
            raise ConfigError("`policies.allocation`: a plan for single links must be there from the start")
        else:
            weights = np.tile(weights, (len(system.states), 1))
        moved = [f for f in plan.moves if f in infos]
        executor.requeue(
            flows=moved,
            queue=[plan.moves[f].queue for f in moved],
            priority=[plan.moves[f].priority for f in moved],
            weights=weights,
        )

    while not executor.done and min(executor.next_time(), wake) <= until:
        if min(executor.next_time(), wake) == np.inf:
            break
        told = executor.advance(min(wake, until))
        for message in told:
            op = message.payload[1]
            if op in flow_of:
                wake = min(wake, allocator.ended(message.time, infos.pop(flow_of[op])))
                continue
            f = flow_of[op + 1]
            infos[f] = _info(flows, fabric, system, f, jobs[whose[f]])
            place = allocator.place(infos[f])
            if place.factor != 1.0:
                raise ConfigError("`policies.allocation`: a dynamic policy cannot change weights of flows")
            executor.requeue(flows=[f], queue=[place.queue], priority=[place.priority])
            wake = min(wake, allocator.started(message.time, infos[f]))
        if wake <= executor.now:
            wake = np.inf
            plan = allocator.replan(executor.now)
            if plan is not None:
                enforce(plan)


def _info(flows: Flows, fabric: Fabric, system: System, f: int, job: str) -> TransferInfo:
    low = system.states[0].lowered
    first = int(low.column[f])
    rows = np.concatenate([low.columns.column(c)[0] for c in range(first, first + int(low.count[f]))])
    whole = rows[rows < fabric.bundles]
    links = [np.arange(fabric.bundle_start[b], fabric.bundle_start[b + 1]) for b in whole]
    links.append(rows[rows >= fabric.bundles] - fabric.bundles)
    group = int(flows.group[f])
    return TransferInfo(
        number=f,
        job=job,
        kind=flows.tags[group] if group >= 0 else "",
        queue=int(flows.queue[f]),
        priority=int(flows.priority[f]),
        bytes=float(flows.bytes[f]),
        weight=float(flows.weight[f]),
        src=flows.src[f : f + 1],
        dst=flows.dst[f : f + 1],
        links=np.unique(np.concatenate(links)).astype(np.int32),
    )
