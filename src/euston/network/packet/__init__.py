"""The packet engine: every packet through output-queued switches, with real transports.

`run_packets` takes the same `Flows` as the fluid engine; `PacketEngine` is the same thing as a component that
stops and goes on.
"""

from euston.network.packet.engine import PacketEngine, run_packets
from euston.network.packet.settings import Fault, PacketSettings

__all__ = ["Fault", "PacketEngine", "PacketSettings", "run_packets"]
