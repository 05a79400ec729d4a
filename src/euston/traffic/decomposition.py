"""Tails of many short flows, link by link: an approximation for open loops of more flows than engines take.

As in Parsimon (Zhao et al., NSDI 2023): every link is simulated by itself with the flows that cross it; the
delays it adds, per packet and by size of flow, are a distribution; a flow's delay is the sum of one draw per
link of its path. That takes links as independent, and a flow as held up on each of them in turn.
"""

from __future__ import annotations

import time as clock
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric, Network, NodeKind
from euston.network.flows import FlowResult, Flows
from euston.seeds import stream
from euston.traffic._link import share_link
from euston.traffic.ideal import ideal_completion, wire_bytes

__all__ = ["DecomposedSettings", "run_decomposed"]

# A bucket of flows of like size has at least so many flows and spans at least so large a factor (Parsimon).
BUCKET_FLOWS = 100
BUCKET_SPAN = 2.0
# Links of like load that a link is compared with.
_CANDIDATES = 64


@dataclass(frozen=True)
class DecomposedSettings:
    """What a decomposition assumes.

    Attributes
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header.
    standing_queue : float
        Bytes that congestion control leaves in the queue of a switch's link that several flows fill (marking
        threshold, or target delay times capacity); a flow that comes then waits for them once.
    cluster : float
        Links whose load and size quantiles differ by at most this share are simulated once; 0 is off.
    """

    mtu: int = 4154
    header: int = 58
    standing_queue: float = 0.0
    cluster: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.standing_queue < np.inf or not 0 <= self.cluster < 1:
            raise ConfigError(
                f"`settings`: standing_queue {self.standing_queue} bytes, cluster {self.cluster}; 0 or more, "
                "the latter below 1"
            )


@dataclass(frozen=True)
class _Delays:
    """What one link adds to its flows, in order of size; bucket b holds ``first[b]:first[b + 1]``.

    ``delay`` is seconds per packet from sharing, ``queue`` seconds once per flow.
    """

    edge: NDArray[np.float64]
    first: NDArray[np.int64]
    delay: NDArray[np.float64]
    queue: NDArray[np.float64]

    def draw(
        self, size: NDArray[np.float64], packets: NDArray[np.float64], generator: np.random.Generator
    ) -> NDArray[np.float64]:
        bucket = np.minimum(np.searchsorted(self.edge, size), self.edge.size - 1)
        low, high = self.first[bucket], self.first[bucket + 1]
        one = low + (generator.random(size.size) * (high - low)).astype(np.int64)
        return self.delay[one] * packets + self.queue[one]


def run_decomposed(
    flows: Flows,
    fabric: Fabric,
    *,
    settings: DecomposedSettings | None = None,
    seed: int = 0,
    network: Network = "auto",
) -> FlowResult:
    """Completion times of flows drawn from the delays of the links on their paths.

    Single flows are not followed: what counts are distributions, by size. Paths are hashed per flow.

    Parameters
    ----------
    settings : DecomposedSettings, optional
    seed : int
        Of the paths and of the draws.

    Returns
    -------
    FlowResult
        ``meta["fidelity"]`` is ``"decomposed"``.

    Raises
    ------
    ConfigError
        For flows that wait for others, weights or priorities: links know nothing of each other here.
    RouteError
        For endpoints without a path.
    """
    began = clock.perf_counter()
    if flows.after.size or (flows.weight != 1.0).any() or (flows.priority != 0).any():
        raise ConfigError(
            "`flows`: a decomposition needs flows that do not wait for each other and have equal weights and "
            "priorities; use the fluid or the packet engine"
        )
    s = DecomposedSettings() if settings is None else settings
    mtu, header, standing_queue, cluster = s.mtu, s.header, s.standing_queue, s.cluster
    ideal = ideal_completion(flows, fabric, mtu, header, choices=1, network=network)
    wire = wire_bytes(flows.bytes, mtu, header)
    packets = np.ceil(flows.bytes / (mtu - header))
    choice = stream(seed, "paths").integers(0, 2**63, len(flows), dtype=np.uint64)
    paths = fabric.route(flows.src, flows.dst, choice, network=network)
    flow, hop = np.nonzero(paths >= 0)
    link = paths[flow, hop]
    limit = np.minimum(fabric.capacity[paths[:, 0]], flows.rate_cap)
    order = np.lexsort((flow, flows.start[flow], link))
    flow, link = flow[order], link[order]
    used, at = np.unique(link.astype(np.int64), return_index=True)
    groups = np.split(flow, at[1:])
    alike = _clusters(fabric, used, groups, flows, wire, cluster)
    outer = np.isin(fabric.node_kind, [NodeKind.ENDPOINT, NodeKind.NIC])
    delay = np.zeros(len(flows))
    draws = stream(seed, "delays")
    # every flow on every link, by the link that is simulated in that one's place
    place = np.repeat(alike, [g.size for g in groups])
    order = np.argsort(place, kind="stable")
    simulated, at = np.unique(place[order], return_index=True)
    for one, entries in zip(simulated.tolist(), np.split(order, at[1:]), strict=True):
        there, at_link = groups[one], int(used[one])
        found = _delays(
            flows.start[there],
            wire[there],
            limit[there],
            packets[there],
            float(fabric.capacity[at_link]),
            # a source is fair among its own flows: only switches keep a queue that everybody waits for
            0.0 if outer[fabric.link_src[at_link]] else standing_queue,
        )
        who = flow[entries]
        np.add.at(delay, who, found.draw(wire[who], packets[who], draws))
    carried = np.bincount(link, weights=wire[flow], minlength=fabric.links).astype(np.float64)
    return FlowResult(
        flows=flows,
        start=flows.start.copy(),
        end=flows.start + ideal + delay,
        link_bytes=carried,
        stats={"links": float(used.size), "simulated_links": float(simulated.size)},
        meta={
            "fidelity": "decomposed",
            "ends": "the last byte has arrived",
            "balancing": "ecmp",
            "seed": seed,
            "mtu": mtu,
            "header": header,
            "settings": {"standing_queue": standing_queue, "cluster": cluster},
            "fold_ratio": used.size / max(1, simulated.size),
            "wall_s": clock.perf_counter() - began,
        },
    )


