"""Paths between switches by a routing rule: single ones by number, or all at once as shares of links."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError
from euston.fabrics._graph_routes import UNCOUNTED, route
from euston.fabrics._graph_routing import Routing
from euston.fabrics._graph_spread import spread
from euston.fabrics._graph_tables import BUNDLE, TO, Graph, Lattice, Tables

__all__ = ["SwitchPaths"]


@dataclass(eq=False)
class SwitchPaths:
    """Paths of a graph of n switches.

    Attributes
    ----------
    graph : Graph
    routing : Routing
    groups : int32[n]
        Group of each switch, at one of which Valiant paths turn; ``arange(n)``: at a switch.
    lattice : Lattice
    diameter : int
        Most hops of a least-cost path when nothing is down; 0: not known.
    """

    graph: Graph
    routing: Routing
    groups: NDArray[np.int32]
    lattice: Lattice
    diameter: int = 0
    _tables: dict[bool, Tables] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    @property
    def switches(self) -> int:
        """Number of switches."""
        return int(self.graph.ptr.size - 1)

    def tables(self, alive: NDArray[np.bool_]) -> Tables:
        """Distances and path counts over the live links (bool[m]), kept for the last two states.

        One of the two is the state where all is well, for runs in which links fail and come back.
        """
        whole = bool(alive.all())
        kept = self._tables.get(whole)
        if kept is None or not np.array_equal(kept.alive, alive):
            kept = Tables(
                self.graph, alive.copy(), self.routing.excess, self.groups, self.lattice, self.diameter
            )
            self._tables[whole] = kept
        return kept

    def between(
        self,
        source: NDArray[np.int32],
        target: NDArray[np.int32],
        choice: NDArray[np.uint64],
        alive: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Links int32[F, K], the links between switches numbered from 0, and hops int64[F] (-1: no way).

        K stays the same for as long as the links are as they are.
        """
        tables = self.tables(alive)
        s, t = source.astype(np.int64), target.astype(np.int64)
        if not self.routing.turns:
            links, hops, _ = self.leg(tables, s, t, choice)
            return links, hops
        choice = choice % np.uint64(UNCOUNTED)
        turn = np.full(s.size, -1, np.int64)
        nonminimal = np.ones(s.size, bool)
        if self.routing.kind == "ugal":
            nonminimal = choice % np.uint64(2) == 1
            choice = choice // np.uint64(2)
        count = np.maximum(self._turns(tables, s, t), 1).astype(np.uint64)
        at = (choice % count).astype(np.int64)
        turn[nonminimal] = self._turn(tables, s[nonminimal], t[nonminimal], at[nonminimal])
        go = np.flatnonzero(turn >= 0)
        first, hops, paths = self.leg(tables, s[go], turn[go], choice[go] // count[go])
        # the rest of the number picks the second leg
        choice = choice.copy()
        choice[go] = choice[go] // count[go] // np.maximum(paths, 1).astype(np.uint64)
        middle = s.copy()
        middle[go] = self.graph.link[first[np.arange(go.size), np.maximum(hops - 1, 0)], TO]
        second, more, _ = self.leg(tables, middle, t, choice)
        out = np.full((s.size, first.shape[1] + second.shape[1]), -1, np.int32)
        out[go, : first.shape[1]] = first
        begin = np.zeros(s.size, np.int64)
        begin[go] = hops
        row, column = np.nonzero(second >= 0)
        out[row, begin[row] + column] = second[row, column]
        total = np.where(more < 0, -1, begin + more)
        return out, total

    def leg(
        self,
        tables: Tables,
        source: NDArray[np.int64],
        target: NDArray[np.int64],
        choice: NDArray[np.uint64],
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
        """Links, hops (-1: no way) and number of least-cost (or selected) paths to targets."""
        hops, paths = np.empty(source.size, np.int64), np.empty(source.size)
        width = tables.width  # before `prepare`, which it may call
        found = []
        for these, part in self._parts(tables, source, target):
            s, t, c = source[part], target[part], choice[part]
            links = np.full((part.size, these.width), -1, np.int32)
            h, p = np.empty(part.size, np.int64), np.empty(part.size)
            route(self.graph, these.view, these.slot, these.alive, s, t, c, self.routing.paths, links, h, p)
            hops[part], paths[part] = h, p
            found.append((part, links))
        out = np.full((source.size, width), -1, np.int32)
        for part, links in found:
            # looking for loop-free walks leaves links behind the end
            kept = np.arange(links.shape[1]) < hops[part, None]
            out[part, : links.shape[1]] = np.where(kept, links, np.int32(-1))
        return out, hops, paths

    def reachable(
        self, tables: Tables, source: NDArray[np.int64], target: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Pairs of switches with a live path, bool[F]."""
        out = np.empty(source.size, bool)
        for these, part in self._parts(tables, source, target):
            out[part] = these.count(source[part], target[part])[:, 0] > 0
        return out

    def _parts(
        self, tables: Tables, source: NDArray[np.int64], target: NDArray[np.int64]
    ) -> Iterator[tuple[Tables, NDArray[np.int64]]]:
        """Flows and the tables that serve them, part by part.

        In a lattice with links down, pairs whose paths cross none of these stay with the healthy table.
        """
        who = np.arange(source.size)
        if self.lattice.size.size and not tables.one:
            healthy = self.tables(np.ones_like(tables.alive))
            touched = tables.touched(healthy, source, target)
            yield healthy, np.flatnonzero(~touched)
            who = np.flatnonzero(touched)
        for part in tables.prepare(target[who]):
            yield tables, who[part]

    # ---- intermediates ---------------------------------------------------------------------------------

    def _around(
        self, tables: Tables, s: NDArray[np.int64], t: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Positions of both ends' groups among the intermediates, in order, and how many others there are.

        None (0) for pairs outside the largest part in which every switch reaches every other.
        """
        g, h = self.groups[s].astype(np.int64), self.groups[t].astype(np.int64)
        low = np.searchsorted(tables.ring, np.minimum(g, h))
        high = np.searchsorted(tables.ring, np.maximum(g, h))
        others = tables.ring.size - 1 - (g != h)
        return low, high, np.where(tables.core[s] & tables.core[t], np.maximum(others, 0), 0)

    def _turns(self, tables: Tables, s: NDArray[np.int64], t: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many intermediates each pair has, int64[F]."""
        others = self._around(tables, s, t)[2]
        most = self.routing.intermediates
        return np.minimum(others, most) if most else others

    def _turn(
        self, tables: Tables, s: NDArray[np.int64], t: NDArray[np.int64], number: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Intermediate ``number`` of each pair as a target of the tables, int64[F]; -1 for none."""
        low, high, others = self._around(tables, s, t)
        count = np.maximum(others, 1)
        at = number.copy()
        if self.routing.intermediates:
            # a start of the pair's own, then steps at the golden ratio, which do not meet before the end
            key = (s * 0x9E3779B1 + t * 0x85EBCA77 + 0x27D4EB2F) % (1 << 31)
            sizes, of = np.unique(count, return_inverse=True)
            pace = np.array([_stride(int(n)) for n in sizes], np.int64)[of.ravel()]
            at = (key % count + number * pace) % count
        at += at >= low
        at += (at >= high) & (high != low)
        turn = tables.ring[np.minimum(at, tables.ring.size - 1)]
        return np.where(others > 0, turn + (self.switches if tables.grouped else 0), -1)

    def shares(
        self,
        tables: Tables,
        s: NDArray[np.int64],
        t: NDArray[np.int64],
        weight: NDArray[np.float64],
        split: NDArray[np.bool_],
        first_bundle: int,
        first_link: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """Shares on rows as CSR (ptr, row, fraction) of pairs with a live path.

        ``weight``: float64[m], 0 for dead links. ``split``: bool[B]; from ``first_bundle`` on they
        are this graph's. ``first_link``: row of link 0.
        """
        if self.routing.paths:
            return self._selected(tables, s, t, weight, split, first_bundle, first_link)
        direct, via = np.ones(s.size), np.zeros((s.size, 0), np.int64)
        targets = t
        if self.routing.turns and s.size:
            count = self._turns(tables, s, t)
            number = np.arange(int(count.max(initial=0)))
            flow, at = np.nonzero(number < count[:, None])
            via = np.full((s.size, number.size), -1, np.int64)
            via[flow, at] = self._turn(tables, s[flow], t[flow], at)
            direct = np.where(count > 0, 0.5 if self.routing.kind == "ugal" else 0.0, 1.0)
            if not tables.fits:
                raise FabricError(
                    f"`routing`: {self.routing.kind} paths over {self.switches:,} switches are too many to "
                    "spread over at once; route single paths (ecmp) or use minimal routing"
                )
            targets = np.concatenate((t, np.unique(via[flow, at])))
        everybody: Iterable[tuple[Tables, NDArray[np.int64]]]
        if self.routing.turns:
            everybody = [(tables, part[part < t.size]) for part in tables.prepare(targets)]
        else:
            everybody = self._parts(tables, s, t)
        found = []
        for these, part in everybody:
            shares = spread(
                these, weight, s[part], t[part], direct[part], via[part], split, first_bundle, first_link
            )
            found.append((part, shares))
        if len(found) == 1:
            return found[0][1]
        size = np.zeros(s.size, np.int64)
        for part, (ptr, _, _) in found:
            size[part] = np.diff(ptr)
        out = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        row, fraction = np.empty(int(out[-1]), np.int32), np.empty(int(out[-1]))
        for part, (ptr, rows, fractions) in found:
            place = np.arange(rows.size) + np.repeat(out[:-1][part] - ptr[:-1], np.diff(ptr))
            row[place], fraction[place] = rows, fractions
        return out, row, fraction

    def _selected(
        self,
        tables: Tables,
        s: NDArray[np.int64],
        t: NDArray[np.int64],
        weight: NDArray[np.float64],
        split: NDArray[np.bool_],
        first_bundle: int,
        first_link: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """`shares` over a few paths each, one by one; they need not use the cables of a trunk evenly."""
        bundle = self.graph.link[:, BUNDLE]
        trunk = np.bincount(bundle) > 1
        split[first_bundle:] |= trunk
        many = self.leg(tables, s, t, np.zeros(s.size, np.uint64))[2].astype(np.int64)
        flow = np.repeat(np.arange(s.size), many)
        number = np.arange(flow.size) - np.repeat(np.cumsum(many) - many, many)
        links = self.leg(tables, s[flow], t[flow], number.astype(np.uint64))[0]
        narrow = np.where(links >= 0, weight[links], np.inf).min(axis=1, initial=np.inf)
        share = narrow / np.bincount(flow, weights=narrow, minlength=s.size)[flow]
        path, hop = np.nonzero(links >= 0)
        key, first, of = np.unique(
            flow[path] * weight.size + links[path, hop], return_index=True, return_inverse=True
        )
        order = np.argsort(first)  # as met along the paths
        owner, link = np.divmod(key[order], weight.size)
        row = np.where(trunk[bundle[link]], first_link + link, first_bundle + bundle[link])
        ptr = np.searchsorted(owner, np.arange(s.size + 1)).astype(np.int64)
        fraction = np.bincount(of.ravel(), weights=share[path])[order]
        return ptr, row.astype(np.int32), fraction.astype(np.float64)


def _stride(count: int) -> int:
    """The step nearest below the golden ratio of ``count`` that visits every number below it."""
    step = max(1, int(count * 0.6180339887498949))
    while np.gcd(step, count) > 1:
        step -= 1
    return step
