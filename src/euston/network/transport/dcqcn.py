"""DCQCN: rates cut by the receiver's notifications of ECN marks, raised by a timer and a byte counter.

Zhu et al., "Congestion Control for Large-Scale RDMA Deployments", SIGCOMM 2015: section 3.1 gives the rules,
section 5 the parameters used here unless said. Vendors and studies use others: the ns-3 repository of HPCC
(alibaba-edu/High-Precision-Congestion-Control @9f4be2a, run.py) raises every 300 us by 20 Mb/s at 100 Gb/s
and marks between 400 and 1600 KB with at most 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from euston.network.transport.base import (
    Control,
    Effects,
    Lowered,
    Network,
    Recovery,
    check_packet,
    need,
    numbers,
)
from euston.network.transport.gbn import UNLIMITED, card_timeout
from euston.units import PositiveBandwidth, PositiveDataSize, PositiveDuration

__all__ = ["Dcqcn"]

REFERENCE = 5e9
"""bytes/s: the paper's network is one of 40 Gb/s, for which the scaled defaults are stated."""


@dataclass(frozen=True)
class Dcqcn:
    """DCQCN on go-back-N.

    Thresholds and rate steps left out are the paper's for 40 Gb/s, in proportion to the slowest uplink.

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header.
    ack_bytes : int
        Wire bytes that make the receiver answer.
    cnp_interval : duration
        A receiver sends one congestion notification (CNP) per flow within this time at most.
    gain : float
        Weight of a notification in the estimate of congestion.
    alpha_timer : duration
        Without a notification the estimate decays once in this time.
    increase_timer, increase_bytes : duration, size
        The rate rises after this time, and after this many bytes.
    fast_rounds : int
        Rises that halve the way to the rate before the cut; then the target itself grows.
    additive, hyper : bandwidth, optional
        Steps of the target, before and after both counters have passed ``fast_rounds``: 40 and 400 Mb/s at
        40 Gb/s unless said (the paper leaves the second open; cards have ten times the first).
    least_rate : bandwidth
        A rate is never cut below it (RdmaHw::MinRate of the ns-3 repository).
    mark_low, mark_high : size, optional
        Queue at which switches begin to mark, and at which marks reach ``mark_most``: 5 and 200 KB at 40 Gb/s
        unless said.
    mark_most : float
        Probability of a mark there; all are marked beyond.
    selective : bool
        Send only what is missing again, instead of going back.
    rto, nak_interval : duration, optional
        As for ``gbn``.
    """

    mtu: int = 4150
    header: int = 64
    ack_bytes: int = 16384
    cnp_interval: PositiveDuration = 50e-6
    gain: float = 1 / 256
    alpha_timer: PositiveDuration = 55e-6
    increase_timer: PositiveDuration = 55e-6
    increase_bytes: PositiveDataSize = 10e6
    fast_rounds: int = 5
    additive: PositiveBandwidth | None = None
    hyper: PositiveBandwidth | None = None
    least_rate: PositiveBandwidth = 12.5e6
    mark_low: PositiveDataSize | None = None
    mark_high: PositiveDataSize | None = None
    mark_most: float = 0.01
    selective: bool = False
    rto: PositiveDuration | None = None
    nak_interval: PositiveDuration | None = None
    name: ClassVar[str] = "dcqcn"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, self.ack_bytes)
        need(0 < self.gain < 1, "gain", self.gain, "it must be between 0 and 1; the paper has 1/256")
        need(self.fast_rounds >= 1, "fast_rounds", self.fast_rounds, "at least 1; the paper has 5")
        need(0 < self.mark_most <= 1, "mark_most", self.mark_most, "a probability; the paper has 0.01")
        need(self.least_rate >= 1e4, "least_rate", self.least_rate, "at least 80 kb/s")
        for field in ("cnp_interval", "alpha_timer", "increase_timer", "increase_bytes"):
            need(getattr(self, field) > 0, field, getattr(self, field), "it must be more than 0")
        for field in ("additive", "hyper", "mark_low", "mark_high", "rto", "nak_interval"):
            value = getattr(self, field)
            need(value is None or value > 0, field, value, "it must be more than 0")
        if self.mark_low is not None and self.mark_high is not None:
            need(self.mark_low <= self.mark_high, "mark_low", self.mark_low, "it must not exceed mark_high")

    def _marks(self, network: Network) -> tuple[float, float]:
        """Thresholds in bytes; one that is given moves the other along."""
        scale = network.rate / REFERENCE
        low = 5e3 * scale if self.mark_low is None else self.mark_low
        high = 200e3 * scale if self.mark_high is None else self.mark_high
        if self.mark_low is None:
            return min(low, high), high
        return low, max(low, high)

    @property
    def in_order(self) -> bool:
        """Whether receivers throw away what overtakes: then packets of a flow should keep to one path."""
        return not self.selective

    def effects(self, network: Network) -> Effects:
        """A queue between the thresholds; five fast rounds regain what a cut has taken."""
        low, high = self._marks(network)
        queue = (low + high) / 2 / network.rate
        return Effects(queue_delay=queue, lag=self.fast_rounds * self.increase_timer)

    def lower(self, network: Network) -> Lowered:
        """Rates in bytes/s, times in ps."""
        scale = network.rate / REFERENCE
        additive = 5e6 * scale if self.additive is None else self.additive
        hyper = 10.0 * additive if self.hyper is None else self.hyper
        made = numbers(
            network.rtt * 1e12, 0.0, 0.0, self.mtu,
            self.gain, self.alpha_timer * 1e12, self.increase_timer * 1e12, self.increase_bytes,
            self.fast_rounds, additive, hyper, self.least_rate,
        )  # fmt: skip
        made[30] = self.cnp_interval * 1e12
        made[31] = (network.rtt if self.nak_interval is None else self.nak_interval) * 1e12
        return Lowered(
            Control.DCQCN,
            made,
            UNLIMITED,
            self.ack_bytes,
            recovery=Recovery.SELECTIVE if self.selective else Recovery.GO_BACK_N,
            overtaken=int(self.selective and not network.trimming and not network.sprayed),
            marks=(*self._marks(network), self.mark_most),
            rto=card_timeout(self.rto, network),
        )
