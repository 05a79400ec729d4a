"""Bytes that a federation moves, known beforehand from its configuration: what the trainer's counters
will say.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from euston.federated.coding import codec_of
from euston.federated.config import FederationConfig
from euston.federated.layout import Flat
from euston.federated.plan import client_bytes, moments_up

__all__ = ["RoundBytes", "per_step_bytes", "round_bytes"]


@dataclass(frozen=True)
class RoundBytes:
    """Payload bytes of one round, summed over its sites, in full participation after the first round.

    Attributes
    ----------
    up, down : int
        To and from the aggregator.
    peers : int
        Sent between sites (all-reduce, ring).
    """

    up: int
    down: int
    peers: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.up + self.down + self.peers


def round_bytes(config: FederationConfig, round_: int) -> RoundBytes:
    """Payload of round `round_` (counted from 0); averaged moments included, initial models not."""
    k = config.sampled
    each = client_bytes(config, round_, round_ - 1)
    if config.topology == "ps":
        return RoundBytes(k * each.up, 0 if each.catch_up else k * each.down, 0)
    if config.topology == "ar":
        return RoundBytes(0, 0, k * (k - 1) * each.up)
    return RoundBytes(0, 0, ring_bytes(config, round_, k))


def ring_bytes(config: FederationConfig, round_: int, k: int) -> int:
    """What k members of a ring send in all: their updates, and averaged moments."""
    layout = Flat.of(config.model, config.sync.fragments, config.sync.pattern)
    update = _ring_bytes(layout, round_ % config.sync.fragments, config.sync.codec, k)
    return update + ring_moments(layout, len(moments_up(config, round_)), k)


def ring_moments(layout: Flat, moments: int, k: int) -> int:
    """Averaged moments take a ring of their own each, in fp32."""
    return 2 * (k - 1) * 4 * layout.size * moments


def _ring_bytes(layout: Flat, fragment: int, codec: str, k: int) -> int:
    """2 (k - 1) hops of every one of k pieces (Patarasuk & Yuan 2009)."""
    n = sum(s.stop - s.start for s in layout.fragment_slices(fragment))
    cuts = [n * i // k for i in range(k + 1)]
    pieces = [b - a for a, b in pairwise(cuts)]
    return sum(2 * (k - 1) * int(codec_of(codec).bytes(p)) for p in pieces if p)


def per_step_bytes(config: FederationConfig) -> float:
    """What one site would send and receive per step if gradients were exchanged in fp32, by the same
    topology.
    """
    size, k = 4 * Flat.of(config.model).size, config.sampled
    if config.topology == "ps":
        return 2.0 * size
    # sent bytes, as they are counted for peers
    return float((k - 1) * size) if config.topology == "ar" else 2.0 * (k - 1) / k * size
