"""Wall-clock time of a federation by formula: the analytic oracle of the simulator, and a planner's first
look.

Restated from first principles after Photon's wall-time model (Sani et al. 2024, arXiv 2411.02908).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from euston.errors import ConfigError

__all__ = ["WallTime", "data_parallel_time", "federate_machines", "ring_order", "wall_time"]

_EXACT = 12


@dataclass(frozen=True)
class WallTime:
    """Seconds of a whole run, and bytes.

    Attributes
    ----------
    compute, communication, aggregation, total : float
        Seconds; communication as it shows, that is less what overlap hides.
    utilisation : float
        Compute over total.
    bytes_per_client : float
        Sent and received by one client in a round.
    """

    compute: float
    communication: float
    aggregation: float
    bytes_per_client: float

    @property
    def total(self) -> float:
        """Seconds in all."""
        return self.compute + self.communication + self.aggregation

    @property
    def utilisation(self) -> float:
        """Share of the time in which accelerators train."""
        return self.compute / self.total


def wall_time(
    model_bytes: float,
    clients: int,
    steps: int,
    rounds: int,
    steps_per_second: float,
    bandwidth: ArrayLike,
    topology: Literal["ps", "ar", "rar"] = "ps",
    *,
    latency: float = 0.0,
    overlap_steps: int = 0,
    server_bandwidth: float = 0.0,
    server_rate: float = 0.0,
    parameters: float = 0.0,
    count_downlink: bool = True,
) -> WallTime:
    """Time of a run without faults.

    Parameters
    ----------
    model_bytes : float
        S: bytes of one update.
    clients, steps, rounds : int
        K clients in a round, steps between two exchanges, exchanges.
    steps_per_second : float
        Of the slowest client.
    bandwidth : float or sequence of float
        B/s of clients' links; one for all, or one each (the slowest rules).
    topology : "ps" | "ar" | "rar"
    latency : float
        One way, seconds.
    overlap_steps : int
        Steps that run while an exchange is under way.
    server_bandwidth : float
        B/s of the aggregator's link, shared by K transfers; 0: no narrower than the clients' together.
    server_rate, parameters : float
        Additions per second of the aggregator, and how many it makes per client; 0: none.
    count_downlink : bool
        False leaves out the way down (as some papers quote it).

    Raises
    ------
    ConfigError
        A number that must be above 0 and is not.
    """
    links = np.atleast_1d(np.asarray(bandwidth, np.float64))
    for name, value in (
        ("model_bytes", model_bytes),
        ("clients", clients),
        ("steps", steps),
        ("rounds", rounds),
        ("steps_per_second", steps_per_second),
        ("bandwidth", float(links.min())),
    ):
        if not value > 0:
            raise ConfigError(f"`{name}`: {value} must be above 0")
    k, slowest = clients, float(links.min())
    if topology == "ps":
        rate = min(slowest, server_bandwidth / k) if server_bandwidth else slowest
        ways = 2 if count_downlink else 1
        exchange = ways * (model_bytes / rate + latency)
        moved = 2.0 * model_bytes
    elif topology == "ar":
        exchange = (k - 1) * model_bytes / slowest + (latency if k > 1 else 0.0)
        moved = 2.0 * (k - 1) * model_bytes
    elif topology == "rar":
        exchange = 2 * (k - 1) / k * model_bytes / slowest + 2 * (k - 1) * latency
        moved = 4.0 * (k - 1) / k * model_bytes
    else:
        raise ConfigError(f"`topology`: {topology!r}; known: ps, ar, rar")
    adds = k * parameters / server_rate if server_rate else 0.0
    shown = max(0.0, exchange - overlap_steps / steps_per_second)
    return WallTime(rounds * steps / steps_per_second, rounds * shown, rounds * adds, moved)


def data_parallel_time(
    gradient_bytes: float,
    workers: int,
    steps: int,
    steps_per_second: float,
    bandwidth: float,
    latency: float = 0.0,
) -> WallTime:
    """A ring all-reduce of gradients after every step, without overlap."""
    return wall_time(gradient_bytes, workers, 1, steps, steps_per_second, bandwidth, "rar", latency=latency)


def federate_machines(
    gradient_bytes: float, machines: int, bandwidth: float, step_seconds: float, share: float = 0.2
) -> bool:
    """Whether machines of one site had better be islands than data-parallel ranks.

    True where the ring exchange of a step's gradient takes more than `share` of the step (our rule; Photon
    only says that the choice follows the measured link).
    """
    return 2 * (machines - 1) / machines * gradient_bytes / bandwidth > share * step_seconds


def ring_order(bandwidth: Sequence[Sequence[float]]) -> list[int]:
    """An order of sites around a ring whose slowest link is as fast as can be.

    Parameters
    ----------
    bandwidth : K x K matrix, B/s
        Between each two sites, symmetric.

    Returns
    -------
    list of int
        Exact up to 12 sites (threshold on the links, then a Hamiltonian cycle by backtracking); greedy
        beyond.
    """
    rate = np.asarray(bandwidth, np.float64)
    k = rate.shape[0]
    if rate.shape != (k, k):
        raise ConfigError(f"`bandwidth`: {list(rate.shape)} is no square matrix")
    if k <= 3:
        return list(range(k))
    if k > _EXACT:
        return _greedy(rate)
    levels = np.unique(rate[np.triu_indices(k, 1)])
    low, high, best = 0, levels.size - 1, list(range(k))
    while low <= high:
        middle = (low + high) // 2
        found = _cycle(rate >= levels[middle])
        if found is None:
            high = middle - 1
        else:
            best, low = found, middle + 1
    return best


def _cycle(allowed: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> list[int] | None:
    k = allowed.shape[0]
    path = [0]

    def extend() -> bool:
        if len(path) == k:
            return bool(allowed[path[-1], 0])
        for nxt in range(1, k):
            if nxt not in path and allowed[path[-1], nxt]:
                path.append(nxt)
                if extend():
                    return True
                path.pop()
        return False

    return path if extend() else None


def _greedy(rate: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[int]:
    """Nearest neighbour by bandwidth from every start; the best of them."""

    def slowest(order: list[int]) -> float:
        return min(float(rate[a, b]) for a, b in pairwise([*order, order[0]]))

    def walk(start: int) -> list[int]:
        order, left = [start], set(range(rate.shape[0])) - {start}
        while left:
            nxt = max(left, key=lambda j: (float(rate[order[-1], j]), -j))
            order.append(nxt)
            left.remove(nxt)
        return order

    return max((walk(s) for s in range(rate.shape[0])), key=slowest)
