"""Optical circuit switches: circuits that come and go by a schedule of matchings (RotorNet, SIGCOMM 2017).

The fabric has every circuit there ever is; `Circuits.changes` says, as data, when each is lit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from euston import units
from euston.errors import FabricError
from euston.fabrics._graph_build import Cables, switch_graph
from euston.fabrics._graph_names import Names
from euston.fabrics._graph_routing import routing_rule
from euston.fabrics._host_side import HostOptions, host_side, whole_number
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind

__all__ = ["Circuits", "LinkChanges", "ocs", "round_robin"]


@dataclass(frozen=True, eq=False)
class LinkChanges:
    """Capacities that links take on in time, earliest first.

    Attributes
    ----------
    time : float64[E]
        Seconds.
    link : int32[E]
    capacity : float64[E]
        Bytes/s from then on; 0: dark.
    """

    time: NDArray[np.float64]
    link: NDArray[np.int32]
    capacity: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.time.size)

    def rows(self, fabric: Fabric, split: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Row of each change in a system written with `Fabric.spread`, int32[E].

        ``split`` (bool[B]): bundles whose links are rows of their own; all that change must be, or be single.
        """
        bundle = fabric.bundle[self.link]
        lone = np.diff(fabric.bundle_start)[bundle] == 1
        if not (lone | split[bundle]).all():
            raise FabricError(
                f"`{fabric.name}`: links that change one by one stand in a whole bundle; split it"
            )
        return np.where(split[bundle], fabric.bundles + self.link, bundle).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Circuits:
    """Switches joined by optical circuits, and their schedule: matching 0, 1, ..., and over again.

    Attributes
    ----------
    fabric : Fabric
        With every circuit of any matching, all lit; mask it by `alive` for one moment.
    lit : bool[M, L]
        Links that each matching has; those that are no circuits always.
    slot : float
        Seconds from one reconfiguration to the next.
    reconfiguration : float
        Seconds at the beginning of each slot in which circuits that move are dark.
    """

    fabric: Fabric
    lit: NDArray[np.bool_]
    slot: float
    reconfiguration: float

    @property
    def period(self) -> float:
        """Seconds until the schedule begins again."""
        return self.slot * self.lit.shape[0]

    @property
    def duty(self) -> float:
        """Share of the time in which circuits that move are lit."""
        return 1.0 - self.reconfiguration / self.slot

    def alive(self, time: float) -> NDArray[np.bool_]:
        """Links that are lit at a moment, bool[L]; the schedule starts with matching 0 lit at time 0."""
        if not 0 <= time < np.inf:
            raise FabricError(f"`time`: {time} is no moment of the schedule, which starts at 0 s")
        slot = int(time / self.slot)
        slot += (slot + 1) * self.slot <= time  # as `changes` counts, to the last bit
        slot -= slot * self.slot > time
        slots = self.lit.shape[0]
        now = self.lit[slot % slots]
        if slot > 0 and time < slot * self.slot + self.reconfiguration:
            return np.asarray(now & self.lit[(slot - 1) % slots])
        return np.array(now)

    def capacity(self, time: float) -> NDArray[np.float64]:
        """Bytes/s of every link at a moment, float64[L]."""
        return np.where(self.alive(time), self.fabric.capacity, 0.0)

    def changes(self, until: float) -> LinkChanges:
        """What changes after time 0 and before ``until`` seconds."""
        slots = self.lit.shape[0]
        times: list[NDArray[np.float64]] = [np.zeros(0)]
        links: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
        rates: list[NDArray[np.float64]] = [np.zeros(0)]
        n = 1
        while n * self.slot < until:
            before, after = self.lit[(n - 1) % slots], self.lit[n % slots]
            dark = np.flatnonzero(before & ~after).astype(np.int32)
            bright = np.flatnonzero(after & ~before).astype(np.int32)
            ready = n * self.slot + self.reconfiguration
            times.append(np.full(dark.size, n * self.slot))
            links.append(dark)
            rates.append(np.zeros(dark.size))
            if ready < until:
                times.append(np.full(bright.size, ready))
                links.append(bright)
                rates.append(self.fabric.capacity[bright])
            n += 1
        return LinkChanges(np.concatenate(times), np.concatenate(links), np.concatenate(rates))


