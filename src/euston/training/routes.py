"""Who sends to whom in a training job: the unit transfers that its programs name.

Every route is lowered once to a column and reused by all micro-batches; sizes, rates and latencies are set
per use in the transfer table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.cluster import Parallel, Placement
from euston.network import Transfers
from euston.training.write import Slots

__all__ = ["Grid", "Routes", "channel_rings", "grid", "routes"]


@dataclass(frozen=True)
class Grid:
    """Endpoints of a job by coordinate, int32[data, pipeline, tensor]."""

    endpoint: NDArray[np.int32]

    @property
    def replicas(self) -> int:
        """Data-parallel replicas."""
        return int(self.endpoint.shape[0])

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return int(self.endpoint.shape[1])


def grid(parallel: Parallel, placement: Placement) -> Grid:
    """The job's endpoints by (replica, stage, tensor rank)."""
    d, s, t = np.ogrid[: parallel.data, : parallel.pipeline, : parallel.tensor]
    return Grid(placement.endpoint[placement.rank_of(tensor=t, data=d, pipeline=s)])


def channel_rings(
    group: NDArray[np.int32], domain: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Edges of the rings over ``group`` (int32[n]), and the number of rings.

    With g ranks in every scale-up domain there are g rings that visit domain after domain, each entering and
    leaving through another rank, so that all NICs of a host carry an equal part (NCCL's channels). With one
    rank per domain, or unequal numbers, there is one ring in rank order.
    """
    order = np.argsort(domain, kind="stable")
    members = group[order]
    _, counts = np.unique(domain, return_counts=True)
    g = int(counts[0])
    if counts.size == 1 or g == 1 or (counts != g).any():
        ring = members if counts.size > 1 and (counts == counts[0]).all() else group
        return ring, np.roll(ring, -1), 1
    local = members.reshape(-1, g)
    rings = np.stack([np.roll(local, -k, axis=1).reshape(-1) for k in range(g)])
    return rings.reshape(-1), np.roll(rings, -1, axis=1).reshape(-1), g


@dataclass(frozen=True)
class Routes:
    """Unit transfers of one job, and how its groups lie on the hosts.

    Attributes
    ----------
    transfers : Transfers
        Per replica: tensor, forward, backward of each stage (``Slots`` order); then one per stage for data.
    tensor_rings : int
        Rings that share a tensor-parallel collective.
    data_rings : int64[stages]
        Rings that share a collective of a stage's data-parallel groups.
    tensor_domains : int
        Scale-up domains that a tensor-parallel group spans, at most.
    data_domains : int64[stages]
        Scale-up domains that a stage's data-parallel groups span, at most.
    """

    grid: Grid
    transfers: Transfers
    tensor_rings: int
    data_rings: NDArray[np.int64]
    tensor_domains: int
    data_domains: NDArray[np.int64]

    @property
    def roles(self) -> int:
        """Numbers that its transfers' roles take."""
        return 4 * self.grid.stages

    def own(self, replica: NDArray[np.int64]) -> NDArray[np.int64]:
        """Transfers of replicas (int64[k]) by kind and stage, int64[3, k, stages]."""
        d, p = self.grid.replicas, self.grid.stages
        kind = np.arange(3)[:, None, None] * (d * p)
        return np.asarray(kind + replica[None, :, None] * p + np.arange(p), np.int64)

    @property
    def data(self) -> NDArray[np.int64]:
        """Transfers of the stages' data-parallel collectives, int64[stages]."""
        return 3 * self.grid.replicas * self.grid.stages + np.arange(self.grid.stages)


def routes(places: Grid, domain_of: NDArray[np.int32], *, first_owner: int, first_role: int) -> Routes:
    """Unit transfers of a job.

    Parameters
    ----------
    places : Grid
    domain_of : int32[endpoints]
        Scale-up domain of every endpoint.
    first_owner, first_role : int
        Numbers of replica 0 and of the first role, when several jobs share a fabric.
    """
    e = places.endpoint
    d, p, t = e.shape
    slots = Slots(p, 1)
    owner = np.repeat(np.arange(d, dtype=np.int32), p) + first_owner
    stage = np.tile(np.arange(p), d)
    rows = e.reshape(d * p, t)
    src, dst, tensor_rings = _tensor_rings(rows, domain_of)
    role = first_role + slots.tensor(0) + stage
    parts = [Transfers.uniform(src, dst, 1.0, kind="tensor", owner=owner, role=role)]
    for destination, slot in (
        (np.roll(e, -1, axis=1), slots.forward),
        (np.roll(e, 1, axis=1), slots.backward),
    ):
        role = first_role + slot(0) + stage
        ends = destination.reshape(d * p, t)
        parts.append(Transfers.uniform(rows, ends, 1.0, kind="pipeline", owner=owner, role=role))
    data_rings = np.ones(p, np.int64)
    for s in range(p):
        edges = [channel_rings(e[:, s, k], domain_of[e[:, s, k]]) for k in range(t)]
        if len({n for _, _, n in edges}) == 1:
            data_rings[s] = edges[0][2]
            src, dst = np.concatenate([x[0] for x in edges]), np.concatenate([x[1] for x in edges])
        else:  # groups that lie differently on the hosts advance together as one ring each
            src, dst = e[:, s].T.ravel(), np.roll(e[:, s].T, -1, axis=1).ravel()
        role = np.array([first_role + slots.own + s])
        parts.append(Transfers.uniform(src[None], dst[None], 1.0, kind="data", role=role))
    across = [int(_domains(domain_of[e[:, s]].T).max()) for s in range(p)]
    return Routes(
        places,
        Transfers.concatenate(parts),
        tensor_rings,
        data_rings,
        int(_domains(domain_of[rows]).max()),
        np.array(across, np.int64),
    )


def _domains(domain: NDArray[np.int32]) -> NDArray[np.int64]:
    """Distinct values in each row, int64[groups]."""
    ordered = np.sort(domain, axis=1)
    return np.asarray(1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1), np.int64)


def _tensor_rings(
    groups: NDArray[np.int32], domain_of: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Ring edges of every tensor-parallel group, int32[groups, edges] twice, and the rings per group.

    A group inside one scale-up domain is one ring in rank order. A group that spans hosts uses all their
    NICs, see `channel_rings`; if groups differ in how they span them, each is one ring.
    """
    domain = domain_of[groups]
    if not (domain == domain[:, :1]).all():
        edges = [channel_rings(group, where) for group, where in zip(groups, domain, strict=True)]
        if len({n for _, _, n in edges}) == 1:
            return np.stack([src for src, _, _ in edges]), np.stack([dst for _, dst, _ in edges]), edges[0][2]
    return groups, np.roll(groups, -1, axis=1), 1
