"""A WAN: sites as endpoints, long links with round-trip times, a few tunnels per pair (B4, SIGCOMM 2013)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np

from euston import units
from euston.errors import FabricError, unknown
from euston.fabrics._host_side import whole_number
from euston.fabrics._wan_structure import WanStructure
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind, NodeKind

__all__ = ["wan"]


def wan(
    cables: Iterable[Sequence[Any]],
    *,
    sites: Sequence[str] | None = None,
    tunnels: int = 4,
    weights: Sequence[float] | None = None,
    buffer: str | float = 0.0,
    name: str = "wan",
) -> Fabric:
    """Sites and the cables between them; every site is a host of one endpoint.

    Paths are the tunnels of least latency over the links that live. `compose` joins whole sites by it.

    Parameters
    ----------
    cables : iterable of (a, b, bandwidth, round-trip time)
        Two sites, bytes/s each way, and the seconds there and back (half of them each way).
    sites : sequence of str, optional
        All sites in the order of their numbers; as the cables name them when left out.
    tunnels : int
        Most tunnels of a pair of sites.
    weights : sequence of float, optional
        Parts of a pair's traffic on its shortest tunnel, the next, ...; equal when left out. As many as
        ``tunnels``; what a pair lacks is shared by those it has.
    buffer : str or float
        Bytes of the queue before every link; 0: not described.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    rows = [tuple(cable) for cable in cables]
    for i, row in enumerate(rows):
        if len(row) != 4:
            raise FabricError(
                f"`cables[{i}]`: {len(row)} values; write (a, b, bandwidth, round-trip time), such as "
                '("paris", "lyon", "400 Gb/s", "8 ms")'
            )
        if row[0] == row[1]:
            raise FabricError(f"`cables[{i}]`: joins {row[0]!r} to itself; leave it out")
    met = dict.fromkeys(end for row in rows for end in row[:2])
    names = tuple(met if sites is None else sites)
    where = "cables" if sites is None else "sites"
    for site in names:
        if not isinstance(site, str) or not site or "/" in site or any(c.isspace() for c in site):
            raise FabricError(f"`{where}`: {site!r} is no name of a site; text without '/' and spaces")
    if len(set(names)) < len(names):
        raise FabricError("`sites`: a site stands twice")
    if len(names) < 2:
        raise FabricError(f"`{where}`: a WAN needs two sites or more")
    number = {site: i for i, site in enumerate(names)}
    pairs: dict[frozenset[int], int] = {}
    for i, row in enumerate(rows):
        for end in row[:2]:
            if end not in number:
                raise FabricError(f"`cables[{i}]`: {unknown('site', str(end), names)}")
        pair = frozenset(number[end] for end in row[:2])
        if pair in pairs:
            raise FabricError(
                f"`cables[{i}]`: joins the same sites as cables[{pairs[pair]}]; write one cable for both"
            )
        pairs[pair] = i
    most = whole_number("tunnels", tunnels)
    parts = np.ones(most) if weights is None else np.array(_weights(weights, most))
    ends = np.array([[number[row[0]], number[row[1]]] for row in rows], np.int64)
    rate = [units.bandwidth(row[2], positive=True, where=f"cables[{i}][2]") for i, row in enumerate(rows)]
    trip = [units.duration(row[3], positive=True, where=f"cables[{i}][3]") for i, row in enumerate(rows)]
    src, dst = ends.ravel(), ends[:, ::-1].ravel()
    links = src.size
    latency = np.repeat(np.array(trip) / 2, 2)
    structure = WanStructure(names, src, dst, latency, most, parts)
    fabric = Fabric(
        name=name,
        hosts=len(names),
        accelerators_per_host=1,
        node_kind=np.full(len(names), NodeKind.ENDPOINT, np.uint8),
        link_src=src.astype(np.int32),
        link_dst=dst.astype(np.int32),
        capacity=np.repeat(np.array(rate), 2),
        latency=latency.copy(),
        buffer_bytes=np.full(links, int(units.data(buffer, where="buffer")), np.int64),
        kind=np.full(links, LinkKind.WAN, np.uint8),
        bundle_start=np.arange(links + 1, dtype=np.int64),
        structure=structure,
    )
    alive = np.ones(links, bool)
    for site in range(1, len(names)):
        if not structure.tunnels(0, site, alive):
            raise FabricError(f"`cables`: nothing leads from {names[0]!r} to {names[site]!r}; join them")
    return fabric


def _weights(weights: Sequence[float], tunnels: int) -> list[float]:
    if len(weights) != tunnels:
        raise FabricError(f"`weights`: {len(weights)} values for {tunnels} tunnels; give one each")
    for i, weight in enumerate(weights):
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not isfinite(weight) or weight <= 0:
            raise FabricError(f"`weights[{i}]`: {weight!r} is not a positive number")
    return [float(weight) for weight in weights]
