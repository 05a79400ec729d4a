"""Clos fabrics: one closed-form core for 3 tiers, 2 tiers and rail-optimised attachment.

Every host has ``accelerators_per_host`` endpoints behind a scale-up switch and ``nics_per_host`` NICs. NICs
hang on ToRs (leaves), ToRs on the ``aggs_per_pod`` aggs of their pod, agg ``a`` of every pod on the
``cores_per_agg`` cores of plane ``a`` (Al-Fares et al. 2008). One pod without cores is a leaf-spine. Uplinks
are described by a count and an oversubscription ratio (a few fat links stand for many cables), or by the rate
of one link.

In planes a NIC has a port on each of several such networks, which meet nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from euston import units
from euston.errors import FabricError
from euston.fabrics._clos_shape import bundle_start, clos_shape, wires
from euston.fabrics._clos_structure import ClosStructure
from euston.fabrics._host_side import whole_number
from euston.fabrics._routes import RAIL, RAIL_PODS
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind

__all__ = ["clos", "clos3", "fat_tree", "leaf_spine"]

_ATTACH = {"host": 0, "rail": RAIL, "rail_pods": RAIL_PODS}


def _check_ratio(what: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise FabricError(f"`{what}`: {value!r} is not a ratio; write 1 for full bandwidth, 7 for 7:1")


def clos(
    hosts: int,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    nics_per_host: int | None = None,
    attach: Literal["host", "rail", "rail_pods"] = "host",
    hosts_per_tor: int,
    tors_per_pod: int | None = None,
    aggs_per_pod: int = 1,
    cores_per_agg: int = 0,
    oversubscription: Sequence[float] | None = None,
    tor_uplink: str | float | None = None,
    agg_uplink: str | float | None = None,
    planes: int = 1,
    scale_up: str | float | None = None,
    hosts_per_domain: int = 1,
    scale_up_planes: int = 1,
    scale_up_latency: str | float = "500 ns",
    nic_latency: str | float = "500 ns",
    tor_latency: str | float = "500 ns",
    agg_latency: str | float = "500 ns",
    buffer: str | float = 0.0,
    name: str = "clos",
    pods_apart: bool = False,
) -> Fabric:
    """A Clos fabric of two or three tiers. Hosts need not fill the last ToR, nor ToRs the last pod.

    Parameters
    ----------
    hosts, accelerators_per_host : int
        Endpoint ``g`` of host ``h`` is number ``h * accelerators_per_host + g``.
    nic : str or float
        Bandwidth of one NIC per direction, "400 Gb/s" or bytes/s; of its ports together where it has several.
    nics_per_host : int, optional
        One per accelerator when left out; else endpoint ``g`` uses NIC ``g * nics // accelerators``.
    attach : {"host", "rail", "rail_pods"}
        ``host``: all NICs of a host on one ToR. ``rail``: NIC ``n`` on leaf ``n`` of the host's segment.
        ``rail_pods``: NIC ``n`` of a scale-up domain on its segment's leaf of pod ``n``, so that aggs join
        the leaves of one rail only.
    hosts_per_tor : int
        Hosts under one ToR; with rails, hosts of a segment.
    tors_per_pod : int, optional
        One pod when left out. With ``rail`` a multiple of the rails.
    aggs_per_pod, cores_per_agg : int
        Equal uplinks of a ToR, and of an agg. 0 where nothing has to be reached that way.
    oversubscription : (float, float), optional
        Down : up bandwidth of a full ToR and of the aggs of a full pod, (1, 7) for 7:1 above the aggs; (1, 1)
        when left out.
    tor_uplink, agg_uplink : str or float, optional
        Bandwidth of one link from a ToR to an agg, and from an agg to a core; instead of the ratio.
    planes : int
        Ports of a NIC, each with the ToRs, aggs and cores described here for itself.
    scale_up : str or float, optional
        Bandwidth of one accelerator into the scale-up network per direction; no such network when left out.
    hosts_per_domain : int
        Hosts on one scale-up switch (18 for an NVL72 of 4-GPU hosts).
    scale_up_planes : int
        Switches side by side in a scale-up domain; an accelerator has an equal part of its bandwidth to each.
    scale_up_latency, nic_latency, tor_latency, agg_latency : str or float
        Per link of that tier, either direction. The defaults are an assumption, not a measurement.
    buffer : str or float
        Bytes of every switch queue; 0: not described.
    pods_apart : bool
        Whether pods (or ToRs without aggs) may be joined by nothing.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    hosts = whole_number("hosts", hosts)
    acc = whole_number("accelerators_per_host", accelerators_per_host)
    nics = acc if nics_per_host is None else whole_number("nics_per_host", nics_per_host)
    if nics > acc:
        raise FabricError(
            f"`nics_per_host`: {nics} NICs for {acc} accelerators; give {acc} NICs their bandwidth"
        )
    if attach not in _ATTACH:
        raise FabricError(f"`attach`: {attach!r} is not one of {', '.join(_ATTACH)}")
    planes = whole_number("planes", planes)
    ratios = (1.0, 1.0) if oversubscription is None else tuple(oversubscription)
    if len(ratios) != 2:
        raise FabricError("`oversubscription`: needs two ratios, of the ToRs and of the aggs, such as (1, 7)")
    for i, ratio in enumerate(ratios):
        _check_ratio(f"oversubscription[{i}]", ratio)
    for what, rate in (("tor_uplink", tor_uplink), ("agg_uplink", agg_uplink)):
        if rate is not None and oversubscription is not None:
            raise FabricError(f"`{what}`: says what `oversubscription` says too; give one of them")
    shape = clos_shape(
        hosts,
        acc,
        nics,
        whole_number("hosts_per_domain", hosts_per_domain),
        0 if scale_up is None else whole_number("scale_up_planes", scale_up_planes),
        whole_number("hosts_per_tor", hosts_per_tor),
        _ATTACH[attach],
        planes,
        None if tors_per_pod is None else whole_number("tors_per_pod", tors_per_pod),
        whole_number("aggs_per_pod", aggs_per_pod, 0),
        whole_number("cores_per_agg", cores_per_agg, 0),
        pods_apart,
    )

    nic_rate = units.bandwidth(nic, positive=True, where="nic") / planes
    up_rate = 0.0 if scale_up is None else units.bandwidth(scale_up, positive=True, where="scale_up")
    ports = {RAIL: hosts_per_tor, RAIL_PODS: hosts_per_tor // hosts_per_domain}
    below_tor = ports.get(shape.rail, hosts_per_tor * nics) * nic_rate
    tor_rate, tor_ratio = _uplink(tor_uplink, below_tor, shape.aggs // planes, ratios, "tor_uplink")
    below_agg = shape.tors_per_pod * tor_rate
    agg_rate, agg_ratio = _uplink(agg_uplink, below_agg, shape.cores, ratios[1:], "agg_uplink")
    delays = [
        units.duration(value, where=f"{tier}_latency")
        for tier, value in (
            ("scale_up", scale_up_latency),
            ("nic", nic_latency),
            ("tor", tor_latency),
            ("agg", agg_latency),
        )
    ]
    queue = int(units.data(buffer, where="buffer"))
    node_kind, src, dst, sizes = wires(shape, hosts)
    kind = np.repeat(np.arange(8, dtype=np.uint8), sizes)
    in_switch = (kind != LinkKind.SCALE_UP_OUT) & (kind != LinkKind.NIC_UP)
    rates = [up_rate / max(1, shape.scale_up), nic_rate, tor_rate, agg_rate]
    return Fabric(
        name=name,
        hosts=hosts,
        accelerators_per_host=acc,
        node_kind=node_kind,
        link_src=src,
        link_dst=dst,
        capacity=np.repeat(rates, 2)[kind],
        latency=np.repeat(delays, 2)[kind],
        buffer_bytes=np.where(in_switch, queue, 0).astype(np.int64),
        kind=kind,
        bundle_start=bundle_start(shape),
        structure=ClosStructure(shape, hosts, (tor_ratio, agg_ratio)),
    )


def _uplink(
    rate: str | float | None, below: float, links: int, ratios: Sequence[float], where: str
) -> tuple[float, float]:
    """Bytes/s of one of ``links`` uplinks, and the ratio of ``below`` to all of them."""
    if rate is None:
        return below / ratios[0] / max(1, links), float(ratios[0])
    each = units.bandwidth(rate, positive=True, where=where)
    return each, below / (each * max(1, links))


def leaf_spine(
    hosts: int,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    hosts_per_leaf: int,
    spines: int,
    oversubscription: float = 1.0,
    scale_up: str | float | None = None,
    link_latency: str | float = "500 ns",
    buffer: str | float = 0.0,
    name: str = "leaf_spine",
) -> Fabric:
    """Two tiers: every leaf on every spine. More options: `clos`.

    Parameters
    ----------
    hosts_per_leaf : int
        Hosts under one leaf.
    spines : int
        Equal uplinks of a leaf.
    oversubscription : float
        Down : up bandwidth of a full leaf.
    link_latency : str or float
        Per link outside the hosts; the default is an assumption, not a measurement.
    """
    return clos(
        hosts,
        accelerators_per_host,
        nic=nic,
        hosts_per_tor=hosts_per_leaf,
        aggs_per_pod=spines,
        oversubscription=(oversubscription, 1.0),
        scale_up=scale_up,
        nic_latency=link_latency,
        tor_latency=link_latency,
        buffer=buffer,
        name=name,
    )


def clos3(
    hosts: int,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    hosts_per_tor: int,
    tors_per_pod: int,
    aggs_per_pod: int,
    cores_per_agg: int,
    oversubscription: Sequence[float] | None = None,
    tor_uplink: str | float | None = None,
    agg_uplink: str | float | None = None,
    scale_up: str | float | None = None,
    link_latency: str | float = "500 ns",
    buffer: str | float = 0.0,
    name: str = "clos3",
) -> Fabric:
    """Three tiers: ToRs, the aggs of a pod, and cores in one plane per agg position. More options: `clos`.

    Parameters
    ----------
    link_latency : str or float
        Per link outside the hosts; the default is an assumption, not a measurement.
    """
    return clos(
        hosts,
        accelerators_per_host,
        nic=nic,
        hosts_per_tor=hosts_per_tor,
        tors_per_pod=tors_per_pod,
        aggs_per_pod=aggs_per_pod,
        cores_per_agg=cores_per_agg,
        oversubscription=oversubscription,
        tor_uplink=tor_uplink,
        agg_uplink=agg_uplink,
        scale_up=scale_up,
        nic_latency=link_latency,
        tor_latency=link_latency,
        agg_latency=link_latency,
        buffer=buffer,
        name=name,
    )


def fat_tree(
    k: int,
    *,
    nic: str | float,
    link_latency: str | float = "500 ns",
    buffer: str | float = 0.0,
    name: str = "fat_tree",
) -> Fabric:
    """The k-ary fat tree: ``k**3 / 4`` one-accelerator hosts, all links equal (Al-Fares et al. 2008).

    Parameters
    ----------
    k : int
        Ports of a switch, an even number.
    nic : str or float
        Bandwidth of every link per direction.
    link_latency : str or float
        Per link; the default is an assumption, not a measurement.
    buffer : str or float
        Bytes of every switch queue; 0: not described.
    """
    if whole_number("k", k, 2) % 2:
        raise FabricError(f"`k`: {k} is odd; a fat tree needs an even number of switch ports")
    half = k // 2
    return clos3(
        k * half * half,
        1,
        nic=nic,
        hosts_per_tor=half,
        tors_per_pod=half,
        aggs_per_pod=half,
        cores_per_agg=half,
        link_latency=link_latency,
        buffer=buffer,
        name=name,
    )
