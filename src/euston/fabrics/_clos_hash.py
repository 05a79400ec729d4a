"""Where a Clos fabric's switches choose: hash by hash up to an agg and a core, and how many paths live.

Path number ``a * cores + c`` climbs to agg ``a`` and core ``c`` (as `euston.fabrics._routes` counts them);
with links down the numbers close ranks over the live ones. In a fabric of planes the NIC hashes to a plane,
once and for the whole path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import _routes
from euston.fabrics._routes import Shape
from euston.fabrics.structure import SwitchWord

__all__ = ["hashed_choice", "live_paths", "live_scale_up_paths"]

_CHUNK = 1 << 22
"""Paths looked at in one go where links are down."""

# The kernels' own arithmetic, here on whole arrays. (Without the JIT it is a plain function already.)
_locate = getattr(_routes.locate, "py_func", _routes.locate)


class _Ends(NamedTuple):
    """Where flows start and end, int64 each."""

    flow: NDArray[np.int64]
    up: NDArray[np.int64]
    tor: NDArray[np.int64]
    pod: NDArray[np.int64]
    down: NDArray[np.int64]
    to_tor: NDArray[np.int64]
    to_pod: NDArray[np.int64]

    def take(self, which: NDArray[np.bool_] | slice) -> _Ends:
        return _Ends(*(values[which] for values in self))


class _Reach(NamedTuple):
    """Flows that climb equally high, and how many aggs of each plane and cores of each agg they choose of."""

    ends: _Ends
    aggs: int
    cores: int
    climbs: bool
    crosses: bool


def _by_reach(shape: Shape, src: NDArray[np.int32], dst: NDArray[np.int32]) -> tuple[_Reach, _Reach, _Reach]:
    """Flows that stay under their ToR, within their pod, and that cross the cores."""
    up, tor, pod = _locate(shape, src.astype(np.int64))
    down, to_tor, to_pod = _locate(shape, dst.astype(np.int64))
    ends = _Ends(np.arange(src.size), up, tor, pod, down, to_tor, to_pod)
    crosses, stays = pod != to_pod, tor == to_tor
    each = shape.aggs // shape.planes
    return (
        _Reach(ends.take(stays), 1, 1, False, False),
        _Reach(ends.take(~stays & ~crosses), each, 1, True, False),
        _Reach(ends.take(crosses), each, shape.cores, True, True),
    )


def _healthy(shape: Shape, reach: _Reach, whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Flows all of whose paths are alive, bool[n]."""
    ends = reach.ends
    fine = whole[shape.nic_up_bundle0 + ends.up] & whole[shape.nic_down_bundle0 + ends.down]
    if reach.climbs and shape.aggs:
        fine &= whole[shape.tor_up_bundle0 + ends.tor] & whole[shape.tor_down_bundle0 + ends.to_tor]
    if reach.crosses and shape.cores:
        fine &= whole[shape.agg_up_bundle0 + ends.pod] & whole[shape.agg_down_bundle0 + ends.to_pod]
    return np.asarray(fine)


