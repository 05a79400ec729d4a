"""Numbers and wiring of Clos fabrics: how many nodes, links and bundles there are, and what ends where."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.errors import FabricError
from euston.fabrics import _routes
from euston.fabrics._routes import RAIL, RAIL_PODS, Shape
from euston.fabrics.structure import NodeKind

__all__ = ["bundle_start", "clos_shape", "wires"]

# The kernels' own arithmetic, here on whole arrays. (Without the JIT it is a plain function already.)
_locate = getattr(_routes.locate, "py_func", _routes.locate)


def clos_shape(
    hosts: int,
    accelerators: int,
    nics: int,
    hosts_per_domain: int,
    scale_up: int,
    hosts_per_tor: int,
    rail: int,
    planes: int,
    tors_per_pod: int | None,
    aggs: int,
    cores: int,
    apart: bool,
) -> Shape:
    """Numbers of nodes, links and bundles; ``aggs`` of one plane. ``apart``: pods need not be joined."""
    endpoints, nic_count = hosts * accelerators, hosts * nics
    segments = -(-hosts // hosts_per_tor)
    if rail == RAIL_PODS:
        for what, value in (("hosts_per_tor", hosts_per_tor), ("hosts", hosts)):
            if value % hosts_per_domain:
                raise FabricError(
                    f"`{what}`: {value} hosts are not whole scale-up domains of {hosts_per_domain}; nearest "
                    f"{max(1, round(value / hosts_per_domain)) * hosts_per_domain}"
                )
        if tors_per_pod not in (None, segments):
            raise FabricError(
                f"`tors_per_pod`: {tors_per_pod}, but a rail has {segments} leaves; leave it out"
            )
        tors, tors_per_pod = segments * nics * hosts_per_domain, segments
    else:
        tors = segments * (nics if rail else 1)
    tors_per_pod = tors if tors_per_pod is None else tors_per_pod
    if rail == RAIL and tors_per_pod % nics:
        raise FabricError(
            f"`tors_per_pod`: {tors_per_pod} leaves are not whole segments of {nics} rails; "
            f"nearest {max(1, round(tors_per_pod / nics)) * nics}"
        )
    pods = -(-tors // tors_per_pod)
    most = tors_per_pod if apart else tors
    if most > 1 and aggs == 0:
        raise FabricError(f"`aggs_per_pod`: 0, but {most} ToRs must reach each other; give 1 or more")
    if pods > 1 and cores == 0 and not apart:
        raise FabricError(f"`cores_per_agg`: 0, but {pods} pods must reach each other; give 1 or more")
    if cores and not aggs:
        raise FabricError("`aggs_per_pod`: 0, but cores hang on aggs; give 1 or more")
    aggs *= planes
    sizes = [endpoints * scale_up] * 2 + [nic_count * planes] * 2
    sizes += [tors * aggs] * 2 + [pods * aggs * cores] * 2
    first = [0, *np.cumsum(sizes).tolist()]
    if first[-1] + 2 * (tors * planes + pods) + first[4] >= 2**31:
        raise FabricError(f"`hosts`: {first[-1]:,} links are too many; use fewer, fatter uplinks")
    bundles = [endpoints if scale_up else 0] * 2 + [nic_count] * 2
    bundles += [tors if aggs else 0] * 2 + [pods if cores else 0] * 2
    bundle = [0, *np.cumsum(bundles).tolist()]
    return Shape(
        endpoints=endpoints,
        accelerators=accelerators,
        nics=nics,
        hosts_per_domain=hosts_per_domain,
        scale_up=scale_up,
        hosts_per_tor=hosts_per_tor,
        rail=rail,
        planes=planes,
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
        in_bundle0=bundle[1],
        nic_up_bundle0=bundle[2],
        nic_down_bundle0=bundle[3],
        tor_up_bundle0=bundle[4],
        tor_down_bundle0=bundle[5],
        agg_up_bundle0=bundle[6],
        agg_down_bundle0=bundle[7],
    )


def wires(
    shape: Shape, hosts: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32], list[int]]:
    """Kinds of all nodes, both ends of all links, and the number of links of each kind."""
    s = shape
    nics, planes = hosts * s.nics, s.planes
    pods = -(-s.tors // s.tors_per_pod)
    each = s.aggs // planes
    domains = -(-hosts // s.hosts_per_domain) * s.scale_up
    # nodes: endpoints, NICs (only where accelerators share them), scale-up switches, ToRs, aggs, cores
    shared = nics if s.nics < s.accelerators else 0
    counts = [s.endpoints, shared, domains, s.tors * planes, pods * s.aggs, s.aggs * s.cores]
    node0 = np.concatenate(([0], np.cumsum(counts)))
    node_kind = np.repeat(np.arange(6, dtype=np.uint8), counts)

    ups: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    e, k = np.divmod(np.arange(s.endpoints * s.scale_up), max(1, s.scale_up))
    domain = e // (s.accelerators * s.hosts_per_domain)
    ups.append((e, node0[NodeKind.SCALE_UP_SWITCH] + domain * s.scale_up + k))
    n, plane = np.divmod(np.arange(nics * planes), planes)
    first = n // s.nics * s.accelerators - (-(n % s.nics * s.accelerators) // s.nics)  # endpoint on the NIC
    _, tor, _ = _locate(s, first)
    ups.append((node0[NodeKind.NIC] + n if shared else n, node0[NodeKind.TOR] + tor * planes + plane))
    t, a = np.divmod(np.arange(s.tors * s.aggs), max(1, s.aggs))
    low = node0[NodeKind.TOR] + t * planes + a // max(1, each)
    ups.append((low, node0[NodeKind.AGG] + t // s.tors_per_pod * s.aggs + a))
    p, k = np.divmod(np.arange(pods * s.aggs * s.cores), max(1, s.aggs * s.cores))
    ups.append((node0[NodeKind.AGG] + p * s.aggs + k // max(1, s.cores), node0[NodeKind.CORE] + k))
    # block by block, each followed by its reverse block
    src = np.concatenate([ends for low, high in ups for ends in (low, high)]).astype(np.int32)
    dst = np.concatenate([ends for low, high in ups for ends in (high, low)]).astype(np.int32)
    return node_kind, src, dst, [low.size for low, _ in ups for _ in range(2)]


def bundle_start(shape: Shape) -> NDArray[np.int64]:
    """First link of each bundle, and the number of links, int64[B + 1]."""
    s = shape
    sizes = np.repeat(
        [s.scale_up, s.planes, s.aggs, s.aggs * s.cores],
        [
            s.nic_up_bundle0,
            s.tor_up_bundle0 - s.nic_up_bundle0,
            s.agg_up_bundle0 - s.tor_up_bundle0,
            2 * (s.agg_down_bundle0 - s.agg_up_bundle0),
        ],
    )
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
