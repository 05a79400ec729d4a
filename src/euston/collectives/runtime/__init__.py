"""The real thing: an all-reduce over UDP that ends on time, driven by the same rules as the simulator."""

from euston.collectives.runtime.group import ReduceReport, StageLost, UdpGroup
from euston.collectives.runtime.store import FolderStore, Store
from euston.collectives.runtime.udp_socket import attach_loss

__all__ = ["FolderStore", "ReduceReport", "StageLost", "Store", "UdpGroup", "attach_loss"]
