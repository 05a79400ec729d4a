"""What collectives move: bytes per rank and steps of the ring algorithms.

M is the full buffer in the convention of nccl-tests: an all-gather ends with M bytes on every rank, a
reduce-scatter starts with M bytes on every rank.
"""

from __future__ import annotations

from euston.errors import ConfigError, unknown

__all__ = ["RING", "ring_bytes", "ring_steps"]

# Each rank of a ring sends this many times (n-1)/n of M, in as many times n-1 steps (Patarasuk & Yuan 2009).
RING = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}


def _passes(collective: str) -> int:
    if collective not in RING:
        raise ConfigError(unknown("collective", collective, RING))
    return RING[collective]


def ring_bytes(collective: str, ranks: int, buffer_bytes: float) -> float:
    """Bytes that each rank sends (and each ring link carries) for a buffer of M bytes over ``ranks``."""
    return _passes(collective) * buffer_bytes * (ranks - 1) / ranks


def ring_steps(collective: str, ranks: int) -> int:
    """Steps that follow each other: each costs one latency."""
    return _passes(collective) * (ranks - 1)
