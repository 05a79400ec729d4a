"""`Placement`: which endpoint each rank of a job sits on, and the communication groups that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from euston.cluster.parallel import Parallel
from euston.errors import ConfigError, unknown

if TYPE_CHECKING:
    from euston.cluster.site import Site

__all__ = ["Placement", "place"]

DENSE = ("tensor", "context", "pipeline", "data")
EXPERT = ("expert", "expert_data")


@dataclass(frozen=True, eq=False)
class Placement:
    """Ranks of a job on the endpoints of a site.

    Ranks fill a host's accelerators in order, then the next host: from ``first_host`` on, or as listed.

    Parameters
    ----------
    parallel : Parallel
    accelerators_per_host : int
    first_host : int
    hosts : sequence of int, optional
        Hosts in rank order, instead of ``first_host``.
    endpoints : int[world], optional
        Endpoint of every rank, instead of hosts.

    Raises
    ------
    ConfigError
        When hosts or endpoints are too few, negative or named twice.
    """

    parallel: Parallel
    accelerators_per_host: int = 8
    first_host: int = 0
    hosts: Sequence[int] | None = None
    endpoints: ArrayLike | None = None
    where: str = "placement"

    def __post_init__(self) -> None:
        if self.accelerators_per_host < 1:
            raise ConfigError(f"`{self.where}`: a host needs 1 accelerator or more")
        if self.first_host < 0:
            raise ConfigError(
                f"`{self.where}.first_host`: {self.first_host} is negative; the first host is 0"
            )
        given = [n for n in ("hosts", "endpoints") if getattr(self, n) is not None]
        if len(given) + (self.first_host > 0) > 1:
            raise ConfigError(f"`{self.where}`: give one of first_host, hosts, endpoints")
        for what in given:
            self._check_list(what, np.asarray(getattr(self, what)))

    def _check_list(self, what: str, values: NDArray[np.int64]) -> None:
        name = what[:-1]
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise ConfigError(f"`{self.where}.{what}`: needs a list of {name} numbers")
        needed = self.parallel.world if what == "endpoints" else self.hosts_needed
        if values.size < needed or (what == "endpoints" and values.size != needed):
            raise ConfigError(
                f"`{self.where}.{what}`: {values.size} {what}, but {self.parallel.world} ranks need {needed}"
            )
        if values.min() < 0:
            raise ConfigError(f"`{self.where}.{what}`: {name} {values.min()} does not exist")
        ordered = np.sort(values)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise ConfigError(f"`{self.where}.{what}`: {name} {twice[0]} is named twice")

    @property
    def hosts_needed(self) -> int:
        """Hosts that the ranks fill, the last one perhaps in part."""
        return -(-self.parallel.world // self.accelerators_per_host)

    @cached_property
    def endpoint(self) -> NDArray[np.int32]:
        """Endpoint of every rank, int32[world]."""
        if self.endpoints is not None:
            result = np.array(self.endpoints, np.int32)
        else:
            slot, g = np.divmod(np.arange(self.parallel.world), self.accelerators_per_host)
            host = slot + self.first_host if self.hosts is None else np.asarray(self.hosts, np.int64)[slot]
            result = (host * self.accelerators_per_host + g).astype(np.int32)
        result.flags.writeable = False
        return result

    # ---- ranks and coordinates -------------------------------------------------------------------------

    def coordinates(self) -> dict[str, NDArray[np.int32]]:
        """Coordinate of every rank, int32[world] each.

        Keys: ``tensor, context, pipeline, data`` of dense parameters, ``expert, expert_data`` of experts.
        """
        result = {}
        ranks = np.arange(self.parallel.world, dtype=np.int32)
        for wanted, order in ((DENSE, self.parallel.dense_order), (EXPERT, self.parallel.expert_order)):
            stride = 1
            for name in order:
                degree = self.parallel.degree(name)
                if name in wanted:
                    result[name] = (ranks // stride % degree).astype(np.int32)
                stride *= degree
        return {name: result[name] for name in DENSE + EXPERT}

    def rank_of(
        self,
        tensor: ArrayLike = 0,
        context: ArrayLike = 0,
        data: ArrayLike = 0,
        pipeline: ArrayLike = 0,
    ) -> NDArray[np.int64]:
        """Rank at given coordinates; arrays broadcast.

        Raises
        ------
        ConfigError
            For a coordinate out of range.
        """
        given = {"tensor": tensor, "context": context, "data": data, "pipeline": pipeline}
        rank = np.zeros((), np.int64)
        stride = 1
        for name in self.parallel.dense_order:
            value, degree = np.asarray(given[name], np.int64), self.parallel.degree(name)
            if value.size and (value.min() < 0 or value.max() >= degree):
                raise ConfigError(f"`{self.where}`: {name} coordinates run from 0 to {degree - 1}")
            rank = rank + value * stride
            stride *= degree
        return rank

    # ---- groups ----------------------------------------------------------------------------------------

    def rank_groups(self, *kinds: str) -> NDArray[np.int32]:
        """Ranks of every group along one or more dimensions, int32[groups, size], in rank order.

        ``rank_groups("data", "context")`` joins both dimensions: the ranks that share a gradient.

        Raises
        ------
        ConfigError
            For an unknown dimension, or a mix of dense and expert dimensions.
        """
        for kind in kinds:
            if kind not in DENSE + EXPERT:
                raise ConfigError(unknown("group", kind, DENSE + EXPERT))
        expert = [kind for kind in kinds if kind in EXPERT]
        if expert and any(kind in ("context", "data") for kind in kinds):
            raise ConfigError(f"group {expert[0]!r} cannot be joined with context or data, which it re-cuts")
        order = self.parallel.expert_order if expert else self.parallel.dense_order
        slowest_first = order[::-1]
        grid = np.arange(self.parallel.world, dtype=np.int32).reshape(
            [self.parallel.degree(name) for name in slowest_first]
        )
        outer = [i for i, name in enumerate(slowest_first) if name not in kinds]
        inner = [i for i, name in enumerate(slowest_first) if name in kinds]
        size = int(np.prod([grid.shape[i] for i in inner], dtype=np.int64))
        return np.ascontiguousarray(grid.transpose(outer + inner).reshape(-1, size))

    def groups(self, *kinds: str) -> NDArray[np.int32]:
        """Endpoints of every group along one or more dimensions, int32[groups, size]; see `rank_groups`."""
        return self.endpoint[self.rank_groups(*kinds)]

    def __repr__(self) -> str:
        if self.endpoints is not None:
            places = f"{self.parallel.world:,} listed endpoints"
        elif self.hosts is not None:
            places = f"{self.hosts_needed:,} listed hosts"
        else:
            places = f"hosts {self.first_host} to {self.first_host + self.hosts_needed - 1}"
        return f"Placement({self.parallel.world:,} ranks on {places}, {self.parallel!r})"


def place(
    parallel: Parallel,
    site: Site,
    *,
    first_host: int = 0,
    hosts: Sequence[int] | None = None,
    where: str = "placement",
) -> Placement:
    """Place a job on a site.

    Raises
    ------
    ConfigError
        When the site has too few hosts from there on, or a listed host does not exist.
    """
    placement = Placement(
        parallel, site.accelerators_per_host, first_host=first_host, hosts=hosts, where=where
    )
    if hosts is None and first_host + placement.hosts_needed > site.hosts:
        last = first_host + placement.hosts_needed - 1
        raise ConfigError(
            f"`{where}.first_host`: {parallel.world} ranks need hosts {first_host} to {last}, "
            f"but site {site.name!r} has hosts 0 to {site.hosts - 1}"
        )
    if hosts is not None and max(hosts) >= site.hosts:
        raise ConfigError(
            f"`{where}.hosts`: host {max(hosts)} does not exist; "
            f"site {site.name!r} has hosts 0 to {site.hosts - 1}"
        )
    return placement
