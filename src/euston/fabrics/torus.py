"""Torus and mesh: switches on a grid, joined to their neighbours in every dimension (Dally & Towles 2004)."""

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

__all__ = ["torus"]


def torus(
    dims: Sequence[int],
    *,
    nic: str | float,
    link: str | float | Sequence[str | float],
    wrap: bool | Sequence[bool] = True,
    cables: int | Sequence[int] = 1,
    hosts_per_switch: int = 1,
    link_latency: str | float | Sequence[str | float] = "500 ns",
    routing: str = "minimal",
    intermediates: int | None = None,
    **options: Unpack[HostOptions],
) -> Fabric:
    """A torus, or a mesh where ``wrap`` is False.

    Parameters
    ----------
    dims : sequence of int
        Switches along each dimension. A dimension of 2 has one cable (trunk) between its two, wrapped or not.
    nic : str or float
        Bandwidth of one NIC per direction, "400 Gb/s" or bytes/s. A chip with its own router (TPU, UB-Mesh)
        is a host of one accelerator behind a NIC as fast as it can inject.
    link : str or float, or one per dimension
        Bandwidth of one cable per direction.
    wrap : bool, or one per dimension
        Whether the last switch is joined to the first.
    cables : int, or one per dimension
        Parallel cables between neighbours (a trunk).
    link_latency : str or float, or one per dimension
        Cable and the switch it ends in; the default is an assumption, not a measurement.
    routing : {"minimal", "valiant", "ugal"}
        ``minimal``: all shortest paths, whatever the order of their dimensions, both ways round on ties.
        ``valiant``: over a random switch. ``ugal``: both, to decide between (`euston.fabrics.ugal`).
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
    wraps = [bool(w) for w in per_dimension("wrap", wrap, count)]
    trunks = [whole_number("cables", c) for c in per_dimension("cables", cables, count)]
    rate = rates("link", per_dimension("link", link, count))
    delay = delays("link_latency", per_dimension("link_latency", link_latency, count))
    rule = routing_rule(routing, ("minimal", "valiant", "ugal"), intermediates=intermediates)
    host, timing = host_side("torus", nic, whole_number("hosts_per_switch", hosts_per_switch, 0), n, options)
    ends, dimension = [], []
    for i, size in enumerate(shape):
        stride = int(np.prod(shape[i + 1 :]))
        inner = np.flatnonzero(place[:, i] < size - 1)
        pairs = [np.stack([inner, inner + stride])]
        if wraps[i] and size > 2:
            last = np.flatnonzero(place[:, i] == size - 1)
            pairs.append(np.stack([last, last - (size - 1) * stride]))
        cable = np.repeat(np.concatenate(pairs, axis=1), trunks[i], axis=1)
        ends.append(cable)
        dimension.append(np.full(cable.shape[1], i))
    (a, b), of = np.concatenate(ends, axis=1), np.concatenate(dimension)
    even = all(w or size <= 2 for w, size in zip(wraps, shape, strict=True))
    per_switch = np.bincount(np.concatenate((a, b)), minlength=n)
    ports = f"{per_switch.max()}" if even else f"up to {per_switch.max()}"
    return switch_graph(
        Cables(a, b, kind_of(of), np.array(rate)[of], np.array(delay)[of]),
        n,
        host,
        timing,
        labels=Coordinates(letters(count), shape),
        routing=rule,
        lines=[
            f"  {'x'.join(map(str, shape))} {'torus' if all(wraps) else 'mesh'}: {n} switches, "
            f"{ports} cables each"
        ],
        diameter=sum(k // 2 if w else k - 1 for k, w in zip(shape, wraps, strict=True)),
        lattice=lattice(shape, place) if even else None,
        cuts=Cuts(np.stack([np.argsort(place[:, i], kind="stable") for i in range(count)])),
    )
