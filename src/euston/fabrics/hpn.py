"""HPN: rails in two planes, each NIC with a port on a ToR of either (Qian et al., SIGCOMM 2024)."""

from __future__ import annotations

from typing import Literal

from euston.errors import FabricError
from euston.fabrics._host_side import whole_number
from euston.fabrics.clos import clos
from euston.fabrics.fabric import Fabric
from euston.fabrics.rails import by_cross_rail

__all__ = ["hpn"]


def hpn(
    hosts: int | None = None,
    accelerators_per_host: int = 8,
    *,
    nic: str | float = "400 Gb/s",
    segments: int = 15,
    hosts_per_segment: int = 128,
    planes: int = 2,
    aggs_per_plane: int = 60,
    tor_uplink: str | float = "400 Gb/s",
    pods: int = 1,
    cores_per_agg: int = 8,
    agg_uplink: str | float = "400 Gb/s",
    scale_up: str | float | None = None,
    scale_up_planes: int = 1,
    cross_rail: Literal["spine", "forward"] = "spine",
    scale_up_latency: str | float = "500 ns",
    nic_latency: str | float = "500 ns",
    tor_latency: str | float = "500 ns",
    agg_latency: str | float = "500 ns",
    buffer: str | float = 0.0,
    name: str = "hpn",
) -> Fabric:
    """Dual-ToR, dual-plane rails: 15 segments of 1,024 GPUs make a pod of 15,360 on two tiers.

    The ToR of (segment, rail, plane) holds one port of every NIC of its rail. A flow's plane is chosen at its
    NIC and never changes, so that inside a pod only one switch hashes and nothing polarises. Without its
    backup ports a ToR has 128 x 200G down and 60 x 400G up, and an agg 120 x 400G down and 8 x 400G up.

    Parameters
    ----------
    hosts : int, optional
        All that the segments of all pods hold when left out.
    nic : str or float
        Bandwidth of one NIC, per direction, over all its ports.
    segments : int
        Segments of a pod.
    hosts_per_segment : int
        Hosts of a segment.
    planes : int
        Ports of a NIC.
    aggs_per_plane : int
        Aggs of a pod in each plane, one uplink of every ToR of the plane to each.
    tor_uplink, agg_uplink : str or float
        Bandwidth of one link from a ToR to an agg, and from an agg to a core.
    pods : int
        More than one are joined by cores; here the cores too stay within their plane.
    cores_per_agg : int
        Uplinks of an agg, where there are several pods.
    cross_rail : {"spine", "forward"}
        How flows reach another rail: over the aggs, or by the sender's neighbour on that rail.

    Other parameters as in `clos`.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    rails = whole_number("accelerators_per_host", accelerators_per_host)
    per_pod = whole_number("segments", segments) * whole_number("hosts_per_segment", hosts_per_segment)
    most = per_pod * whole_number("pods", pods)
    count = most if hosts is None else whole_number("hosts", hosts)
    if count > most:
        raise FabricError(f"`hosts`: {count} hosts do not fit; the segments hold {most}")
    several = count > per_pod
    fabric = clos(
        count,
        accelerators_per_host,
        nic=nic,
        attach="rail",
        hosts_per_tor=hosts_per_segment,
        tors_per_pod=segments * rails if several else None,
        aggs_per_pod=aggs_per_plane,
        cores_per_agg=cores_per_agg if several else 0,
        tor_uplink=tor_uplink,
        agg_uplink=agg_uplink if several else None,
        planes=planes,
        scale_up=scale_up,
        scale_up_planes=scale_up_planes,
        scale_up_latency=scale_up_latency,
        nic_latency=nic_latency,
        tor_latency=tor_latency,
        agg_latency=agg_latency,
        buffer=buffer,
        name=name,
    )
    return by_cross_rail(fabric, cross_rail)
