"""Balanced all-to-all over any number of ranks as one coupled column, without writing down a single pair.

Under ideal spraying every pair that leaves a group of endpoints loads the group's uplinks evenly, so a row's
load is a number of pairs, and pairs can be counted: those that leave a NIC, a ToR, a pod. 131,072 ranks have
17 billion pairs and a few thousand rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError, FabricError
from euston.fabrics import Fabric, LinkKind
from euston.network import Columns

__all__ = ["AllToAll", "all_to_all"]

_UP = (LinkKind.NIC_UP, LinkKind.TOR_UP, LinkKind.AGG_UP)
_DOWN = (LinkKind.NIC_DOWN, LinkKind.TOR_DOWN, LinkKind.AGG_DOWN)


@dataclass(frozen=True, eq=False)
class AllToAll:
    """One column for the whole collective.

    Attributes
    ----------
    columns : Columns
        A single column over the rows of the fabric: pairs per row, so that its rate is that of one pair.
    pairs : int
    bytes_per_pair : float
    """

    columns: Columns
    pairs: int
    bytes_per_pair: float

    def seconds(self, row_capacity: NDArray[np.float64]) -> float:
        """Time alone on rows of ``row_capacity`` (float64[rows] bytes/s): the most loaded row's."""
        need = self.columns.coefficient * self.bytes_per_pair / row_capacity[self.columns.row]
        return float(need.max(initial=0.0))


def all_to_all(fabric: Fabric, ranks: ArrayLike, bytes_per_pair: float) -> AllToAll:
    """Every rank sends ``bytes_per_pair`` to every other, all pairs at one rate.

    Pairs inside a scale-up domain use the scale-up network, the others are sprayed over a healthy Clos (any
    number of tiers, hosts or rails on the leaves).

    Parameters
    ----------
    ranks : int32[n]
        Different endpoints.
    bytes_per_pair : float
        M / n for a buffer of M bytes per rank.

    Raises
    ------
    ConfigError
        For fewer than two ranks, or the same endpoint twice.
    FabricError
        For a fabric that is not a Clos: write such an all-to-all as flows.
    """
    e = np.asarray(ranks, np.int32)
    n = e.size
    if e.ndim != 1 or n < 2 or np.unique(e).size != n:
        raise ConfigError("an all-to-all needs at least 2 different endpoints")
    if not 0 < bytes_per_pair < np.inf:
        raise ConfigError(f"bytes_per_pair is {bytes_per_pair}; it must be positive and finite")
    if not np.isin(fabric.kind, [*_UP, *_DOWN, LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN]).all():
        raise FabricError(f"`{fabric.name}`: pairs are counted on Clos fabrics only; write flows instead")
    _, domain, size = np.unique(fabric.domain[e], return_inverse=True, return_counts=True)
    rows: list[NDArray[np.int64]] = []
    pairs: list[NDArray[np.float64]] = []
    inside = size[domain] - 1.0
    if inside.any():
        for kind, ends in ((LinkKind.SCALE_UP_OUT, fabric.link_src), (LinkKind.SCALE_UP_IN, fabric.link_dst)):
            links = np.flatnonzero(fabric.kind == kind)
            planes = np.bincount(ends[links], minlength=fabric.endpoints)
            share = np.zeros(fabric.endpoints)
            share[e] = inside / np.maximum(planes[e], 1)
            rows.append(fabric.bundle[links].astype(np.int64))
            pairs.append(share[ends[links]])
    if n > size.max():
        for kinds, far in ((_UP, False), (_DOWN, True)):
            for row in _levels(fabric, e, kinds, arriving=far):
                found = row >= 0
                group, member, count = np.unique(row[found], return_inverse=True, return_counts=True)
                # Pairs that leave the group, less those that only leave it inside a scale-up domain.
                total = count * (float(n) - count)
                both, times = np.unique(member * (domain.max() + 1) + domain[found], return_counts=True)
                of, dom = both // (domain.max() + 1), both % (domain.max() + 1)
                near = np.bincount(of, weights=times * (size[dom] - times), minlength=group.size)
                rows.append(group.astype(np.int64))
                pairs.append(total - near)
    row, amount = np.concatenate(rows), np.concatenate(pairs)
    keep = amount > 0
    columns = Columns.from_entries(
        np.zeros(int(keep.sum()), np.int64),
        row[keep].astype(np.int32),
        amount[keep],
        columns=1,
        rows=fabric.rows,
    )
    return AllToAll(columns, n * (n - 1), float(bytes_per_pair))


def _levels(
    fabric: Fabric, e: NDArray[np.int32], kinds: tuple[LinkKind, ...], *, arriving: bool
) -> list[NDArray[np.int64]]:
    """Per tier the bundle that a far pair of each rank crosses, int64[n]; -1 where it crosses none."""
    # Endpoints are numbered pod by pod: one end of the sorted list is as far from a rank as anybody is. On
    # rails the next number is on another leaf.
    order = np.sort(e)
    out = [np.full(e.size, -1, np.int64) for _ in kinds]
    for peer in (order[0], order[-1], order[1], order[-2]):
        apart = np.flatnonzero(e != peer)
        other = np.full(apart.size, peer)
        src, dst = (other, e[apart]) if arriving else (e[apart], other)
        paths = fabric.route(src, dst, np.zeros(src.size, np.uint64))
        kind = np.where(paths >= 0, fabric.kind[paths], 255)
        for level, wanted in enumerate(kinds):
            hit = kind == wanted
            has = np.flatnonzero(hit.any(axis=1))
            column = hit[has].argmax(axis=1)
            out[level][apart[has]] = fabric.bundle[paths[has, column]]
    return [row for row in out if (row >= 0).any()]
