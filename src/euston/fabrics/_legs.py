"""Paths made of legs: up the scale-up network and on over another NIC, or from one site to another.

A path takes one leg of each stage in turn. A stage offers a flow one leg or several, each a path within one
part, which is a structure of its own. Number ``n`` of a flow's paths is written in mixed radix: which path of
the first stage, of the second, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.fabrics.structure import (
    CountsPaths,
    CountsScaleUpPaths,
    HashesPerSwitch,
    Network,
    Spread,
    Structure,
    SwitchWord,
)

__all__ = ["Legs", "Part", "Stage", "legs_hashed", "legs_live_paths", "legs_route", "legs_spread"]

UNCOUNTED = 1 << 62
"""Paths beyond this are not told apart."""


@dataclass(frozen=True, eq=False)
class Part:
    """A structure within a fabric.

    Attributes
    ----------
    structure : Structure
    link0, bundle0 : int
        Its first link and bundle in the fabric, in which the others follow.
    bundle_start : int64[B + 1]
        Of the part alone.
    node : int32[N]
        Node of the fabric for each of its nodes.
    """

    structure: Structure
    link0: int
    bundle0: int
    bundle_start: NDArray[np.int64]
    node: NDArray[np.int32]

    @property
    def links(self) -> slice:
        """Its links in the fabric."""
        return slice(self.link0, self.link0 + int(self.bundle_start[-1]))

    @property
    def bundles(self) -> slice:
        """Its bundles in the fabric."""
        return slice(self.bundle0, self.bundle0 + self.bundle_start.size - 1)


@dataclass(frozen=True, eq=False)
class Stage:
    """Legs of flows, those of one flow together and in order.

    Attributes
    ----------
    flow, part : int64[n]
    src, dst : int32[n]
        Endpoints of the part.
    network : Network
        Of the part, for all legs; never ``auto``.
    """

    flow: NDArray[np.int64]
    part: NDArray[np.int64]
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    network: Network


@dataclass(frozen=True, eq=False)
class Legs:
    """What flows cross: their stages, and the flows for which there is no way at all."""

    stages: Sequence[Stage]
    stuck: NDArray[np.bool_]


class _Counted:
    """The live paths of every leg of a stage, and how the flows' totals divide among them."""

    def __init__(self, stage: Stage, parts: Sequence[Part], flows: int, alive: NDArray[np.bool_]) -> None:
        self.stage = stage
        count = np.zeros(stage.flow.size, np.int64)
        for part, who in _by_part(stage, parts):
            live, whole = _state(part, alive)
            count[who] = _count(part.structure, stage.src[who], stage.dst[who], stage.network, live, whole)
        self.count = np.minimum(count, UNCOUNTED)
        many = np.bincount(stage.flow, minlength=flows)
        self.offered = many > 0
        first = np.cumsum(many) - many
        before = np.cumsum(self.count.astype(np.float64)) - self.count
        # exact below 2^53; beyond, numbers of paths only pick
        self.before = (before - before[first[stage.flow]]).astype(np.int64) if count.size else count
        total = np.bincount(stage.flow, weights=self.count, minlength=flows)
        self.total = np.where(self.offered, np.minimum(total, UNCOUNTED), 1).astype(np.int64)

    def pick(self, number: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The leg of each flow that path ``number`` of the stage takes, and its number within the leg."""
        mine = number[self.stage.flow].astype(np.int64) - self.before
        leg = np.flatnonzero((mine >= 0) & (mine < self.count))
        return leg, mine[leg].astype(np.uint64)


def _by_part(stage: Stage, parts: Sequence[Part]) -> Iterator[tuple[Part, NDArray[np.int64]]]:
    for i in np.unique(stage.part):
        yield parts[int(i)], np.flatnonzero(stage.part == i)


def _state(part: Part, alive: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    live = alive[part.links].copy()
    return live, np.logical_and.reduceat(live, part.bundle_start[:-1])


def _count(
    structure: Structure,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    network: Network,
    alive: NDArray[np.bool_],
    whole: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Live paths of each pair, int64[n]."""
    if network == "scale_out" and isinstance(structure, CountsPaths):
        return structure.live_paths(src, dst, alive, whole)
    if network == "scale_up" and isinstance(structure, CountsScaleUpPaths):
        return structure.live_scale_up_paths(src, dst, alive, whole)
    out = np.ones(src.size, np.int64)
    who = np.arange(src.size)
    while who.size:  # those that fail are left out one by one
        none = np.zeros(who.size, np.uint64)
        failed = structure.route(src[who], dst[who], none, network, alive, whole)[1]
        if failed < 0:
            break
        out[who[failed]] = 0
        who = np.delete(who, failed)
    return out


def _first_stuck(legs: Legs, counted: Sequence[_Counted]) -> int:
    stuck = legs.stuck.copy()
    for stage in counted:
        stuck |= stage.offered & (stage.total == 0)
    return int(np.argmax(stuck)) if stuck.any() else -1


def legs_route(
    legs: Legs, parts: Sequence[Part], choice: NDArray[np.uint64], alive: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], int]:
    """See `Structure.route`."""
    flows = choice.size
    counted = [_Counted(stage, parts, flows, alive) for stage in legs.stages]
    failed = _first_stuck(legs, counted)
    if failed >= 0:
        return np.full((flows, 0), -1, np.int32), failed
    rest = choice.copy()
    found: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
    length = np.zeros(flows, np.int64)
    begins = []
    for stage in counted:
        total = stage.total.astype(np.uint64)
        leg, number = stage.pick(rest % total)
        rest //= total
        s = stage.stage
        width = 0
        blocks = []
        for i in np.unique(s.part[leg]):
            part = parts[int(i)]
            mine = np.flatnonzero(s.part[leg] == i)
            at = leg[mine]
            live, whole = _state(part, alive)
            links, bad = part.structure.route(s.src[at], s.dst[at], number[mine], s.network, live, whole)
            if bad >= 0:
                return np.full((flows, 0), -1, np.int32), int(s.flow[at[bad]])
            blocks.append((s.flow[at], np.where(links >= 0, links + part.link0, -1)))
            width = max(width, links.shape[1])
        for flow, links in blocks:
            found.append((flow, links.astype(np.int32)))
            begins.append(length[flow].copy())
        for flow, links in blocks:
            length[flow] += (links >= 0).sum(axis=1)
    out = np.full((flows, int(length.max(initial=0))), -1, np.int32)
    for (flow, links), begin in zip(found, begins, strict=True):
        row, column = np.nonzero(links >= 0)
        out[flow[row], begin[row] + column] = links[row, column]
    return out, -1


