"""The kinds ``clos`` and ``rail`` of descriptions: sizes nobody gave are filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from euston.errors import FabricError
from euston.fabrics._host_side import whole_number
from euston.fabrics.clos import clos
from euston.fabrics.fabric import Fabric
from euston.fabrics.rails import by_cross_rail

__all__ = ["clos_kind", "rail_kind"]

# Switches where a description does not say: fewer, fatter links of the same capacity.
DEFAULT_AGGS_PER_POD = 8
DEFAULT_CORES_PER_AGG = 16
DEFAULT_ENDPOINTS_PER_TOR = 32


def clos_kind(
    hosts: int | None = None,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    nics_per_host: int | None = None,
    endpoints_per_tor: int | None = None,
    hosts_per_tor: int | None = None,
    tors_per_pod: int | None = None,
    pods: int | None = None,
    aggs_per_pod: int | None = None,
    cores_per_agg: int | None = None,
    oversubscription: Sequence[float] | None = None,
    tor_uplink: str | float | None = None,
    agg_uplink: str | float | None = None,
    planes: int = 1,
    scale_up: str | float | None = None,
    hosts_per_domain: int = 1,
    scale_up_planes: int = 1,
    link_latency: str | float | None = None,
    nic_latency: str | float | None = None,
    tor_latency: str | float | None = None,
    agg_latency: str | float | None = None,
    scale_up_latency: str | float | None = None,
    buffer: str | float = 0.0,
    name: str = "clos",
) -> Fabric:
    """Two or three tiers of switches, all NICs of a host on one ToR.

    Parameters
    ----------
    nic : str or float
        Rate of one NIC, per direction.
    nics_per_host : int, optional
        NICs of a host; one per accelerator unless said.
    endpoints_per_tor : int, optional
        NIC ports below one top-of-rack switch; 32 unless said.
    hosts_per_tor : int, optional
        Hosts below one top-of-rack switch, instead of endpoints_per_tor.
    tors_per_pod : int, optional
        Top-of-rack switches of a pod; one pod unless said.
    pods : int, optional
        Pods; as many as the hosts fill unless said. With it the number of hosts follows.
    aggs_per_pod : int, optional
        Aggregation switches of a pod; 8 unless said.
    cores_per_agg : int, optional
        Core switches above each aggregation switch; 16 between several pods unless said.
    oversubscription : (float, float), optional
        Down over up capacity of the ToRs and of the aggregation switches, e.g. [1, 7].
    tor_uplink, agg_uplink : str or float, optional
        Rate of one link from a ToR to an aggregation switch, and from there to a core; instead of the ratio.
    scale_up : str or float, optional
        Scale-up rate of an accelerator per direction; the accelerator's own unless said.
    hosts_per_domain : int
        Hosts that share one scale-up domain; 1 unless said.
    link_latency : str or float, optional
        Latency of one switch hop with its cable; 500 ns, an assumption, unless said.
    nic_latency : str or float, optional
        Time a NIC takes to send or receive; that of a link unless said.
    tor_latency, agg_latency : str or float, optional
        Latency of links above the ToRs and above the aggregation switches; that of a link unless said.
    scale_up_latency : str or float, optional
        Latency of a scale-up link; 500 ns, an assumption, unless said.
    buffer : str or float
        Buffer of a switch port.
    """
    acc = whole_number("accelerators_per_host", accelerators_per_host)
    nics = acc if nics_per_host is None else whole_number("nics_per_host", nics_per_host)
    if hosts_per_tor is not None and endpoints_per_tor is not None:
        raise FabricError("`hosts_per_tor`: says what `endpoints_per_tor` says too; give one of them")
    ports = DEFAULT_ENDPOINTS_PER_TOR if endpoints_per_tor is None else endpoints_per_tor
    per_tor = max(1, ports // nics) if hosts_per_tor is None else whole_number("hosts_per_tor", hosts_per_tor)
    count = _hosts(hosts, per_tor, tors_per_pod, pods)
    tors = -(-count // per_tor)
    latencies = _latencies(link_latency, nic_latency, tor_latency, agg_latency, scale_up_latency)
    return clos(
        count,
        acc,
        nic=nic,
        nics_per_host=nics,
        hosts_per_tor=per_tor,
        **_tiers(tors, tors_per_pod, aggs_per_pod, cores_per_agg),
        oversubscription=oversubscription,
        tor_uplink=tor_uplink,
        agg_uplink=agg_uplink,
        planes=planes,
        scale_up=scale_up,
        hosts_per_domain=hosts_per_domain,
        scale_up_planes=scale_up_planes,
        **latencies,
        buffer=buffer,
        name=name,
    )


def rail_kind(
    hosts: int | None = None,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    nics_per_host: int | None = None,
    endpoints_per_tor: int | None = None,
    tors_per_pod: int | None = None,
    pods: int | None = None,
    aggs_per_pod: int | None = None,
    cores_per_agg: int | None = None,
    oversubscription: Sequence[float] | None = None,
    tor_uplink: str | float | None = None,
    agg_uplink: str | float | None = None,
    planes: int = 1,
    scale_up: str | float | None = None,
    hosts_per_domain: int = 1,
    scale_up_planes: int = 1,
    cross_rail: Literal["spine", "forward"] = "spine",
    link_latency: str | float | None = None,
    nic_latency: str | float | None = None,
    tor_latency: str | float | None = None,
    agg_latency: str | float | None = None,
    scale_up_latency: str | float | None = None,
    buffer: str | float = 0.0,
    name: str = "rail",
) -> Fabric:
    """Two or three tiers of switches, NIC n of every host of a segment on the segment's leaf n.

    Parameters
    ----------
    nic : str or float
        Rate of one NIC, per direction.
    nics_per_host : int, optional
        NICs of a host and so rails; one per accelerator unless said.
    endpoints_per_tor : int, optional
        NIC ports below one leaf, which are the hosts of a segment; 32 unless said.
    tors_per_pod : int, optional
        Leaves of a pod, a multiple of the rails; one pod unless said.
    pods : int, optional
        Pods; as many as the hosts fill unless said. With it the number of hosts follows.
    aggs_per_pod : int, optional
        Spines of a pod; 8 unless said.
    cores_per_agg : int, optional
        Core switches above each spine; 16 between several pods unless said.
    oversubscription : (float, float), optional
        Down over up capacity of the leaves and of the spines, e.g. [1, 7].
    tor_uplink, agg_uplink : str or float, optional
        Rate of one link from a leaf to a spine, and from there to a core; instead of the ratio.
    scale_up : str or float, optional
        Scale-up rate of an accelerator per direction; the accelerator's own unless said.
    hosts_per_domain : int
        Hosts that share one scale-up domain; 1 unless said.
    cross_rail : {"spine", "forward"}
        How flows reach another rail: over the spines, or by the sender's neighbour on that rail (PXN).
    link_latency : str or float, optional
        Latency of one switch hop with its cable; 500 ns, an assumption, unless said.
    nic_latency : str or float, optional
        Time a NIC takes to send or receive; that of a link unless said.
    tor_latency, agg_latency : str or float, optional
        Latency of links above the leaves and above the spines; that of a link unless said.
    scale_up_latency : str or float, optional
        Latency of a scale-up link; 500 ns, an assumption, unless said.
    buffer : str or float
        Buffer of a switch port.
    """
    acc = whole_number("accelerators_per_host", accelerators_per_host)
    nics = acc if nics_per_host is None else whole_number("nics_per_host", nics_per_host)
    ports = DEFAULT_ENDPOINTS_PER_TOR if endpoints_per_tor is None else endpoints_per_tor
    per_pod = None if tors_per_pod is None else -(-tors_per_pod // nics)
    count = _hosts(hosts, ports, per_pod, pods)
    tors = -(-count // ports) * nics
    latencies = _latencies(link_latency, nic_latency, tor_latency, agg_latency, scale_up_latency)
    fabric = clos(
        count,
        acc,
        nic=nic,
        nics_per_host=nics,
        attach="rail",
        hosts_per_tor=ports,
        **_tiers(tors, tors_per_pod, aggs_per_pod, cores_per_agg),
        oversubscription=oversubscription,
        tor_uplink=tor_uplink,
        agg_uplink=agg_uplink,
        planes=planes,
        scale_up=scale_up,
        hosts_per_domain=hosts_per_domain,
        scale_up_planes=scale_up_planes,
        **latencies,
        buffer=buffer,
        name=name,
    )
    return by_cross_rail(fabric, cross_rail)


def _hosts(hosts: int | None, per_tor: int, tors_per_pod: int | None, pods: int | None) -> int:
    """The number of hosts, given or of full pods."""
    if pods is None:
        if hosts is None:
            raise FabricError("`hosts`: is missing; say how many, or give `pods` and `tors_per_pod`")
        return whole_number("hosts", hosts)
    if tors_per_pod is None:
        raise FabricError("`tors_per_pod`: is missing; `pods` of how many switches?")
    full = whole_number("pods", pods) * tors_per_pod * per_tor
    if hosts is not None and hosts != full:
        raise FabricError(
            f"`hosts`: {hosts}, but {pods} pods of {tors_per_pod} x {per_tor} hosts have {full}"
        )
    return full


def _tiers(tors: int, tors_per_pod: int | None, aggs: int | None, cores: int | None) -> dict[str, Any]:
    several = tors_per_pod is not None and tors > tors_per_pod
    return {
        "tors_per_pod": tors_per_pod if several else None,
        "aggs_per_pod": aggs or (DEFAULT_AGGS_PER_POD if tors > 1 else 0),
        "cores_per_agg": cores or (DEFAULT_CORES_PER_AGG if several else 0),
    }


def _latencies(
    link: str | float | None,
    nic: str | float | None,
    tor: str | float | None,
    agg: str | float | None,
    scale_up: str | float | None,
) -> dict[str, Any]:
    each = {"nic_latency": nic, "tor_latency": tor, "agg_latency": agg}
    found = {key: link if value is None else value for key, value in each.items()}
    found["scale_up_latency"] = scale_up
    return {key: value for key, value in found.items() if value is not None}
