"""What a site is like while jobs run: balancing, slow and failed links, slow hosts, fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from euston.clock import CapacityEvent
from euston.cluster import Site
from euston.errors import ConfigError
from euston.fabrics import Fabric
from euston.network import Lowered
from euston.network.allocation import AllocationPolicy
from euston.network.balancing import Balancing, delivered
from euston.network.balancing.spray import Spray
from euston.network.faults import LinkFault, capacity_at, change_times, changing_bundles
from euston.training.routes import Grid
from euston.training.skew import SPEED_SPREAD

__all__ = ["Conditions", "HostFault", "LinkFault"]


@dataclass(frozen=True)
class HostFault:
    """Accelerators of ``host`` run at ``speed`` from ``at`` to ``until`` seconds."""

    host: int
    speed: float
    at: float = 0.0
    until: float = np.inf


@dataclass(frozen=True)
class Conditions:
    """How the site behaves.

    Attributes
    ----------
    balancing : Balancing
    links, hosts : faults
        A link that fails from the start is routed around. One that changes later keeps its flows; if it
        fails while flows use it that have other paths, the run ends with an error, since nothing re-routes
        them here.
    folding : bool
        Treat equal replicas as one.
    contention : bool
        Let transfers share links; otherwise each runs alone.
    speed_spread : float
        Standard deviation of compute time between equal accelerators, see ``training.skew``.
    jitter : float
        Give every accelerator a speed of its own instead: the standard deviation of its logarithm; 0 reckons
        with the slowest one's speed for all. Nothing folds then.
    seed : int
        Of those speeds.
    host_speed : tuple of float, optional
        Speed of every host of the site, 1 being the accelerator that prices the job (`training.mixed`).
    allocation : AllocationPolicy, optional
        Switch queues of transfers by job and kind; without it all share links max-min fairly.
    """

    balancing: Balancing = field(default_factory=Spray)
    links: tuple[LinkFault, ...] = ()
    hosts: tuple[HostFault, ...] = ()
    folding: bool = True
    contention: bool = True
    speed_spread: float = SPEED_SPREAD
    jitter: float = 0.0
    seed: int = 0
    host_speed: tuple[float, ...] | None = None
    allocation: AllocationPolicy | None = None

    def own_speeds(self, endpoints: int) -> NDArray[np.float64]:
        """Speed of every endpoint's accelerator, float64[endpoints]: a lognormal with median 1."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed)))
        return np.exp(-self.jitter * rng.standard_normal(endpoints))

    def _host_speeds(self, site: Site) -> NDArray[np.float64]:
        """Speed of every host when nothing is wrong, float64[hosts]."""
        if self.host_speed is None:
            return np.ones(site.hosts)
        speeds = np.array(self.host_speed)
        if speeds.shape != (site.hosts,) or not ((speeds > 0) & (speeds < np.inf)).all():
            raise ConfigError(f"`host_speed`: must be {site.hosts} positive numbers, one per host")
        return speeds

    def times(self) -> list[float]:
        """When links change, in order, 0 first."""
        return change_times(self.links)

    def capacity(self, fabric: Fabric, time: float) -> NDArray[np.float64]:
        """Bytes/s of every link at ``time``, float64[L]; of several faults of a link the worst counts.

        A balancing policy that cannot fill its links leaves the rest of them unused.
        """
        return capacity_at(fabric, self.links, time) * delivered(self.balancing, fabric)

    def floor(self, fabric: Fabric) -> NDArray[np.float64]:
        """Bytes/s of every link at its worst, float64[L]."""
        worst = np.array(fabric.capacity)
        for fault in self.links:
            worst[fault.link] = min(worst[fault.link], fabric.capacity[fault.link] * fault.factor)
        return worst * delivered(self.balancing, fabric)

    def changing(self, fabric: Fabric) -> NDArray[np.bool_]:
        """Bundles of which single links change while jobs run, bool[bundles]: flows must name links there."""
        return changing_bundles(fabric, self.links)

    def capacity_events(
        self, fabric: Fabric, low: Lowered, delivered: NDArray[np.float64]
    ) -> tuple[list[CapacityEvent], NDArray[np.float64]]:
        """Later changes of rows, and a label per row for folding (its capacity, or its series of changes).

        ``delivered``, float64[rows], is the share of a row's capacity that its users get.
        """
        events: list[CapacityEvent] = []
        before = low.capacity
        for time in self.times()[1:]:
            after = fabric.row_capacity(self.capacity(fabric, time), low.split)
            changed = np.flatnonzero(after != before)
            events += [CapacityEvent(time, int(row), float(after[row] * delivered[row])) for row in changed]
            before = after
        label = low.capacity.copy()
        series: dict[int, list[tuple[float, float]]] = {}
        for e in events:
            series.setdefault(e.row, []).append((e.time, e.capacity))
        kinds: dict[tuple[float, tuple[tuple[float, float], ...]], int] = {}
        for number, steps in series.items():
            key = (float(low.capacity[number]), tuple(steps))
            label[number] = -1.0 - kinds.setdefault(key, len(kinds))
        return events, label

    def owner_labels(self, site: Site, places: Sequence[Grid]) -> NDArray[np.int64]:
        """A number per replica of every job, equal for equal series of host speeds, int64[all replicas]."""
        slow: dict[int, list[tuple[float, float, float]]] = {}
        for fault in self.hosts:
            slow.setdefault(fault.host, []).append((fault.at, fault.until, fault.speed))
        label = np.zeros(sum(g.replicas for g in places), np.int64)
        kinds: dict[tuple[object, ...], int] = {}
        first = 0
        of_host = self._host_speeds(site)
        for job, g in enumerate(places):
            host = g.endpoint // site.accelerators_per_host
            hit = np.isin(host, list(slow)) if slow else np.zeros(host.shape, bool)
            for d in range(g.replicas):
                key: tuple[object, ...] = (job, d) if self.jitter else (job,)
                if self.host_speed is not None:
                    key += (of_host[host[d]].min(axis=1).tobytes(),)
                if hit[d].any():
                    stages = np.flatnonzero(hit[d].any(axis=1))
                    key += tuple(
                        (int(s), tuple(sorted(x for h in set(host[d, s]) for x in slow.get(int(h), []))))
                        for s in stages
                    )
                label[first + d] = kinds.setdefault(key, len(kinds))
            first += g.replicas
        return label

    def speeds(
        self, site: Site, places: Grid, replicas: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], list[tuple[float, int, int, float]]]:
        """Speed of each (replica class, stage) at the start, and its changes (time, class, stage, speed).

        A stage runs at the speed of its slowest host: its tensor-parallel ranks wait for each other.
        """
        host = places.endpoint[replicas] // site.accelerators_per_host
        own = self.own_speeds(site.accelerators)[places.endpoint[replicas]] if self.jitter else 1.0
        usual = self._host_speeds(site)
        times = sorted({0.0, *(f.at for f in self.hosts), *(f.until for f in self.hosts if f.until < np.inf)})
        start = np.ones(host.shape[:2])
        changes: list[tuple[float, int, int, float]] = []
        before = start
        for time in times:
            of_host = np.ones(site.hosts)  # of what the host does when nothing is wrong
            for fault in self.hosts:
                if fault.at <= time < fault.until:
                    of_host[fault.host] = min(of_host[fault.host], fault.speed)
            now = ((of_host * usual)[host] * own).min(axis=2)
            if time == 0.0:
                start = now
            else:
                changes += [(time, int(k), int(s), float(now[k, s])) for k, s in np.argwhere(now != before)]
            before = now
        return start, changes
