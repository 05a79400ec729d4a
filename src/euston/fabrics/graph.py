"""Any graph of switches, from its list of cables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from euston import units
from euston.errors import FabricError, unknown
from euston.fabrics._graph_build import Cables, switch_graph
from euston.fabrics._graph_names import Names
from euston.fabrics._graph_routing import routing_rule
from euston.fabrics._host_side import HostOptions, host_side, whole_number
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind

__all__ = ["from_graph"]


def from_graph(
    cables: Iterable[Sequence[Any]],
    *,
    nic: str | float,
    link: str | float | None = None,
    switches: Sequence[int | str] | None = None,
    hosts_per_switch: int | Sequence[int] | Mapping[Any, int] = 1,
    link_latency: str | float = "500 ns",
    routing: str = "minimal",
    paths: int = 8,
    intermediates: int | None = None,
    **options: Unpack[HostOptions],
) -> Fabric:
    """A fabric of full-duplex cables between switches, given as pairs.

    Parameters
    ----------
    cables : iterable of (a, b), (a, b, bandwidth) or (a, b, bandwidth, latency)
        Switches are whole numbers or texts; number 3 is called ``"s3"``. A pair that stands twice is a trunk.
        ``graph.edges`` and ``graph.edges.data("capacity")`` of networkx serve.
    nic : str or float
        Bandwidth of one NIC per direction, "400 Gb/s" or bytes/s.
    link : str or float, optional
        Bandwidth per direction of cables that give none (or None); that of a NIC when left out.
    switches : sequence, optional
        All switches in the order in which hosts are dealt out; when left out those of the cables, numbers in
        rising order, texts as met.
    hosts_per_switch : int, sequence or mapping
        For every switch, one each in order, or by switch (others have none and only forward).
    link_latency : str or float
        Of cables that give none: cable and the switch it ends in.
    routing : {"minimal", "detour", "k_shortest", "valiant", "ugal"}
        As for `euston.fabrics.jellyfish`.
    paths : int
        Paths of a pair under ``k_shortest``.
    intermediates : int, optional
        Switches a pair's Valiant paths may turn at; all when left out.
    **options
        Hosts: see `euston.fabrics.HostOptions`.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter; also where cables leave hosts without a way to each other.
    """
    rows = [tuple(cable) for cable in cables]
    for i, row in enumerate(rows):
        if not 2 <= len(row) <= 4:
            raise FabricError(
                f"`cables[{i}]`: {len(row)} values; write (a, b), (a, b, bandwidth) or "
                "(a, b, bandwidth, latency)"
            )
        if row[0] == row[1]:
            raise FabricError(f"`cables[{i}]`: joins switch {row[0]!r} to itself; leave it out")
    given = [end for row in rows for end in row[:2]] if switches is None else list(switches)
    names = _names(given, "cables" if switches is None else "switches")
    if switches is not None and len(names) < len(given):
        raise FabricError("`switches`: a switch stands twice")
    number = {switch: i for i, switch in enumerate(names)}
    for i, row in enumerate(rows):
        for end in row[:2]:
            if end not in number:
                raise FabricError(f"`cables[{i}]`: {unknown('switch', str(end), map(str, names))}")
    rule = routing_rule(routing, ("minimal", "detour", "k_shortest", "valiant", "ugal"), paths, intermediates)
    below = _hosts(hosts_per_switch, names)
    host, timing = host_side("graph", nic, below, len(names), options)
    rate = timing.nic if link is None else units.bandwidth(link, positive=True, where="link")
    delay = units.duration(link_latency, where="link_latency")
    ends = np.array([[number[row[0]], number[row[1]]] for row in rows], np.int64).reshape(-1, 2)
    capacity, latency = np.full(len(rows), rate), np.full(len(rows), delay)
    for i, row in enumerate(rows):
        if len(row) > 2 and row[2] is not None:
            capacity[i] = units.bandwidth(row[2], positive=True, where=f"cables[{i}][2]")
        if len(row) > 3 and row[3] is not None:
            latency[i] = units.duration(row[3], where=f"cables[{i}][3]")
    return switch_graph(
        Cables(ends[:, 0], ends[:, 1], LinkKind.SWITCH, capacity, latency),
        len(names),
        host,
        timing,
        labels=Names(tuple(s if isinstance(s, str) else f"s{s}" for s in names)),
        routing=rule,
        lines=[f"  {len(names)} switches, {len(rows)} cables"],
    )


def _names(given: list[Any], where: str) -> list[Any]:
    """Switches, each once: numbers in rising order where the cables name them, else as met."""
    texts = all(isinstance(s, str) for s in given)
    numbers = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in given)
    if not given:
        raise FabricError(f"`{where}`: names no switch; one without cables stands in `switches`")
    if not (texts or numbers):
        raise FabricError(f"`{where}`: switches must be all whole numbers or all texts")
    if texts:
        for s in given:
            if not s or "/" in s or any(c.isspace() for c in s):
                raise FabricError(f"`{where}`: {s!r} is no name of a switch; no '/', no space, not empty")
        return list(dict.fromkeys(given))
    if min(given) < 0:
        raise FabricError(f"`{where}`: switch {min(given)} is negative; count from 0")
    return sorted(set(given)) if where == "cables" else list(dict.fromkeys(given))


def _hosts(hosts_per_switch: Any, names: list[Any]) -> Any:
    """Hosts below each switch, int64[n]."""
    what = "hosts_per_switch"
    if isinstance(hosts_per_switch, Mapping):
        for key in hosts_per_switch:
            if key not in names:
                raise FabricError(f"`{what}`: {unknown('switch', str(key), map(str, names))}")
        values = [hosts_per_switch.get(s, 0) for s in names]
    elif isinstance(hosts_per_switch, Sequence | np.ndarray) and not isinstance(hosts_per_switch, str):
        values = list(hosts_per_switch)
        if len(values) != len(names):
            raise FabricError(f"`{what}`: {len(values)} numbers for {len(names)} switches")
    else:
        values = [hosts_per_switch] * len(names)
    return np.array([whole_number(what, v, 0) for v in values], np.int64)
