"""Lowering: transfers become columns of ``A x <= c`` for the fluid engine.

A coupled transfer is one column whose entries add up what its members take from each row; an uncoupled one
has a column per member. Rows that can never be the tightest are kept for accounting and left out of solving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, RouteError
from euston.fabrics import Fabric, LinkKind
from euston.network.balancing import Balancing
from euston.network.balancing.base import ChoosesAtStart
from euston.network.columns import Columns
from euston.network.transfer import Transfers

__all__ = ["Lowered", "lower"]

_TIERS = (
    (LinkKind.TOR_UP, LinkKind.TOR_DOWN),
    (LinkKind.AGG_UP, LinkKind.AGG_DOWN),
    (LinkKind.SCALE_UP_RISE, LinkKind.SCALE_UP_FALL),
)
"""Links up and down that paths of a Clos take in this order and never in the other."""


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
        A flow's column, the first of its candidates.
    capacity : float64[rows]
    count : int32[F]
        Candidates of each flow among which it chooses when it starts; 1 unless ``choose`` was asked for.
    rule, gap, seed : int, float, int
        How it chooses, see `network.balancing.Candidates`.
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
    count: NDArray[np.int32]
    rule: int = 0
    gap: float = 0.0
    seed: int = 0


def lower(
    transfers: Transfers,
    fabric: Fabric,
    balancing: Balancing,
    *,
    capacity: NDArray[np.float64] | None = None,
    floor: NDArray[np.float64] | None = None,
    split: NDArray[np.bool_] | None = None,
    choose: bool = False,
    seed: int | None = None,
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
    choose : bool
        Give flows of uncoupled transfers all the candidates of a policy that decides when they start; others,
        and coupled ones always, get what ``Balancing.spread`` says.
    seed : int, optional
        Of candidates that are drawn.

    Raises
    ------
    RouteError
        When two endpoints have no live path.
    """
    now = fabric.capacity if capacity is None else capacity
    of_transfer = np.repeat(np.arange(len(transfers)), np.diff(transfers.ptr))
    paths = _paths(transfers, fabric, balancing, now, split, choose & ~transfers.coupled[of_transfer], seed)
    n_members = transfers.src.size
    largest = np.zeros(len(transfers))
    np.maximum.at(largest, of_transfer, transfers.bytes)
    flows_of = np.where(transfers.coupled, 1, np.diff(transfers.ptr))
    ptr = np.concatenate(([0], np.cumsum(flows_of))).astype(np.int64)
    flow_of_member = np.where(
        transfers.coupled[of_transfer],
        ptr[of_transfer],
        ptr[of_transfer] + np.arange(n_members) - transfers.ptr[of_transfer],
    )
    flows = int(ptr[-1])
    count = np.ones(flows, np.int64)
    count[flow_of_member] = paths.candidates
    first_column = np.cumsum(count) - count
    # A coupled column's rate is that of its largest member; smaller members take proportionally less.
    unit = np.where(transfers.coupled, largest, 0.0)[of_transfer]
    share = np.divide(transfers.bytes, unit, out=np.ones(n_members), where=unit > 0)
    take = paths.fraction * share[paths.member]
    keep = take > 0
    n_rows = fabric.bundles + fabric.capacity.size
    columns = Columns.from_entries(
        (first_column[flow_of_member[paths.member]] + paths.candidate)[keep],
        paths.row[keep],
        take[keep],
        columns=int(count.sum()),
        rows=n_rows,
    )
    size = np.zeros(flows)
    size[flow_of_member] = np.where(transfers.coupled[of_transfer], largest[of_transfer], transfers.bytes)
    transfer_of_flow = np.repeat(np.arange(len(transfers)), flows_of)
    row_capacity = fabric.row_capacity(now, paths.split)
    least = row_capacity if floor is None else fabric.row_capacity(floor, paths.split)
    dead = (row_capacity[columns.row] <= 0) if floor is None else np.zeros(0, bool)
    if dead.any():
        at = int(np.searchsorted(columns.ptr, np.flatnonzero(dead)[0], side="right")) - 1
        t = int(transfer_of_flow[np.searchsorted(first_column, at, side="right") - 1])
        raise RouteError(
            f"transfer {t} ({transfers.kinds[transfers.kind[t]]}) needs a link that is dead; "
            "give it another path"
        )
    return Lowered(
        transfers=transfers,
        ptr=ptr,
        column=first_column.astype(np.int32),
        size=size,
        weight=transfers.weight[transfer_of_flow],
        rate_cap=transfers.rate_cap[transfer_of_flow],
        columns=columns,
        binding=columns.without_rows(~_can_bind(fabric, least)),
        capacity=row_capacity,
        split=paths.split,
        count=count.astype(np.int32),
        rule=paths.rule[0],
        gap=paths.rule[1],
        seed=paths.rule[2],
    )


@dataclass(frozen=True)
class _Paths:
    """Rows of members: entry ``e`` is what one candidate of one member takes from one row."""

    member: NDArray[np.int64]
    candidate: NDArray[np.int64]
    row: NDArray[np.int32]
    fraction: NDArray[np.float64]
    candidates: NDArray[np.int64]
    split: NDArray[np.bool_]
    rule: tuple[int, float, int]


