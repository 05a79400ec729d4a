"""Bounded loss: nothing is sent again, and the receiver does not wait for everything.

What gradient exchange over unreliable datagrams does (e.g. MLT, Wang et al., NSDI 2024; OptiReduce, Warraich
et al., NSDI 2025): the sender emits the message at a rate, the receiver closes it when enough has arrived,
when its time is over, or when nothing comes any more, and tells the sender. Which byte ranges are missing
stands in the result's table ``missing``, for whoever fills the holes.
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
from euston.network.transport.gbn import UNLIMITED
from euston.units import PositiveBandwidth, PositiveDuration

__all__ = ["Lossy"]

SILENCE = 8.0
"""Round trips without a packet after which a receiver gives up: an assumption."""


@dataclass(frozen=True)
class Lossy:
    """Datagrams at a fixed rate, closed by the receiver.

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header.
    fraction : float
        Part of the message with which the receiver is content.
    deadline : duration, optional
        Time from the flow's start after which it closes with what it has; none unless said.
    silence : duration, optional
        Time without a packet after which it closes; eight of the longest unloaded round trips unless said.
    rate : bandwidth, optional
        Rate on the wire at which a flow sends; its uplink's unless said.
    """

    mtu: int = 4150
    header: int = 64
    fraction: float = 1.0
    deadline: PositiveDuration | None = None
    silence: PositiveDuration | None = None
    rate: PositiveBandwidth | None = None
    name: ClassVar[str] = "lossy"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, 1)
        need(0 < self.fraction <= 1, "fraction", self.fraction, "a part of the message, in (0, 1]")
        for field in ("deadline", "silence", "rate"):
            value = getattr(self, field)
            need(value is None or value > 0, field, value, "it must be more than 0")

    def effects(self, network: Network) -> Effects:
        """None: it has no congestion control."""
        return Effects()

    def lower(self, network: Network) -> Lowered:
        """Times in ps, the rate as a pause per byte."""
        silence = SILENCE * network.rtt if self.silence is None else self.silence
        deadline = 2.0**60 if self.deadline is None else self.deadline * 1e12
        gap = 0.0 if self.rate is None else 1e12 / self.rate * 2**20
        made = numbers(
            network.rtt * 1e12, 0.0, 0.0, self.mtu,
            self.fraction, deadline, silence * 1e12, gap,
        )  # fmt: skip
        return Lowered(Control.LOSSY, made, UNLIMITED, 1, recovery=Recovery.NONE, marks=NO_MARKS)
