"""Rail fabrics: NIC ``n`` of every host on the same leaf, with a spine above all rails or with none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from euston.errors import FabricError
from euston.fabrics._clos_structure import ClosStructure
from euston.fabrics._forward import ForwardStructure
from euston.fabrics._host_side import whole_number
from euston.fabrics.clos import clos
from euston.fabrics.fabric import Fabric

__all__ = ["by_cross_rail", "forwarded", "rail_only", "rail_optimized"]


def forwarded(fabric: Fabric) -> Fabric:
    """The same rails, but flows to another rail are forwarded inside the sender's host (PXN).

    Raises
    ------
    FabricError
        For a fabric without rails or without a scale-up network.
    """
    base = fabric.structure
    if not isinstance(base, ClosStructure) or not base.shape.rail:
        raise FabricError(f"`{fabric.name}`: has no rails to forward between; build it with rails")
    if not base.shape.scale_up:
        raise FabricError("`scale_up`: is missing; flows change rails over the scale-up network")
    return replace(fabric, structure=ForwardStructure(base, fabric.bundle_start, fabric.node_kind.size))


def by_cross_rail(fabric: Fabric, cross_rail: str) -> Fabric:
    """The fabric itself (``spine``) or `forwarded` (``forward``)."""
    if cross_rail not in ("spine", "forward"):
        raise FabricError(f"`cross_rail`: {cross_rail!r} is neither spine nor forward")
    return forwarded(fabric) if cross_rail == "forward" else fabric


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
    oversubscription: Sequence[float] | None = None,
    scale_up: str | float | None = None,
    cross_rail: Literal["spine", "forward"] = "spine",
    name: str = "rail_optimized",
) -> Fabric:
    """NIC ``n`` of every host of a segment on one leaf: equal ranks of its hosts meet after one hop.

    More options: `clos` with ``attach="rail"``, and `forwarded`.

    Parameters
    ----------
    cross_rail : {"spine", "forward"}
        How flows reach another rail: over the spine, or by the sender's neighbour on that rail (PXN).
    """
    rails = accelerators_per_host if nics_per_host is None else nics_per_host
    if segments_per_pod is not None:
        tors_per_pod: int | None = whole_number("segments_per_pod", segments_per_pod) * rails
    else:
        tors_per_pod = None
    fabric = clos(
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
    return by_cross_rail(fabric, cross_rail)


def rail_only(
    hosts: int,
    accelerators_per_host: int = 8,
    *,
    nic: str | float,
    scale_up: str | float,
    nics_per_host: int | None = None,
    hosts_per_domain: int = 1,
    scale_up_planes: int = 1,
    hosts_per_segment: int | None = None,
    spines_per_rail: int = 0,
    oversubscription: float = 1.0,
    planes: int = 1,
    scale_up_latency: str | float = "500 ns",
    nic_latency: str | float = "500 ns",
    tor_latency: str | float = "500 ns",
    buffer: str | float = 0.0,
    name: str = "rail_only",
) -> Fabric:
    """Rails that nothing joins: a leaf per rail, or leaves and spines of its own (Wang et al. 2307.12169).

    A scale-up domain has one NIC on every rail, so there are as many rails as it has NICs. Flows to another
    rail are forwarded inside the sender's domain. With several leaves per rail it is a multi-plane fat tree
    (DeepSeek-V3, arXiv 2505.09343).

    Parameters
    ----------
    nic, scale_up : str or float
        Bandwidth of one NIC, and of one accelerator into its scale-up network, per direction.
    hosts_per_domain : int
        Hosts on one scale-up switch.
    hosts_per_segment : int, optional
        Hosts below the leaves of one segment; all when left out.
    spines_per_rail : int
        Spines of each rail; 0 where one leaf holds the whole rail.
    oversubscription : float
        Down : up bandwidth of a full leaf.

    Other parameters as in `clos`.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    per_segment = hosts if hosts_per_segment is None else whole_number("hosts_per_segment", hosts_per_segment)
    spines = whole_number("spines_per_rail", spines_per_rail, 0)
    segments = -(-whole_number("hosts", hosts) // per_segment)
    if segments > 1 and not spines:
        raise FabricError(
            f"`spines_per_rail`: 0, but {segments} leaves of a rail must reach each other; give 1 or more"
        )
    return forwarded(
        clos(
            hosts,
            accelerators_per_host,
            nic=nic,
            nics_per_host=nics_per_host,
            attach="rail_pods",
            hosts_per_tor=per_segment,
            aggs_per_pod=spines,
            oversubscription=(oversubscription, 1.0),
            planes=planes,
            scale_up=scale_up,
            hosts_per_domain=hosts_per_domain,
            scale_up_planes=scale_up_planes,
            scale_up_latency=scale_up_latency,
            nic_latency=nic_latency,
            tor_latency=tor_latency,
            buffer=buffer,
            name=name,
            pods_apart=True,
        )
    )
