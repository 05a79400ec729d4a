"""The protocol of allocation: who is in which switch queue, and what share of each link a queue has.

A policy is a frozen dataclass whose fields are its settings in scenario files. For a run it makes an
`Allocator`, which places transfers and, when the policy is ``dynamic``, is told of every start and end and
plans anew. Engines enforce plans: the fluid engine by hierarchical max-min, the packet engine by the quanta
of its deficit round robin, the testbed by tc classes.

A dynamic policy's run, for the engine::

    allocator = policy.begin(fabric, jobs, kinds)
    plan = allocator.plan                             # weights from time 0 on
    ...
    place = allocator.place(transfer)                 # when a transfer starts, before it moves a byte
    wake = min(wake, allocator.started(now, transfer), allocator.ended(now, other))
    ...
    if now >= wake:                                   # after the starts and ends of that moment
        wake = inf
        plan = allocator.replan(now) or plan
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network._grouping import combine, group
from euston.network.flows import Flows

__all__ = [
    "MAX_QUEUES",
    "AllocationPolicy",
    "Allocator",
    "Assignment",
    "Place",
    "QueuePlan",
    "Static",
    "TransferInfo",
    "assign",
    "assign_flows",
]

MAX_QUEUES = 256
"""Queues and priority levels there may be: both are a byte in flow lists. (Switches have 8 or 16.)"""

_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class TransferInfo:
    """What a policy is told of a transfer.

    Attributes
    ----------
    number : int
        Its number in the engine's table; -1 for all transfers of one job and kind together.
    job, kind : str
        Whose transfer it is and what for; empty when nobody said.
    queue, priority : int
        As marked by whoever wrote it, 0 unless said.
    bytes : float
        Payload of all its members; nan when asked for several transfers at once.
    weight : float
        Its own max-min weight.
    src, dst : int32[M]
        Endpoints of its members; empty when asked for several transfers at once.
    links : int32[...]
        Links that it may use, each once (ECMP counts on every candidate path until the hash is known); empty
        when the policy is not ``dynamic``.
    """

    number: int = -1
    job: str = ""
    kind: str = ""
    queue: int = 0
    priority: int = 0
    bytes: float = float("nan")
    weight: float = 1.0
    src: NDArray[np.int32] = field(default_factory=lambda: _NONE)
    dst: NDArray[np.int32] = field(default_factory=lambda: _NONE)
    links: NDArray[np.int32] = field(default_factory=lambda: _NONE)


class Place(NamedTuple):
    """Where a transfer goes.

    Attributes
    ----------
    queue : int
        Weighted queue of every link that it crosses.
    priority : int
        Strict level; 0 goes first. A level gets what those before it leave.
    factor : float
        Multiplies the transfer's own weight, by which flows share inside a queue.
    """

    queue: int = 0
    priority: int = 0
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class QueuePlan:
    """Weights of the queues of every link, and running transfers that change place.

    Attributes
    ----------
    weights : float64[Q]
        Positive weights of the queues of any link; only their ratios matter.
    links : int32[K]
        Links with weights of their own, each once.
    link_weights : float64[K, Q]
        Theirs.
    moves : mapping of int to Place
        New places of running transfers by number; all others stay where they are.

    Raises
    ------
    ConfigError
        For weights that are not positive and finite, shapes that do not fit, a link named twice.
    """

    weights: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    links: NDArray[np.int32] = field(default_factory=lambda: _NONE)
    link_weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 1)))
    moves: Mapping[int, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, np.float64)
        links = np.asarray(self.links, np.int32)
        own = np.asarray(self.link_weights, np.float64)
        if weights.ndim != 1 or not 1 <= weights.size <= MAX_QUEUES:
            raise ConfigError(
                f"queue weights have shape {weights.shape}; 1 to {MAX_QUEUES} queues are possible"
            )
        if links.size == 0:
            own = np.zeros((0, weights.size))
        if own.shape != (links.size, weights.size):
            raise ConfigError(
                f"weights of single links have shape {own.shape}; "
                f"{links.size} links of {weights.size} queues need ({links.size}, {weights.size})"
            )
        for name, values in (("queue weights", weights), ("weights of single links", own)):
            if not ((values > 0) & (values < inf)).all():
                raise ConfigError(f"{name} must be positive and finite; give a small weight instead of none")
        if np.unique(links).size != links.size or (links < 0).any():
            raise ConfigError("links with weights of their own must be named by number, each once")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "links", links)
        object.__setattr__(self, "link_weights", own)

    def __repr__(self) -> str:
        own = f"{self.links.size:,} links with weights of their own"
        return f"QueuePlan({self.queues} queues, {own}, {len(self.moves):,} moves)"

    @property
    def queues(self) -> int:
        """Number of queues of a link."""
        return int(self.weights.size)

    def per_link(self, links: int) -> NDArray[np.float64]:
        """Weights of every link, float64[L, Q]; one line, float64[1, Q], when all are alike."""
        if self.links.size == 0:
            return self.weights[np.newaxis].copy()
        found = np.tile(self.weights, (links, 1))
        found[self.links] = self.link_weights
        return found

    def on_rows(self, fabric: Fabric) -> NDArray[np.float64]:
        """Weights of the rows of a lowered system, float64[rows, Q]; float64[1, Q] when all are alike.

        A whole bundle has the weights of its first link; see `split`.
        """
        found = self.per_link(fabric.links)
        return found if found.shape[0] == 1 else np.concatenate((found[fabric.bundle_start[:-1]], found))

    def split(self, fabric: Fabric) -> NDArray[np.bool_]:
        """Bundles whose links differ in weights, bool[bundles]: flows must name single links of these."""
        apart = np.zeros(fabric.bundles, bool)
        if self.links.size:
            share = self.per_link(fabric.links)
            share /= share.sum(axis=1, keepdims=True)
            unlike = (share != share[fabric.bundle_start[:-1]][fabric.bundle]).any(axis=1)
            apart[fabric.bundle[unlike]] = True
        return apart


class Allocator(Protocol):
    """The decisions of a policy during one run."""

    @property
    def plan(self) -> QueuePlan:
        """The plan at time 0; the number of queues never changes."""

    def place(self, transfer: TransferInfo) -> Place:
        """Where a transfer goes that starts now.

        A policy that is not ``dynamic`` looks at nothing but ``job, kind, queue, priority``: engines ask it
        once for all transfers alike.
        """

    def started(self, time: float, transfer: TransferInfo) -> float:
        """A transfer has started. Answers when to plan anew, in s.

        ``time`` for now, a later moment to gather changes, inf for never.
        """

    def ended(self, time: float, transfer: TransferInfo) -> float:
        """A transfer has ended; answers as `started`."""

    def replan(self, time: float) -> QueuePlan | None:
        """The plan from now on, None to keep the present one."""


class AllocationPolicy(Protocol):
    """An allocation policy: a frozen dataclass whose fields are its settings in scenario files.

    Optional method: ``check_jobs(jobs)``, which refuses settings that do not fit the jobs of a scenario
    before anything is built.
    """

    @property
    def name(self) -> str:
        """Its name in scenario files."""

    @property
    def dynamic(self) -> bool:
        """Whether it must be told of starts and ends; if not, engines ask for places once and pay nothing."""

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Allocator:
        """Its decisions for one run, with no memory of others.

        ``jobs``: names of all jobs, in the order of the scenario, with "" where transfers belong to none;
        ``kinds``: kinds of transfers that they may write. Raises ``ConfigError`` for settings that name a
        job, a kind or a link that is not there.
        """


@dataclass(frozen=True)
class Static:
    """An allocator that decides everything beforehand."""

    plan: QueuePlan
    of: Callable[[TransferInfo], Place]

    def place(self, transfer: TransferInfo) -> Place:
        """See `Allocator.place`."""
        return self.of(transfer)

    def started(self, time: float, transfer: TransferInfo) -> float:
        """Nothing to plan."""
        return inf

    def ended(self, time: float, transfer: TransferInfo) -> float:
        """Nothing to plan."""
        return inf

    def replan(self, time: float) -> QueuePlan | None:
        """Nothing to plan."""
        return None


@dataclass(frozen=True, eq=False)
class Assignment:
    """Places of transfers as flat arrays.

    Attributes
    ----------
    queue, priority : int64[T]
    factor : float64[T]
        Multiplies each transfer's own weight.
    """

    queue: NDArray[np.int64]
    priority: NDArray[np.int64]
    factor: NDArray[np.float64]

    @property
    def plain(self) -> bool:
        """Whether all are in one queue of one level: weighted max-min fairness and no more."""
        return bool((self.queue == self.queue[:1]).all() and (self.priority == self.priority[:1]).all())

    def on(self, flows: Flows) -> Flows:
        """``flows`` in their places."""
        return replace(
            flows,
            queue=self.queue.astype(np.int32),
            priority=self.priority.astype(np.int32),
            weight=flows.weight * self.factor,
        )


def assign(
    allocator: Allocator,
    *,
    jobs: Sequence[str],
    job: ArrayLike,
    kinds: Sequence[str],
    kind: ArrayLike,
    queue: ArrayLike = 0,
    priority: ArrayLike = 0,
) -> Assignment:
    """Places of many transfers by a policy that is not dynamic; asks once for all that are alike.

    Parameters
    ----------
    jobs, kinds : sequence of str
        Names; ``job`` and ``kind`` (int[T] or int) count into them.
    queue, priority : int[T] or int
        As marked by whoever wrote the transfers.

    Raises
    ------
    ConfigError
        When the policy puts a transfer into a queue that its plan does not have.
    """
    given = np.broadcast_arrays(*(np.atleast_1d(a) for a in (job, kind, queue, priority)))
    first, which, _ = group(combine(*given))
    places = []
    for j, k, q, p in np.stack(given)[:, first].T.tolist():
        place = allocator.place(TransferInfo(job=jobs[j], kind=kinds[k], queue=q, priority=p))
        if not (0 <= place.queue < allocator.plan.queues and 0 <= place.priority < MAX_QUEUES):
            raise ConfigError(
                f"transfers {kinds[k]!r} of job {jobs[j]!r}: there is no queue {place.queue} of priority "
                f"{place.priority}; the policy has queues 0 to {allocator.plan.queues - 1}"
            )
        places.append(place)
    table = np.array(places, np.float64).reshape(-1, 3)[which]
    return Assignment(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2].copy())


def assign_flows(
    allocator: Allocator, flows: Flows, *, jobs: Sequence[str] = ("",), job: ArrayLike = 0
) -> Assignment:
    """Places of a flow list: a flow's kind is the tag of its group, its marks are its queue and priority."""
    return assign(
        allocator,
        jobs=jobs,
        job=job,
        kinds=(*flows.tags, ""),
        kind=flows.group,  # -1, no group, is the last
        queue=flows.queue,
        priority=flows.priority,
    )
