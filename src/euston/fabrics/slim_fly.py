"""Slim fly: the graphs of McKay, Miller and Siran (1998), of diameter 2 and nearly as large as any can be.

Besta & Hoefler, "Slim Fly: a cost effective low-diameter network topology", SC 2014. Generators as in
Hafner, "Geometric realisation of the graphs of McKay-Miller-Siran", 2004.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from euston import units
from euston.errors import FabricError
from euston.fabrics._galois import Field, field, prime_power
from euston.fabrics._graph_build import Cables, switch_graph
from euston.fabrics._graph_names import Coordinates
from euston.fabrics._graph_routing import routing_rule
from euston.fabrics._host_side import HostOptions, host_side, whole_number
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind

__all__ = ["slim_fly"]


def _possible(q: int) -> bool:
    return q >= 3 and q % 4 != 2 and prime_power(q) is not None


def _generators(f: Field, q: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Differences that join switches of the first and of the second half (Hafner 2004, section 2)."""
    x = f.power
    w, delta = divmod(q + 1, 4)
    delta -= 1  # q = 4 w + delta, delta in -1, 0, 1
    if delta == -1:
        first = np.concatenate((np.arange(0, 2 * w - 1, 2), np.arange(2 * w - 1, 4 * w - 2, 2)))
        second = first + 1
    else:
        first = np.arange(0, q - 1, 2)
        second = np.arange(1, q if delta == 0 else q - 1, 2)
    return x[first], x[second % (q - 1)]


def slim_fly(
    q: int,
    p: int | None = None,
    *,
    nic: str | float,
    link: str | float | None = None,
    link_latency: str | float = "500 ns",
    routing: str = "minimal",
    intermediates: int | None = None,
    **options: Unpack[HostOptions],
) -> Fabric:
    """A slim fly of ``2 q^2`` switches with ``(3 q - delta) / 2`` cables each, for ``q = 4 w + delta``.

    Switch ``b0.x1.y2`` stands in the first half, ``b1.x3.y4`` in the second.

    Parameters
    ----------
    q : int
        A prime power of 3 or more with ``delta`` of -1, 0 or 1: 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, ...
    p : int, optional
        NIC ports of a switch, a multiple of ``nics_per_host``; when left out half of its cables, rounded up,
        with which uniform traffic fills them (Besta & Hoefler 2014).
    nic : str or float
        Bandwidth of one NIC per direction, "400 Gb/s" or bytes/s.
    link : str or float, optional
        Bandwidth of one cable per direction; that of a NIC when left out.
    link_latency : str or float
        Cable and the switch it ends in; the default is an assumption, not a measurement.
    routing : {"minimal", "valiant", "ugal"}
        ``minimal``: the shortest paths, of two hops at most. ``valiant``: over a random switch. ``ugal``:
        both, to decide between (`euston.fabrics.ugal`).
    intermediates : int, optional
        Switches a pair's Valiant paths may turn at; all when left out.
    **options
        Hosts: see `euston.fabrics.HostOptions`.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    q = whole_number("q", q, 3)
    if not _possible(q):
        near = min((other for other in range(3, 2 * q) if _possible(other)), key=lambda o: (abs(o - q), o))
        raise FabricError(
            f"`q`: {q} is not a prime power of the form 4 w - 1, 4 w or 4 w + 1; nearest {near}"
        )
    delta = (q + 1) % 4 - 1
    degree = (3 * q - delta) // 2
    nics = options.get("nics_per_host", options.get("accelerators_per_host", 1))
    if p is None:
        half, whole = (degree + 1) // 2, max(1, nics)
        p = -(-half // whole) * whole
    rule = routing_rule(routing, ("minimal", "valiant", "ugal"), intermediates=intermediates)
    host, timing = host_side("slim_fly", nic, whole_number("p", p), 2 * q * q, options, ports="p")
    rate = timing.nic if link is None else units.bandwidth(link, positive=True, where="link")
    f = field(q)
    elements = np.arange(q)
    within = []
    for half, differences in enumerate(_generators(f, q)):
        # y ~ y + d for every difference d: each cable is found from both ends
        y, d = (v.ravel() for v in np.meshgrid(elements, differences, indexing="ij"))
        other = f.add[y, d]
        y, other = y[y < other], other[y < other]
        start = (half * q * q + q * elements)[:, None]
        within.append(np.stack([(start + y).ravel(), (start + other).ravel()]))
    x, m, c = (v.ravel() for v in np.meshgrid(elements, elements, elements, indexing="ij"))
    across = np.stack([x * q + f.add[f.multiply[m, x], c], q * q + m * q + c])
    a, b = np.concatenate([*within, across], axis=1)
    sizes = [within[0].shape[1] + within[1].shape[1], across.shape[1]]
    return switch_graph(
        Cables(
            a,
            b,
            np.repeat([LinkKind.LOCAL, LinkKind.GLOBAL], sizes),
            rate,
            units.duration(link_latency, where="link_latency"),
        ),
        2 * q * q,
        host,
        timing,
        diameter=2,
        labels=Coordinates(("b", "x", "y"), (2, q, q)),
        routing=rule,
        lines=[f"  {2 * q * q} switches (q = {q}) with {degree} cables and {p} NIC ports each"],
    )
