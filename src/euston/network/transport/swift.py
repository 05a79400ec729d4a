"""Swift: a window in packets that keeps the round trip near a target (Kumar et al., SIGCOMM 2020).

Algorithm 1 of the paper for the network's part of the delay; a window below one packet becomes a pause
between packets. The target is the unloaded round trip of the flow's path (what the paper composes of a base
and a term per hop), plus ``target_delay``, plus more for small windows (flow scaling). The paper gives no
numbers for its constants: those here are of csg-htsim @841d9e7 (`swift.cpp`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from euston.network.transport.base import (
    NO_MARKS,
    Control,
    Effects,
    Lowered,
    Network,
    check_packet,
    lost_after,
    need,
    numbers,
)
from euston.units import PositiveDuration

__all__ = ["Swift"]

TARGET = 0.5
"""Queueing delay to aim at over the longest round trip: an assumption."""
SCALING = 5.0
"""Most flow scaling over the target delay (csg-htsim: fs_range over the base delay)."""
RESETS = 5
"""Timeouts in a row that reset the window: an assumption, the paper names no number."""
CLIMB = 2.0
"""Round trips in which a rate climbs (measured with the packet engine)."""


@dataclass(frozen=True)
class Swift:
    """Swift with selective acknowledgement of every packet.

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header.
    target_delay : duration, optional
        Queueing delay to aim at; half the longest unloaded round trip unless said.
    scaling : duration, optional
        Most that flow scaling adds for small windows; five target delays unless said.
    scaling_from, scaling_to : float
        Windows in packets at which flow scaling adds most, and nothing.
    additive : float
        Packets that a window gains in a round trip.
    beta : float
        Strength of the decrease above the target.
    most_cut : float
        Largest part of a window that one decrease takes.
    least_window : float
        Packets.
    start_window : int
        First window in packets; 0: the bandwidth-delay product.
    overtaken : int, optional
        Packets acknowledged after a missing one that prove it lost (3; 0, never, with trimming or spraying).
    rto : duration, optional
        Retransmission timeout; the packet engine's unless said.
    """

    mtu: int = 4150
    header: int = 64
    target_delay: PositiveDuration | None = None
    scaling: PositiveDuration | None = None
    scaling_from: float = 0.1
    scaling_to: float = 100.0
    additive: float = 1.0
    beta: float = 0.8
    most_cut: float = 0.5
    least_window: float = 0.01
    start_window: int = 0
    overtaken: int | None = None
    rto: PositiveDuration | None = None
    name: ClassVar[str] = "swift"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, 1)
        for field in ("target_delay", "scaling", "rto"):
            value = getattr(self, field)
            need(value is None or value > 0, field, value, "it must be more than 0 s")
        ok = 0 < self.scaling_from < self.scaling_to
        need(ok, "scaling_from", self.scaling_from, "it must be between 0 and scaling_to")
        need(0 < self.additive <= 100, "additive", self.additive, "packets per round trip, 1 is usual")
        need(0 < self.beta <= 1, "beta", self.beta, "it must be in (0, 1], 0.8 is usual")
        need(0 < self.most_cut < 1, "most_cut", self.most_cut, "it must be between 0 and 1, 0.5 is usual")
        need(0 < self.least_window <= 1, "least_window", self.least_window, "packets, in (0, 1]")
        need(0 <= self.start_window < 2**20, "start_window", self.start_window, "packets, or 0")
        need(self.overtaken is None or self.overtaken >= 0, "overtaken", self.overtaken, "0 or more packets")

    def _target(self, network: Network) -> float:
        return TARGET * network.rtt if self.target_delay is None else self.target_delay

    def effects(self, network: Network) -> Effects:
        """A queue near the target delay; rates that climb within two round trips."""
        return Effects(queue_delay=self._target(network), lag=CLIMB * network.rtt)

    def lower(self, network: Network) -> Lowered:
        """Delays in ps; flow scaling as the two constants of its square-root law (section 3.5)."""
        target = self._target(network)
        scaling = SCALING * target if self.scaling is None else self.scaling
        alpha = scaling / (self.scaling_from**-0.5 - self.scaling_to**-0.5)
        bdp = network.bdp
        start = self.start_window * self.mtu / bdp if self.start_window else 1.0
        most = 2.0 * max(1.0, start) * (1.0 + target / network.rtt)
        made = numbers(
            network.rtt * 1e12, start, most, self.mtu,
            target * 1e12, scaling * 1e12, alpha * 1e12, -alpha * 1e12 * self.scaling_to**-0.5,
            self.additive, self.beta, self.most_cut, self.least_window, RESETS,
        )  # fmt: skip
        return Lowered(
            Control.SWIFT,
            made,
            max(most * bdp, self.mtu),
            1,
            overtaken=lost_after(self.overtaken, network),
            marks=NO_MARKS,
            rto=self.rto,
        )
