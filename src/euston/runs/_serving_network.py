"""Hand-overs of KV on a site's fabric: paths between ranks as columns of the fluid engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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

__all__ = ["handovers"]

MOST_PAIRS = 2**20
"""Pairs of ranks whose paths are worked out."""


def handovers(
    section: ServingSection,
    deployment: Deployment,
    here: Site,
    hosts: Sequence[int],
    balancing: Balancing,
    requests: int,
) -> Handovers:
    """The network component of a disaggregated service: one column per pair of ranks.

    Ranks take the accelerators of ``hosts`` in the order of the deployment's pools. Each accelerator of the
    larger side moves its part of the KV, all parts together.

    Raises
    ------
    ConfigError
        More pairs than can be worked out, ranks without a live path.
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
    if len(senders) * len(takers) > MOST_PAIRS:
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
    pairs = Transfers.uniform(source, target, 1.0, kind="kv")
    try:
        low = lower(pairs, here.fabric, balancing)
    except BadInput as error:
        raise ConfigError(at("policies.balancing", str(error))) from None
    # a column's rate is that of the whole hand-over; every part takes its share of it
    columns = replace(low.binding, coefficient=low.binding.coefficient / parts)
    column = np.full((total, total), -1, np.int64)
    column[: len(senders), len(senders) :] = low.column.reshape(len(senders), len(takers))
    return Handovers.alone(columns, low.capacity, column, slots=int(np.clip(requests, 64, 65536)))
