"""Go-back-N, as RDMA network cards retransmit: what arrives out of order is thrown away and asked for again.

The receiver takes packets in order only and answers the first gap with a NAK that names the packet it wants;
the sender goes back to it (InfiniBand Architecture Specification, volume 1, section 9.7; RoCEv2). With
``selective`` only what is missing is sent again, as IRN does (Mittal et al., SIGCOMM 2018). There is no
congestion control: `Dcqcn` adds one.
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
    Recovery,
    check_packet,
    need,
    numbers,
)
from euston.units import PositiveDuration

__all__ = ["Gbn"]

RTO = 100e-6
"""s; of network cards tuned for one site. Their factory setting is 67 ms (4.096 us x 2^14)."""
RTO_PAUSED = 4.096e-6 * 2**10
"""s, where pauses hold packets back: InfiniBand's timeouts are 4.096 us times a power of two."""
UNLIMITED = 2.0**62


def card_timeout(given: float | None, network: Network) -> float:
    """Retransmission timeout of a network card, s."""
    if given is not None:
        return given
    return RTO_PAUSED if network.pauses else max(RTO, 4.0 * network.rtt)


@dataclass(frozen=True)
class Gbn:
    """Go-back-N (or, ``selective``, resending what is missing only) at line rate.

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header.
    ack_bytes : int
        Wire bytes that make the receiver answer.
    window : int, optional
        Most packets in flight; no limit unless said.
    selective : bool
        Keep what arrives out of order, and send only what is missing again.
    rto : duration, optional
        Retransmission timeout: 100 us, 4.2 ms where switches pause links, unless said.
    nak_interval : duration, optional
        A second NAK for the same packet is sent after this time at the earliest; a round trip unless said.
    """

    mtu: int = 4150
    header: int = 64
    ack_bytes: int = 16384
    window: int | None = None
    selective: bool = False
    rto: PositiveDuration | None = None
    nak_interval: PositiveDuration | None = None
    name: ClassVar[str] = "gbn"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, self.ack_bytes)
        ok = self.window is None or 1 <= self.window < 2**31
        need(ok, "window", self.window, "at least 1 packet is needed")
        need(self.rto is None or self.rto > 0, "rto", self.rto, "it must be more than 0 s")
        ok = self.nak_interval is None or self.nak_interval > 0
        need(ok, "nak_interval", self.nak_interval, "it must be more than 0 s")

    @property
    def in_order(self) -> bool:
        """Whether receivers throw away what overtakes: then packets of a flow should keep to one path."""
        return not self.selective

    def effects(self, network: Network) -> Effects:
        """None: it has no congestion control."""
        return Effects()

    def lower(self, network: Network) -> Lowered:
        """Base round trip, window and NAK interval."""
        window = UNLIMITED if self.window is None else float(self.window * self.mtu)
        again = network.rtt if self.nak_interval is None else self.nak_interval
        made = numbers(network.rtt * 1e12, window)
        made[31] = again * 1e12
        return Lowered(
            Control.FIXED,
            made,
            window,
            self.ack_bytes,
            recovery=Recovery.SELECTIVE if self.selective else Recovery.GO_BACK_N,
            overtaken=int(self.selective and not network.trimming and not network.sprayed),
            marks=NO_MARKS,
            rto=card_timeout(self.rto, network),
        )
