"""Transports: what a packet sender does when the network answers, and when it does not."""

from euston.network.transport.base import Control, Lowered, Network, Transport
from euston.registry import Registry

TRANSPORT = Registry(
    "network.transport",
    {
        "nscc": "euston.network.transport.nscc:Nscc",
        "windowed": "euston.network.transport.windowed:Windowed",
    },
)

__all__ = ["TRANSPORT", "Control", "Lowered", "Network", "Transport"]