def _paths(
    transfers: Transfers,
    fabric: Fabric,
    balancing: Balancing,
    now: NDArray[np.float64],
    split: NDArray[np.bool_] | None,
    chooses: NDArray[np.bool_],
    seed: int | None,
) -> _Paths:
    """Scale-up paths inside domains, the policy's outside; members that ``chooses`` get all candidates.

    Where others forward over the scale-up network, they may split a bundle late that was used whole before.
    """
    given = np.zeros(fabric.bundles, bool) if split is None else split
    while True:
        found = _paths_once(transfers, fabric, balancing, now, given, chooses, seed)
        late = found.split & ~given
        if not late[found.row[found.row < fabric.bundles]].any():
            return found
        given = found.split


def _paths_once(
    transfers: Transfers,
    fabric: Fabric,
    balancing: Balancing,
    now: NDArray[np.float64],
    divided: NDArray[np.bool_],
    chooses: NDArray[np.bool_],
    seed: int | None,
) -> _Paths:
    alive = None if (now > 0).all() else now > 0
    src, dst, domain = transfers.src, transfers.dst, fabric.domain
    inside = domain[src] == domain[dst]
    split = divided.copy()
    candidates = np.ones(src.size, np.int64)
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]] = []
    if inside.any():
        who = np.flatnonzero(inside)
        member, row, fraction = _scale_up(fabric, src[who], dst[who], alive, now, split)
        parts.append((who[member], np.zeros_like(member), row, fraction))
    late, rule = chooses & ~inside, (0, 0.0, 0)
    if late.any() and isinstance(balancing, ChoosesAtStart):
        who = np.flatnonzero(late)
        given = balancing.candidates(
            fabric, src[who], dst[who], alive=alive, capacity=now, split=split, seed=seed
        )
        late[:] = given is not None
        late &= ~inside & chooses
        if given is not None:
            rule = (int(given.rule), given.gap, given.seed)
            counts = np.diff(given.ptr)
            candidates[who] = counts
            split |= given.spread.split
            lengths = np.diff(given.spread.ptr)
            number = np.arange(lengths.size) - np.repeat(given.ptr[:-1], counts)
            parts.append(
                (
                    np.repeat(np.repeat(who, counts), lengths),
                    np.repeat(number, lengths),
                    given.spread.row,
                    given.spread.fraction,
                )
            )
    else:
        late[:] = False
    if not (inside | late).all():
        who = np.flatnonzero(~(inside | late))
        out = balancing.spread(fabric, src[who], dst[who], alive=alive, capacity=now, split=split)
        if late.any() and (out.split & ~split).any():
            raise ConfigError("`policies.balancing`: coupled transfers must name the same bundles as others")
        split |= out.split
        member = np.repeat(who, np.diff(out.ptr))
        parts.append((member, np.zeros_like(member), out.row, out.fraction))
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0))
    found = [np.concatenate(column) for column in zip(empty, *parts, strict=True)]
    return _Paths(found[0], found[1], found[2], found[3], candidates, split, rule)


def _scale_up(
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    alive: NDArray[np.bool_] | None,
    now: NDArray[np.float64],
    split: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Flow, row and fraction inside scale-up domains; over several planes the flow is sprayed."""
    links = np.flatnonzero(np.isin(fabric.kind, (LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN)))
    if (np.diff(fabric.bundle_start)[fabric.bundle[links]] > 1).any():
        up = fabric.spread(src, dst, network="scale_up", alive=alive, capacity=now, split=split)
        split |= up.split
        return np.repeat(np.arange(src.size), np.diff(up.ptr)), up.row, up.fraction
    paths = fabric.route(src, dst, np.zeros(src.size, np.uint64), network="scale_up", alive=alive)
    used = paths >= 0
    row = fabric.bundle[paths[used]].astype(np.int32)
    return np.repeat(np.arange(src.size), used.sum(axis=1)), row, np.ones(row.size)


def _can_bind(fabric: Fabric, row_capacity: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows that may be some flow's bottleneck, bool[rows].

    In a Clos paths go up and then down. What leaves a switch by an upward row has entered it over other links
    than the ones that come down to it, so when all those together are no faster than the row, it is never
    tighter than they are; likewise for downward rows and what leaves their switches but upwards.
    """
    nodes = int(max(fabric.link_src.max(), fabric.link_dst.max())) + 1
    kind, cap = fabric.kind, fabric.capacity
    can = np.ones(row_capacity.size, bool)
    first = fabric.bundle_start[:-1]
    for up, down in _TIERS:
        if not (kind == up).any():
            continue
        from_below, to_below = kind != down, kind != up
        entering = np.bincount(fabric.link_dst[from_below], weights=cap[from_below], minlength=nodes)
        leaving = np.bincount(fabric.link_src[to_below], weights=cap[to_below], minlength=nodes)
        for mine_kind, ends, amount in (
            (up, fabric.link_src, entering),
            (down, fabric.link_dst, leaving),
        ):
            mine = kind == mine_kind
            # Distinct (bundle, node) pairs, so that a node's links count once per bundle.
            key = np.unique(fabric.bundle[mine].astype(np.int64) * nodes + ends[mine])
            total = np.bincount(key // nodes, weights=amount[key % nodes], minlength=fabric.bundles)
            whole = kind[first] == mine_kind
            can[: fabric.bundles][whole] = total[whole] > row_capacity[: fabric.bundles][whole] * (1 + 1e-12)
    return can
