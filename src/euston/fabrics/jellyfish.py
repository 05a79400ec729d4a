"""Jellyfish: a random regular graph of switches (Singla, Hong, Popa & Godfrey, NSDI 2012)."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import rustworkx as rx

from euston import units
from euston.errors import FabricError
from euston.fabrics._graph_build import Cables, switch_graph
from euston.fabrics._graph_names import Coordinates
from euston.fabrics._graph_routing import routing_rule
from euston.fabrics._host_side import HostOptions, host_side, whole_number
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind

__all__ = ["jellyfish"]

_TRIES = 1000


def jellyfish(
    switches: int,
    degree: int,
    *,
    nic: str | float,
    link: str | float | None = None,
    hosts_per_switch: int = 1,
    seed: int = 0,
    link_latency: str | float = "500 ns",
    routing: str = "k_shortest",
    paths: int = 8,
    intermediates: int | None = None,
    **options: Unpack[HostOptions],
) -> Fabric:
    """A connected random graph without parallel cables in which every switch has ``degree`` neighbours.

    Parameters
    ----------
    switches, degree : int
        ``switches * degree`` must be even.
    nic : str or float
        Bandwidth of one NIC per direction, "400 Gb/s" or bytes/s.
    link : str or float, optional
        Bandwidth of one cable per direction; that of a NIC when left out.
    seed : int
        Of the graph; drawn again from it until the graph is connected.
    link_latency : str or float
        Cable and the switch it ends in; the default is an assumption, not a measurement.
    routing : {"k_shortest", "minimal", "detour", "valiant", "ugal"}
        ``k_shortest``: the ``paths`` shortest loop-free paths (the paper's choice, with 8), looked for up to
        two hops above the least. ``minimal``: all shortest paths. ``detour``: all paths of up to one hop
        more. ``valiant``: over a random switch. ``ugal``: minimal and Valiant, to decide between.
    paths : int
        Paths of a pair under ``k_shortest``.
    intermediates : int, optional
        Switches a pair's Valiant paths may turn at; all when left out.
    **options
        Hosts: see `euston.fabrics.HostOptions`.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter; also when no connected graph was found (of degree 2 few are).
    """
    n, r = whole_number("switches", switches, 2), whole_number("degree", degree)
    if r >= n:
        raise FabricError(f"`degree`: {r} neighbours, but there are only {n - 1} other switches")
    if n * r % 2:
        raise FabricError(f"`degree`: {n} switches cannot all have {r} neighbours; make one of them even")
    rule = routing_rule(routing, ("minimal", "detour", "k_shortest", "valiant", "ugal"), paths, intermediates)
    host, timing = host_side("jellyfish", nic, whole_number("hosts_per_switch", hosts_per_switch), n, options)
    states = np.random.SeedSequence(whole_number("seed", seed, 0)).generate_state(_TRIES, np.uint64)
    for state in states:
        graph = rx.random_regular_graph(n, r, seed=int(state))
        if rx.is_connected(graph):
            break
    else:
        raise FabricError(
            f"`degree`: no connected graph of {n} switches with {r} neighbours each in {_TRIES} draws; "
            "use 3 or more"
        )
    ends = np.array(sorted((min(e), max(e)) for e in graph.edge_list()), np.int64)
    return switch_graph(
        Cables(
            ends[:, 0],
            ends[:, 1],
            LinkKind.SWITCH,
            timing.nic if link is None else units.bandwidth(link, positive=True, where="link"),
            units.duration(link_latency, where="link_latency"),
        ),
        n,
        host,
        timing,
        labels=Coordinates(("s",), (n,)),
        routing=rule,
        lines=[f"  random graph of {n} switches with {r} cables each, seed {seed}"],
    )
