"""A fixed window: no congestion control, for tests and as the baseline of what one brings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from euston.errors import ConfigError
from euston.network.transport.base import Control, Effects, Lowered, Network, check_packet

__all__ = ["Windowed"]


@dataclass(frozen=True)
class Windowed:
    """At most ``window`` packets in flight per flow; lost ones are sent again.

    Parameters
    ----------
    window : int, optional
        Packets; without one the flow never waits for its window.
    mtu, header : int
        Wire bytes of a full packet and of its header.
    ack_bytes : int
        Wire bytes that make the receiver answer.
    """

    window: int | None = None
    mtu: int = 4150
    header: int = 64
    ack_bytes: int = 16384
    name: str = "windowed"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, self.ack_bytes)
        if self.window is not None and not 1 <= self.window < 2**31:
            raise ConfigError(f"`window`: {self.window} packets; at least 1 is needed")

    def lower(self, network: Network) -> Lowered:
        """Window in wire bytes, base round trip in ps."""
        window = 2.0**62 if self.window is None else float(self.window * self.mtu)
        tuning = np.zeros(32)
        tuning[:2] = network.rtt * 1e12, window
        return Lowered(Control.FIXED, tuning, window, self.ack_bytes)

    def effects(self, network: Network) -> Effects:
        """None: nothing makes its queues short or its rates slow."""
        return Effects()
