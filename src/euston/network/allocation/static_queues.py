"""Queues from a table: what an operator configures on switches once and leaves alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite
from typing import ClassVar

import numpy as np

from euston.errors import ConfigError, FabricError, at
from euston.fabrics import Fabric
from euston.network.allocation._names import find, refuse_unknown
from euston.network.allocation.base import MAX_QUEUES, Place, QueuePlan, Static, TransferInfo

__all__ = ["StaticQueues"]


@dataclass(frozen=True)
class StaticQueues:
    """Transfers in weighted queues and strict levels as a table says.

    Parameters
    ----------
    weights : sequence
        Weights of queue 0, 1, ...: eight equal ones unless said.
    queues : mapping
        Queue of a job, of a kind of transfers, or of ``job/kind``; others stay in the queue that they are
        marked with, 0 when nobody marked them.
    priorities : mapping
        Strict level of the same, 0 first; others keep the priority that they are marked with.
    links : mapping
        Weights of the queues of single links, ``tor_up/p0/t0/a1: [1, 3]``; ``*`` in a name stands for any.
    """

    weights: Sequence[float] = (1.0,) * 8
    queues: Mapping[str, int] = field(default_factory=dict)
    priorities: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, Sequence[float]] = field(default_factory=dict)
    name: ClassVar[str] = "static_queues"
    dynamic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        n = len(self.weights)
        if not 1 <= n <= MAX_QUEUES:
            raise ConfigError(at("weights", f"{n} queues; there can be 1 to {MAX_QUEUES}"))
        for where, weights in {
            "weights": self.weights,
            **{f"links.{k}": v for k, v in self.links.items()},
        }.items():
            if len(weights) != n:
                raise ConfigError(at(where, f"{len(weights)} weights; `weights` has {n} queues"))
            if not all(w > 0 and isfinite(w) for w in weights):
                raise ConfigError(at(where, f"{list(weights)}; weights must be positive and finite"))
        for who, queue in self.queues.items():
            if not 0 <= queue < n:
                raise ConfigError(at(f"queues.{who}", f"{queue}; `weights` has queues 0 to {n - 1}"))
        for who, level in self.priorities.items():
            if not 0 <= level < MAX_QUEUES:
                raise ConfigError(
                    at(f"priorities.{who}", f"{level}; a level is 0 (first) to {MAX_QUEUES - 1}")
                )

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Static:
        """See `AllocationPolicy.begin`."""
        refuse_unknown({"queues": self.queues, "priorities": self.priorities}, jobs, kinds)
        own: dict[int, Sequence[float]] = {}
        names = [fabric.link_name(link) for link in range(fabric.links)] if "*" in "".join(self.links) else []
        for pattern, weights in self.links.items():
            if "*" in pattern:
                found = [link for link, name in enumerate(names) if fnmatchcase(name, pattern)]
                if not found:
                    raise ConfigError(at(f"links.{pattern}", f"{fabric.name!r} has no link of such a name"))
            else:
                try:
                    found = [fabric.link_index(pattern)]
                except FabricError as error:
                    raise ConfigError(at(f"links.{pattern}", str(error))) from None
            own |= dict.fromkeys(found, weights)
        plan = QueuePlan(
            np.array(self.weights, np.float64),
            np.fromiter(own, np.int32, len(own)),
            np.array(list(own.values()), np.float64).reshape(len(own), len(self.weights)),
        )
        return Static(plan, self._place)

    def _place(self, transfer: TransferInfo) -> Place:
        queue = find(self.queues, transfer, transfer.queue)
        if queue >= len(self.weights):
            raise ConfigError(
                f"a transfer is marked for queue {queue}; `weights` has queues 0 to {len(self.weights) - 1}"
            )
        return Place(queue, find(self.priorities, transfer, transfer.priority))
