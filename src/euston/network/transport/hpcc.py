"""HPCC: windows from what every switch of the path reports in the packet (Li et al., SIGCOMM 2019).

Algorithm 1 of the paper. Each switch a data packet leaves adds its queue, the bytes it has sent, and the time
(in-band telemetry, INT); the ACK brings them back. From two reports the sender knows how many bytes are in
flight on each link, and sets its window so that the busiest link is used to ``eta``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from euston.errors import ConfigError
from euston.network.transport.base import (
    NO_MARKS,
    Control,
    Effects,
    Lowered,
    Network,
    Recovery,
    check_packet,
    lost_after,
    need,
    numbers,
)
from euston.network.transport.gbn import card_timeout
from euston.units import PositiveBandwidth, PositiveDuration

__all__ = ["Hpcc"]

MOST_HOPS = 5
"""Switches that the INT header has room for: 42 bytes for 5 hops (section 4.1)."""
STEP = 1 / 2500
"""Additive step over the line rate: 10 Mb/s at 25 Gb/s in run.py of the ns-3 repository @9f4be2a."""
CLIMB = 2.0
"""Round trips in which a rate climbs (measured with the packet engine)."""


@dataclass(frozen=True)
class Hpcc:
    """HPCC on selective retransmission (or, as in the paper's first version, go-back-N).

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet (1000 of payload, as in the paper: links are shared evenly only where
        packets are small against the bandwidth-delay product) and of its header, 42 of them telemetry.
    eta : float
        Use of a link to aim at.
    stages : int
        Round trips of additive increase before a multiplicative one.
    additive : bandwidth, optional
        Step of the additive increase in a round trip; 1/2500 of the slowest uplink unless said.
    selective : bool
        Send only what is missing again, instead of going back.
    overtaken : int, optional
        Packets acknowledged after a missing one that prove it lost (3; 0, never, with trimming or spraying).
    rto : duration, optional
        Retransmission timeout, as for ``gbn``.
    """

    mtu: int = 1106
    header: int = 106
    eta: float = 0.95
    stages: int = 5
    additive: PositiveBandwidth | None = None
    selective: bool = True
    overtaken: int | None = None
    rto: PositiveDuration | None = None
    name: ClassVar[str] = "hpcc"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, 1)
        need(0 < self.eta <= 1, "eta", self.eta, "it must be in (0, 1]; the paper has 0.95")
        need(0 <= self.stages <= 1000, "stages", self.stages, "0 to 1000; the paper has 5")
        for field in ("additive", "rto"):
            value = getattr(self, field)
            need(value is None or value > 0, field, value, "it must be more than 0")
        need(self.overtaken is None or self.overtaken >= 0, "overtaken", self.overtaken, "0 or more packets")

    @property
    def in_order(self) -> bool:
        """Whether receivers throw away what overtakes: then packets of a flow should keep to one path."""
        return not self.selective

    def effects(self, network: Network) -> Effects:
        """Links filled to ``eta``, nearly empty queues; rates that climb within two round trips."""
        return Effects(utilisation=self.eta, lag=CLIMB * network.rtt)

    def lower(self, network: Network) -> Lowered:
        """The additive step in bytes per round trip.

        Raises
        ------
        ConfigError
            For paths with more switches than reports fit in a header.
        """
        if network.hops > MOST_HOPS:
            raise ConfigError(
                f"`kind`: hpcc has room for reports of {MOST_HOPS} switches in a header, and a path has "
                f"{network.hops}; use swift or nscc"
            )
        step = STEP * network.rate if self.additive is None else self.additive
        made = numbers(
            network.rtt * 1e12, 1.0, 1.0, self.mtu, self.eta, step * network.rtt, float(self.stages)
        )
        made[31] = network.rtt * 1e12
        return Lowered(
            Control.HPCC,
            made,
            max(network.bdp, self.mtu),
            1,
            recovery=Recovery.SELECTIVE if self.selective else Recovery.GO_BACK_N,
            overtaken=lost_after(self.overtaken, network) if self.selective else 0,
            marks=NO_MARKS,
            rto=card_timeout(self.rto, network),
            alike=True,
        )
