"""From cables between switches to a `Fabric`: what the builders of switch graphs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston import units
from euston.errors import FabricError
from euston.fabrics._bisection import Cuts
from euston.fabrics._graph_names import Labels, LinkNames
from euston.fabrics._graph_routing import Routing
from euston.fabrics._graph_structure import SwitchGraph
from euston.fabrics._graph_tables import BACK, BUNDLE, COST, NO_LATTICE, STEP, TO, Graph, Lattice
from euston.fabrics._host_side import HostSide, HostTiming
from euston.fabrics._switch_paths import SwitchPaths
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind, NodeKind

__all__ = ["Cables", "delays", "per_dimension", "rates", "switch_graph"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Cables:
    """Full-duplex cables between switches; equal ends make a trunk of parallel cables.

    Attributes
    ----------
    a, b : int64[C]
        Switches at both ends.
    kind : int[C]
        `LinkKind`.
    capacity : float64[C]
        Bytes/s, each way.
    latency : float64[C]
        Seconds, each way.
    cost : int[C]
        What routing minimises the sum of; 1 for hops.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    kind: ArrayLike
    capacity: ArrayLike
    latency: ArrayLike
    cost: ArrayLike = 1


def per_dimension(what: str, value: T | Sequence[T], dimensions: int) -> list[T]:
    """One value per dimension: the one given for all, or a row of them; `FabricError` for another number."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != dimensions:
            raise FabricError(
                f"`{what}`: {len(value)} values for {dimensions} dimensions; give one for all, or one each"
            )
        return list(value)
    return [value] * dimensions


def switch_graph(
    cables: Cables,
    switches: int,
    host: HostSide,
    timing: HostTiming,
    *,
    labels: Labels,
    routing: Routing,
    lines: Sequence[str],
    groups: NDArray[np.int32] | None = None,
    lattice: Lattice | None = None,
    cuts: Cuts | None = None,
    diameter: int = 0,
) -> Fabric:
    """The fabric of these switches, cables and hosts.

    Parameters
    ----------
    groups : int32[switches], optional
        Groups at one of which Valiant paths turn; at a switch when left out.
    lattice : Lattice, optional
        Coordinates in which the graph looks the same from every switch.
    cuts : Cuts, optional
        Where the smallest bisection may lie; searched for when left out.
    diameter : int
        Most hops of a least-cost path, where that is known.

    Raises
    ------
    FabricError
        For cables that leave hosts without a way to each other.
    """
    n, c = switches, cables.a.size
    if 2 * c + host.first[-1] >= 2**31:
        raise FabricError(f"`{timing.name}`: {2 * c + host.first[-1]:,} links are too many")
    _joined(cables, n, host)
    src, dst = np.concatenate((cables.a, cables.b)), np.concatenate((cables.b, cables.a))
    cable = np.concatenate((np.arange(c), np.arange(c)))
    order = np.lexsort((cable, dst, src))
    place = np.empty(2 * c, np.int64)
    place[order] = np.arange(2 * c)
    src, dst, cable = src[order], dst[order], cable[order]
    fresh = np.ones(2 * c, bool)
    fresh[1:] = (src[1:] != src[:-1]) | (dst[1:] != dst[:-1])
    bundle = np.cumsum(fresh) - 1
    link = np.zeros((2 * c, 5), np.int32)
    link[:, TO], link[:, BUNDLE] = dst, bundle
    link[:, BACK] = np.concatenate((place[c:], place[:c]))[order]
    link[:, COST] = np.broadcast_to(np.asarray(cables.cost), (c,))[cable]
    ptr = np.searchsorted(src, np.arange(n + 1)).astype(np.int64)
    if lattice is not None:
        lattice, link[:, STEP] = _steps(lattice, src, dst)
    graph = Graph(ptr, link)

    def each(values: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(np.broadcast_to(np.asarray(values, np.float64), (c,))[cable])

    kind = each(cables.kind).astype(np.uint8)
    nodes = host.node_counts
    first = sum(nodes.values())
    below_src, below_dst = host.ends()
    below = host.kinds()
    scale_up = below <= LinkKind.SCALE_UP_IN
    into_switch = (below != LinkKind.SCALE_UP_OUT) & (below != LinkKind.NIC_UP)
    queues = np.concatenate((into_switch, np.ones(2 * c, bool)))
    lone = np.arange(below.size)
    return Fabric(
        name=timing.name,
        hosts=host.hosts,
        accelerators_per_host=host.accelerators,
        node_kind=np.repeat(np.array([*nodes, NodeKind.SWITCH], np.uint8), [*nodes.values(), n]),
        link_src=np.concatenate((below_src, first + src)).astype(np.int32),
        link_dst=np.concatenate((below_dst, first + dst)).astype(np.int32),
        capacity=np.concatenate((np.where(scale_up, timing.scale_up, timing.nic), each(cables.capacity))),
        latency=np.concatenate(
            (np.where(scale_up, timing.scale_up_latency, timing.nic_latency), each(cables.latency))
        ),
        buffer_bytes=np.where(queues, timing.buffer, 0).astype(np.int64),
        kind=np.concatenate((below, kind)),
        bundle_start=np.concatenate((lone, below.size + np.flatnonzero(fresh), [below.size + 2 * c])).astype(
            np.int64
        ),
        structure=SwitchGraph(
            host=host,
            paths=SwitchPaths(
                graph=graph,
                routing=routing,
                groups=np.arange(n, dtype=np.int32) if groups is None else groups,
                lattice=lattice or NO_LATTICE,
                diameter=diameter,
            ),
            names=LinkNames(graph, kind, labels),
            cuts=cuts or Cuts(np.zeros((0, n), np.int64)),
            lines=tuple(lines),
        ),
    )


def _steps(
    lattice: Lattice, src: NDArray[np.int64], dst: NDArray[np.int64]
) -> tuple[Lattice, NDArray[np.int32]]:
    """The lattice with its kinds of steps, and that of each link."""
    size = tuple(lattice.size)
    way = tuple(((lattice.place[dst] - lattice.place[src]) % lattice.size).T)
    kinds, kind = np.unique(np.ravel_multi_index(way, size), return_inverse=True)
    ahead = np.empty((lattice.place.shape[0], kinds.size), np.int32)
    for i, step in enumerate(kinds):
        reached = (lattice.place + np.array(np.unravel_index(int(step), size))) % lattice.size
        ahead[:, i] = np.ravel_multi_index(tuple(reached.T), size)
    return lattice._replace(ahead=ahead), kind.ravel().astype(np.int32)


def rates(what: str, values: Sequence[str | float]) -> list[float]:
    """Bandwidths in bytes/s."""
    return [units.bandwidth(value, positive=True, where=what) for value in values]


def delays(what: str, values: Sequence[str | float]) -> list[float]:
    """Latencies in seconds."""
    return [units.duration(value, where=what) for value in values]


def _joined(cables: Cables, switches: int, host: HostSide) -> None:
    # here, and not above: it takes as long to import as the rest of the room
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ways = coo_array((np.ones(cables.a.size, np.int8), (cables.a, cables.b)), shape=(switches, switches))
    _, label = connected_components(ways.tocsr(), directed=False)
    parts = np.unique(label[host.host_switch])
    if parts.size > 1:
        raise FabricError(
            f"`cables`: the hosts fall into {parts.size} parts that no cable joins; join them, or build one "
            "fabric each"
        )
