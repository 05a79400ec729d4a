"""Bytes that a federation moves, known beforehand from its configuration: what the trainer's counters
will say.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from euston.federated.coding import codec_of
from euston.federated.config import FederationConfig
from euston.federated.layout import Flat

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
    layout = Flat.of(config.model, config.sync.fragments, config.sync.pattern)
    count, k = config.sync.fragments, config.sampled
    up = layout.payload_bytes(round_ % count, config.sync.codec)
    local = config.local
    moments = 4 * layout.size if local.inner_state == "averaged" else 0
    asked = [(round_ + 1) % every == 0 for every in (local.average_first_every, local.average_second_every)]
    given = [
        round_ > 0 and round_ % every == 0
        for every in (local.average_first_every, local.average_second_every)
    ]
    if config.topology == "ps":
        # the fragment that the round before has changed comes down
        streaming = count > 1 or config.sync.overlap_steps > 0 or config.sync.mix > 0
        changed = [(round_ - 1) % count] if streaming or config.sync.down_codec != "none" else range(count)
        down = sum(layout.payload_bytes(f, config.sync.down_codec) for f in changed)
        down = down if round_ else 0
        return RoundBytes(k * (up + moments * sum(asked)), k * (down + moments * sum(given)), 0)
    up += moments * sum(asked)
    if config.topology == "ar":
        return RoundBytes(0, 0, k * (k - 1) * up)
    return RoundBytes(0, 0, _ring_bytes(layout, round_ % count, config.sync.codec, k))


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
