"""Clos fabrics: one closed-form core for 3 tiers, 2 tiers and rail-optimised attachment.

Every host has ``accelerators_per_host`` endpoints behind a scale-up switch and ``nics_per_host`` NICs. NICs
hang on ToRs (leaves), ToRs on the ``aggs_per_pod`` aggs of their pod, agg ``a`` of every pod on the
``cores_per_agg`` cores of plane ``a`` (Al-Fares et al. 2008). One pod without cores is a leaf-spine. Uplinks
are described by a count and an oversubscription ratio: a few fat links stand for many cables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from euston import units
from euston.errors import FabricError
from euston.fabrics._clos_structure import ClosStructure
from euston.fabrics._routes import Shape
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind, NodeKind

__all__ = ["clos", "clos3", "fat_tree", "leaf_spine", "rail_optimized"]


def _count(what: str, value: int, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise FabricError(f"`{what}`: {value!r} is not a whole number")
    if value < least:
        raise FabricError(f"`{what}`: {value} is too few; it must be {least} or more")
    return int(value)


def _ratio(what: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise FabricError(f"`{what}`: {value!r} is not a ratio; write 1 for full bandwidth, 7 for 7:1")
    return float(value)


def _shape(
    hosts: int,
    accelerators: int,
    nics: int,
    hosts_per_domain: int,
    scale_up: bool,
    hosts_per_tor: int,
    rail: bool,
    tors_per_pod: int | None,
    aggs: int,
    cores: int,
) -> Shape:
    """Numbers of nodes, links and bundles."""
    endpoints, nic_count = hosts * accelerators, hosts * nics
    tors = -(-hosts // hosts_per_tor) * (nics if rail else 1)
    tors_per_pod = tors if tors_per_pod is None else tors_per_pod
    if rail and tors_per_pod % nics:
        raise FabricError(
            f"`tors_per_pod`: {tors_per_pod} leaves are not whole segments of {nics} rails; "
            f"nearest {max(1, round(tors_per_pod / nics)) * nics}"
        )
    pods = -(-tors // tors_per_pod)
    if tors > 1 and aggs == 0:
        raise FabricError(f"`aggs_per_pod`: 0, but {tors} ToRs must reach each other; give 1 or more")
    if pods > 1 and cores == 0:
        raise FabricError(f"`cores_per_agg`: 0, but {pods} pods must reach each other; give 1 or more")
    if cores and not aggs:
        raise FabricError("`aggs_per_pod`: 0, but cores hang on aggs; give 1 or more")
    up_links = endpoints if scale_up else 0
    sizes = [up_links, up_links, nic_count, nic_count]
    sizes += [tors * aggs] * 2 + [pods * aggs * cores] * 2
    first = [0, *np.cumsum(sizes).tolist()]
    if first[-1] + 2 * (tors + pods) + first[4] >= 2**31:
        raise FabricError(f"`hosts`: {first[-1]:,} links are too many; use fewer, fatter uplinks")
    bundle = [0, *np.cumsum([tors if aggs else 0] * 2 + [pods if cores else 0] * 2).tolist()]
    below = first[4]
    return Shape(
        endpoints=endpoints,
        accelerators=accelerators,
        nics=nics,
        hosts_per_domain=hosts_per_domain,
        scale_up=int(scale_up),
        hosts_per_tor=hosts_per_tor,
        rail=int(rail),
        tors=tors,
        tors_per_pod=tors_per_pod,
        aggs=aggs,
        cores=cores,
        out0=first[0],
        in0=first[1],
        nic_up0=first[2],
        nic_down0=first[3],
        tor_up0=first[4],
        tor_down0=first[5],
        agg_up0=first[6],
        agg_down0=first[7],
        tor_up_bundle0=below + bundle[0],
        tor_down_bundle0=below + bundle[1],
        agg_up_bundle0=below + bundle[2],
        agg_down_bundle0=below + bundle[3],
    )


def clos(
    hosts: int,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    nics_per_host: int | None = None,
    attach: Literal["host", "rail"] = "host",
    hosts_per_tor: int,
    tors_per_pod: int | None = None,
    aggs_per_pod: int = 1,
    cores_per_agg: int = 0,
    oversubscription: Sequence[float] = (1.0, 1.0),
    scale_up: str | float | None = None,
    hosts_per_domain: int = 1,
    scale_up_latency: str | float = "500 ns",
    nic_latency: str | float = "500 ns",
    tor_latency: str | float = "500 ns",
    agg_latency: str | float = "500 ns",
    buffer: str | float = 0.0,
    name: str = "clos",
) -> Fabric:
    """A Clos fabric of two or three tiers. Hosts need not fill the last ToR, nor ToRs the last pod.

    Parameters
    ----------
    hosts, accelerators_per_host : int
        Endpoint ``g`` of host ``h`` is number ``h * accelerators_per_host + g``.
    nic : str or float
        Bandwidth of one NIC per direction, "400 Gb/s" or bytes/s.
    nics_per_host : int, optional
        One per accelerator when left out; else endpoint ``g`` uses NIC ``g * nics // accelerators``.
    attach : {"host", "rail"}
        ``host``: all NICs of a host on one ToR. ``rail``: NIC ``n`` on leaf ``n`` of the host's segment.
    hosts_per_tor : int
        Hosts under one ToR; with ``rail``, hosts of a segment.
    tors_per_pod : int, optional
        One pod when left out. With ``rail`` a multiple of the rails.
    aggs_per_pod, cores_per_agg : int
        Equal uplinks of a ToR, and of an agg. 0 where nothing has to be reached that way.
    oversubscription : (float, float)
        Down : up bandwidth of a full ToR and of the aggs of a full pod, (1, 7) for 7:1 above the aggs.
    scale_up : str or float, optional
        Bandwidth of one accelerator into the scale-up network per direction; no such network when left out.
    hosts_per_domain : int
        Hosts on one scale-up switch (18 for an NVL72 of 4-GPU hosts).
    scale_up_latency, nic_latency, tor_latency, agg_latency : str or float
        Per link of that tier, either direction. The defaults are an assumption, not a measurement.
    buffer : str or float
        Bytes of every switch queue; 0: not described.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    hosts = _count("hosts", hosts)
    acc = _count("accelerators_per_host", accelerators_per_host)
    nics = acc if nics_per_host is None else _count("nics_per_host", nics_per_host)
    if nics > acc:
        raise FabricError(
            f"`nics_per_host`: {nics} NICs for {acc} accelerators; give {acc} NICs their bandwidth"
        )
    if attach not in ("host", "rail"):
        raise FabricError(f"`attach`: {attach!r} is not one of host, rail")
    if len(oversubscription) != 2:
        raise FabricError("`oversubscription`: needs two ratios, of the ToRs and of the aggs, such as (1, 7)")
    tor_ratio, agg_ratio = (_ratio(f"oversubscription[{i}]", r) for i, r in enumerate(oversubscription))
    shape = _shape(
        hosts,
        acc,
        nics,
        _count("hosts_per_domain", hosts_per_domain),
        scale_up is not None,
        _count("hosts_per_tor", hosts_per_tor),
        attach == "rail",
        None if tors_per_pod is None else _count("tors_per_pod", tors_per_pod),
        _count("aggs_per_pod", aggs_per_pod, 0),
        _count("cores_per_agg", cores_per_agg, 0),
    )
    aggs, cores = shape.aggs, shape.cores
    pods = -(-shape.tors // shape.tors_per_pod)
    domains = -(-hosts // hosts_per_domain) if shape.scale_up else 0

    # nodes: endpoints, NICs (only where accelerators share them), scale-up switches, ToRs, aggs, cores
    shared_nics = hosts * nics if nics < acc else 0
    node_counts = [shape.endpoints, shared_nics, domains, shape.tors, pods * aggs, aggs * cores]
    node0 = np.concatenate(([0], np.cumsum(node_counts)))
    node_kind = np.repeat(np.arange(6, dtype=np.uint8), node_counts)

    # links, block by block, each followed by its reverse block
    src: list[NDArray[np.int64]] = []
    dst: list[NDArray[np.int64]] = []

    def block(low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        src.extend((low, high))
        dst.extend((high, low))

    if shape.scale_up:
        e = np.arange(shape.endpoints)
        block(e, node0[NodeKind.SCALE_UP_SWITCH] + e // (acc * hosts_per_domain))
    n = np.arange(hosts * nics)
    tor = n // nics // hosts_per_tor
    if shape.rail:
        tor = tor * nics + n % nics
    block(node0[NodeKind.NIC] + n if nics < acc else n, node0[NodeKind.TOR] + tor)
    t, a = np.divmod(np.arange(shape.tors * aggs), max(1, aggs))
    block(node0[NodeKind.TOR] + t, node0[NodeKind.AGG] + t // shape.tors_per_pod * aggs + a)
    p, k = np.divmod(np.arange(pods * aggs * cores), max(1, aggs * cores))
    block(node0[NodeKind.AGG] + p * aggs + k // max(1, cores), node0[NodeKind.CORE] + k)
    sizes = [s.size for s in src]
    if not shape.scale_up:
        sizes = [0, 0, *sizes]

    nic_rate = units.bandwidth(nic, positive=True, where="nic")
    up_rate = 0.0 if scale_up is None else units.bandwidth(scale_up, positive=True, where="scale_up")
    below_tor = hosts_per_tor * (1 if shape.rail else nics) * nic_rate
    tor_rate = below_tor / tor_ratio / max(1, aggs)
    agg_rate = shape.tors_per_pod * tor_rate / agg_ratio / max(1, cores)
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
    kind = np.repeat(np.arange(8, dtype=np.uint8), sizes)
    in_switch = (kind != LinkKind.SCALE_UP_OUT) & (kind != LinkKind.NIC_UP)
    bundle_sizes = np.concatenate(
        (
            np.ones(shape.tor_up0, np.int64),
            np.full(shape.agg_up_bundle0 - shape.tor_up_bundle0, aggs),
            np.full(2 * pods if cores else 0, aggs * cores),
        )
    )
    return Fabric(
        name=name,
        hosts=hosts,
        accelerators_per_host=acc,
        node_kind=node_kind,
        link_src=np.concatenate(src).astype(np.int32),
        link_dst=np.concatenate(dst).astype(np.int32),
        capacity=np.repeat([up_rate, nic_rate, tor_rate, agg_rate], 2)[kind],
        latency=np.repeat(delays, 2)[kind],
        buffer_bytes=np.where(in_switch, queue, 0).astype(np.int64),
        kind=kind,
        bundle_start=np.concatenate(([0], np.cumsum(bundle_sizes))).astype(np.int64),
        structure=ClosStructure(shape, hosts, tuple(oversubscription)),
    )


def leaf_spine(
    hosts: int,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    hosts_per_leaf: int,
    spines: int,
    oversubscription: float = 1.0,
    scale_up: str | float | None = None,
    name: str = "leaf_spine",
) -> Fabric:
    """Two tiers: every leaf on every spine. More options: `clos`."""
    return clos(
        hosts,
        accelerators_per_host,
        nic=nic,
        hosts_per_tor=hosts_per_leaf,
        aggs_per_pod=spines,
        oversubscription=(oversubscription, 1.0),
        scale_up=scale_up,
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
    oversubscription: Sequence[float] = (1.0, 1.0),
    scale_up: str | float | None = None,
    name: str = "clos3",
) -> Fabric:
    """Three tiers: ToRs, the aggs of a pod, and cores in one plane per agg position. More options: `clos`."""
    return clos(
        hosts,
        accelerators_per_host,
        nic=nic,
        hosts_per_tor=hosts_per_tor,
        tors_per_pod=tors_per_pod,
        aggs_per_pod=aggs_per_pod,
        cores_per_agg=cores_per_agg,
        oversubscription=oversubscription,
        scale_up=scale_up,
        name=name,
    )


def rail_optimized(
    hosts: int,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    hosts_per_segment: int,
    spines: int,
    nics_per_host: int | None = None,
    segments_per_pod: int | None = None,
    cores_per_spine: int = 0,
    oversubscription: Sequence[float] = (1.0, 1.0),
    scale_up: str | float | None = None,
    name: str = "rail_optimized",
) -> Fabric:
    """NIC ``n`` of every host of a segment on one leaf: equal ranks of its hosts meet after one hop."""
    rails = accelerators_per_host if nics_per_host is None else nics_per_host
    if segments_per_pod is not None:
        tors_per_pod: int | None = _count("segments_per_pod", segments_per_pod) * rails
    else:
        tors_per_pod = None
    return clos(
        hosts,
        accelerators_per_host,
        nic=nic,
        nics_per_host=nics_per_host,
        attach="rail",
        hosts_per_tor=hosts_per_segment,
        tors_per_pod=tors_per_pod,
        aggs_per_pod=spines,
        cores_per_agg=cores_per_spine,
        oversubscription=oversubscription,
        scale_up=scale_up,
        name=name,
    )


def fat_tree(k: int, *, nic: str | float, name: str = "fat_tree") -> Fabric:
    """The k-ary fat tree: ``k**3 / 4`` one-accelerator hosts, all links equal (Al-Fares et al. 2008)."""
    if _count("k", k, 2) % 2:
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
        name=name,
    )
