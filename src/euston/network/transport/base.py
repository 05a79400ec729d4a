"""The protocol of packet transports: which congestion control a run uses, and its numbers.

A transport is a frozen dataclass with defaults that run; `lower` turns it, for one fabric, into what the
packet engine's kernels read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError

__all__ = [
    "NO_MARKS",
    "Control",
    "Effects",
    "Lowered",
    "Network",
    "Recovery",
    "Transport",
    "check_packet",
    "lost_after",
    "need",
    "numbers",
]


class Control(IntEnum):
    """Congestion controls that the kernels know."""

    FIXED = 0
    NSCC = 1
    DCTCP = 2
    DCQCN = 3
    SWIFT = 4
    NDP = 5
    HPCC = 6
    LOSSY = 7


class Recovery(IntEnum):
    """What becomes of packets that are lost."""

    SELECTIVE = 0
    """They alone are sent again."""
    GO_BACK_N = 1
    """All from the first of them on are sent again; the receiver keeps nothing out of order."""
    NONE = 2
    """They stay lost."""


@dataclass(frozen=True)
class Network:
    """What a transport may know about the network it runs on.

    Attributes
    ----------
    rtt : float
        Seconds there and back on the longest path: latency, and a full packet and a header sent on every
        link.
    rate : float
        Bytes/s that a typical flow can send alone (the median).
    trimming : bool
        Whether switches cut packets instead of dropping them.
    pauses : bool
        Whether switches pause incoming links (PFC) instead of dropping packets.
    sprayed : bool
        Whether packets of a flow take different paths, so that one may overtake another.
    hops : int
        Most links of a path that leave a switch.
    """

    rtt: float
    rate: float
    trimming: bool
    pauses: bool = False
    sprayed: bool = False
    hops: int = 0

    @property
    def bdp(self) -> float:
        """Bandwidth-delay product in bytes."""
        return self.rtt * self.rate


@dataclass(frozen=True)
class Lowered:
    """A transport in numbers.

    Attributes
    ----------
    control : Control
    tuning : float64[32]
        Parameters, by the columns that the control's kernel file names.
    window : float
        Wire bytes that a flow has in flight at most.
    ack_bytes : int
        Wire bytes that make the receiver answer (1: every packet).
    recovery : Recovery
    overtaken : int
        An acknowledgement tells of a loss when its packet was sent this many packets after one that is
        missing; 0: never.
    marks : (float, float, float), optional
        ECN on a link of ``Network.rate``: bytes of queue where marks begin, where they reach their most, and
        that most as a probability; beyond it all are marked. The engine's own when left out.
    rto : float, optional
        Seconds of the retransmission timer; the engine's own when left out.
    alike : bool
        It shares a link alike among flows by itself, whatever the weights of the link's queues.
    """

    control: Control
    tuning: NDArray[np.float64]
    window: float
    ack_bytes: int
    recovery: Recovery = Recovery.SELECTIVE
    overtaken: int = 0
    marks: tuple[float, float, float] | None = None
    rto: float | None = None
    alike: bool = False


@dataclass(frozen=True)
class Effects:
    """What a transport does to flows, for the fluid engine; off unless somebody asks for it.

    The fields are those of the same names in ``FluidSettings``.

    Attributes
    ----------
    utilisation : float
        Share of a bottleneck that it fills.
    queue_delay : float
        Seconds of standing queue at a bottleneck.
    lag : float
        Time constant in seconds with which a rate climbs.
    """

    utilisation: float = 1.0
    queue_delay: float = 0.0
    lag: float = 0.0


NO_MARKS = (2.0**61, 2.0**61, 1.0)
"""Thresholds that no queue reaches."""


def numbers(*values: float) -> NDArray[np.float64]:
    """``values`` as the first of a `Lowered.tuning`."""
    tuning = np.zeros(32)
    tuning[: len(values)] = values
    return tuning


def lost_after(given: int | None, network: Network) -> int:
    """`Lowered.overtaken` where a transport says nothing.

    Three packets (RFC 6675's DupThresh), but never where cut packets are answered anyway, nor where
    packets overtake each other on different paths.
    """
    if given is not None:
        return given
    return 0 if network.trimming or network.sprayed else 3


def need(ok: bool, name: str, value: object, want: str) -> None:
    """Refuse a setting of a transport.

    Raises
    ------
    ConfigError
    """
    if not ok:
        raise ConfigError(f"`{name}`: {value!r}; {want}")


def check_packet(mtu: int, header: int, ack_bytes: int) -> None:
    """Refuse packets without payload and receivers that never answer.

    Raises
    ------
    ConfigError
    """
    if not 0 < header < mtu < 2**16:
        raise ConfigError(
            f"`mtu`: {mtu} bytes with a header of {header}; a packet needs payload and at most 65,535 bytes"
        )
    if ack_bytes < 1:
        raise ConfigError(f"`ack_bytes`: {ack_bytes}; at least 1 is needed")


class Transport(Protocol):
    """A packet transport."""

    @property
    def name(self) -> str:
        """Its name in scenario files."""

    @property
    def mtu(self) -> int:
        """Wire bytes of a full data packet."""

    @property
    def header(self) -> int:
        """Wire bytes of a header: a control packet, a cut packet, and part of every data packet."""

    def lower(self, network: Network) -> Lowered:
        """The numbers for one network."""

    def effects(self, network: Network) -> Effects:
        """What the fluid engine may assume of it on one network."""
