"""Lower bounds on when flows can end, whatever the balancing and congestion control: hosts, cuts, chains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric, Network, NodeKind
from euston.network.flows import Flows

__all__ = ["Bounds", "bounds", "earliest"]


@dataclass(frozen=True)
class Bounds:
    """Seconds from time 0 before which not all flows can have ended.

    Attributes
    ----------
    host : float
        The busiest endpoint or NIC: bytes it sends or receives over its capacity.
    cut : float
        The busiest links that some flows must cross with all their bytes, those of hosts included.
    chain : float
        The longest chain of flows that wait for each other, each alone on the network.
    cut_name : str
        Where the cut is.
    """

    host: float
    cut: float
    chain: float
    cut_name: str = ""

    @property
    def makespan(self) -> float:
        """The largest of them."""
        return max(self.host, self.cut, self.chain)


def bounds(
    flows: Flows,
    fabric: Fabric,
    ideal: NDArray[np.float64],
    *,
    wire: NDArray[np.float64] | None = None,
    network: Network = "auto",
) -> Bounds:
    """Bounds for ``flows`` on ``fabric``.

    A cut is a bundle (or link) that every flow on it crosses with all its bytes: shortest paths have no way
    around it. From the first possible start of its flows to their last end it takes their bytes over its
    capacity.

    Parameters
    ----------
    ideal : float64[F]
        From `ideal_completion`.
    wire : float64[F], optional
        Bytes on the wire; the payload when left out.
    """
    begin = earliest(flows, ideal)
    chain = float(np.max(begin + ideal, initial=0.0))
    size = flows.bytes.astype(np.float64) if wire is None else wire
    pair = flows.src.astype(np.int64) * fabric.endpoints + flows.dst
    key, at = np.unique(pair, return_inverse=True)
    bytes_ = np.bincount(at, weights=size, minlength=key.size)
    first = np.full(key.size, np.inf)
    np.minimum.at(first, at, begin)
    src, dst = np.divmod(key, fabric.endpoints)
    spread = fabric.spread(src, dst, network=network)
    owner = np.repeat(np.arange(key.size), np.diff(spread.ptr))
    load = np.bincount(spread.row, weights=bytes_[owner], minlength=fabric.rows)
    least, since = np.ones(fabric.rows), np.full(fabric.rows, np.inf)
    np.minimum.at(least, spread.row, spread.fraction)
    np.minimum.at(since, spread.row, first[owner])
    row = np.flatnonzero((load > 0) & (least > 1.0 - 1e-9))
    if not row.size:
        return Bounds(0.0, 0.0, chain)
    capacity = fabric.row_capacity(split=spread.split)
    time = since[row] + load[row] / capacity[row]
    link = np.where(
        row < fabric.bundles, fabric.bundle_start[np.minimum(row, fabric.bundles - 1)], row - fabric.bundles
    )
    outer = np.isin(fabric.node_kind, [NodeKind.ENDPOINT, NodeKind.NIC])
    of_host = outer[fabric.link_src[link]] | outer[fabric.link_dst[link]]
    worst = int(np.argmax(time))
    name = fabric.link_name(int(link[worst]))
    if row[worst] < fabric.bundles:
        b = int(row[worst])
        many = int(fabric.bundle_start[b + 1] - fabric.bundle_start[b])
        name = f"{name} and the {many - 1} links beside it" if many > 1 else name
    return Bounds(float(np.max(time, where=of_host, initial=0.0)), float(time[worst]), chain, name)


def earliest(flows: Flows, ideal: NDArray[np.float64]) -> NDArray[np.float64]:
    """When each flow can start at the soonest, were every other alone on the network: float64[F] seconds."""
    start = flows.start.copy()
    count = np.diff(flows.after_ptr)
    if not count.any():
        return start
    owner = np.repeat(np.arange(len(flows)), count)
    order = np.argsort(flows.after, kind="stable")
    waiting = owner[order]
    ptr = np.searchsorted(flows.after[order], np.arange(len(flows) + 1))
    missing = count.copy()
    now = np.flatnonzero(count == 0)
    while now.size:
        many = ptr[now + 1] - ptr[now]
        entry = np.repeat(ptr[now] - np.concatenate(([0], np.cumsum(many)[:-1])), many) + np.arange(
            many.sum()
        )
        next_ = waiting[entry]
        end = np.repeat(start[now] + ideal[now], many)
        np.maximum.at(start, next_, end + flows.delay[next_])
        np.subtract.at(missing, next_, 1)
        ready = np.unique(next_)
        now = ready[missing[ready] == 0]
    return start
