"""Distances and path counts to one target switch (or group) over live links, built when asked for.

A target's table holds, for every switch, its least cost to the target and how many walks of least cost plus
0, 1, ... E hops lead there. Routes are then read off hop by hop; nothing is stored per pair of endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "BACK",
    "BUNDLE",
    "COST",
    "FAR",
    "MOST_WALKS",
    "NO_LATTICE",
    "STEP",
    "TO",
    "Graph",
    "Lattice",
    "Tables",
    "View",
    "at",
]

FAR = 1 << 30
MOST_WALKS = 1e300
_TABLE_BYTES = 256 << 20
_MOST_CHECKS = 1 << 27
_QUICK = 1 << 28

# rows of Graph.link
TO, BACK, COST, BUNDLE, STEP = 0, 1, 2, 3, 4

_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Graph(NamedTuple):
    """Directed links between n switches, in order of (switch they leave, switch they enter, cable)."""

    ptr: NDArray[np.int64]
    """int64[n + 1]: links ``ptr[v]:ptr[v + 1]`` leave switch v."""
    link: NDArray[np.int32]
    """int32[m, 5]: switch it enters, reverse link, cost (1 or more), bundle, step of its `Lattice`."""


class Lattice(NamedTuple):
    """Coordinates in which a graph looks the same from every switch; no columns where there are none."""

    place: NDArray[np.int64]
    """int64[n, D]"""
    size: NDArray[np.int64]
    """int64[D]"""
    ahead: NDArray[np.int32]
    """int32[n, steps]: where each kind of step leads from each switch."""


class View(NamedTuple):
    """Tables as the kernels see them; row k belongs to one target."""

    dist: NDArray[np.int32]
    """int32[K, n]: least cost to the target, FAR where there is no way."""
    walks: NDArray[np.float64]
    """float64[K, E + 1, n]: walks of e hops above the least."""
    place: NDArray[np.int64]
    """int64[n, D] of a `Lattice`: its one table serves every target by translation."""
    size: NDArray[np.int64]
    ahead: NDArray[np.int32]


NO_LATTICE = Lattice(np.zeros((0, 0), np.int64), np.zeros(0, np.int64), np.zeros((0, 0), np.int32))


@_helper
def at(view, switch, target):  # type: ignore[no-untyped-def]
    """Where a table holds ``switch`` when ``target`` is the target."""
    if view.size.size == 0:
        return np.int64(switch)
    index = np.int64(0)
    for i in range(view.size.size):
        step = view.place[switch, i] - view.place[target, i]
        if step < 0:
            step += view.size[i]
        index = index * view.size[i] + step
    return index


@njit(cache=True, no_cfunc_wrapper=True)
def _fill(live, member_ptr, members, top, dist, walks, longest):  # type: ignore[no-untyped-def]
    """One table per target: Dial's buckets outwards from its members, counting walks on the way.

    ``top`` is the largest cost of a link. ``longest[k]`` becomes the most hops of a least-cost path.
    """
    ptr, link = live.ptr, live.link
    n, m = ptr.size - 1, link.shape[0]
    head = np.full(top + 1, -1, np.int64)
    entry = np.empty((2, m + n), np.int64)  # switch, next entry of the bucket
    order = np.empty(n, np.int64)
    hops = np.zeros(n, np.int64)
    for k in range(dist.shape[0]):
        d, count = dist[k], walks[k, 0]
        d[:] = FAR
        walks[k] = 0.0
        used, waiting, settled, level, most = 0, 0, 0, 0, 0
        for i in range(member_ptr[k], member_ptr[k + 1]):
            v = members[i]
            d[v], count[v], hops[v] = 0, 1.0, 0
            entry[0, used], entry[1, used] = v, head[0]
            head[0] = used
            used += 1
            waiting += 1
        while waiting > 0:
            bucket = level % (top + 1)
            while head[bucket] >= 0:
                i = head[bucket]
                head[bucket] = entry[1, i]
                waiting -= 1
                v = entry[0, i]
                if d[v] != level:
                    continue  # reached more cheaply since
                order[settled] = v
                settled += 1
                most = max(most, hops[v])
                ways = min(count[v], MOST_WALKS)  # complete: all that v leads to is nearer
                count[v] = ways
                for i in range(ptr[v], ptr[v + 1]):
                    u, far = link[i, 0], level + link[i, 1]
                    if far < d[u]:
                        d[u], count[u], hops[u] = far, ways, hops[v] + 1
                        entry[0, used], entry[1, used] = u, head[far % (top + 1)]
                        head[far % (top + 1)] = used
                        used += 1
                        waiting += 1
                    elif far == d[u]:
                        count[u] += ways
            level += 1
        longest[k] = most
        # a hop that does not lead nearer spends one or two of those to spare
        for e in range(1, walks.shape[1]):
            for i in range(settled):
                w = order[i]
                for j in range(ptr[w], ptr[w + 1]):
                    v = link[j, 0]
                    left = e - (d[w] + link[j, 1] - d[v])
                    if 0 <= left < e and d[v] > 0:
                        walks[k, e, v] += walks[k, left, w]
            for i in range(settled):
                w = order[i]
                ways = min(walks[k, e, w], MOST_WALKS)
                walks[k, e, w] = ways
                for j in range(ptr[w], ptr[w + 1]):
                    v = link[j, 0]
                    if d[w] + link[j, 1] == d[v]:
                        walks[k, e, v] += ways


@njit(cache=True, no_cfunc_wrapper=True)
def _touched(graph, view, dead, source, target, excess, out):  # type: ignore[no-untyped-def]
    """Whether one of the ``dead`` links (int64[2, D]: from, to) lies on a path of the pair, by one table."""
    for f in range(source.size):
        s, t = source[f], target[f]
        far = view.dist[0, at(view, s, t)] + excess
        for i in range(dead.shape[1]):
            x, y = dead[0, i], dead[1, i]
            if view.dist[0, at(view, s, x)] + 1 + view.dist[0, at(view, y, t)] <= far:
                out[f] = True
                break


class _Live(NamedTuple):
    """Live links into (or out of) each switch."""

    ptr: NDArray[np.int64]
    link: NDArray[np.int32]
    """int32[live, 2]: other end, cost."""


class Tables:
    """Tables of one state of the links, kept as long as they fit into 256 MiB.

    Targets are the n switches and, behind them, the groups (where ``groups`` has fewer than n). A path to a
    group ends at the first switch of the group that it meets.

    Parameters
    ----------
    graph : Graph
    alive : bool[m]
    excess : int
        Hops above the least up to which walks are counted (E).
    groups : int32[n]
        Group of each switch; ``arange(n)`` where there are none.
    lattice : Lattice
        Of the graph when nothing is down.
    diameter : int
        Most hops of a least-cost path when nothing is down; 0: not known.
    """

    def __init__(
        self,
        graph: Graph,
        alive: NDArray[np.bool_],
        excess: int,
        groups: NDArray[np.int32],
        lattice: Lattice,
        diameter: int,
    ) -> None:
        n = graph.ptr.size - 1
        self.graph, self.alive, self.excess = graph, alive, excess
        self.core = self._core()
        self.groups = groups
        self.ring = np.unique(groups[self.core]).astype(np.int64)
        """Groups (or switches) that Valiant paths may turn at."""
        self.grouped = bool(groups.max(initial=0) + 1 < n)
        self._lattice = lattice if alive.all() else NO_LATTICE
        self._regular = lattice.size.size > 0
        self._diameter = diameter if alive.all() else 0
        targets = n + (int(groups.max(initial=0)) + 1 if self.grouped else 0)
        one = self._lattice.size.size > 0
        self.one = one
        """Whether one table serves all targets."""
        room = max(1, _TABLE_BYTES // (n * (4 + 8 * (excess + 1))))
        self.room = 1 if one else min(room, targets)
        self.slot = np.full(targets, 0 if one else -1, np.int32)
        self._dist = np.empty((self.room, n), np.int32)
        self._walks = np.empty((self.room, excess + 1, n), np.float64)
        self._longest = np.zeros(self.room, np.int64)
        self._used = 0
        self._live: _Live | None = None
        if one:
            self._build(np.zeros(1, np.int64))

    @property
    def view(self) -> View:
        """For kernels: valid until the next `prepare`."""
        return View(self._dist, self._walks, *self._lattice)

    @cached_property
    def width(self) -> int:
        """Hops that suffice for every path, the same for as long as the links are as they are.

        The largest distance, where that is quickly found; else the way to switch 0 and on from there.
        """
        if self.one:
            return int(self._longest[0]) + self.excess
        if self._diameter:
            return self._diameter + self.excess
        n, m = self.graph.ptr.size - 1, self.graph.link.shape[0]
        hops = bool((self.graph.link[:, COST] == 1).all())
        if not (hops and self.core.all() and (self._regular or n * m > _QUICK)):
            every = np.arange(n)
            found = [int(self._longest[self.slot[every[part]]].max()) for part in self.prepare(every)]
            return max(found, default=0) + self.excess
        dist, walks, longest = np.empty((2, n), np.int32), np.empty((2, 1, n)), np.empty(2, np.int64)
        for i, inwards in enumerate((True, False)):
            ends = np.array([0, 1]), np.zeros(1, np.int64)
            _fill(self._ways(inwards), *ends, 1, dist[i : i + 1], walks[i : i + 1], longest[i : i + 1])
        return int(longest.sum()) + self.excess

    @property
    def fits(self) -> bool:
        """Whether the tables of all targets fit at once."""
        return self.one or self.room >= self.slot.size

    def prepare(self, targets: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Build what is missing for ``targets`` (int64[F]); yields flows whose tables stand, part by part.

        Almost always one part; several only where the tables of all targets do not fit.
        """
        if not targets.size:
            return
        wanted = np.unique(targets)
        missing = wanted[self.slot[wanted] < 0]
        if self._used + missing.size > self.room and missing.size:
            self.slot[:] = -1
            self._used = 0
            missing = wanted
        if missing.size <= self.room:
            self._build(missing)
            yield np.arange(targets.size)
            return
        rank = np.searchsorted(wanted, targets) // self.room
        for part in range(int(rank.max()) + 1):
            self.slot[:] = -1
            self._used = 0
            self._build(wanted[part * self.room : (part + 1) * self.room])
            yield np.flatnonzero(rank == part)

    def count(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> NDArray[np.float64]:
        """Walks of each pair by hops above the least, float64[F, E + 1]; the targets must be prepared."""
        if self.one:
            shift = (self._lattice.place[source] - self._lattice.place[target]) % self._lattice.size
            source = np.ravel_multi_index(tuple(shift.T), tuple(self._lattice.size))
        return np.asarray(self._walks[self.slot[target], :, source])

    def _build(self, targets: NDArray[np.int64]) -> None:
        if not targets.size:
            return
        if self._live is None:
            self._live = self._ways(True)
        n = self.graph.ptr.size - 1
        single = targets < n
        if single.all():
            members, sizes = targets, np.ones(targets.size, np.int64)
        else:
            core = np.flatnonzero(self.core)
            core = core[np.argsort(self.groups[core], kind="stable")]
            first = np.searchsorted(self.groups[core], targets - n, side="left")
            last = np.searchsorted(self.groups[core], targets - n, side="right")
            parts = [
                targets[i : i + 1] if single[i] else core[first[i] : last[i]] for i in range(targets.size)
            ]
            members, sizes = np.concatenate(parts), np.array([p.size for p in parts], np.int64)
        rows = slice(self._used, self._used + targets.size)
        ptr = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        top = int(self.graph.link[:, COST].max(initial=1))
        _fill(
            self._live, ptr, members.astype(np.int64), top,
            self._dist[rows], self._walks[rows], self._longest[rows],
        )  # fmt: skip
        self.slot[targets] = np.arange(rows.start, rows.stop, dtype=np.int32)
        self._used += targets.size

    def _ways(self, inwards: bool) -> _Live:
        """Live links into (or out of) each switch: the other end, and at what cost."""
        link = self.graph.link
        way = np.flatnonzero(self.alive[link[:, BACK]] if inwards else self.alive)
        n = self.graph.ptr.size - 1
        into = np.repeat(np.arange(n), np.diff(self.graph.ptr))[way]
        ptr = np.searchsorted(into, np.arange(n + 1)).astype(np.int64)
        return _Live(ptr, np.ascontiguousarray(link[way][:, [TO, COST]]))

    def touched(
        self, healthy: Tables, source: NDArray[np.int64], target: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Pairs whose paths in the healthy lattice cross a link that is down here, bool[F]."""
        down = np.flatnonzero(~self.alive)
        out = np.zeros(source.size, bool)
        if not healthy.one or down.size * source.size > _MOST_CHECKS:
            return ~out
        tail = np.repeat(np.arange(self.graph.ptr.size - 1), np.diff(self.graph.ptr))[down]
        dead = np.stack((tail, self.graph.link[:, TO][down].astype(np.int64)))
        _touched(self.graph, healthy.view, dead, source, target, self.excess, out)
        return out

    def _core(self) -> NDArray[np.bool_]:
        """Switches of the largest part in which every switch reaches every other, bool[n]."""
        # here, and not above: it takes as long to import as the rest of the room
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n = self.graph.ptr.size - 1
        src = np.repeat(np.arange(n), np.diff(self.graph.ptr))[self.alive]
        dst = self.graph.link[:, TO][self.alive]
        ways = coo_array((np.ones(src.size, np.int8), (src, dst)), shape=(n, n))
        _, label = connected_components(ways.tocsr(), directed=True, connection="strong")
        return np.asarray(label == np.bincount(label).argmax())
