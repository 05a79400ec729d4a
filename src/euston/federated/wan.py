"""Moves between sites on the fluid network: one attempt at a round as a small program of the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.clock import CapacityEvent, Executor, ProgramBuilder, TransferTable
from euston.errors import SimulationError
from euston.fabrics import Fabric
from euston.network import Columns
from euston.network.faults import LinkFault, capacity_at, change_times

__all__ = ["Attempt", "Move", "Wan", "Work"]


@dataclass(frozen=True)
class Move:
    """Bytes that cross the WAN together.

    Attributes
    ----------
    members : tuple of (source, destination, bytes)
        Sites by number. Members advance together (a ring), at the pace of the slowest; one that stays at
        its site takes no time.
    hops : int
        How often the latency counts: the steps of a ring, 1 for a plain transfer.
    """

    members: tuple[tuple[int, int, float], ...]
    hops: int = 1


@dataclass(frozen=True)
class Work:
    """What one client does in an attempt.

    Attributes
    ----------
    down : Move or None
        What it needs first.
    ahead : float
        Seconds at which steps that it has begun before the attempt are done.
    seconds : float
        Work after both.
    up : tuple of Move
        What it sends then, all at once.
    """

    down: Move | None
    ahead: float
    seconds: float
    up: tuple[Move, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """When things happened, in seconds after the beginning; infinite: not before the deadline.

    Attributes
    ----------
    received, computed, arrived : float64[clients]
        Parameters there, work done, all that the client sends at its destination.
    together : float
        End of the move that all make together; 0 without one.
    """

    received: NDArray[np.float64]
    computed: NDArray[np.float64]
    arrived: NDArray[np.float64]
    together: float


@dataclass
class Wan:
    """A WAN with links that may change.

    Attributes
    ----------
    fabric : Fabric
        Of `euston.fabrics.wan`: every site is one endpoint.
    faults : sequence of LinkFault
        In absolute time.
    link_bytes : float64[links]
        Carried so far.
    """

    fabric: Fabric
    faults: Sequence[LinkFault] = ()
    link_bytes: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.link_bytes = np.zeros(self.fabric.links)

    def steady(self, now: float) -> bool:
        """Whether no link changes any more."""
        return not any(t > now for t in change_times(self.faults))

    def usage(self, move: Move, now: float) -> tuple[dict[int, float], float, float]:
        """Bytes by link, bytes of the largest member, and seconds of latency."""
        alive = capacity_at(self.fabric, self.faults, now) > 0
        links: dict[int, float] = {}
        largest, latency = 0.0, 0.0
        for a, b, size in move.members:
            if a == b or size <= 0:
                continue
            tunnels = self._tunnels(a, b, alive)
            weight = np.array(self._structure.weights[: len(tunnels)])
            for tunnel, share in zip(tunnels, weight / weight.sum(), strict=True):
                for link in tunnel.tolist():
                    links[link] = links.get(link, 0.0) + size * float(share)
            largest = max(largest, size)
            latency = max(latency, max(float(self.fabric.latency[t].sum()) for t in tunnels))
        return links, largest, move.hops * latency

    def narrowest(self, a: int, b: int) -> float:
        """Bytes/s that two sites reach between them when nothing else moves."""
        if a == b:
            return np.inf
        links, size, _ = self.usage(Move(((a, b, 1.0),)), 0.0)
        return min(size * float(self.fabric.capacity[link]) / took for link, took in links.items())

    @property
    def _structure(self) -> Any:
        return self.fabric.structure  # of a WAN: it knows tunnels between sites

    def _tunnels(self, a: int, b: int, alive: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
        """Over live links; over the dead ones, to wait there, where no other way is left."""
        found: list[NDArray[np.int64]] = self._structure.tunnels(a, b, alive)
        return found or list(self._structure.tunnels(a, b, np.ones_like(alive)))

    def attempt(
        self, now: float, works: Sequence[Work], together: Move | None = None, deadline: float = np.inf
    ) -> Attempt:
        """Carry out the clients' work, beginning at `now`.

        Parameters
        ----------
        now : float
            Absolute seconds.
        works : sequence of Work
        together : Move, optional
            What all make when every one has done its work: a ring.
        deadline : float
            Seconds after `now` at which what is under way is given up.

        Raises
        ------
        SimulationError
            A transfer that can never end, and no deadline.
        """
        build, table = ProgramBuilder(), _Table(self, now)
        received, computed, arrived = [], [], []
        for i, work in enumerate(works):
            stream = build.stream(f"client {i}")
            down = self._send(build, table, work.down, ())
            ahead = build.wait(work.ahead, label="ahead")
            done = build.compute(stream, work.seconds, label="train", after=(down, ahead))
            received.append(down)
            computed.append(done)
            arrived.append(
                build.join([self._send(build, table, move, (done,)) for move in work.up] or [done])
            )
        last = self._send(build, table, together, computed) if together is not None else -1
        program, transfers = build.build(), table.build()
        capacity = capacity_at(self.fabric, self.faults, now)
        executor = Executor(program, transfers, capacity, events=self._events(now))
        while not executor.done and executor.next_time() <= deadline and executor.next_time() < np.inf:
            executor.advance(deadline)
        if not executor.done and deadline == np.inf:
            raise SimulationError(
                "`faults`: a site is cut off for good, and the round has no deadline; set fault.deadline"
            )
        _, end, left = executor.progress()
        for operation, row in table.operations:
            size = table.sizes[row]
            gone = (
                1.0
                if end[operation] <= deadline
                else 1.0 - left[operation] / size
                if left[operation]
                else 0.0
            )
            for link, amount in table.usages[row].items():
                self.link_bytes[link] += gone * amount
        end = np.where(np.isnan(end) | (end > deadline), np.inf, end)
        return Attempt(end[received], end[computed], end[arrived], float(end[last]) if last >= 0 else 0.0)

    def _send(self, build: ProgramBuilder, table: _Table, move: Move | None, after: Sequence[int]) -> int:
        """The operation that ends a move; nothing, or what stays at its site, ends at once."""
        if move is None:
            return build.join(after)
        links, largest, latency = self.usage(move, table.now)
        if not links:
            return build.join(after)
        row = table.add(links, largest, latency)
        operation = build.send(row, label="move", after=after)
        table.operations.append((operation, row))
        return operation

    def _events(self, now: float) -> list[CapacityEvent]:
        found = []
        for time in change_times(self.faults):
            if time > now:
                before, after = (
                    capacity_at(self.fabric, self.faults, t) for t in (np.nextafter(time, 0), time)
                )
                changed = np.flatnonzero(before != after)
                found += [CapacityEvent(time - now, int(link), float(after[link])) for link in changed]
        return found


class _Table:
    """Transfers of one attempt, row by row."""

    def __init__(self, wan: Wan, now: float) -> None:
        self.wan, self.now = wan, now
        self.usages: list[dict[int, float]] = []
        self.sizes: list[float] = []
        self.latency: list[float] = []
        self.operations: list[tuple[int, int]] = []

    def add(self, links: dict[int, float], size: float, latency: float) -> int:
        """A transfer whose largest member carries `size` bytes; its number."""
        self.usages.append(links)
        self.sizes.append(size)
        self.latency.append(latency)
        return len(self.sizes) - 1

    def build(self) -> TransferTable:
        """As the executor takes it."""
        n = len(self.sizes)
        entries = [
            (i, link, took / self.sizes[i]) for i, u in enumerate(self.usages) for link, took in u.items()
        ]
        columns = Columns.from_entries(
            np.array([e[0] for e in entries], np.int64), np.array([e[1] for e in entries], np.int32),
            np.array([e[2] for e in entries], np.float64), columns=n, rows=self.wan.fabric.links,
        )  # fmt: skip
        return TransferTable(
            ptr=np.arange(n + 1), column=np.arange(n, dtype=np.int32), size=np.array(self.sizes),
            weight=np.ones(n), rate_cap=np.full(n, 1e18), latency=np.array(self.latency),
            slow_share=np.zeros(n), columns=columns,
        )  # fmt: skip
