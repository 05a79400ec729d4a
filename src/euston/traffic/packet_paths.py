"""The packet engine's hashed paths for the fluid engine, so that a comparison does not compare two draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric
from euston.network.balancing import Balancing, PathChoice, PathMode, Spread
from euston.network.balancing._paths import on_paths
from euston.network.flows import Flows
from euston.network.packet._path_table import path_table

__all__ = ["PacketPaths", "on_packet_paths"]


@dataclass(frozen=True, eq=False)
class PacketPaths:
    """Flows spread evenly over the paths that the packet engine hashes their entropy values to.

    Exact for one value per flow. With several, and no more paths than values, the packet engine hashes in its
    kernel, some paths twice and some never; here all are used alike.

    Attributes
    ----------
    flows : Flows
        All flows of the run: the hash counts them.
    choice : PathChoice
    seed : int
    """

    flows: Flows
    choice: PathChoice
    seed: int
    name: str = "packet paths"

    @property
    def packet(self) -> PathChoice:
        """See `Balancing.packet`."""
        return self.choice

    def spread(
        self,
        fabric: Fabric,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        *,
        alive: NDArray[np.bool_] | None,
        capacity: NDArray[np.float64],
        split: NDArray[np.bool_] | None = None,
    ) -> Spread:
        """See `Balancing.spread`."""
        s, d = self.flows.src, self.flows.dst
        out = np.flatnonzero(fabric.domain[s] != fabric.domain[d])
        asked = np.arange(src.size)
        if np.array_equal(s[out], src) and np.array_equal(d[out], dst):
            src, dst, asked = s, d, out
        table = path_table(fabric, src, dst, self.choice.entropies, self.seed, alive=alive)
        many = table.forward_n[asked]
        ptr = np.concatenate(([0], np.cumsum(many))).astype(np.int64)
        row = np.repeat(table.forward[asked] - ptr[:-1], many) + np.arange(ptr[-1])
        return on_paths(fabric, table.links[row, :-1], ptr, np.repeat(1.0 / many, many), split)


def on_packet_paths(policy: Balancing, flows: Flows, seed: int) -> Balancing:
    """``policy``, or `PacketPaths` where the packet engine keeps a flow on hashed paths."""
    choice = policy.packet
    if choice.mode == PathMode.ECMP and hasattr(policy, "choices"):
        return policy  # both engines ask it for the same paths
    hashed = choice.mode == PathMode.ECMP or choice.entropies == 1
    return PacketPaths(flows, choice, seed) if hashed else policy
