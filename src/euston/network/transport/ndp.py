"""NDP: receivers pull (Handley et al., SIGCOMM 2017; as credits in EQDS, Olteanu et al., NSDI 2022).

A sender emits one window at line rate without asking; from then on every packet, new or again, waits for a
PULL. A receiver owes a PULL for each packet or cut header that reaches it, and pays them to its senders in
turn, at the rate at which full packets fit through its links. Switches cut packets to headers (`trimming`),
which travel first, so that a receiver knows within a round trip what was lost.
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
    check_packet,
    need,
    numbers,
)
from euston.units import PositiveDuration

__all__ = ["Ndp"]


@dataclass(frozen=True)
class Ndp:
    """Receiver-driven transport.

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header.
    ack_bytes : int
        Wire bytes that make the receiver answer (1: every packet, as NDP does).
    start_window : int
        Packets sent without being asked; 0: the bandwidth-delay product.
    pull_rate : float
        PULLs are paced for this part of the receiver's bandwidth.
    rto : duration, optional
        Retransmission timeout; the packet engine's unless said.
    """

    mtu: int = 4150
    header: int = 64
    ack_bytes: int = 1
    start_window: int = 0
    pull_rate: float = 1.0
    rto: PositiveDuration | None = None
    name: ClassVar[str] = "ndp"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, self.ack_bytes)
        need(0 <= self.start_window < 2**20, "start_window", self.start_window, "packets, or 0")
        need(0 < self.pull_rate <= 1, "pull_rate", self.pull_rate, "a part of the bandwidth, in (0, 1]")
        need(self.rto is None or self.rto > 0, "rto", self.rto, "it must be more than 0 s")

    def effects(self, network: Network) -> Effects:
        """Queues of few packets; rates follow the pulls within a round trip."""
        return Effects(utilisation=self.pull_rate, lag=network.rtt)

    def lower(self, network: Network) -> Lowered:
        """The window in bandwidth-delay products.

        Raises
        ------
        ConfigError
            Where packets are dropped silently: no PULL would ever come for them.
        """
        if not network.trimming and not network.pauses:
            raise ConfigError("`kind`: ndp needs switches that cut packets or pause; set trimming or pfc")
        start = self.start_window * self.mtu / network.bdp if self.start_window else 1.0
        return Lowered(
            Control.NDP,
            numbers(network.rtt * 1e12, start, start, self.mtu, self.pull_rate),
            max(start * network.bdp, self.mtu) * 4.0,
            self.ack_bytes,
            marks=NO_MARKS,
            rto=self.rto,
            alike=True,
        )
