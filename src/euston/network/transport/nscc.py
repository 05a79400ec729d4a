"""NSCC: the sender-based congestion control of Ultra Ethernet's transport.

Constants and how they scale with the network are those of `initNsccParams` and `initNscc` in uet-htsim
@40ccb05 (`htsim/sim/uec.cpp`), which implements the Ultra Ethernet specification 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from euston import units
from euston.errors import ConfigError
from euston.network.transport.base import Control, Effects, Lowered, Network, check_packet

__all__ = ["Nscc"]

REFERENCE_RTT = 12e-6  # s; the network that the constants are stated for
REFERENCE_RATE = 12.5e9  # bytes/s


@dataclass(frozen=True)
class Nscc:
    """NSCC with selective acknowledgement.

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header (4150 and 64 in the reference simulator).
    ack_bytes : int
        Wire bytes that make the receiver answer; every packet does where switches pause.
    target_delay : str or float, optional
        Queueing delay to aim at, s; 0.75 round trips with trimming, 1 without, when left out.
    window_factor : float
        Largest window over the bandwidth-delay product.
    start_window : int
        First window in packets; the largest one when 0.
    gamma : float
        Strength of the multiplicative decrease.
    quick_gate : int
        Quick adapt acts when less than ``2**-quick_gate`` of the largest window has arrived.
    delay_gain : float
        Weight of a sample in the mean delay.
    """

    mtu: int = 4150
    header: int = 64
    ack_bytes: int = 16384
    target_delay: str | float | None = None
    window_factor: float = 1.5
    start_window: int = 0
    gamma: float = 0.8
    quick_gate: int = 3
    delay_gain: float = 0.0125
    name: str = "nscc"

    def __post_init__(self) -> None:
        check_packet(self.mtu, self.header, self.ack_bytes)
        if not 0 < self.window_factor < 1000:
            raise ConfigError(f"`window_factor`: {self.window_factor}; 1.5 is usual")
        if not 0 <= self.start_window < 2**20:
            raise ConfigError(f"`start_window`: {self.start_window} packets")
        if not 0 < self.gamma <= 1:
            raise ConfigError(f"`gamma`: {self.gamma} is not between 0 and 1")
        if not 0 <= self.quick_gate <= 30:
            raise ConfigError(f"`quick_gate`: {self.quick_gate} is not between 0 and 30")
        if not 0 < self.delay_gain <= 1:
            raise ConfigError(f"`delay_gain`: {self.delay_gain} is not between 0 and 1")

    def _target(self, network: Network) -> float:
        """Queueing delay to aim at, ps."""
        if self.target_delay is None:
            return float(int(network.rtt * 1e12 * (0.75 if network.trimming else 1.0)))
        target = units.duration(self.target_delay, where="target_delay") * 1e12
        if not target > 0:
            raise ConfigError("`target_delay`: it must be more than 0")
        return target

    def effects(self, network: Network) -> Effects:
        """A queue near its target; rates that climb within about two round trips."""
        return Effects(queue_delay=self._target(network) / 1e12, lag=2.0 * network.rtt)

    def lower(self, network: Network) -> Lowered:
        """The constants scaled to ``network``, times in ps."""
        payload, rtt = self.mtu - self.header, network.rtt * 1e12
        scale = int(network.bdp) / int(REFERENCE_RTT * REFERENCE_RATE)
        target = self._target(network)
        tuning = np.zeros(32)
        tuning[:15] = (
            rtt,
            target,
            self.mtu,
            4.0 * payload * scale * (target / (REFERENCE_RTT * 1e12)) / target,
            5.0 * payload * scale,
            0.15 * payload * scale,
            self.gamma,
            0.25 * scale,
            self.delay_gain,
            8.0 * self.mtu,
            self.quick_gate,
            1e6,  # 1 us without queueing for a whole window allows the fast increase
            self.window_factor,
            self.start_window * self.mtu,
            4.0 * target,
        )
        largest = max(self.window_factor * network.bdp, self.start_window * self.mtu)
        # A window may shrink below what the receiver has not yet acknowledged: then only the timer goes on,
        # and that is a long one where links pause.
        ack_bytes = min(self.ack_bytes, self.mtu) if network.pauses else self.ack_bytes
        return Lowered(Control.NSCC, tuning, largest, ack_bytes)
