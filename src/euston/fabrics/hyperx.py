"""HyperX: every switch joined to all that differ in one coordinate; the n-D full mesh of UB-Mesh.

Ahn et al., "HyperX: topology, routing, and packaging of efficient large-scale networks", SC 2009.
Liao et al., "UB-Mesh: a hierarchically localized nD-FullMesh datacenter network architecture", 2025
(arXiv 2503.20377).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from euston.fabrics._bisection import Cuts
from euston.fabrics._graph_build import Cables, delays, per_dimension, rates, switch_graph
from euston.fabrics._graph_names import Coordinates
from euston.fabrics._graph_routing import routing_rule
from euston.fabrics._grid import grid, kind_of, lattice, letters
from euston.fabrics._host_side import HostOptions, host_side, whole_number
from euston.fabrics.fabric import Fabric

__all__ = ["hyperx"]


def hyperx(
    dims: Sequence[int],
    *,
    nic: str | float,
    link: str | float | Sequence[str | float],
    cables: int | Sequence[int] = 1,
    hosts_per_switch: int = 1,
    link_latency: str | float | Sequence[str | float] = "500 ns",
    routing: str = "minimal",
    intermediates: int | None = None,
    **options: Unpack[HostOptions],
) -> Fabric:
    """An n-dimensional full mesh: one dimension is a full mesh, sizes of 2 a hypercube.

    Parameters
    ----------
    dims : sequence of int
        Switches along each dimension.
    nic : str or float
        Bandwidth of one NIC per direction. An NPU with its own router (UB-Mesh) is a host of one accelerator
        behind a NIC as fast as it can inject.
    link : str or float, or one per dimension
        Bandwidth of one cable per direction.
    cables : int, or one per dimension
        Parallel cables between two switches (a trunk).
    link_latency : str or float, or one per dimension
        Cable and the switch it ends in; the default is an assumption, not a measurement.
    routing : {"minimal", "detour", "valiant", "ugal"}
        ``minimal``: one hop per differing coordinate in any order, n! paths for n of them (times their
        cables). ``detour``: also all paths of one hop more, which correct one coordinate in two hops (APR).
        ``valiant``: over a random switch. ``ugal``: minimal and Valiant, to decide between.
    intermediates : int, optional
        Switches a pair's Valiant paths may turn at; all when left out.
    **options
        Hosts: see `euston.fabrics.HostOptions`.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    shape, place = grid(dims)
    n, count = place.shape
    trunks = [whole_number("cables", c) for c in per_dimension("cables", cables, count)]
    rate = rates("link", per_dimension("link", link, count))
    delay = delays("link_latency", per_dimension("link_latency", link_latency, count))
    rule = routing_rule(routing, ("minimal", "detour", "valiant", "ugal"), intermediates=intermediates)
    host, timing = host_side("hyperx", nic, whole_number("hosts_per_switch", hosts_per_switch, 0), n, options)
    ends, dimension = [], []
    for i, size in enumerate(shape):
        stride = int(np.prod(shape[i + 1 :]))
        first = np.flatnonzero(place[:, i] == 0)
        low, high = np.triu_indices(size, 1)
        a, b = ((first[:, None] + side * stride).ravel() for side in (low, high))
        cable = np.repeat(np.stack([a, b]), trunks[i], axis=1)
        ends.append(cable)
        dimension.append(np.full(cable.shape[1], i))
    (a, b), of = np.concatenate(ends, axis=1), np.concatenate(dimension)
    ports = sum((size - 1) * trunk for size, trunk in zip(shape, trunks, strict=True))
    return switch_graph(
        Cables(a, b, kind_of(of), np.array(rate)[of], np.array(delay)[of]),
        n,
        host,
        timing,
        labels=Coordinates(letters(count), shape),
        routing=rule,
        lines=[f"  {'x'.join(map(str, shape))} full mesh: {n} switches, {ports} cables each"],
        lattice=lattice(shape, place),
        cuts=Cuts(np.stack([np.argsort(place[:, i], kind="stable") for i in range(count)])),
    )