def legs_live_paths(
    legs: Legs, parts: Sequence[Part], flows: int, alive: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """See `euston.fabrics.structure.CountsPaths`."""
    paths = np.ones(flows)
    for stage in legs.stages:
        paths *= _Counted(stage, parts, flows, alive).total
    paths[legs.stuck] = 0.0
    return np.minimum(paths, UNCOUNTED).astype(np.int64)


def legs_hashed(
    legs: Legs, parts: Sequence[Part], flows: int, word: SwitchWord, alive: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """See `euston.fabrics.structure.HashesPerSwitch`: a stage's leg is hashed where the stage begins."""
    out, unit = np.zeros(flows, np.uint64), np.ones(flows, np.uint64)
    for stage in legs.stages:
        counted = _Counted(stage, parts, flows, alive)
        leg = _hashed_leg(counted, parts, word)
        number = np.zeros(flows, np.uint64)
        for i in np.unique(stage.part[leg]):
            part = parts[int(i)]
            at = leg[stage.part[leg] == i]
            number[stage.flow[at]] = counted.before[at].astype(np.uint64) + _hashed_number(
                part, stage, at, counted.count[at], word, alive
            )
        out += unit * number
        unit *= np.maximum(counted.total, 1).astype(np.uint64)
    return out


def _hashed_leg(counted: _Counted, parts: Sequence[Part], word: SwitchWord) -> NDArray[np.int64]:
    """Each flow's leg number ``word % live legs``; flows without one are left out."""
    s = counted.stage
    live = np.flatnonzero(counted.count > 0)
    flow, first, many = np.unique(s.flow[live], return_index=True, return_counts=True)
    node = np.array([parts[int(s.part[live[i]])].node[s.src[live[i]]] for i in first], np.int64)
    turn = np.zeros(flow.size, np.int64)
    several = many > 1
    if several.any():
        turn[several] = (word(flow[several], node[several]) % many[several].astype(np.uint64)).astype(
            np.int64
        )
    return live[first + turn]


def _hashed_number(
    part: Part,
    stage: Stage,
    at: NDArray[np.int64],
    count: NDArray[np.int64],
    word: SwitchWord,
    alive: NDArray[np.bool_],
) -> NDArray[np.uint64]:
    """Number within its leg of the path that hashing switches give, uint64[n]."""

    def here(flows: NDArray[np.int64], switches: NDArray[np.int64]) -> NDArray[np.uint64]:
        return word(stage.flow[at[flows]], part.node[switches].astype(np.int64))

    src, dst, structure = stage.src[at], stage.dst[at], part.structure
    if stage.network == "scale_out" and isinstance(structure, HashesPerSwitch):
        live, whole = _state(part, alive)
        number = structure.hashed_choice(src, dst, here, live, whole)
    else:
        number = here(np.arange(at.size), src.astype(np.int64))
    return number % np.maximum(count, 1).astype(np.uint64)


def legs_spread(
    legs: Legs,
    parts: Sequence[Part],
    flows: int,
    weight: NDArray[np.float64],
    irregular: NDArray[np.bool_],
    split: NDArray[np.bool_],
) -> tuple[Spread | None, int]:
    """See `Structure.spread`; the live legs of a stage carry equal parts of a flow."""
    alive = weight > 0
    counted = [_Counted(stage, parts, flows, alive) for stage in legs.stages]
    failed = _first_stuck(legs, counted)
    while failed < 0:
        before = split.copy()
        entries, failed = _entries(counted, parts, flows, weight, irregular, split)
        if np.array_equal(before, split):
            break  # else a part has split a bundle that another had used whole before
    if failed >= 0:
        return None, failed
    flow, stage, row, fraction = (np.concatenate(column) for column in zip(*entries, strict=True))
    order = np.lexsort((stage, flow))
    flow, row, fraction = flow[order], row[order], fraction[order]
    if any(np.bincount(c.stage.flow).max(initial=0) > 1 for c in counted):
        flow, row, fraction = _merged(flow, row, fraction, int(split.size + alive.size))
    ptr = np.concatenate(([0], np.cumsum(np.bincount(flow, minlength=flows)))).astype(np.int64)
    return Spread(ptr, row.astype(np.int32), fraction, split), -1


_Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Flow, stage, row of the fabric and fraction of each entry."""


def _entries(
    counted: Sequence[_Counted],
    parts: Sequence[Part],
    flows: int,
    weight: NDArray[np.float64],
    irregular: NDArray[np.bool_],
    split: NDArray[np.bool_],
) -> tuple[list[_Entries], int]:
    """What the live legs take of each row, and the first flow with one that has no way after all (-1: none).

    ``split`` grows in place.
    """
    none = np.zeros(0, np.int64)
    out: list[_Entries] = [(none, none, none, np.zeros(0))]
    for number, stage in enumerate(counted):
        s, live = stage.stage, stage.count > 0
        legs_of = np.bincount(s.flow[live], minlength=flows)
        for i in np.unique(s.part[live]):
            part = parts[int(i)]
            at = np.flatnonzero(live & (s.part == i))
            found, bad = part.structure.spread(
                s.src[at], s.dst[at], s.network, weight[part.links].copy(), irregular[part.bundles].copy(),
                split[part.bundles],
            )  # fmt: skip
            if found is None:
                return out, int(s.flow[at[bad]])
            flow = np.repeat(s.flow[at], np.diff(found.ptr))
            bundles = part.bundle_start.size - 1
            row = found.row.astype(np.int64)
            row = np.where(row < bundles, row + part.bundle0, row - bundles + split.size + part.link0)
            out.append((flow, np.full(flow.size, number), row, found.fraction / legs_of[flow]))
    return out, -1


def _merged(
    flow: NDArray[np.int64], row: NDArray[np.int64], fraction: NDArray[np.float64], rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Entries of the same flow and row added up, where the first of them stood."""
    _, first, of = np.unique(flow * rows + row, return_index=True, return_inverse=True)
    total = np.bincount(of.ravel(), weights=fraction)
    order = np.argsort(first)
    kept: NDArray[np.int64] = first[order]
    return flow[kept], row[kept], np.asarray(total[order])
