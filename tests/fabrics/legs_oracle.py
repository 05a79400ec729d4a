"""The slow plain version of planes and legs: live paths enumerated by networkx on the link arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric, LinkKind

Path = tuple[int, ...]
SCALE_UP = (LinkKind.SCALE_UP_OUT, LinkKind.SCALE_UP_IN, LinkKind.SCALE_UP_RISE, LinkKind.SCALE_UP_FALL)


def graph(fabric: Fabric, use: NDArray[np.bool_]) -> nx.DiGraph:
    """The links of ``use``; each edge carries its link number."""
    g = nx.DiGraph()
    g.add_nodes_from(range(fabric.node_kind.size))
    for link in np.flatnonzero(use).tolist():
        edge = (int(fabric.link_src[link]), int(fabric.link_dst[link]))
        assert not g.has_edge(*edge)
        g.add_edge(*edge, link=link)
    return g


def on_nodes(
    fabric: Fabric,
    a: int,
    b: int,
    kinds: NDArray[np.bool_],
    alive: NDArray[np.bool_],
    *,
    around: bool = False,
) -> list[Path]:
    """Live paths over links of some kinds, as long as the shortest when all is well.

    ``around``: the shortest there are, for structures that lead traffic around what is down.
    """
    if a == b:  # both behind one NIC: up to a ToR and back, in any plane
        ups = np.flatnonzero(kinds & (fabric.link_src == a)).tolist()
        loops = [(up, int(fabric.reverse[up])) for up in ups]
        return [loop for loop in loops if alive[list(loop)].all()]
    whole = graph(fabric, kinds)
    try:
        hops = nx.shortest_path_length(whole, a, b)
        found = list(nx.all_shortest_paths(graph(fabric, kinds & alive), a, b))
    except nx.NetworkXNoPath:
        return []
    return [
        tuple(whole.edges[edge]["link"] for edge in pairwise(p))
        for p in found
        if around or len(p) == hops + 1
    ]


def nic_node(fabric: Fabric, endpoint: int, nics: int) -> int:
    """Where the scale-out network sees an endpoint: itself, or the NIC it shares."""
    acc = fabric.accelerators_per_host
    host, g = divmod(endpoint, acc)
    return endpoint if nics == acc else fabric.endpoints + host * nics + g * nics // acc


def scale_up_paths(fabric: Fabric, s: int, d: int, alive: NDArray[np.bool_]) -> list[Path]:
    """Live paths over the scale-up network alone."""
    return [()] if s == d else on_nodes(fabric, s, d, np.isin(fabric.kind, SCALE_UP), alive)


def scale_out_paths(
    fabric: Fabric, s: int, d: int, nics: int, alive: NDArray[np.bool_], *, around: bool = False
) -> list[Path]:
    """Live paths over the scale-out network alone."""
    if s == d:
        return [()]
    a, b = nic_node(fabric, s, nics), nic_node(fabric, d, nics)
    return on_nodes(fabric, a, b, ~np.isin(fabric.kind, SCALE_UP), alive, around=around)


def forwarded_paths(
    fabric: Fabric, s: int, d: int, nics: int, unit: int, alive: NDArray[np.bool_]
) -> list[Path]:
    """Live paths where rails are changed by the neighbour in the sender's unit; ``nics`` of a host."""
    rails = nics * unit // fabric.accelerators_per_host
    relay = s
    if s % unit * rails // unit != d % unit * rails // unit:
        relay = s - s % unit + d % unit
    first = scale_up_paths(fabric, s, relay, alive)
    then = scale_out_paths(fabric, relay, d, nics, alive)
    return [a + b for a, b in itertools.product(first, then)]


def shares(paths: list[Path]) -> dict[int, Fraction]:
    """Share of the paths that use each link, exactly."""
    out: dict[int, Fraction] = {}
    for path in paths:
        for link in path:
            out[link] = out.get(link, Fraction(0)) + Fraction(1, len(paths))
    return out


def routed(
    fabric: Fabric, s: int, d: int, n: int, alive: NDArray[np.bool_], network: str = "scale_out"
) -> list[Path]:
    """Paths number 0 to n - 1 as the fabric gives them, and number n, which must be the first again."""
    number = np.arange(n + 1, dtype=np.uint64)
    paths = fabric.route([s] * (n + 1), [d] * (n + 1), number, alive=alive, network=network)  # type: ignore[arg-type]
    ours = [tuple(p[p >= 0].tolist()) for p in paths]
    assert ours[n] == ours[0]
    return ours[:n]


def on_links(fabric: Fabric, spread: object, flow: int) -> dict[int, float]:
    """Fractions on links of one flow of a spread; a whole bundle spreads evenly."""
    ptr, row, fraction, split = (getattr(spread, name) for name in ("ptr", "row", "fraction", "split"))
    found: dict[int, float] = {}
    for i in range(ptr[flow], ptr[flow + 1]):
        if row[i] < fabric.bundles:
            assert not split[row[i]]
            links = range(fabric.bundle_start[row[i]], fabric.bundle_start[row[i] + 1])
        else:
            links = range(row[i] - fabric.bundles, row[i] - fabric.bundles + 1)
            bundle = fabric.bundle[links[0]]
            assert split[bundle]
        for link in links:
            found[link] = found.get(link, 0.0) + float(fraction[i]) / len(links)
    return found


def check(
    fabric: Fabric,
    pairs: list[tuple[int, int]],
    expect: Callable[[int, int], list[Path]],
    alive: NDArray[np.bool_],
    network: str = "scale_out",
) -> None:
    """Every pair's paths, their number, and ideal spraying against an enumeration."""
    from pytest import approx

    kept = []
    for s, d in pairs:
        expected = expect(s, d)
        if not expected:
            continue
        kept.append((s, d, expected))
        assert sorted(routed(fabric, s, d, len(expected), alive, network)) == sorted(expected)
    if not kept:
        return
    src, dst = [s for s, _, _ in kept], [d for _, d, _ in kept]
    spread = fabric.spread(src, dst, alive=alive, network=network)  # type: ignore[arg-type]
    for flow, (_, _, expected) in enumerate(kept):
        wanted = {link: float(share) for link, share in shares(expected).items()}
        assert on_links(fabric, spread, flow) == approx(wanted, rel=1e-12)