def _broken(
    shape: Shape, reach: _Reach, who: NDArray[np.bool_], alive: NDArray[np.bool_]
) -> Iterator[tuple[_Ends, NDArray[np.bool_]]]:
    """Flows with dead links, a handful at a time, and their live paths bool[n, planes, aggs, cores]."""
    planes, aggs, cores = shape.planes, reach.aggs, reach.cores
    ends = reach.ends.take(who)
    p, a, k = np.arange(planes), np.arange(planes * aggs), np.arange(planes * aggs * cores)
    step = max(1, _CHUNK // max(1, k.size))
    for at in range(0, ends.flow.size, step):
        part = ends.take(slice(at, at + step))
        live = alive[shape.nic_up0 + part.up[:, None] * planes + p]
        live &= alive[shape.nic_down0 + part.down[:, None] * planes + p]
        paths = live[:, :, None, None]
        if reach.climbs:
            edge = alive[shape.tor_up0 + part.tor[:, None] * shape.aggs + a]
            edge &= alive[shape.tor_down0 + part.to_tor[:, None] * shape.aggs + a]
            paths = paths & edge.reshape(-1, planes, aggs, 1)
        if reach.crosses:
            over = alive[shape.agg_up0 + part.pod[:, None] * k.size + k]
            over &= alive[shape.agg_down0 + part.to_pod[:, None] * k.size + k]
            paths = paths & over.reshape(-1, planes, aggs, cores)
        yield part, paths


def live_paths(
    shape: Shape,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    alive: NDArray[np.bool_],
    whole: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """See `euston.fabrics.structure.CountsPaths`; 1 from an endpoint to itself."""
    out = np.ones(src.size, np.int64)
    for reach in _by_reach(shape, src, dst):
        paths = shape.planes * reach.aggs * reach.cores
        out[reach.ends.flow] = paths
        if paths:
            for part, live in _broken(shape, reach, ~_healthy(shape, reach, whole), alive):
                out[part.flow] = live.sum(axis=(1, 2, 3))
    out[src == dst] = 1
    return out


def live_scale_up_paths(
    shape: Shape, src: NDArray[np.int32], dst: NDArray[np.int32], alive: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Live paths within scale-up domains, int64[F]; 0 between domains, 1 from an endpoint to itself."""
    planes, domain = shape.scale_up, shape.accelerators * shape.hosts_per_domain
    p = np.arange(planes)
    live = alive[shape.out0 + src[:, None].astype(np.int64) * planes + p]
    live &= alive[shape.in0 + dst[:, None].astype(np.int64) * planes + p]
    out = np.where(src // domain == dst // domain, live.sum(axis=1), 0)
    return np.where(src == dst, 1, out)


def hashed_choice(
    shape: Shape,
    first_tor: int,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    word: SwitchWord,
    alive: NDArray[np.bool_],
    whole: NDArray[np.bool_],
) -> NDArray[np.uint64]:
    """See `euston.fabrics.structure.HashesPerSwitch`; ``first_tor`` is the node number of ToR 0."""
    out = np.zeros(src.size, np.uint64)
    first_agg = first_tor + shape.tors * shape.planes
    each = shape.aggs // shape.planes

    def at_tor(ends: _Ends, plane: NDArray[np.int64]) -> NDArray[np.uint64]:
        return word(ends.flow, first_tor + ends.tor * shape.planes + plane)

    def at_agg(ends: _Ends, plane: NDArray[np.int64], agg: NDArray[np.int64]) -> NDArray[np.uint64]:
        return word(ends.flow, first_agg + ends.pod * shape.aggs + plane * each + agg)

    def at_nic(ends: _Ends) -> NDArray[np.uint64]:
        return word(ends.flow, src[ends.flow].astype(np.int64))

    for reach in _by_reach(shape, src, dst):
        if not reach.aggs * reach.cores or (shape.planes == 1 and not reach.climbs):
            continue
        healthy = _healthy(shape, reach, whole)
        fine = reach.ends.take(healthy)
        plane, agg, core = np.zeros((3, fine.flow.size), np.int64)
        if shape.planes > 1:
            plane = _modulo(at_nic(fine), np.full(plane.size, shape.planes))
        if reach.climbs:
            agg = _modulo(at_tor(fine, plane), np.full(plane.size, reach.aggs))
        if reach.crosses:
            core = _modulo(at_agg(fine, plane, agg), np.full(plane.size, reach.cores))
        out[fine.flow] = (plane * reach.aggs + agg) * reach.cores + core
        for part, live in _broken(shape, reach, ~healthy, alive):
            row = np.arange(part.flow.size)
            plane, agg, core = np.zeros((3, row.size), np.int64)
            if shape.planes > 1:
                plane = _pick(np.asarray(live.any(axis=(2, 3))), at_nic(part))
            if reach.climbs:
                agg = _pick(np.asarray(live[row, plane].any(axis=2)), at_tor(part, plane))
            if reach.crosses:
                core = _pick(live[row, plane, agg], at_agg(part, plane, agg))
            number = np.cumsum(live.reshape(row.size, -1), axis=1)
            k = (plane * reach.aggs + agg) * reach.cores + core
            out[part.flow] = np.maximum(number[row, k] - 1, 0)
    return out


def _modulo(word: NDArray[np.uint64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    return (word % count.astype(np.uint64)).astype(np.int64)


def _pick(live: NDArray[np.bool_], word: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Position of the live one number ``word % live`` in each row of ``live``, int64[n]; 0 where none is."""
    rank = np.cumsum(live, axis=1)
    wanted = _modulo(word, np.maximum(rank[:, -1], 1)) + 1
    return np.argmax(rank == wanted[:, None], axis=1)
