"""ECMP: at every switch a hash of the five-tuple picks the next hop, and there a flow stays (RFC 2992).

Collisions are what makes it worse than spraying: m flows hashed to n uplinks leave (1 - 1/n)^m of them idle.
Switches that hash alike make it worse still: what one tier has sorted together the next cannot take apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network.balancing._hash import (
    SOURCE_PORTS,
    crc32,
    five_tuple,
    flow_hash,
    mix,
    salts,
    source_ports,
)
from euston.network.balancing._paths import hashed_choice, on_paths
from euston.network.balancing.base import PathChoice, PathMode, Spread

__all__ = ["Ecmp", "flow_hash"]

_ALL_ALIKE = -1
"""Stands for every switch where all have one salt."""


@dataclass(frozen=True)
class Ecmp:
    """Hashed paths: each queue pair takes next hop number hash(five-tuple, switch) % live next hops.

    Parameters
    ----------
    qps : int
        Queue pairs of a flow. Each has its own UDP source port, hashes on its own and carries an equal part.
    hash : {"murmur", "crc32"}
        ``murmur``: MurmurHash's finaliser over the CRC32 of the five-tuple and the switch's salt. ``crc32``:
        that CRC alone, started from the salt; it is linear, so that at two switches the hashes of all flows
        differ by the same constant and salts undo little of the polarisation (Zhang et al., ATC 2021).
    polarised : bool
        One salt for all switches: every tier takes the same decision again. (A NIC with ports on several
        planes hashes for itself.)
    connections : {"pair", "flow"}
        ``pair``: flows between the same endpoints share their queue pairs. ``flow``: each brings its own.
    seed : int
        Of the switches' salts and the source ports.
    """

    qps: int = 1
    hash: Literal["murmur", "crc32"] = "murmur"
    polarised: bool = False
    connections: Literal["pair", "flow"] = "pair"
    seed: int = 0
    name: ClassVar[str] = "ecmp"

    def __post_init__(self) -> None:
        if not 1 <= self.qps <= SOURCE_PORTS:
            raise ConfigError(
                f"`qps`: {self.qps} queue pairs; at least 1 is needed and {SOURCE_PORTS} ports are there"
            )
        if self.hash not in ("murmur", "crc32"):
            raise ConfigError(f"`hash`: {self.hash!r} is none of murmur or crc32")
        if self.connections not in ("pair", "flow"):
            raise ConfigError(f"`connections`: {self.connections!r} is none of pair or flow")

    @property
    def packet(self) -> PathChoice:
        """One entropy value per queue pair."""
        return PathChoice(PathMode.ECMP, self.qps)

    def choices(
        self,
        fabric: Fabric,
        src: NDArray[np.int32],
        dst: NDArray[np.int32],
        queue_pair: NDArray[np.int32],
        *,
        alive: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.uint64]:
        """Path number of one queue pair of each flow, uint64[F], for ``fabric.route(..., alive=alive)``."""
        connection = np.zeros(src.size, np.int32)
        if self.connections == "flow":
            connection = _occurrence(src, dst, queue_pair)
        port = source_ports(src, dst, connection, queue_pair, self.seed)
        key = five_tuple(src, dst, port)
        plain = crc32(key).astype(np.uint64)

        def word(flows: NDArray[np.int64], nodes: NDArray[np.int64]) -> NDArray[np.uint64]:
            # A NIC that hashes to one of its ports is no switch: it neither shares their salt nor their CRC.
            nic = nodes < fabric.endpoints
            salt = salts(np.where(nic, nodes, _ALL_ALIKE) if self.polarised else nodes, self.seed)
            own = mix(plain[flows] ^ salt)
            if self.hash == "murmur":
                return own
            return np.where(nic, own, crc32(key[flows], salt.astype(np.uint32)))

        return hashed_choice(fabric, src, dst, word, alive)

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
        """One path per queue pair, on single links; see `Balancing.spread`."""
        n = src.size
        queue_pair = np.tile(np.arange(self.qps, dtype=np.int32), n)
        s, d = np.repeat(src, self.qps), np.repeat(dst, self.qps)
        links = fabric.route(s, d, self.choices(fabric, s, d, queue_pair, alive=alive), alive=alive)
        ptr = np.arange(n + 1) * self.qps
        return on_paths(fabric, links, ptr, np.full(s.size, 1.0 / self.qps), split)


def _occurrence(
    src: NDArray[np.int32], dst: NDArray[np.int32], queue_pair: NDArray[np.int32]
) -> NDArray[np.int32]:
    """How many times the same (source, destination, queue pair) stood before, int32[F]."""
    order = np.lexsort((queue_pair, dst, src))
    same = np.ones(max(order.size - 1, 0), bool)
    for values in (src, dst, queue_pair):
        sorted_ = values[order]
        same &= sorted_[1:] == sorted_[:-1]
    start = np.arange(order.size)
    start[1:][same] = 0
    start = np.maximum.accumulate(start)
    out = np.empty(order.size, np.int32)
    out[order] = np.arange(order.size) - start
    return out
