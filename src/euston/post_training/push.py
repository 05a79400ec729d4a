"""The push of new weights, from the accelerators that train to those that generate, over a site's fabric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.clock import ProgramBuilder, TransferTable, execute
from euston.collectives.network_rates import P2P_LATENCY, SCALE_OUT_EFFICIENCY
from euston.fabrics import Fabric, LinkKind
from euston.network import Transfers, lower
from euston.network.balancing import Balancing

__all__ = ["push_seconds"]


def push_seconds(
    fabric: Fabric,
    balancing: Balancing,
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    size: float,
    *,
    chain: bool = False,
) -> float:
    """Seconds until every replica has its weights.

    Parameters
    ----------
    source : int64[n]
        Endpoints that train; each holds an equal part.
    target : int64[replicas, ranks]
        Endpoints of every replica, of which each takes an equal part of the weights.
    size : float
        Bytes of one copy of the weights.
    chain : bool
        The first replica passes everything on to the second while it comes in, and so on (a pipelined
        broadcast); else every replica gets its own copy from those that train.

    Raises
    ------
    RouteError
        Two of them have no live path.
    """
    replicas, ranks = target.shape
    each = size / ranks
    if chain and (np.intersect1d(source, target).size or replicas == 1):
        chain = False  # those that train are replicas themselves, or there is nobody to pass on to
    parts = np.arange(ranks)
    if chain:
        # rank r of every replica: from one that trains to the first, from there to the next, ...
        first = source[parts * source.size // ranks]
        hops = np.vstack([first, target[:-1]])
        src, dst, groups = hops.T, target.T, ranks
        transfers = Transfers.uniform(src.astype(np.int32), dst.astype(np.int32), 1.0, kind="weights")
        sizes = np.full(groups, each)
    else:
        # every rank of every replica takes its part in equal pieces from so many that train
        pieces = max(1, min(16, source.size // max(1, replicas * ranks)))
        flat = target.ravel()
        number = np.arange(flat.size * pieces)
        begin = source[(number * source.size) // (flat.size * pieces)]
        end = np.repeat(flat, pieces)
        away = begin != end  # what is there already is not moved
        if not away.any():
            return 0.0
        src, dst = begin[away, None], end[away, None]
        transfers = Transfers.uniform(src.astype(np.int32), dst.astype(np.int32), 1.0, kind="weights")
        sizes = np.full(len(src), each / pieces)
    low = lower(transfers, fabric, balancing)
    kind = np.concatenate((fabric.kind[fabric.bundle_start[:-1]], fabric.kind))
    nic = np.isin(kind, (LinkKind.NIC_UP, LinkKind.NIC_DOWN))
    columns = low.binding
    filled = np.diff(columns.ptr) > 0
    count = len(transfers)
    table = TransferTable(
        ptr=np.arange(count + 1),
        column=low.column.astype(np.int32),
        size=np.where(filled[low.column], sizes, 0.0),
        weight=np.ones(count),
        rate_cap=np.full(count, 1e18),
        latency=np.full(count, P2P_LATENCY),
        slow_share=np.zeros(count),
        columns=columns,
    )
    builder = ProgramBuilder()
    for i in range(count):
        builder.send(i, label="weights")
    run = execute(builder.build(), table, low.capacity * np.where(nic, SCALE_OUT_EFFICIENCY, 1.0))
    return run.makespan
