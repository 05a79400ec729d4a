"""Hand-overs of KV on a site's fabric: paths between ranks as transfers of the fluid engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from euston.cluster import Site
from euston.errors import BadInput, ConfigError, at
from euston.network.balancing import Balancing
from euston.network.lowering import lower
from euston.network.transfer import Transfers
from euston.scenario.serving import ServingSection
from euston.serving import Deployment
from euston.serving.network import Handovers

__all__ = ["Paths", "handovers", "paths"]

MOST_PAIRS = 2**20
"""Pairs of ranks whose paths are worked out."""


@dataclass(frozen=True)
class Paths:
    """Who hands over to whom.

    Attributes
    ----------
    transfers : Transfers
        One coupled transfer per pair of ranks: each accelerator of the larger side moves its part of the KV.
    number : int64[R, R]
        Transfer of the pair (source, target), -1 for pairs that never exchange KV.
    parts : int
        Members of every transfer.
    """

    transfers: Transfers
    number: NDArray[np.int64]
    parts: int


def paths(section: ServingSection, deployment: Deployment, here: Site, hosts: Sequence[int]) -> Paths:
    """The pairs of ranks of a disaggregated service.

    Ranks take the accelerators of ``hosts`` in the order of the deployment's pools.

    Raises
    ------
    ConfigError
        More pairs than can be worked out.
    """
    each = here.accelerators_per_host
    endpoints = (np.asarray(hosts)[:, None] * each + np.arange(each)).ravel()
    ranks: dict[str, NDArray[np.int64]] = {}
    taken, total = 0, 0
    for pool in deployment.pools:
        one = next(p for p in section.pools if p.role == pool.role)
        width = one.tensor * one.pipeline
        ranks[pool.role] = endpoints[taken : taken + pool.replicas * width].reshape(pool.replicas, width)
        taken += pool.replicas * width
        total += pool.replicas
    senders, takers = ranks["prefill"], ranks["decode"]
    pairs = len(senders) * len(takers)
    if pairs > MOST_PAIRS:
        raise ConfigError(
            at(
                "run.network",
                f"{len(senders)} x {len(takers)} pairs of ranks are too many to follow; use none",
            )
        )
    parts = max(senders.shape[1], takers.shape[1])
    part = np.arange(parts)
    source = np.repeat(senders[:, part * senders.shape[1] // parts], len(takers), axis=0)
    target = np.tile(takers[:, part * takers.shape[1] // parts], (len(senders), 1))
    number = np.full((total, total), -1, np.int64)
    number[: len(senders), len(senders) :] = np.arange(pairs).reshape(len(senders), len(takers))
    return Paths(Transfers.uniform(source, target, 1.0, kind="kv"), number, parts)


def handovers(
    section: ServingSection,
    deployment: Deployment,
    here: Site,
    hosts: Sequence[int],
    balancing: Balancing,
    requests: int,
) -> Handovers:
    """The network component of a disaggregated service that has the fabric to itself.

    Raises
    ------
    ConfigError
        More pairs than can be worked out, ranks without a live path.
    """
    found = paths(section, deployment, here, hosts)
    try:
        low = lower(found.transfers, here.fabric, balancing)
    except BadInput as error:
        raise ConfigError(at("policies.balancing", str(error))) from None
    # a column's rate is that of the whole hand-over; every part takes its share of it
    columns = replace(low.binding, coefficient=low.binding.coefficient / found.parts)
    column = np.where(found.number >= 0, low.column[found.number], -1)
    return Handovers.alone(columns, low.capacity, column, slots=slots(requests))


def slots(requests: int) -> int:
    """Most hand-overs at one time."""
    return int(np.clip(requests, 64, 65536))
