"""Collectives dimension by dimension (BlueConnect, Cho et al. 2019; torus all-reduce): rings in each in turn.

A reduce-scatter runs in dimension 1, on the shards in dimension 2, and so on, an all-gather runs back:
sum_i 2 (n_i - 1)/n_i M / prod_{j<i} n_j. On a torus the buffer is cut into as many parts as there are
dimensions, each starting in another one, so that the links of all dimensions work at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.collectives.base import Group, Message, Stage, Steps, in_steps, send, supported
from euston.collectives.volume import ring_bytes, ring_steps
from euston.errors import ConfigError

__all__ = ["BlueConnect", "Hierarchical", "Torus"]

Phase = tuple[str, NDArray[np.int32], float]
"""(collective, rings int32[rings, n], buffer)."""


@dataclass(frozen=True)
class BlueConnect:
    """Rings along the dimensions of a group.

    Attributes
    ----------
    shape : tuple of int
        Ranks along each dimension, fastest first; () takes scale-up domains as the first of two.
    parts : bool
        Cut the buffer into one part per dimension, in rotated order (torus).
    """

    shape: tuple[int, ...] = ()
    parts: bool = False
    name: str = "blueconnect"
    collectives: tuple[str, ...] = ("all_reduce", "all_gather", "reduce_scatter")

    def _grid(self, group: Group) -> NDArray[np.int32]:
        """Endpoints by coordinate, the last axis being the first dimension."""
        if not self.shape:
            return group.grid()
        if int(np.prod(self.shape)) != len(group):
            raise ConfigError(
                f"`shape`: {self.shape} holds {int(np.prod(self.shape))} ranks, not {len(group)}"
            )
        return group.ranks.reshape(self.shape[::-1])

    def _phases(
        self, collective: str, group: Group, m: float
    ) -> list[list[tuple[str, NDArray[np.int32], float]]]:
        """Per part what follows each other."""
        supported(self, collective)
        grid = self._grid(group)
        dimensions = [d for d in range(grid.ndim) if grid.shape[grid.ndim - 1 - d] > 1]
        starts = range(len(dimensions)) if self.parts else range(1)
        out = []
        for start in starts:
            buffer = m / len(starts)
            down: list[Phase] = []
            up: list[Phase] = []
            for d in dimensions[start:] + dimensions[:start]:
                rings = np.moveaxis(grid, grid.ndim - 1 - d, -1).reshape(-1, grid.shape[grid.ndim - 1 - d])
                down.append(("reduce_scatter", rings, buffer))
                up.insert(0, ("all_gather", rings, buffer))
                buffer /= rings.shape[1]
            out.append({"all_reduce": down + up, "reduce_scatter": down, "all_gather": up}[collective])
        return out

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """One stage per dimension and direction; parts run side by side."""
        phases = self._phases(collective, group, buffer_bytes)
        out = []
        for i in range(len(phases[0])):
            transfers = []
            for part in phases:
                kind, rings, buffer = part[i]
                src, dst = rings.ravel(), np.roll(rings, -1, axis=1).ravel()
                n = rings.shape[1]
                hop = group.hop(src, dst)
                transfers.append(
                    send(
                        group,
                        src,
                        dst,
                        ring_bytes(kind, n, buffer),
                        latency=ring_steps(kind, n) * hop.latency,
                    )
                )
            out.append(Stage(f"{phases[0][i][0]} {i + 1}", tuple(transfers)))
        return out

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """The rings of every dimension step by step."""
        phases = self._phases(collective, group, buffer_bytes)
        out: Steps = []
        for i in range(len(phases[0])):
            longest = max(ring_steps(part[i][0], part[i][1].shape[1]) for part in phases)
            for k in range(longest):
                step = []
                for part in phases:
                    kind, rings, buffer = part[i]
                    n = rings.shape[1]
                    if k >= ring_steps(kind, n):
                        continue
                    src, dst = rings.ravel(), np.roll(rings, -1, axis=1).ravel()
                    step += [send(group, src[j : j + 1], dst[j : j + 1], buffer / n) for j in range(src.size)]
                out.append(step)
        return in_steps(out)


@dataclass(frozen=True)
class Hierarchical(BlueConnect):
    """Inside scale-up domains first, then on the rails between them, then inside again."""

    name: str = "hierarchical"


@dataclass(frozen=True)
class Torus(BlueConnect):
    """All dimensions at once, each part of the buffer starting in another one."""

    parts: bool = True
    name: str = "torus"
