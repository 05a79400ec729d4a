"""Ring collectives: one coupled transfer by default, the single steps on request; both take the same time."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.collectives.volume import ring_bytes, ring_steps
from euston.errors import ConfigError
from euston.network import Tag, Transfer

__all__ = ["ring", "ring_edges", "ring_in_steps"]


def _group(group: ArrayLike) -> NDArray[np.int32]:
    g = np.asarray(group, np.int32)
    if g.ndim != 1 or g.size < 2 or np.unique(g).size != g.size:
        raise ConfigError(f"a ring needs at least 2 different endpoints; got {g.tolist()[:8]}")
    return g


def ring_edges(groups: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sources and destinations of rings over ``groups``: two int32[G, n]; rank i sends to i + 1."""
    g = np.atleast_2d(np.asarray(groups, np.int32))
    return g, np.roll(g, -1, axis=1)


def ring(
    collective: str,
    group: ArrayLike,
    buffer_bytes: float,
    *,
    step_latency: float = 0.0,
    rate_cap: float = np.inf,
    tag: Tag | None = None,
) -> Transfer:
    """A ring over ``group`` (int32[n] endpoints) as one coupled transfer.

    Every link of the ring carries 2(n-1)/n (all-reduce) or (n-1)/n (all-gather, reduce-scatter) of the
    buffer; the latency of all steps is added once, because the steps are pipelined over chunks.

    Parameters
    ----------
    collective : "all_reduce" | "all_gather" | "reduce_scatter"
    buffer_bytes : float
        M, the full buffer.
    step_latency : float
        Seconds per step.
    rate_cap : float
        Bytes/s that one rank can send (a measured collective bandwidth, a NIC's share).
    """
    g = _group(group)
    src, dst = ring_edges(g)
    return Transfer(
        src=src[0],
        dst=dst[0],
        bytes=np.full(g.size, ring_bytes(collective, g.size, buffer_bytes)),
        coupled=True,
        rate_cap=rate_cap,
        latency=ring_steps(collective, g.size) * step_latency,
        tag=tag or Tag(kind=collective),
    )


def ring_in_steps(
    collective: str,
    group: ArrayLike,
    buffer_bytes: float,
    *,
    step_latency: float = 0.0,
    rate_cap: float = np.inf,
    tag: Tag | None = None,
) -> list[list[Transfer]]:
    """The same ring step by step: ``steps[k]`` are the n sends of step k.

    The send of rank i in step k needs the sends of ranks i - 1 and i of step k - 1: write them to a program
    with those dependencies (see ``euston.collectives.write.write_ring_in_steps``).
    """
    g = _group(group)
    src, dst = ring_edges(g)
    return [
        [
            Transfer(
                src=src[0, i : i + 1],
                dst=dst[0, i : i + 1],
                bytes=np.array([buffer_bytes / g.size]),
                rate_cap=rate_cap,
                latency=step_latency,
                tag=tag or Tag(kind=collective),
            )
            for i in range(g.size)
        ]
        for _ in range(ring_steps(collective, g.size))
    ]
