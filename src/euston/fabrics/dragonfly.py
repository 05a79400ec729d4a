"""Dragonfly: groups of fully meshed switches, every two groups joined by global channels.

Kim, Dally, Scott & Abts, "Technology-driven, highly-scalable dragonfly topology", ISCA 2008.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np

from euston import units
from euston.errors import FabricError
from euston.fabrics._bisection import Cuts
from euston.fabrics._graph_build import Cables, switch_graph
from euston.fabrics._graph_names import Coordinates
from euston.fabrics._graph_routing import routing_rule
from euston.fabrics._host_side import HostOptions, host_side, whole_number
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind

__all__ = ["dragonfly"]

# One global channel outweighs all local ones of a path: fewest global channels first, then fewest hops.
_GLOBAL_COST = 1024


def dragonfly(
    a: int,
    p: int,
    h: int,
    *,
    nic: str | float,
    groups: int | None = None,
    local_link: str | float | None = None,
    global_link: str | float | None = None,
    local_latency: str | float = "500 ns",
    global_latency: str | float = "500 ns",
    routing: str = "minimal",
    intermediates: int | None = None,
    **options: Unpack[HostOptions],
) -> Fabric:
    """A dragonfly of ``groups`` groups; balanced where ``a = 2 p = 2 h``.

    Channel ``k`` from a group to the one ``d`` further on (round the circle of groups) leaves from its port
    ``k (groups - 1) + d - 1``, ports being dealt out to switches ``h`` at a time: every group looks the same.

    Parameters
    ----------
    a : int
        Switches of a group, each joined to all others by a local channel.
    p : int
        NIC ports of a switch; a multiple of ``nics_per_host``.
    h : int
        Global channels of a switch.
    nic : str or float
        Bandwidth of one NIC per direction, "400 Gb/s" or bytes/s.
    groups : int, optional
        ``a h + 1``, the most there can be, when left out. With fewer, every two groups have
        ``a h // (groups - 1)`` channels; the ports left over stay free.
    local_link, global_link : str or float, optional
        Bandwidth of one channel per direction; that of a NIC when left out.
    local_latency, global_latency : str or float
        Cable and the switch it ends in; the defaults are an assumption, not a measurement.
    routing : {"minimal", "valiant", "ugal"}
        ``minimal``: at most one global channel, and then fewest hops; more only where links are down.
        ``valiant``: minimally to a random third group, and from where that is entered on to the target.
        ``ugal``: both, to decide between (`euston.fabrics.ugal`).
    intermediates : int, optional
        Groups a pair's Valiant paths may turn at; all when left out.
    **options
        Hosts: see `euston.fabrics.HostOptions`.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    a, p = whole_number("a", a), whole_number("p", p)
    most = a * whole_number("h", h, 0) + 1
    g = most if groups is None else whole_number("groups", groups)
    if g > most:
        raise FabricError(
            f"`groups`: {g} groups, but {a} switches of {h} global channels reach {most} at most"
        )
    rule = routing_rule(routing, ("minimal", "valiant", "ugal"), intermediates=intermediates)
    host, timing = host_side("dragonfly", nic, p, a * g, options, ports="p")
    local = (
        timing.nic if local_link is None else units.bandwidth(local_link, positive=True, where="local_link")
    )
    far = (
        timing.nic
        if global_link is None
        else units.bandwidth(global_link, positive=True, where="global_link")
    )
    near_delay = units.duration(local_latency, where="local_latency")
    far_delay = units.duration(global_latency, where="global_latency")

    low, high = np.triu_indices(a, 1)
    start = a * np.arange(g)[:, None]
    near = np.stack([(start + low).ravel(), (start + high).ravel()])
    channels = (most - 1) // (g - 1) if g > 1 else 0
    one, other = np.triu_indices(g, 1)
    k = np.arange(channels)[:, None]
    distance = other - one
    ends = [
        (group * a + (k * (g - 1) + ahead - 1) // max(1, h)).ravel()
        for group, ahead in ((one, distance), (other, g - distance))
    ]
    sizes = [near.shape[1], ends[0].size]
    free = most - 1 - channels * (g - 1)
    unused = f", {free} global ports of a group free" if free and g > 1 else ""
    return switch_graph(
        Cables(
            np.concatenate((near[0], ends[0])),
            np.concatenate((near[1], ends[1])),
            np.repeat([LinkKind.LOCAL, LinkKind.GLOBAL], sizes),
            np.repeat([local, far], sizes),
            np.repeat([near_delay, far_delay], sizes),
            np.repeat([1, _GLOBAL_COST], sizes),
        ),
        a * g,
        host,
        timing,
        labels=Coordinates(("g", "s"), (g, a)),
        routing=rule,
        lines=[
            f"  {g} groups of {a} switches with {h} global channels each: {channels} between two groups"
            + unused
        ],
        groups=np.repeat(np.arange(g, dtype=np.int32), a) if g > 1 else None,
        diameter=3 if g > 1 else 1,
        cuts=Cuts(np.arange(a * g)[None], a if g > 1 else 1),
    )
