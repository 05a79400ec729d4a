"""Priority flow control (IEEE 802.1Qbb): the room that keeps it lossless, and deadlocks."""

from __future__ import annotations

import numpy as np
import rustworkx as rx
from numpy.typing import NDArray

from euston import units
from euston.errors import ConfigError, SimulationError
from euston.fabrics import Fabric
from euston.network.packet import _layout as y
from euston.network.packet._layout import Net, State
from euston.network.packet.settings import PacketSettings

__all__ = ["check_deadlock", "check_lossless", "headroom"]


def headroom(fabric: Fabric, settings: PacketSettings, mtu: int) -> NDArray[np.int64]:
    """Bytes that each link brings after it was told to pause, int64[L].

    What is under way while the pause travels back and while its last bits come, the packet that the pause
    finds being sent, and the one that called for it.
    """
    if settings.pfc_headroom is not None:
        return np.full(fabric.links, int(units.data(settings.pfc_headroom, where="settings.pfc_headroom")))
    trip = fabric.latency + fabric.latency[fabric.reverse]
    return np.ceil(trip * fabric.capacity).astype(np.int64) + 2 * mtu


def check_lossless(fabric: Fabric, settings: PacketSettings, most: NDArray[np.int64]) -> None:
    """Refuse a shared buffer that cannot hold what the incoming links of a switch may bring.

    ``most``: int64[L], bytes of each link, all classes.

    Raises
    ------
    ConfigError
    """
    shared = units.data(settings.shared_buffer, where="settings.shared_buffer")
    if shared == 0:
        return
    inner = fabric.link_dst >= fabric.endpoints
    need = np.bincount(fabric.link_dst[inner], weights=most[inner])
    worst = float(need.max(initial=0.0))
    if worst > shared:
        raise ConfigError(
            f"`settings.shared_buffer`: {shared:,.0f} bytes; with pauses a switch here needs {worst:,.0f}: "
            "`pfc` and headroom of every incoming link and class"
        )


def check_deadlock(net: Net, state: State, fabric: Fabric) -> None:
    """Find paused links that wait for each other in a circle.

    A paused link waits for another one if packets that came by the first are in the queue of the second.

    Raises
    ------
    SimulationError
        Naming the links of the circle.
    """
    classes = state.fifo.shape[1]
    waits = rx.PyDiGraph(multigraph=False)
    waits.add_nodes_from(list(range(fabric.links * classes)))
    paused = state.link[:, y.L_PAUSED]
    for at in np.flatnonzero(paused > 0).tolist():
        for c in range(1, classes):
            p = int(state.fifo[at, c, y.Q_HEAD]) if (int(paused[at]) >> c) & 1 else -1
            while p >= 0:
                pos = int(state.packet[p, y.P_POS])
                came = int(net.hop[pos - 1]) if pos > 0 else -1
                if came >= 0 and (int(paused[came]) >> c) & 1:
                    waits.add_edge(came * classes + c, at * classes + c, None)
                p = int(state.packet[p, y.P_NEXT])
    circle = rx.digraph_find_cycle(waits)
    if circle:
        names = " -> ".join(fabric.link_name(int(node) // classes) for node, _ in circle)
        raise SimulationError(
            f"deadlock: paused links wait for each other, {names} -> the first again; use routes without "
            "circles (up, then down) or no `pfc`"
        )
