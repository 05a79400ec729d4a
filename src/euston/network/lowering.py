"""Lowering: transfers become columns of ``A x <= c`` for the fluid engine.

A coupled transfer is one column whose entries add up what its members take from each row; an uncoupled one
has a column per member. Rows that can never be the tightest are kept for accounting and left out of solving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.errors import RouteError
from euston.fabrics import Fabric, LinkKind
from euston.network.balancing import Balancing
from euston.network.columns import Columns
from euston.network.transfer import Transfers

__all__ = ["Lowered", "lower"]

_UP = (LinkKind.NIC_UP, LinkKind.TOR_UP)
_DOWN = (LinkKind.NIC_DOWN, LinkKind.TOR_DOWN)


@dataclass(frozen=True)
class Lowered:
    """Flows of lowered transfers: transfer ``i`` owns flows ``ptr[i]:ptr[i + 1]``.

    Attributes
    ----------
    columns : Columns
        All rows, for accounting of bytes.
    binding : Columns
        The same columns without rows that can never bind, for solving.
    column : int32[F], size, weight, rate_cap : float64[F]
    capacity : float64[rows]
    """

    transfers: Transfers
    ptr: NDArray[np.int64]
    column: NDArray[np.int32]
    size: NDArray[np.float64]
    weight: NDArray[np.float64]
    rate_cap: NDArray[np.float64]
    columns: Columns
    binding: Columns
    capacity: NDArray[np.float64]
    split: NDArray[np.bool_]


def lower(
    transfers: Transfers,
    fabric: Fabric,
    balancing: Balancing,
    *,
    capacity: NDArray[np.float64] | None = None,
    floor: NDArray[np.float64] | None = None,
    split: NDArray[np.bool_] | None = None,
) -> Lowered:
    """Columns of all members of all transfers.

    Parameters
    ----------
    transfers : Transfers
    fabric : Fabric
    balancing : Balancing
        Decides the rows of members that leave their scale-up domain; the others use the scale-up network.
    capacity : float64[L], optional
        Bytes/s of every link now (a failed link has 0); the fabric's own by default.
    floor : float64[L], optional
        The least capacity each link will have during the run (planned events), for the pruning of rows.
    split : bool[bundles], optional
        Bundles of which flows must name single links, because these will change one by one.

    Raises
    ------
    RouteError
        When two endpoints have no live path.
    """
    now = fabric.capacity if capacity is None else capacity
    alive = None if capacity is None or (now > 0).all() else now > 0
    n_members = transfers.src.size
    of_transfer = np.repeat(np.arange(len(transfers)), np.diff(transfers.ptr))
    domain = fabric.domain
    inside = domain[transfers.src] == domain[transfers.dst]
    split = np.zeros(fabric.bundles, bool) if split is None else split.copy()
    parts: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]] = []
    if inside.any():
        who = np.flatnonzero(inside)
        links = fabric.route(
            transfers.src[who],
            transfers.dst[who],
            np.zeros(who.size, np.uint64),
            network="scale_up",
            alive=alive,
        )
        used = links >= 0
        parts.append(
            (
                np.repeat(who, used.sum(axis=1)),
                fabric.bundle[links[used]].astype(np.int32),
                np.ones(int(used.sum())),
            )
        )
    if not inside.all():
        who = np.flatnonzero(~inside)
        out = balancing.spread(
            fabric, transfers.src[who], transfers.dst[who], alive=alive, capacity=now, split=split
        )
        split |= out.split
        parts.append((np.repeat(who, np.diff(out.ptr)), out.row, out.fraction))
    member = np.concatenate([p[0] for p in parts]) if parts else np.zeros(0, np.int64)
    row = np.concatenate([p[1] for p in parts]) if parts else np.zeros(0, np.int32)
    fraction = np.concatenate([p[2] for p in parts]) if parts else np.zeros(0)

    largest = np.zeros(len(transfers))
    np.maximum.at(largest, of_transfer, transfers.bytes)
    flows_of = np.where(transfers.coupled, 1, np.diff(transfers.ptr))
    ptr = np.concatenate(([0], np.cumsum(flows_of))).astype(np.int64)
    flow_of_member = np.where(
        transfers.coupled[of_transfer],
        ptr[of_transfer],
        ptr[of_transfer] + np.arange(n_members) - transfers.ptr[of_transfer],
    )
    # A coupled column's rate is that of its largest member; smaller members take proportionally less.
    unit = np.where(transfers.coupled, largest, 0.0)[of_transfer]
    share = np.where(unit > 0, transfers.bytes / np.maximum(unit, 1e-300), 1.0)
    take = fraction * share[member]
    keep = take > 0
    flows = int(ptr[-1])
    n_rows = fabric.bundles + fabric.capacity.size
    columns = Columns.from_entries(
        flow_of_member[member[keep]], row[keep], take[keep], columns=flows, rows=n_rows
    )
    size = np.zeros(flows)
    size[flow_of_member] = np.where(transfers.coupled[of_transfer], largest[of_transfer], transfers.bytes)
    transfer_of_flow = np.repeat(np.arange(len(transfers)), flows_of)
    row_capacity = fabric.row_capacity(now, split)
    least = row_capacity if floor is None else fabric.row_capacity(floor, split)
    dead = (row_capacity[columns.row] <= 0) if floor is None else np.zeros(0, bool)
    if dead.any():
        at = int(np.searchsorted(columns.ptr, np.flatnonzero(dead)[0], side="right")) - 1
        t = int(transfer_of_flow[at])
        raise RouteError(
            f"transfer {t} ({transfers.kinds[transfers.kind[t]]}) needs a link that is dead; "
            "give it another path"
        )
    return Lowered(
        transfers=transfers,
        ptr=ptr,
        column=np.arange(flows, dtype=np.int32),
        size=size,
        weight=transfers.weight[transfer_of_flow],
        rate_cap=transfers.rate_cap[transfer_of_flow],
        columns=columns,
        binding=columns.without_rows(~_can_bind(fabric, least)),
        capacity=row_capacity,
        split=split,
    )


def _can_bind(fabric: Fabric, row_capacity: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows that may be some flow's bottleneck, bool[rows].

    Paths go up and then down. What enters the nodes below an upward row comes from the links under them, so
    when those links together are no faster than the row, the row is never tighter than they are; likewise
    for downward rows and the links they empty into.
    """
    nodes = int(max(fabric.link_src.max(), fabric.link_dst.max())) + 1
    kind, cap = fabric.kind, fabric.capacity
    up, down = np.isin(kind, _UP), np.isin(kind, _DOWN)
    entering = np.bincount(fabric.link_dst[up], weights=cap[up], minlength=nodes)
    leaving = np.bincount(fabric.link_src[down], weights=cap[down], minlength=nodes)
    can = np.ones(row_capacity.size, bool)
    first = fabric.bundle_start[:-1]
    for kinds, ends, amount in (
        ((LinkKind.TOR_UP, LinkKind.AGG_UP), fabric.link_src, entering),
        ((LinkKind.TOR_DOWN, LinkKind.AGG_DOWN), fabric.link_dst, leaving),
    ):
        mine = np.isin(kind, kinds)
        # Distinct (bundle, node) pairs, so that a node's links count once per bundle.
        key = np.unique(fabric.bundle[mine].astype(np.int64) * nodes + ends[mine])
        total = np.bincount(key // nodes, weights=amount[key % nodes], minlength=fabric.bundles)
        whole = np.isin(kind[first], kinds)
        can[: fabric.bundles][whole] = total[whole] > row_capacity[: fabric.bundles][whole] * (1 + 1e-12)
    return can
