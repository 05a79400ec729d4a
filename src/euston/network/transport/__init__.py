"""Transports: what a packet sender does when the network answers, and when it does not."""

from euston.network.transport.base import Control, Effects, Lowered, Network, Recovery, Transport
from euston.registry import Registry

TRANSPORT = Registry(
    "network.transport",
    {
        "nscc": "euston.network.transport.nscc:Nscc",
        "swift": "euston.network.transport.swift:Swift",
        "hpcc": "euston.network.transport.hpcc:Hpcc",
        "dctcp": "euston.network.transport.dctcp:Dctcp",
        "dcqcn": "euston.network.transport.dcqcn:Dcqcn",
        "ndp": "euston.network.transport.ndp:Ndp",
        "gbn": "euston.network.transport.gbn:Gbn",
        "lossy": "euston.network.transport.lossy:Lossy",
        "windowed": "euston.network.transport.windowed:Windowed",
    },
)

__all__ = ["TRANSPORT", "Control", "Effects", "Lowered", "Network", "Recovery", "Transport"]
