"""ECMP: every queue pair of a flow hashes to one of the live shortest paths and stays there (RFC 2992).

Collisions are what makes it worse than spraying: m flows hashed to n uplinks leave (1 - 1/n)^m of them idle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network.balancing.base import Spread

__all__ = ["Ecmp", "flow_hash"]


def flow_hash(
    src: NDArray[np.int32], dst: NDArray[np.int32], queue_pair: NDArray[np.int32], seed: int
) -> NDArray[np.uint64]:
    """A 64-bit hash of (source, destination, queue pair, seed): SplitMix64's finaliser, uint64[F]."""
    with np.errstate(over="ignore"):
        x = src.astype(np.uint64) << np.uint64(40)
        x ^= dst.astype(np.uint64) << np.uint64(16)
        x ^= queue_pair.astype(np.uint64)
        x += np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Ecmp:
    """Hashed paths.

    Parameters
    ----------
    qps : int
        Queue pairs per flow; each carries an equal part and hashes on its own.
    seed : int
        Salt of the hash.
    """

    qps: int = 1
    seed: int = 0
    name: str = "ecmp"

    def __post_init__(self) -> None:
        if self.qps < 1:
            raise ConfigError(f"`policies.balancing.qps`: {self.qps} queue pairs; at least 1 is needed")

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
        """One path per queue pair, on single links; see ``Balancing.spread``."""
        n = src.size
        queue_pair = np.tile(np.arange(self.qps, dtype=np.int32), n)
        s, d = np.repeat(src, self.qps), np.repeat(dst, self.qps)
        links = fabric.route(s, d, flow_hash(s, d, queue_pair, self.seed), alive=alive)
        used = links >= 0
        per_flow = used.sum(axis=1).reshape(n, self.qps).sum(axis=1)
        link = links[used]
        bundle = fabric.bundle[link]
        single = np.diff(fabric.bundle_start)[bundle] == 1
        divided = np.zeros(fabric.bundles, bool) if split is None else split.copy()
        divided[bundle[~single]] = True
        return Spread(
            ptr=np.concatenate(([0], np.cumsum(per_flow))).astype(np.int64),
            row=np.where(single, bundle, fabric.bundles + link).astype(np.int32),
            fraction=np.full(link.size, 1.0 / self.qps),
            split=divided,
        )
