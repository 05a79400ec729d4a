"""Single paths of flows: their numbers at hashing switches, how many there are, and paths as a `Spread`."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric
from euston.fabrics.structure import CountsPaths, HashesPerSwitch, SwitchWord
from euston.network.balancing._hash import mix
from euston.network.balancing.base import Candidates, Spread

__all__ = ["candidates", "hashed_choice", "on_paths"]

_GOLDEN_RATIO = 0.6180339887498949


def _whole(fabric: Fabric, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.logical_and.reduceat(alive, fabric.bundle_start[:-1])


def _live(fabric: Fabric, alive: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    return np.ones(fabric.links, bool) if alive is None else alive


def hashed_choice(
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    word: SwitchWord,
    alive: NDArray[np.bool_] | None,
) -> NDArray[np.uint64]:
    """The number (for `Fabric.route`) of the path that hashing switches send each flow on, uint64[F].

    ``word(flows, switches)`` is what a flow hashes to at a switch. A structure that does not say where its
    switches choose is taken to hash once, at the source.
    """
    structure = fabric.structure
    if isinstance(structure, HashesPerSwitch):
        live = _live(fabric, alive)
        return structure.hashed_choice(src, dst, word, live, _whole(fabric, live))
    return word(np.arange(src.size), src.astype(np.int64))


def on_paths(
    fabric: Fabric,
    links: NDArray[np.int32],
    ptr: NDArray[np.int64],
    share: NDArray[np.float64],
    split: NDArray[np.bool_] | None,
) -> Spread:
    """Flows on single paths.

    Parameters
    ----------
    links : int32[P, K]
        Links of each path, padded with -1.
    ptr : int64[F + 1]
        Flow ``f`` uses paths ``ptr[f]:ptr[f + 1]``.
    share : float64[P]
        Share of its flow's rate on each path.
    split : bool[bundles], optional
        See `Balancing.spread`.
    """
    used = links >= 0
    link = links[used]
    bundle = fabric.bundle[link]
    single = np.diff(fabric.bundle_start)[bundle] == 1
    divided = np.zeros(fabric.bundles, bool) if split is None else split.copy()
    divided[bundle[~single]] = True
    length = used.sum(axis=1)
    return Spread(
        ptr=np.concatenate(([0], np.cumsum(length)))[ptr].astype(np.int64),
        row=np.where(single, bundle, fabric.bundles + link).astype(np.int32),
        fraction=np.repeat(share, length),
        split=divided,
    )


def candidates(
    fabric: Fabric,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    first: NDArray[np.uint64],
    paths: int,
    *,
    rule: int,
    gap: float,
    seed: int,
    alive: NDArray[np.bool_] | None,
    split: NDArray[np.bool_] | None,
) -> Candidates:
    """Up to ``paths`` paths per flow, path number ``first`` (uint64[F]) the first of them.

    Where the structure counts its paths the others follow at steps of the golden ratio of their number:
    distinct, and spread over all next hops. Where it does not they are drawn at random and may repeat.
    """
    if isinstance(fabric.structure, CountsPaths):
        live = _live(fabric, alive)
        found = np.maximum(fabric.structure.live_paths(src, dst, live, _whole(fabric, live)), 1)
        sizes, of = np.unique(found, return_inverse=True)
        step = np.array([_step(int(n), paths) for n in sizes], np.uint64)[of]
        many = np.minimum(found, paths)
        flow = np.repeat(np.arange(src.size), many)
        number = (np.arange(flow.size) - np.repeat(np.cumsum(many) - many, many)).astype(np.uint64)
        n = found.astype(np.uint64)[flow]
        choice = (first[flow] % n + number * step[flow]) % n
    else:
        many = np.full(src.size, paths)
        flow = np.repeat(np.arange(src.size), paths)
        number = np.tile(np.arange(paths, dtype=np.uint64), src.size)
        drawn: NDArray[np.uint64] = mix(first[flow] ^ mix(number + np.uint64(seed % 2**64)))
        choice = np.where(number == 0, first[flow], drawn)
    links = fabric.route(src[flow], dst[flow], choice, alive=alive)
    key = src.astype(np.int64) * fabric.endpoints + dst
    return Candidates(
        spread=on_paths(fabric, links, np.arange(flow.size + 1), np.ones(flow.size), split),
        ptr=np.concatenate(([0], np.cumsum(many))).astype(np.int64),
        rule=int(rule),
        gap=gap,
        pair=np.unique(key, return_inverse=True)[1].ravel().astype(np.int32),
        seed=seed,
    )


def _step(count: int, paths: int) -> int:
    """A step near the golden ratio of ``count`` that meets no path twice and cannot overflow."""
    step = max(1, int(min(count * _GOLDEN_RATIO, 2**63 // paths)))
    while gcd(step, count) > 1:
        step -= 1
    return step
