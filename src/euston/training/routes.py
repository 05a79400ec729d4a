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

__all__ = ["Grid", "channel_rings", "grid", "routes"]


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


def routes(
    places: Grid, domain_of: NDArray[np.int32], *, first_owner: int, first_role: int
) -> tuple[Transfers, int, int]:
    """Unit transfers of a job, and how many rings its gradients and its tensor collectives use.

    Parameters
    ----------
    places : Grid
    domain_of : int32[endpoints]
        Scale-up domain of every endpoint.
    first_owner, first_role : int
        Numbers of replica 0 and of the first role, when several jobs share a fabric.

    Returns
    -------
    Transfers
        Per replica: tensor, forward, backward of each stage (``Slots`` order); then one per stage for data.
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
    for kind, destination, slot in (
        ("pipeline", np.roll(e, -1, axis=1), slots.forward),
        ("pipeline", np.roll(e, 1, axis=1), slots.backward),
    ):
        parts.append(
            Transfers.uniform(
                rows,
                destination.reshape(d * p, t),
                1.0,
                kind=kind,
                owner=owner,
                role=first_role + slot(0) + stage,
            )
        )
    rings = 1
    for s in range(p):
        edges = [channel_rings(e[:, s, k], domain_of[e[:, s, k]]) for k in range(t)]
        rings = edges[0][2]
        src, dst = np.concatenate([x[0] for x in edges]), np.concatenate([x[1] for x in edges])
        parts.append(
            Transfers.uniform(src[None], dst[None], 1.0, kind="data", role=first_role + slots.own + s)
        )
    return Transfers.concatenate(parts), rings, tensor_rings


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
