"""The protocol of collective algorithms: stages of transfers, or every single message.

By default an algorithm is a few transfers, each standing for all its messages; stages wait for each other and
are never summed into one column. On request it is written message by message; both take the same time on an
otherwise idle network (a test says how nearly for each algorithm).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.collectives.hierarchical import Stage
from euston.errors import ConfigError, unknown
from euston.network import Tag, Transfer

__all__ = [
    "COLLECTIVES",
    "Algorithm",
    "Group",
    "Hop",
    "Stage",
    "Message",
    "Steps",
    "group_of",
    "in_steps",
    "send",
    "supported",
]

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

Steps = list[list[Transfer]]
"""Messages, step by step; see `in_steps`."""


class Message(NamedTuple):
    """One message and what it waits for: numbers of earlier ones that were sent, or that have arrived."""

    transfer: Transfer
    after_sent: tuple[int, ...] = ()
    after_arrival: tuple[int, ...] = ()


def in_steps(steps: Steps) -> list[Message]:
    """Messages of steps: each waits for what its sender last sent and received in an earlier step."""
    out: list[Message] = []
    sent: dict[int, list[int]] = {}
    arrived: dict[int, list[int]] = {}
    for step in steps:
        ends = [(int(transfer.src[0]), int(transfer.dst[0])) for transfer in step]
        first = len(out)
        for transfer, (src, _) in zip(step, ends, strict=True):
            out.append(Message(transfer, tuple(sent.get(src, ())), tuple(arrived.get(src, ()))))
        sent |= {src: [] for src, _ in ends}
        arrived |= {dst: [] for _, dst in ends}
        for i, (src, dst) in enumerate(ends, start=first):
            sent[src].append(i)
            arrived[dst].append(i)
    return out


class Hop(NamedTuple):
    """Of one message: seconds before it counts, and bytes/s that a library reaches per rank."""

    latency: float = 0.0
    rate: float = np.inf


FREE = Hop()
"""Costs nothing but what the links take."""


@dataclass(frozen=True, eq=False)
class Group:
    """Ranks that take part, and what a message costs between them.

    Attributes
    ----------
    ranks : int32[n]
        Endpoints, all different, in the order of their numbers.
    domain : int32[n]
        Scale-up domain of each.
    inside, between : Hop
        Of messages inside a scale-up domain, and of others.
    """

    ranks: NDArray[np.int32]
    domain: NDArray[np.int32]
    inside: Hop = FREE
    between: Hop = FREE
    tag: Tag = field(default_factory=Tag)

    def __len__(self) -> int:
        return int(self.ranks.size)

    @property
    def domains(self) -> int:
        """Scale-up domains that the group spans."""
        return int(np.unique(self.domain).size)

    def grid(self) -> NDArray[np.int32]:
        """Endpoints as int32[domains, ranks of a domain].

        Raises
        ------
        ConfigError
            When domains hold unequal numbers of the ranks.
        """
        order = np.argsort(self.domain, kind="stable")
        _, counts = np.unique(self.domain, return_counts=True)
        if (counts != counts[0]).any():
            raise ConfigError(
                f"the algorithm needs as many ranks in every scale-up domain; these hold "
                f"{counts.tolist()[:8]}"
            )
        return self.ranks[order].reshape(counts.size, -1)

    def hop(self, src: NDArray[np.int32], dst: NDArray[np.int32]) -> Hop:
        """The slower hop that messages between these endpoints need."""
        order = np.argsort(self.ranks)
        ranks, domain = self.ranks[order], self.domain[order]
        apart = domain[np.searchsorted(ranks, src)] != domain[np.searchsorted(ranks, dst)]
        return self.between if apart.any() else self.inside


def group_of(
    ranks: ArrayLike,
    domain: ArrayLike | None = None,
    *,
    inside: Hop | None = None,
    between: Hop | None = None,
    tag: Tag | None = None,
) -> Group:
    """A group of ``ranks`` (endpoints); ``domain`` is the scale-up domain of each, all alone by default.

    Raises
    ------
    ConfigError
        For fewer than two ranks, one twice, or as many domains as there are not ranks.
    """
    r = np.asarray(ranks, np.int32).ravel()
    if r.size < 2 or np.unique(r).size != r.size:
        raise ConfigError(f"a collective needs at least 2 different endpoints; got {r.tolist()[:8]}")
    d = np.arange(r.size, dtype=np.int32) if domain is None else np.asarray(domain, np.int32).ravel()
    if d.shape != r.shape:
        raise ConfigError(f"a collective of {r.size} ranks needs {r.size} domains; got {d.size}")
    return Group(r, d, inside or FREE, between or FREE, tag or Tag(kind="collective"))


def send(
    group: Group,
    src: NDArray[np.int32],
    dst: NDArray[np.int32],
    size: float | NDArray[np.float64],
    *,
    latency: float | None = None,
    share: float = 1.0,
) -> Transfer:
    """Messages that advance together; ``share`` is the part of a rank's rate that one of them may take."""
    hop = group.hop(src, dst)
    return Transfer(
        src=src,
        dst=dst,
        bytes=np.asarray(size, np.float64),
        coupled=True,
        rate_cap=hop.rate * share,
        latency=hop.latency if latency is None else latency,
        tag=group.tag,
    )


@runtime_checkable
class Algorithm(Protocol):
    """One way to run collectives."""

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def collectives(self) -> tuple[str, ...]:
        """What it can do, of ``COLLECTIVES``."""

    def stages(self, collective: str, group: Group, buffer_bytes: float) -> list[Stage]:
        """Transfers that stand for all messages; M is the full buffer (nccl-tests convention)."""

    def messages(self, collective: str, group: Group, buffer_bytes: float) -> list[Message]:
        """Every message, in an order in which none needs a later one."""


def supported(algorithm: Algorithm, collective: str) -> None:
    """Refuse a collective that an algorithm does not know."""
    if collective not in COLLECTIVES:
        raise ConfigError(unknown("collective", collective, COLLECTIVES))
    if collective not in algorithm.collectives:
        raise ConfigError(
            f"`algorithm`: {algorithm.name} does not do {collective}; "
            f"it does {', '.join(algorithm.collectives)}"
        )
