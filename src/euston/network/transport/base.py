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

__all__ = ["Control", "Lowered", "Network", "Transport", "check_packet"]


class Control(IntEnum):
    """Congestion controls that the kernels know."""

    FIXED = 0
    NSCC = 1


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
    """

    rtt: float
    rate: float
    trimming: bool

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
    """

    control: Control
    tuning: NDArray[np.float64]
    window: float
    ack_bytes: int


def check_packet(mtu: int, header: int, ack_bytes: int) -> None:
    """Refuse packets without payload and receivers that never answer.

    Raises
    ------
    ConfigError
    """
    if not 0 < header < mtu < 2**16:
        raise ConfigError(
            f"`policies.transport.mtu`: {mtu} bytes with a header of {header}; a packet needs payload and at "
            "most 65,535 bytes"
        )
    if ack_bytes < 1:
        raise ConfigError(f"`policies.transport.ack_bytes`: {ack_bytes}; at least 1 is needed")


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
