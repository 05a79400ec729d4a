"""Hand-overs of KV on a site's fabric: paths between ranks as transfers of the fluid engine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.clock import Executor, ProgramBuilder, TransferTable
from euston.cluster import Site
from euston.errors import BadInput, ConfigError, at
from euston.network.balancing import Balancing
from euston.network.lowering import lower
from euston.network.transfer import Transfers
from euston.scenario.serving import ServingSection
from euston.serving import Deployment
from euston.serving.network import Handovers

__all__ = ["NETWORK", "Paths", "handovers", "paths", "slots"]

NETWORK = "network of the site"
"""Name of the component that carries hand-overs, which no job has."""
MOST_PAIRS = 2**20
"""Pairs of ranks whose paths are worked out."""


@dataclass(frozen=True)
class Paths:
    """Who hands over to whom.

    Attributes
    ----------
    transfers : Transfers
        One coupled transfer per pair of ranks: each accelerator of the larger side moves its part.
    number : int64[R, R]
        Transfer of the pair (source, target), -1 for pairs that never exchange anything.
    parts : int64[R, R]
        Members of every transfer.
    """

    transfers: Transfers
    number: NDArray[np.int64]
    parts: NDArray[np.int64]


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
    ranks: list[NDArray[np.int64]] = []  # by pool, int64[ranks, accelerators]
    begin, taken = [0], 0
    for pool in deployment.pools:
        one = next(p for p in section.pools if p.role == pool.role)
        width = one.tensor * one.pipeline
        ranks.append(endpoints[taken : taken + pool.replicas * width].reshape(pool.replicas, width))
        taken += pool.replicas * width
        begin.append(begin[-1] + pool.replicas)
    number = np.full((begin[-1], begin[-1]), -1, np.int64)
    parts = np.ones_like(number)
    found: list[Transfers] = []
    pairs = 0
    for j, (senders, takers) in enumerate(itertools.pairwise(ranks)):
        here_, there = slice(begin[j], begin[j + 1]), slice(begin[j + 1], begin[j + 2])
        count = len(senders) * len(takers)
        if count > MOST_PAIRS:
            raise ConfigError(
                at(
                    "run.network",
                    f"{len(senders)} x {len(takers)} pairs of ranks are too many to follow; use none",
                )
            )
        width = max(senders.shape[1], takers.shape[1])
        part = np.arange(width)
        source = np.repeat(senders[:, part * senders.shape[1] // width], len(takers), axis=0)
        target = np.tile(takers[:, part * takers.shape[1] // width], (len(senders), 1))
        found.append(Transfers.uniform(source, target, 1.0, kind="kv"))
        number[here_, there] = pairs + np.arange(count).reshape(len(senders), len(takers))
        parts[here_, there] = width
        pairs += count
    return Paths(Transfers.concatenate(found), number, parts)


def handovers(services: Mapping[str, Paths], here: Site, balancing: Balancing, requests: int) -> Handovers:
    """The network component of disaggregated services, by their names, that have the fabric to themselves.

    Raises
    ------
    ConfigError
        Ranks without a live path.
    """
    everything = Transfers.concatenate([one.transfers for one in services.values()])
    try:
        low = lower(everything, here.fabric, balancing)
    except BadInput as error:
        raise ConfigError(at("policies.balancing", str(error))) from None
    first, tables = 0, {}
    for name, one in services.items():
        column = low.column[first : first + len(one.transfers)]
        tables[name] = np.where(one.number >= 0, column[one.number], -1)
        first += len(one.transfers)
    table = TransferTable.units(low.binding)
    executor = Executor(ProgramBuilder().build(), table, low.capacity, guests=slots(requests))
    parts = {name: one.parts for name, one in services.items()}
    return Handovers(executor, tables, parts=parts, name=NETWORK)


def slots(requests: int) -> int:
    """Most hand-overs at one time."""
    return int(np.clip(requests, 64, 65536))