def ocs(
    matchings: Sequence[Sequence[tuple[int, int]]],
    *,
    nic: str | float,
    slot: str | float,
    reconfiguration: str | float,
    link: str | float | None = None,
    uplinks: int = 1,
    hosts_per_switch: int = 1,
    link_latency: str | float = "500 ns",
    routing: str = "minimal",
    **options: Unpack[HostOptions],
) -> Circuits:
    """Packet switches whose uplinks go through optical circuit switches.

    Parameters
    ----------
    matchings : sequence of sequence of (a, b)
        Full-duplex circuits between switches, matching after matching. A switch has at most ``uplinks`` of
        them at once; a pair may have several. All that stand anywhere together join every switch.
    nic : str or float
        Bandwidth of one NIC per direction, "400 Gb/s" or bytes/s.
    slot, reconfiguration : str or float
        Time from one reconfiguration to the next, and how long circuits that move are dark.
    link : str or float, optional
        Bandwidth of a circuit per direction; that of a NIC when left out.
    uplinks : int
        Circuits of a switch at once.
    link_latency : str or float
        Cable and the switch it ends in; the default is an assumption, not a measurement.
    routing : {"minimal", "detour", "valiant"}
        Over all circuits, as for `euston.fabrics.from_graph`: ``minimal`` waits for the direct circuit.
    **options
        Hosts: see `euston.fabrics.HostOptions`.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    degree = whole_number("uplinks", uplinks)
    counts = [_circuits(i, matching, degree) for i, matching in enumerate(matchings)]
    pairs = sorted({pair for count in counts for pair in count})
    if not pairs:
        raise FabricError("`matchings`: hold no circuit; give lists of pairs of switches")
    times = units.duration(slot, positive=True, where="slot")
    dark = units.duration(reconfiguration, where="reconfiguration")
    if dark >= times:
        raise FabricError(
            f"`reconfiguration`: {dark:g} s leave nothing of slots of {times:g} s; make these longer"
        )
    switches = max(b for _, b in pairs) + 1
    host, timing = host_side(
        "ocs", nic, whole_number("hosts_per_switch", hosts_per_switch, 0), switches, options
    )
    rate = timing.nic if link is None else units.bandwidth(link, positive=True, where="link")
    delay = units.duration(link_latency, where="link_latency")
    most = {pair: max(count[pair] for count in counts) for pair in pairs}
    ends = np.array([pair for pair in pairs for _ in range(most[pair])], np.int64)
    try:
        fabric = switch_graph(
            Cables(ends[:, 0], ends[:, 1], LinkKind.OCS, rate, delay),
            switches,
            host,
            timing,
            labels=Names(tuple(f"s{i}" for i in range(switches))),
            routing=routing_rule(routing, ("minimal", "detour", "valiant")),
            lines=[
                f"  {switches} switches of {degree} circuits at once, {len(counts)} matchings of {times:g} s "
                f"({dark:g} s dark)"
            ],
        )
    except FabricError as error:
        parts = str(error).replace("`cables`", "`matchings`").replace("no cable", "no circuit")
        raise FabricError(parts) from None
    first_switch = fabric.node_kind.size - switches
    circuit = np.flatnonzero(fabric.kind == LinkKind.OCS)
    a, b = fabric.link_src[circuit] - first_switch, fabric.link_dst[circuit] - first_switch
    number = circuit - fabric.bundle_start[fabric.bundle[circuit]]  # among the pair's circuits
    lit = np.ones((len(counts), fabric.links), bool)
    for i, count in enumerate(counts):
        have = [count[min(x, y), max(x, y)] for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        lit[i, circuit] = number < np.array(have)
    return Circuits(fabric, lit, times, dark)


def _circuits(i: int, matching: Sequence[tuple[int, int]], degree: int) -> Counter[tuple[int, int]]:
    """How many circuits each pair has, lower switch first."""
    found: Counter[tuple[int, int]] = Counter()
    used: Counter[int] = Counter()
    for k, pair in enumerate(matching):
        where = f"matchings[{i}][{k}]"
        if len(pair) != 2:
            raise FabricError(f"`{where}`: {pair!r} is no pair of switches")
        a, b = (whole_number(where, end, 0) for end in pair)
        if a == b:
            raise FabricError(f"`{where}`: joins switch {a} to itself; leave it out")
        used.update((a, b))
        found[min(a, b), max(a, b)] += 1
        for end in (a, b):
            if used[end] > degree:
                raise FabricError(f"`{where}`: switch {end} has more than {degree} circuits; raise `uplinks`")
    return found


def round_robin(switches: int) -> list[list[tuple[int, int]]]:
    """Matchings in which every switch meets every other once: the circle method of tournaments.

    ``switches - 1`` of them for an even number; for an odd one as many as switches, each leaving one out.
    """
    n = whole_number("switches", switches, 2)
    players = list(range(n + n % 2))
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        rounds.append([(min(p), max(p)) for p in pairs if max(p) < n])
        players = [players[0], players[-1], *players[1:-1]]
    return rounds
