"""Who sends to whom in a training job: the unit transfers that its programs name.

Every route is lowered once to a column and reused by all micro-batches; sizes, rates and latencies are set
per use in the transfer table.

The job is cut into *units* that meet only in data-parallel collectives: a unit is one data-parallel replica
or, where expert groups reach over several replicas, all the replicas that meet in their all-to-alls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.cluster import Parallel, Placement
from euston.collectives.edges import Edges, channel_rings, domains, pairs, rail_pairs, ring_in_order, rings
from euston.errors import ConfigError
from euston.network import Transfers

__all__ = ["OWN", "SHARED", "Grid", "Lane", "Routes", "Traits", "channel_rings", "grid", "routes"]

OWN = ("tensor", "forward", "backward", "context", "expert", "expert_inside", "tied")
"""Kinds of transfers that each unit has, one per stage: `expert` between scale-up domains, then inside;
`tied` between a stage and the one opposite."""

SHARED = ("data", "copy", "expert_data")
"""Kinds of transfers that all units share, one per stage: over the ranks that share out gradients, over
their copies (HSDP), and over the replicas of experts."""

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Traits:
    """What routes depend on besides layout and placement.

    Attributes
    ----------
    both_ways : bool
        Stages r and p - 1 - r hold the same layers (DualPipe) and share their gradients.
    context : "ring" | "all_gather" | "ulysses"
        How context-parallel ranks exchange keys and values.
    tied : bool
        First and last stage share a matrix.
    """

    both_ways: bool = False
    context: str = "ring"
    tied: bool = False


@dataclass(frozen=True)
class Grid:
    """Endpoints of a job by coordinate.

    Attributes
    ----------
    endpoint : int32[units, pipeline, width]
        The width is replicas of the unit x context x tensor, tensor fastest.
    context, members : int
        Context-parallel ranks, and data-parallel replicas of a unit.
    expert : int32[units, pipeline, groups, expert]
        Endpoints of expert groups, where experts are dealt out apart from the rest.
    expert_data : int32[pipeline, groups, expert_data]
        Endpoints that hold the same experts, then.
    shard : int
        Ranks over which a data group shards; 0 for all.
    """

    endpoint: Ints
    context: int = 1
    members: int = 1
    expert: Ints | None = None
    expert_data: Ints | None = None
    shard: int = 0

    @property
    def replicas(self) -> int:
        """Units: data-parallel replicas, or groups of them that meet in expert all-to-alls."""
        return int(self.endpoint.shape[0])

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return int(self.endpoint.shape[1])

    @property
    def tensor(self) -> int:
        """Tensor-parallel ranks."""
        return int(self.endpoint.shape[2] // (self.context * self.members))

    def split(self) -> Ints:
        """Endpoints by int32[units, pipeline, replicas of the unit, context, tensor]."""
        u, p, _ = self.endpoint.shape
        return self.endpoint.reshape(u, p, self.members, self.context, self.tensor)


def grid(parallel: Parallel, placement: Placement) -> Grid:
    """The job's endpoints by (unit, stage, rank)."""
    units = _units(parallel, placement)
    u, members = units.shape
    p, c, t = parallel.pipeline, parallel.context, parallel.tensor
    rank = placement.rank_of(
        tensor=np.arange(t),
        context=np.arange(c)[:, None],
        data=units[:, None, :, None, None],
        pipeline=np.arange(p)[:, None, None, None],
    )
    rank = np.broadcast_to(rank, (u, p, members, c, t))
    places = placement.endpoint[rank.reshape(u, p, -1)]
    if not parallel.experts_apart:
        return Grid(places, c, members, shard=parallel.shard)
    at = placement.coordinates()
    unit_of = np.empty(parallel.data, np.int64)
    unit_of[units] = np.arange(u)[:, None]
    groups = placement.rank_groups("expert")
    where = unit_of[at["data"][groups[:, 0]]] * p + at["pipeline"][groups[:, 0]]
    experts = groups[np.argsort(where, kind="stable")].reshape(u, p, -1, parallel.expert)
    same = placement.rank_groups("expert_data")
    same = same[np.argsort(at["pipeline"][same[:, 0]], kind="stable")].reshape(p, -1, same.shape[1])
    return Grid(places, c, members, placement.endpoint[experts], placement.endpoint[same], parallel.shard)


