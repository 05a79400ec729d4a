"""Paths of flows as one flat table: distinct paths per pair, or one path per entropy value.

Only ``fabric.route`` is asked, so that any fabric works. It promises path number ``choice % live`` of a pair,
so asking for 0, 1, 2, ... gives all paths until the first comes back. (UGAL's minimal and Valiant paths take
turns: until both first ones do. The shorter list is repeated, so that half the rows are minimal.) A pair with
no more paths than entropy values has its paths listed once, and the kernel hashes (flow, value) to one of
them, as switches do; with fewer values than paths each value of a flow is hashed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.fabrics._graph_structure import SwitchGraph
from euston.fabrics.structure import Network

__all__ = ["PathTable", "in_pairs", "path_table"]

Numbers = Callable[..., NDArray[np.uint64]]
"""``Ecmp.choices``: path numbers of flows and their queue pairs, for ``fabric.route``."""

MOST_ROWS = 2**26
"""More paths than this are a memory mistake (about 2 GiB), not a study."""


@dataclass(frozen=True)
class PathTable:
    """Where the paths of every flow lie.

    Attributes
    ----------
    links : int32[R, K]
        Links from source to destination, closed by at least one -1; K is a multiple of 8.
    forward, forward_n, back, back_n : int64[F]
        First row and number of rows, there and back.
    hashed : int64[F]
        1 where an entropy value is hashed to a row, 0 where it is the row's number.
    """

    links: NDArray[np.int32]
    forward: NDArray[np.int64]
    forward_n: NDArray[np.int64]
    back: NDArray[np.int64]
    back_n: NDArray[np.int64]
    hashed: NDArray[np.int64]


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _alike(parts: list[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
    """The same rows of links, padded to one length: `Fabric.route` answers as wide as its longest path."""
    width = max(part.shape[1] for part in parts)
    pads = [np.full((len(part), width - part.shape[1]), -1, np.int32) for part in parts]
    return [np.hstack((part, pad)) for part, pad in zip(parts, pads, strict=True)]


def in_pairs(fabric: Fabric) -> bool:
    """Whether even path numbers are minimal paths and odd ones Valiant paths; see `euston.fabrics.ugal`."""
    return isinstance(fabric.structure, SwitchGraph) and fabric.structure.routing.kind == "ugal"


def path_table(
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    entropies: int,
    seed: int,
    *,
    network: Network = "auto",
    alive: NDArray[np.bool_] | None = None,
    numbers: Numbers | None = None,
) -> PathTable:
    """Paths of flows ``src[i] -> dst[i]`` and back.

    Parameters
    ----------
    numbers : callable, optional
        Path numbers by the switches' own hash; entropy values are queue pairs then.

    Raises
    ------
    RouteError
        For a pair without a live path.
    ConfigError
        For more paths than memory should hold.
    """
    if numbers is not None:
        return _numbered(fabric, src, dst, entropies, numbers, network, alive)
    flows = src.size
    ends = np.int64(fabric.endpoints)
    there, back = src.astype(np.int64) * ends + dst, dst.astype(np.int64) * ends + src
    pairs, which = np.unique(np.concatenate((there, back)), return_inverse=True)
    s, d = (pairs // ends).astype(np.int32), (pairs % ends).astype(np.int32)

    def route(rows: NDArray[np.int64], choice: int) -> NDArray[np.int32]:
        return fabric.route(s[rows], d[rows], choice, network=network, alive=alive)

    # all paths of the pairs that have no more than there are entropy values; UGAL's come in twos
    together = 2 if in_pairs(fabric) else 1
    everyone = np.arange(pairs.size, dtype=np.int64)
    firsts = [route(everyone, k) for k in range(together)]
    found, owners = [*firsts], [everyone] * together
    open_ = everyone
    number = np.full(pairs.size, together, np.int64)
    for choice in range(together, entropies + together, together):
        rows = [route(open_, choice + k) for k in range(together)]
        new = np.zeros(open_.size, np.bool_)
        for row, first in zip(rows, firsts, strict=True):
            here, before = _alike([row, first[open_]])
            new |= (here != before).any(axis=1)
        open_ = open_[new]
        if open_.size == 0:
            break
        number[open_] += together
        found += [row[new] for row in rows]
        owners += [open_] * together
        if sum(map(len, found)) > MOST_ROWS:
            raise ConfigError(
                f"packet engine: {pairs.size:,} pairs have more than {MOST_ROWS:,} paths; use fewer entropies"
            )
    many = number > entropies  # these hash each value here
    owner = np.concatenate(owners)
    links = np.concatenate(_alike(found))
    order = np.argsort(owner, kind="stable")
    owner, links = owner[order], links[order]
    keep = ~many[owner]
    owner, links = owner[keep], links[keep]
    start = np.searchsorted(owner, everyone).astype(np.int64)
    forward, forward_n = start[which[:flows]], number[which[:flows]]
    backward, backward_n = start[which[flows:]], number[which[flows:]]
    hashed = np.ones(flows, np.int64)
    single = np.flatnonzero(many[which[:flows]] | many[which[flows:]])
    if single.size:
        if 2 * single.size * entropies > MOST_ROWS:
            raise ConfigError(
                f"packet engine: {single.size:,} flows with {entropies} entropy values need more than "
                f"{MOST_ROWS:,} paths; use fewer entropies"
            )
        hashed[single] = 0
        value = np.tile(np.arange(entropies, dtype=np.uint64), single.size)
        flow = np.repeat(single.astype(np.uint64), entropies)
        salt = _mix(np.array([seed], np.uint64) + np.uint64(0x9E3779B97F4A7C15))[0]
        base = links.shape[0]
        parts = [links]
        for way, (a, b) in enumerate(((src, dst), (dst, src))):
            hashes = _mix(_mix((flow << np.uint64(20)) ^ value ^ salt) + np.uint64(way))
            if together == 2 and entropies > 1:  # even values are minimal paths
                hashes = (hashes & ~np.uint64(1)) | (value & np.uint64(1))
            a_rows, b_rows = np.repeat(a[single], entropies), np.repeat(b[single], entropies)
            parts.append(fabric.route(a_rows, b_rows, hashes, network=network, alive=alive))
        links = np.concatenate(_alike(parts))
        at = base + np.arange(single.size, dtype=np.int64) * entropies
        forward[single], forward_n[single] = at, entropies
        backward[single], backward_n[single] = at + single.size * entropies, entropies
    width = -(-(links.shape[1] + 1) // 8) * 8  # half a cache line, and room for a detour
    closed = np.full((links.shape[0], width), -1, np.int32)
    closed[:, : links.shape[1]] = links
    return PathTable(closed, forward, forward_n, backward, backward_n, hashed)


def _numbered(
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    queue_pairs: int,
    numbers: Numbers,
    network: Network,
    alive: NDArray[np.bool_] | None,
) -> PathTable:
    """One path per queue pair of each flow, there and back, by path numbers."""
    flows = src.size
    if 2 * flows * queue_pairs > MOST_ROWS:
        raise ConfigError(
            f"packet engine: {flows:,} flows of {queue_pairs} queue pairs need more than {MOST_ROWS:,} paths"
        )
    pair = np.tile(np.arange(queue_pairs, dtype=np.int32), flows)
    a, b = np.repeat(src, queue_pairs), np.repeat(dst, queue_pairs)
    ways = []
    for s, d in ((a, b), (b, a)):
        choice = numbers(fabric, s, d, pair, alive=alive)
        ways.append(fabric.route(s, d, choice, network=network, alive=alive))
    width = -(-(max(way.shape[1] for way in ways) + 1) // 8) * 8
    links = np.full((2 * a.size, width), -1, np.int32)
    for k, way in enumerate(ways):
        links[k * a.size : (k + 1) * a.size, : way.shape[1]] = way
    first, number = np.arange(flows, dtype=np.int64) * queue_pairs, np.full(flows, queue_pairs, np.int64)
    return PathTable(links, first, number, first + a.size, number, np.zeros(flows, np.int64))
