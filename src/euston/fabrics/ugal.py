"""UGAL-L: minimal or Valiant path, by the queues at the source's switch.

Universal globally-adaptive load-balanced routing with local information (Singh 2005; for dragonflies Kim et
al. 2008): the minimal path is taken when its queue times its hops is at most the other's, plus a bias.
Fabrics built with ``routing="ugal"`` number candidates in pairs: path ``2 i`` is minimal path ``i`` and path
``2 i + 1`` Valiant path ``i``, so that a policy which knows only path numbers can tell them apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import FabricError
from euston.fabrics._graph_structure import SwitchGraph
from euston.fabrics.fabric import Fabric

__all__ = ["ugal_candidates", "ugal_prefers_minimal", "ugal_route"]


def ugal_prefers_minimal(
    q_min: ArrayLike, h_min: ArrayLike, q_non: ArrayLike, h_non: ArrayLike, bias: float = 0.0
) -> NDArray[np.bool_]:
    """Whether UGAL takes the minimal path: ``q_min h_min <= q_non h_non + bias``, element by element.

    Parameters
    ----------
    q_min, q_non : float
        Queues (bytes, or any measure of load) at the first link of the minimal and the non-minimal path.
    h_min, h_non : int
        Hops between switches of both paths.
    bias : float
        In favour of the minimal path, in the queues' unit times hops.
    """
    left = np.asarray(q_min, np.float64) * np.asarray(h_min)
    return np.asarray(left <= np.asarray(q_non, np.float64) * np.asarray(h_non) + bias)


def ugal_candidates(
    fabric: Fabric,
    src: ArrayLike,
    dst: ArrayLike,
    choice: ArrayLike,
    *,
    alive: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The minimal and the Valiant path number ``choice`` of each pair, int32[F, K] each, padded with -1.

    Where a pair has nothing to turn at, both are minimal.

    Raises
    ------
    FabricError
        For a fabric that was not built with ``routing="ugal"``.
    RouteError
        As `Fabric.route`.
    """
    if not isinstance(fabric.structure, SwitchGraph) or fabric.structure.routing.kind != "ugal":
        raise FabricError(f'`{fabric.name}`: has no UGAL candidates; build it with routing="ugal"')
    number = np.asarray(choice, np.uint64) << np.uint64(1)
    minimal = fabric.route(src, dst, number, alive=alive)
    return minimal, fabric.route(src, dst, number | np.uint64(1), alive=alive)


def ugal_route(
    fabric: Fabric,
    src: ArrayLike,
    dst: ArrayLike,
    choice: ArrayLike,
    queue: ArrayLike,
    *,
    bias: float = 0.0,
    alive: NDArray[np.bool_] | None = None,
) -> NDArray[np.int32]:
    """Of both candidates of each flow the one that UGAL-L takes, int32[F, K] padded with -1.

    Parameters
    ----------
    queue : float[L]
        Queue of every link in bytes; at flow level its load, or any measure of it. All flows see the same.
    bias : float
        See `ugal_prefers_minimal`.

    Raises
    ------
    FabricError, RouteError
        As `ugal_candidates`, and for a ``queue`` of another length.
    """
    lengths = np.asarray(queue, np.float64)
    if lengths.shape != (fabric.links,):
        raise FabricError(f"`queue`: shape {lengths.shape} for {fabric.links} links")
    minimal, other = ugal_candidates(fabric, src, dst, choice, alive=alive)
    first, hops = [], []
    for paths in (minimal, other):
        length = (paths >= 0).sum(axis=1)
        # the link behind the NIC's; under one switch both candidates are the same
        behind = paths[:, 1] if paths.shape[1] > 1 else np.full(length.size, -1)
        first.append(np.where(behind >= 0, lengths[behind], 0.0))
        hops.append(np.maximum(length - 2, 0))
    keep = ugal_prefers_minimal(first[0], hops[0], first[1], hops[1], bias)
    out = np.full((keep.size, max(minimal.shape[1], other.shape[1])), -1, np.int32)
    out[keep, : minimal.shape[1]] = minimal[keep]
    out[~keep, : other.shape[1]] = other[~keep]
    return out
