"""DCTCP: the window shrinks by half the share of bytes that came back marked (Alizadeh et al., SIGCOMM 2010).

The rules are those of RFC 8257. What it leaves open follows the field: as an AI transport it starts at line
rate, and a switch marks from one threshold on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from euston.network.transport.base import (
    Control,
    Effects,
    Lowered,
    Network,
    check_packet,
    lost_after,
    need,
    numbers,
)
from euston.units import PositiveDataSize, PositiveDuration

__all__ = ["Dctcp"]

THRESHOLD = 1 / 2
"""Marking threshold over the bandwidth-delay product. 1/7 is enough for windows of many packets (Alizadeh et
al. 2010, inequality 13); with windows of a few packets 1/7 leaves 9 % of a link empty, 1/2 less than 5 %
(measured with the packet engine, 2 to 30 flows into one host)."""
FEWEST = 8
"""Packets that a threshold is at least: senders emit several at once (ibidem, section 3.4)."""


@dataclass(frozen=True)
class Dctcp:
    """DCTCP with selective acknowledgement.

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header.
    ack_bytes : int
        Wire bytes that make the receiver answer; marked packets are answered at once.
    gain : float
        Weight of the last window in the estimate of the marked share (RFC 8257: 1/16).
    threshold : size, optional
        Queue from which switches mark, on a link of the slowest uplink's speed; half the bandwidth-delay
        product, and 8 packets at least, unless said.
    start_window : int
        First window in packets; 0: the bandwidth-delay product.
    slow_start : bool
        Double the window every round trip until the first mark or loss.
    overtaken : int, optional
        Packets acknowledged after a missing one that prove it lost (3; 0, never, with trimming or spraying).
    rto : duration, optional
        Retransmission timeout; the packet engine's unless said.
    """

    mtu: int = 4150
    header: int = 64
    ack_bytes: int = 1
    gain: float = 1 / 16
    threshold: PositiveDataSize | None = None
    start_window: int = 0
    slow_start: bool = False
    overtaken: int | None = None
    rto: PositiveDuration | None = None
    name: ClassVar[str] = "dctcp"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, self.ack_bytes)
        need(0 < self.gain <= 1, "gain", self.gain, "it must be in (0, 1], RFC 8257 has 1/16")
        need(self.threshold is None or self.threshold > 0, "threshold", self.threshold, "write e.g. 200 KB")
        need(0 <= self.start_window < 2**20, "start_window", self.start_window, "packets, or 0")
        need(self.overtaken is None or self.overtaken >= 0, "overtaken", self.overtaken, "0 or more packets")
        need(self.rto is None or self.rto > 0, "rto", self.rto, "it must be more than 0 s")

    def _threshold(self, network: Network) -> float:
        if self.threshold is not None:
            return float(self.threshold)
        return max(THRESHOLD * network.bdp, float(FEWEST * self.mtu))

    def effects(self, network: Network) -> Effects:
        """A queue near the threshold; half a window is regained in half as many round trips as packets."""
        packets = network.bdp / self.mtu
        return Effects(queue_delay=self._threshold(network) / network.rate, lag=network.rtt * packets / 2)

    def lower(self, network: Network) -> Lowered:
        """Windows in bandwidth-delay products."""
        bdp, threshold = network.bdp, self._threshold(network)
        start = self.start_window * self.mtu / bdp if self.start_window else 1.0
        most = max(start, 1.0 + threshold / bdp) * 4.0  # nothing is gained by more: queues have overflowed
        return Lowered(
            Control.DCTCP,
            numbers(network.rtt * 1e12, start, most, self.mtu, self.gain, float(self.slow_start)),
            most * bdp,
            self.ack_bytes,
            overtaken=lost_after(self.overtaken, network),
            marks=(threshold, threshold, 1.0),
            rto=self.rto,
        )