def _units(parallel: Parallel, placement: Placement) -> NDArray[np.int64]:
    """Data coordinates of the replicas of every unit, int64[units, replicas of a unit]."""
    d = parallel.data
    if parallel.expert == 1:
        return np.arange(d)[:, None]
    from scipy.sparse import coo_array  # slow to import, and few jobs need it
    from scipy.sparse.csgraph import connected_components

    met = placement.coordinates()["data"][placement.rank_groups("expert")].astype(np.int64)
    link = np.unique(met[:, :1] * d + met[:, 1:])
    links = coo_array((np.ones(link.size), (link // d, link % d)), shape=(d, d))
    count, label = connected_components(links, directed=False)
    sizes = np.bincount(label)
    if (sizes != sizes[0]).any():
        raise ConfigError(
            f"`parallel.order`: {parallel.order!r} couples unequal numbers of replicas by their expert "
            "groups; put ep before dp"
        )
    _, first = np.unique(label, return_index=True)
    number = np.argsort(np.argsort(first))[label]  # units in the order of their first replica
    return np.asarray(np.argsort(number, kind="stable").reshape(count, -1), np.int64)


@dataclass(frozen=True)
class Lane:
    """How the groups of one kind lie.

    Attributes
    ----------
    first : int
        Number of its first transfer; those of a kind nobody needs are another kind's, never sent.
    ranks : int
        Of a group.
    share : float64[stages]
        Part of what a rank sends that one member of the transfer carries.
    domains : int64[stages]
        Scale-up domains that a group spans, at most.
    """

    first: int
    ranks: int
    share: NDArray[np.float64]
    domains: NDArray[np.int64]


@dataclass(frozen=True)
class Routes:
    """Unit transfers of one job, and how its groups lie on the hosts.

    Attributes
    ----------
    transfers : Transfers
        By kind (`OWN`), unit and stage; then by kind (`SHARED`) and stage.
    lanes : dict
        Of every kind that is there.
    """

    grid: Grid
    transfers: Transfers
    lanes: dict[str, Lane]
    traits: Traits = Traits()

    @property
    def roles(self) -> int:
        """Numbers that its transfers' roles take."""
        return (len(OWN) + len(SHARED)) * self.grid.stages

    def own(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Transfers of units (int64[k]) by kind (`OWN`) and stage, int64[kinds, k, stages]."""
        p = self.grid.stages
        first = np.array([self.lanes.get(kind, self.lanes["tensor"]).first for kind in OWN])
        return np.asarray(first[:, None, None] + units[None, :, None] * p + np.arange(p), np.int64)

    def shared(self, kind: str) -> NDArray[np.int64]:
        """Transfers of the stages' collectives of a kind of `SHARED`, int64[stages]."""
        return self.lanes.get(kind, self.lanes["data"]).first + np.arange(self.grid.stages)

    @property
    def data(self) -> NDArray[np.int64]:
        """Transfers of the stages' data-parallel collectives, int64[stages]."""
        return self.shared("data")

    @property
    def tensor_rings(self) -> int:
        """Rings that share a tensor-parallel collective."""
        return int(np.rint(1 / self.lanes["tensor"].share[0]))

    @property
    def data_rings(self) -> NDArray[np.int64]:
        """Rings that share a collective of a stage's data-parallel groups, int64[stages]."""
        return np.asarray(np.rint(1 / self.lanes["data"].share), np.int64)

    @property
    def tensor_domains(self) -> int:
        """Scale-up domains that a tensor-parallel group spans, at most."""
        return int(self.lanes["tensor"].domains.max())

    @property
    def data_domains(self) -> NDArray[np.int64]:
        """Scale-up domains that a stage's data-parallel groups span, at most, int64[stages]."""
        return self.lanes["data"].domains


def routes(
    places: Grid, domain_of: Ints, *, first_owner: int, first_role: int, traits: Traits | None = None
) -> Routes:
    """Unit transfers of a job.

    Parameters
    ----------
    places : Grid
    domain_of : int32[endpoints]
        Scale-up domain of every endpoint.
    first_owner, first_role : int
        Numbers of unit 0 and of the first role, when several jobs share a fabric.
    traits : Traits, optional
    """
    return _Writer(places, domain_of, first_owner, first_role, traits or Traits()).write()


class _Writer:
    def __init__(self, places: Grid, domain_of: Ints, owner: int, role: int, traits: Traits) -> None:
        self.places, self.domain_of, self.traits = places, domain_of, traits
        self.u, self.p, _ = places.endpoint.shape
        self.owner = np.repeat(np.arange(self.u, dtype=np.int32), self.p) + owner
        self.role, self.stage = role, np.tile(np.arange(self.p), self.u)
        self.parts: list[Transfers] = []
        self.lanes: dict[str, Lane] = {}

    def write(self) -> Routes:
        e, split = self.places.endpoint, self.places.split()
        rows = split.reshape(-1, split.shape[-1])
        self._own("tensor", rings(rows, self.domain_of), split.shape[-1], rows)
        self._across("forward", np.roll(e, -1, axis=1))
        self._across("backward", np.roll(e, 1, axis=1))
        if self.places.context > 1:
            groups = np.swapaxes(split, 3, 4).reshape(-1, self.places.context)
            edges = {
                "ring": lambda: ring_in_order(groups),
                "all_gather": lambda: rings(groups, self.domain_of),
                "ulysses": lambda: pairs(groups),
            }[self.traits.context]()
            self._own("context", edges, self.places.context, groups)
        if self.places.expert is not None and (experts := self.places.expert.shape[-1]) > 1:
            groups = self.places.expert.reshape(-1, experts)
            between, inside = rail_pairs(groups, self.domain_of)
            if between is not None:
                self._own("expert", between, experts, groups)
            if inside is not None:
                self._own("expert_inside", inside, experts, groups)
        if self.traits.tied and self.p > 1:
            e, other = self.places.endpoint, self.places.endpoint[:, ::-1]
            ends = np.stack([e, other], axis=-1).reshape(-1, 2)
            self._own("tied", ring_in_order(ends), 2, ends)
        self._shared(self._data_groups(split))
        return Routes(self.places, Transfers.concatenate(self.parts), self.lanes, self.traits)

    def _first(self) -> int:
        return sum(len(part) for part in self.parts)

    def _add(self, kind: str, name: str, src: Ints, dst: Ints) -> None:
        role = self.role + OWN.index(kind) * self.p + self.stage
        rows = self.u * self.p
        self.parts.append(
            Transfers.uniform(
                src.reshape(rows, -1), dst.reshape(rows, -1), 1.0, kind=name, owner=self.owner, role=role
            )
        )

    def _own(self, kind: str, edges: Edges, ranks: int, groups: Ints) -> None:
        spans = domains(self.domain_of[groups])
        lane = Lane(
            self._first(), ranks, np.full(self.p, edges.share), np.full(self.p, int(spans.max()), np.int64)
        )
        self.lanes[kind] = lane
        self._add(kind, kind.split("_")[0], edges.src, edges.dst)

    def _across(self, kind: str, ends: Ints) -> None:
        one = np.ones(self.p)
        self.lanes[kind] = Lane(self._first(), 2, one, one.astype(np.int64))
        self._add(kind, "pipeline", self.places.endpoint, ends)

    def _data_groups(self, split: Ints) -> dict[str, list[Ints]]:
        """Groups of every stage by kind, int32[groups, ranks] each."""
        found: dict[str, list[Ints]] = {}
        by_stage = [split[:, s].reshape(-1, split.shape[-1]).T for s in range(self.p)]  # [tensor, ranks]
        same = [] if self.places.expert_data is None else [*self.places.expert_data]
        if self.traits.both_ways:
            by_stage = [np.concatenate(pair, axis=1) for pair in zip(by_stage, by_stage[::-1], strict=True)]
            same = [np.concatenate(pair, axis=1) for pair in zip(same, same[::-1], strict=True)]
        shard = self.places.shard
        if shard and shard < by_stage[0].shape[1]:
            cut = [groups.reshape(groups.shape[0], -1, shard) for groups in by_stage]
            found["data"] = [groups.reshape(-1, shard) for groups in cut]
            copies = by_stage[0].shape[1] // shard
            found["copy"] = [np.swapaxes(groups, 1, 2).reshape(-1, copies) for groups in cut]
        else:
            found["data"] = by_stage
        if same and same[0].shape[1] > 1:
            found["expert_data"] = same
        return found

    def _shared(self, by_kind: dict[str, list[Ints]]) -> None:
        # "data" comes last: it is the one that is always there.
        for kind in sorted(by_kind, key=SHARED.index, reverse=True):
            first, spans, share = self._first(), [], []
            for s, groups in enumerate(by_kind[kind]):
                spans.append(int(domains(self.domain_of[groups]).max()))
                found = [channel_rings(group, self.domain_of[group]) for group in groups]
                equal = len({n for _, _, n in found}) == 1
                # Groups that lie differently on the hosts advance together as one ring each.
                found = found if equal else [(g, np.roll(g, -1), 1) for g in groups]
                src, dst = (np.concatenate([x[i] for x in found]) for i in (0, 1))
                share.append(1.0 / found[0][2])
                role = np.array([self.role + (len(OWN) + SHARED.index(kind)) * self.p + s])
                self.parts.append(Transfers.uniform(src[None], dst[None], 1.0, kind="data", role=role))
            ranks = by_kind[kind][0].shape[1]
            self.lanes[kind] = Lane(first, ranks, np.array(share), np.array(spans, np.int64))
