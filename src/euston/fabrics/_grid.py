"""Coordinates of switches on a grid, for torus and HyperX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError
from euston.fabrics._graph_tables import NO_LATTICE, Lattice
from euston.fabrics._host_side import whole_number
from euston.fabrics.structure import LinkKind

__all__ = ["grid", "kind_of", "lattice", "letters"]

_MOST = 26


def grid(dims: Sequence[int]) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """Checked sizes, and the coordinates of every switch, int64[n, D], the last one fastest."""
    if isinstance(dims, str) or not isinstance(dims, Sequence) or not 1 <= len(dims) <= _MOST:
        raise FabricError(f"`dims`: {dims!r} is no row of 1 to {_MOST} sizes, such as (4, 4, 4)")
    shape = tuple(whole_number(f"dims[{i}]", size) for i, size in enumerate(dims))
    n = int(np.prod([float(size) for size in shape]))
    if n >= 2**27:
        raise FabricError(f"`dims`: {n:,} switches are too many; at most {2**27 - 1:,}")
    place = np.stack(np.unravel_index(np.arange(n), shape), axis=1).astype(np.int64)
    return shape, place


def letters(dimensions: int) -> tuple[str, ...]:
    """x, y and z; for more dimensions a, b, c, ..."""
    return tuple("xyz"[:dimensions] if dimensions <= 3 else "abcdefghijklmnopqrstuvwxyz"[:dimensions])


def kind_of(dimension: NDArray[np.int64]) -> NDArray[np.uint8]:
    """`LinkKind` of links along each dimension; the sixth and all behind it share one."""
    return (LinkKind.DIMENSION_1 + np.minimum(dimension, 5)).astype(np.uint8)


def lattice(shape: tuple[int, ...], place: NDArray[np.int64]) -> Lattice:
    """The coordinates as a `Lattice`; its steps are found with the links."""
    return Lattice(place, np.array(shape, np.int64), NO_LATTICE.ahead)
