"""Sites joined by a WAN into one fabric, so that a flow between sites crosses all that lies between."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from euston import units
from euston.errors import FabricError, unknown
from euston.fabrics._host_side import whole_number
from euston.fabrics._legs import Part
from euston.fabrics._sites_structure import SitesStructure
from euston.fabrics._wan_structure import WanStructure
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind, NodeKind

__all__ = ["compose"]


def compose(
    sites: Mapping[str, Fabric],
    wan: Fabric,
    *,
    gateways: int = 1,
    gateway_bandwidth: str | float | None = None,
    name: str = "sites",
) -> Fabric:
    """One fabric of several sites: NIC, the site's fabric, gateway, WAN, gateway, the other site's fabric.

    The last hosts of every site stand for its gateway: their NICs are its ports into the site's fabric, and
    their accelerators are no endpoints of the whole. The other hosts follow each other in the order of the
    WAN's sites. A flow to another site is spread evenly over the gateway's ports and by weight over the
    tunnels; there is one path for each port here, each tunnel and each port there (and each path between).

    Parameters
    ----------
    sites : mapping of str to Fabric
        One for every site of the WAN, all with equally many accelerators per host.
    wan : Fabric
        Made by `wan`.
    gateways : int
        Hosts of each site that stand for its gateway.
    gateway_bandwidth : str or float, optional
        Bandwidth of a site's gateway towards the site, per direction, over all its ports; that of the NICs
        of these hosts when left out.

    Raises
    ------
    FabricError, UnitError
        Naming the parameter.
    """
    wide = wan.structure
    if not isinstance(wide, WanStructure):
        raise FabricError(f"`wan`: {wan.name!r} is no WAN; build it with `wan`")
    for site in sites:
        if site not in wide.sites:
            raise FabricError(f"`sites.{site}`: {unknown('site of the WAN', site, wide.sites)}")
    for site in wide.sites:
        if site not in sites:
            raise FabricError(f"`sites`: the WAN joins {site!r} too; give its fabric")
        if site == "wan":
            raise FabricError("`sites.wan`: is what links of the WAN are called; choose another name")
    fabrics = tuple(sites[site] for site in wide.sites)
    count = whole_number("gateways", gateways)
    each = fabrics[0].accelerators_per_host
    for site, fabric in zip(wide.sites, fabrics, strict=True):
        if fabric.hosts <= count:
            raise FabricError(f"`gateways`: {count}, but site {site!r} has {fabric.hosts} hosts in all")
        if fabric.accelerators_per_host != each:
            raise FabricError(
                f"`sites.{site}`: {fabric.accelerators_per_host} accelerators per host, but "
                f"{wide.sites[0]!r} has {each}; sites of one fabric need equally many"
            )
    sizes = [(fabric.hosts - count) * each for fabric in fabrics]
    first = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    ports = [_ports(fabric, count) for fabric in fabrics]

    # nodes: all endpoints, then what else each site has, then the sites' gateways
    parts: list[Part] = []
    kinds = [np.zeros(int(first[-1]), np.uint8)]
    at = int(first[-1])
    for i, fabric in enumerate(fabrics):
        node = np.full(fabric.node_kind.size, -1, np.int64)
        node[: sizes[i]] = first[i] + np.arange(sizes[i])
        gone = np.zeros(node.size, bool)
        gone[sizes[i] : fabric.endpoints] = True
        gone[fabric.link_src[ports[i][1]]] = True  # NICs that the gateway's endpoints share
        others = np.flatnonzero((node < 0) & ~gone)
        node[others] = at + np.arange(others.size)
        at += others.size
        kinds.append(fabric.node_kind[others])
        parts.append(_part(fabric, parts, node))
    for i, part in enumerate(parts):
        part.node[part.node < 0] = at + i
    kinds.append(np.full(len(fabrics), NodeKind.SITE, np.uint8))
    parts.append(_part(wan, parts, at + np.arange(len(fabrics))))

    everything = [*fabrics, wan]
    capacity = np.concatenate([f.capacity for f in everything])
    kind = np.concatenate([f.kind for f in everything])
    for part, (_, outward) in zip(parts, ports, strict=False):
        into = part.link0 + outward
        back = part.link0 + everything[parts.index(part)].reverse[outward]
        kind[into], kind[back] = LinkKind.GATEWAY_IN, LinkKind.GATEWAY_OUT
        if gateway_bandwidth is not None:
            rate = units.bandwidth(gateway_bandwidth, positive=True, where="gateway_bandwidth")
            capacity[into] = capacity[back] = rate / outward.size
    starts = [part.link0 + part.bundle_start[:-1] for part in parts]
    return Fabric(
        name=name,
        hosts=int(first[-1]) // each,
        accelerators_per_host=each,
        node_kind=np.concatenate(kinds),
        link_src=np.concatenate(
            [part.node[f.link_src] for part, f in zip(parts, everything, strict=True)]
        ).astype(np.int32),
        link_dst=np.concatenate(
            [part.node[f.link_dst] for part, f in zip(parts, everything, strict=True)]
        ).astype(np.int32),
        capacity=capacity,
        latency=np.concatenate([f.latency for f in everything]),
        buffer_bytes=np.concatenate([f.buffer_bytes for f in everything]),
        kind=kind,
        bundle_start=np.concatenate([*starts, [capacity.size]]).astype(np.int64),
        structure=SitesStructure(fabrics, wide, tuple(parts), first, tuple(p[0] for p in ports)),
    )


def _part(fabric: Fabric, before: list[Part], node: NDArray[np.int64]) -> Part:
    link0 = before[-1].links.stop if before else 0
    bundle0 = before[-1].bundles.stop if before else 0
    return Part(fabric.structure, link0, bundle0, fabric.bundle_start, node.astype(np.int32))


def _ports(fabric: Fabric, gateways: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """An endpoint for every NIC of the last hosts, and all links by which these enter the fabric."""
    ends = np.arange((fabric.hosts - gateways) * fabric.accelerators_per_host, fabric.endpoints)
    up = np.flatnonzero(fabric.kind == LinkKind.NIC_UP)
    if not up.size:
        raise FabricError(f"`sites`: {fabric.name!r} has no NICs that could lead to a gateway")
    shared = fabric.node_kind[fabric.link_src[up]] == NodeKind.NIC
    if not shared.any():
        mine = np.isin(fabric.link_src[up], ends)
        return np.unique(fabric.link_src[up[mine]]).astype(np.int32), up[mine].astype(np.int64)
    # NICs stand in the order of their hosts, and an endpoint's NIC follows from its place
    nics = np.unique(fabric.link_src[up]).size // fabric.hosts
    first = np.unique(fabric.link_src[up])[-gateways * nics :]
    place = np.arange(fabric.accelerators_per_host) * nics // fabric.accelerators_per_host
    lead = np.flatnonzero(np.diff(place, prepend=-1))
    host = np.arange(fabric.hosts - gateways, fabric.hosts)
    chosen = (host[:, None] * fabric.accelerators_per_host + lead).ravel()
    return chosen.astype(np.int32), up[np.isin(fabric.link_src[up], first)].astype(np.int64)