def _delays(
    start: NDArray[np.float64],
    size: NDArray[np.float64],
    limit: NDArray[np.float64],
    packets: NDArray[np.float64],
    capacity: float,
    queue: float,
) -> _Delays:
    """Simulate one link and sort what it adds to each flow, per packet, into buckets of size."""
    end = share_link(start, size, limit, capacity)
    added = np.maximum(0.0, end - start - size / np.minimum(limit, capacity))
    waits = np.zeros(start.size)
    if queue > 0:
        # a queue stands where those under way could send faster than the link
        done = np.argsort(end, kind="stable")
        gone = np.searchsorted(end[done], start, side="right")
        came = np.concatenate(([0.0], np.cumsum(limit)[:-1]))
        under_way = came - np.concatenate(([0.0], np.cumsum(limit[done])))[gone]
        waits[under_way > capacity * (1 + 1e-9)] = queue / capacity
    order = np.argsort(size, kind="stable")
    ordered = size[order]
    first = [0]
    while first[-1] < ordered.size:
        begin = first[-1]
        enough = max(begin + BUCKET_FLOWS, int(np.searchsorted(ordered, ordered[begin] * BUCKET_SPAN)))
        stop = min(ordered.size, enough)
        if ordered.size - stop < BUCKET_FLOWS:
            stop = ordered.size
        first.append(stop)
    edge = ordered[np.array(first[1:]) - 1]
    return _Delays(edge, np.array(first, np.int64), (added / packets)[order], waits[order])


def _clusters(
    fabric: Fabric,
    used: NDArray[np.int64],
    groups: list[NDArray[np.int64]],
    flows: Flows,
    wire: NDArray[np.float64],
    tolerance: float,
) -> NDArray[np.int64]:
    """For each used link the link (by position in ``used``) that is simulated in its place."""
    alike = np.arange(used.size)
    if tolerance == 0.0:
        return alike
    capacity = fabric.capacity[used]
    load = np.array([wire[g].sum() for g in groups]) / capacity
    shape = np.array([_quantiles(wire[g]) for g in groups])
    gaps = np.array([_quantiles(np.diff(flows.start[g])) for g in groups])
    chosen: list[int] = []
    for k in np.lexsort((load, capacity)).tolist():  # alike links stand beside each other
        near = np.array(chosen[-_CANDIDATES:], np.int64)
        fits = (capacity[near] == capacity[k]) & (load[k] - load[near] <= tolerance * load[k])
        for table in (shape, gaps):
            fits &= np.abs(table[near] - table[k]).sum(axis=1) <= tolerance * table[k].sum()
        if fits.any():
            alike[k] = near[int(np.argmax(fits))]
        else:
            chosen.append(k)
    return alike


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ten evenly spaced order statistics; zeros for none."""
    if not values.size:
        return np.zeros(10)
    return np.sort(values)[(np.arange(0.05, 1.0, 0.1) * values.size).astype(np.int64)]
