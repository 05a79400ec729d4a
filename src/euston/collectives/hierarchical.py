"""Hierarchical collectives: scale-up first, then rails, then scale-up again.

Reduce-scatter inside every host, all-reduce of the shards on all rails at once, all-gather inside every
host. The stages wait for each other, so they are a program of transfers and never one summed column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from euston.collectives.ring import ring
from euston.errors import ConfigError
from euston.network import Tag, Transfer

__all__ = ["Stage", "hierarchical_all_reduce"]


@dataclass(frozen=True)
class Stage:
    """Transfers that run at the same time; the next stage starts when all of them are done."""

    name: str
    transfers: tuple[Transfer, ...]


def hierarchical_all_reduce(
    ranks: ArrayLike,
    buffer_bytes: float,
    *,
    scale_up_latency: float = 0.0,
    scale_out_latency: float = 0.0,
    scale_up_cap: float = np.inf,
    scale_out_cap: float = np.inf,
    tag: Tag | None = None,
) -> list[Stage]:
    """Stages of an all-reduce of M bytes over ``ranks`` int32[hosts, g]: row = the endpoints of one host.

    Moves (g-1)/g M inside hosts, 2(N-1)/N M/g on each of g rails, (g-1)/g M inside hosts.
    """
    r = np.asarray(ranks, np.int32)
    if r.ndim != 2 or r.shape[1] < 1 or r.shape[0] < 1:
        raise ConfigError(
            f"hierarchical all-reduce needs endpoints as [hosts, ranks per host]; got shape {r.shape}"
        )
    hosts, g = r.shape
    label = tag or Tag(kind="all_reduce")
    stages = []

    def inside(collective: str) -> Stage:
        return Stage(
            f"{collective} inside hosts",
            tuple(
                ring(
                    collective, r[h], buffer_bytes, step_latency=scale_up_latency, rate_cap=scale_up_cap,
                    tag=label,
                )
                for h in range(hosts)
            ),
        )  # fmt: skip

    if g > 1:
        stages.append(inside("reduce_scatter"))
    if hosts > 1:
        stages.append(
            Stage(
                "all_reduce on rails",
                tuple(
                    ring(
                        "all_reduce",
                        r[:, k],
                        buffer_bytes / g,
                        step_latency=scale_out_latency,
                        rate_cap=scale_out_cap,
                        tag=label,
                    )
                    for k in range(g)
                ),
            )
        )
    if g > 1:
        stages.append(inside("all_gather"))
    return stages
