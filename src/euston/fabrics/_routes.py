"""Numba kernels of the Clos family: one path, or all live shortest paths, from a few integers.

A flow between ToRs climbs to agg ``a`` of its pod and, between pods, on to core ``c`` of plane ``a``; the way
down is then unique. So a path is the pair ``(a, c)`` and every link of it has a number in closed form.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["AUTO", "SCALE_OUT", "SCALE_UP", "Shape", "route", "spread"]

SCALE_OUT, SCALE_UP, AUTO = 0, 1, 2

# what a flow crosses
NOTHING, WITHIN_DOMAIN, UNDER_ONE_TOR, WITHIN_POD, BETWEEN_PODS, UNREACHABLE = 0, 1, 2, 3, 4, 5


# Called from kernels only: no Python wrappers to compile.
_helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Shape(NamedTuple):
    """The integers that determine a Clos fabric, and the first link of each kind."""

    endpoints: int
    accelerators: int  # per host
    nics: int  # per host
    hosts_per_domain: int  # hosts on one scale-up switch
    scale_up: int  # 1 when there is a scale-up network
    hosts_per_tor: int  # hosts of a ToR, or of a segment of rail leaves
    rail: int  # 1: NIC n of a host hangs on leaf n of its segment
    tors: int
    tors_per_pod: int
    aggs: int  # per pod
    cores: int  # per agg position
    out0: int
    in0: int
    nic_up0: int
    nic_down0: int
    tor_up0: int
    tor_down0: int
    agg_up0: int
    agg_down0: int
    # bundles: links before tor_up0 are bundles of one under their own number
    tor_up_bundle0: int
    tor_down_bundle0: int
    agg_up_bundle0: int
    agg_down_bundle0: int


@njit(cache=True)
def locate(shape, endpoint):  # type: ignore[no-untyped-def]
    """NIC, ToR and pod of an endpoint."""
    host = endpoint // shape.accelerators
    position = (endpoint - host * shape.accelerators) * shape.nics // shape.accelerators
    tor = host // shape.hosts_per_tor
    if shape.rail == 1:
        tor = tor * shape.nics + position
    return host * shape.nics + position, tor, tor // shape.tors_per_pod


@_helper
def crossing(shape, src, dst, network):  # type: ignore[no-untyped-def]
    """What the flow crosses, with NIC, ToR and pod of both ends."""
    up, tor, pod = locate(shape, src)
    down, to_tor, to_pod = locate(shape, dst)
    reach = UNDER_ONE_TOR
    if src == dst:
        reach = NOTHING
    elif network != SCALE_OUT and shape.scale_up == 1:
        domain = shape.accelerators * shape.hosts_per_domain
        if src // domain == dst // domain:
            reach = WITHIN_DOMAIN
        elif network == SCALE_UP:
            reach = UNREACHABLE
    elif network == SCALE_UP:
        reach = UNREACHABLE
    if reach == UNDER_ONE_TOR and tor != to_tor:
        reach = WITHIN_POD if pod == to_pod else BETWEEN_PODS
    return reach, up, tor, pod, down, to_tor, to_pod


@_helper
def _pick_pod(shape, tor, to_tor, choice, alive, whole):  # type: ignore[no-untyped-def]
    """The live agg number ``choice % live``, or -1."""
    up = shape.tor_up0 + tor * shape.aggs
    down = shape.tor_down0 + to_tor * shape.aggs
    if whole[shape.tor_up_bundle0 + tor] and whole[shape.tor_down_bundle0 + to_tor]:
        return np.int64(choice % np.uint64(shape.aggs))
    live = 0
    for a in range(shape.aggs):
        if alive[up + a] and alive[down + a]:
            live += 1
    if live == 0:
        return np.int64(-1)
    left = np.int64(choice % np.uint64(live))
    for a in range(shape.aggs):
        if alive[up + a] and alive[down + a]:
            if left == 0:
                return np.int64(a)
            left -= 1
    return np.int64(-1)


@_helper
def _core_alive(shape, tor, pod, to_tor, to_pod, k, alive):  # type: ignore[no-untyped-def]
    """Whether path ``k = a * cores + c`` between two pods is alive."""
    a = k // shape.cores
    plane = shape.aggs * shape.cores
    return (
        alive[shape.tor_up0 + tor * shape.aggs + a]
        and alive[shape.agg_up0 + pod * plane + k]
        and alive[shape.agg_down0 + to_pod * plane + k]
        and alive[shape.tor_down0 + to_tor * shape.aggs + a]
    )


@_helper
def _pick_core(shape, tor, pod, to_tor, to_pod, choice, alive, whole):  # type: ignore[no-untyped-def]
    """The live path number ``choice % live`` between two pods, or -1."""
    paths = shape.aggs * shape.cores
    if (
        whole[shape.tor_up_bundle0 + tor]
        and whole[shape.tor_down_bundle0 + to_tor]
        and whole[shape.agg_up_bundle0 + pod]
        and whole[shape.agg_down_bundle0 + to_pod]
    ):
        return np.int64(choice % np.uint64(paths))
    live = 0
    for k in range(paths):
        if _core_alive(shape, tor, pod, to_tor, to_pod, k, alive):
            live += 1
    if live == 0:
        return np.int64(-1)
    left = np.int64(choice % np.uint64(live))
    for k in range(paths):
        if _core_alive(shape, tor, pod, to_tor, to_pod, k, alive):
            if left == 0:
                return np.int64(k)
            left -= 1
    return np.int64(-1)


@njit(cache=True)
def route(shape, src, dst, choice, network, alive, whole, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` (int32[F, K], holding -1) with one live path each; the first flow without one, or -1."""
    plane = shape.aggs * shape.cores
    for f in range(src.size):
        s, d = np.int64(src[f]), np.int64(dst[f])
        reach, up, tor, pod, down, to_tor, to_pod = crossing(shape, s, d, network)
        if reach == NOTHING:
            continue
        if reach == UNREACHABLE:
            return f
        if reach == WITHIN_DOMAIN:
            out[f, 0] = shape.out0 + s
            out[f, 1] = shape.in0 + d
            if not (alive[out[f, 0]] and alive[out[f, 1]]):
                return f
            continue
        out[f, 0] = shape.nic_up0 + up
        last = 1
        if not (alive[shape.nic_up0 + up] and alive[shape.nic_down0 + down]):
            return f
        if reach == WITHIN_POD:
            a = _pick_pod(shape, tor, to_tor, choice[f], alive, whole)
            if a < 0:
                return f
            out[f, 1] = shape.tor_up0 + tor * shape.aggs + a
            out[f, 2] = shape.tor_down0 + to_tor * shape.aggs + a
            last = 3
        elif reach == BETWEEN_PODS:
            k = _pick_core(shape, tor, pod, to_tor, to_pod, choice[f], alive, whole)
            if k < 0:
                return f
            a = k // shape.cores
            out[f, 1] = shape.tor_up0 + tor * shape.aggs + a
            out[f, 2] = shape.agg_up0 + pod * plane + k
            out[f, 3] = shape.agg_down0 + to_pod * plane + k
            out[f, 4] = shape.tor_down0 + to_tor * shape.aggs + a
            last = 5
        out[f, last] = shape.nic_down0 + down
    return -1


@_helper
def _shares(shape, reach, tor, pod, to_tor, to_pod, weight, by_agg, by_path):  # type: ignore[no-untyped-def]
    """Weight of every agg and every path (the least weight of its links); their sum."""
    total = 0.0
    plane = shape.aggs * shape.cores
    for a in range(shape.aggs):
        edge = min(
            weight[shape.tor_up0 + tor * shape.aggs + a],
            weight[shape.tor_down0 + to_tor * shape.aggs + a],
        )
        if reach == WITHIN_POD:
            by_agg[a] = edge
        else:
            by_agg[a] = 0.0
            for c in range(shape.cores):
                k = a * shape.cores + c
                up, down = shape.agg_up0 + pod * plane + k, shape.agg_down0 + to_pod * plane + k
                by_path[k] = min(edge, min(weight[up], weight[down]))
                by_agg[a] += by_path[k]
        total += by_agg[a]
    return total


@_helper
def _uneven(values):  # type: ignore[no-untyped-def]
    return np.any(values != values[0])


@_helper
def _mark(shape, src, dst, network, weight, irregular, split, by_agg, by_path):  # type: ignore[no-untyped-def]
    """Add to ``split`` the bundles that some flow uses unevenly; the first flow without a live path, or -1.

    Only a flow that crosses an irregular bundle (dead or unequal links) can use any bundle unevenly.
    """
    for f in range(src.size):
        s, d = np.int64(src[f]), np.int64(dst[f])
        reach, up, tor, pod, down, to_tor, to_pod = crossing(shape, s, d, network)
        if reach == NOTHING:
            continue
        if reach == UNREACHABLE:
            return f
        if reach == WITHIN_DOMAIN:
            if weight[shape.out0 + s] == 0.0 or weight[shape.in0 + d] == 0.0:
                return f
            continue
        if weight[shape.nic_up0 + up] == 0.0 or weight[shape.nic_down0 + down] == 0.0:
            return f
        if reach == UNDER_ONE_TOR:
            continue
        bundle_up = shape.tor_up_bundle0 + tor
        bundle_down = shape.tor_down_bundle0 + to_tor
        odd = irregular[bundle_up] or irregular[bundle_down]
        if reach == BETWEEN_PODS:
            odd = odd or irregular[shape.agg_up_bundle0 + pod] or irregular[shape.agg_down_bundle0 + to_pod]
        if not odd:
            continue
        if _shares(shape, reach, tor, pod, to_tor, to_pod, weight, by_agg, by_path) == 0.0:
            return f
        if _uneven(by_agg):
            split[bundle_up] = True
            split[bundle_down] = True
        if reach == BETWEEN_PODS and _uneven(by_path):
            split[shape.agg_up_bundle0 + pod] = True
            split[shape.agg_down_bundle0 + to_pod] = True
    return -1


@_helper
def _emit(row, fraction, at, write, bundle, is_split, first_link, bundles, shares, total):  # type: ignore[no-untyped-def]
    """Write (or only count) the rows of one bundle; the next free entry."""
    if not is_split:
        if write:
            row[at] = bundle
            fraction[at] = 1.0
        return at + 1
    for i in range(shares.size):
        if shares[i] > 0.0:
            if write:
                row[at] = bundles + first_link + i
                fraction[at] = shares[i] / total
            at += 1
    return at


@_helper
def _walk(shape, src, dst, network, weight, split, ptr, row, fraction, write, by_agg, by_path):  # type: ignore[no-untyped-def]
    """Write (or only count into ``ptr``) the entries of every flow in path order."""
    plane = shape.aggs * shape.cores
    bundles = split.size
    at = 0
    for f in range(src.size):
        s, d = np.int64(src[f]), np.int64(dst[f])
        reach, up, tor, pod, down, to_tor, to_pod = crossing(shape, s, d, network)
        if reach != NOTHING:
            # a link below the ToRs is a bundle of one under its own number
            if write:
                row[at] = shape.out0 + s if reach == WITHIN_DOMAIN else shape.nic_up0 + up
                fraction[at] = 1.0
            at += 1
            if reach in (WITHIN_POD, BETWEEN_PODS):
                b1, b4 = shape.tor_up_bundle0 + tor, shape.tor_down_bundle0 + to_tor
                b2, b3 = shape.agg_up_bundle0 + pod, shape.agg_down_bundle0 + to_pod
                cores = reach == BETWEEN_PODS
                total = 1.0
                if split[b1] or split[b4] or (cores and (split[b2] or split[b3])):
                    total = _shares(shape, reach, tor, pod, to_tor, to_pod, weight, by_agg, by_path)
                l1, l4 = shape.tor_up0 + tor * shape.aggs, shape.tor_down0 + to_tor * shape.aggs
                at = _emit(row, fraction, at, write, b1, split[b1], l1, bundles, by_agg, total)
                if cores:
                    l2, l3 = shape.agg_up0 + pod * plane, shape.agg_down0 + to_pod * plane
                    at = _emit(row, fraction, at, write, b2, split[b2], l2, bundles, by_path, total)
                    at = _emit(row, fraction, at, write, b3, split[b3], l3, bundles, by_path, total)
                at = _emit(row, fraction, at, write, b4, split[b4], l4, bundles, by_agg, total)
            if write:
                row[at] = shape.in0 + d if reach == WITHIN_DOMAIN else shape.nic_down0 + down
                fraction[at] = 1.0
            at += 1
        ptr[f + 1] = at


@njit(cache=True)
def spread(shape, src, dst, network, weight, irregular, split):  # type: ignore[no-untyped-def]
    """CSR ``(failed, ptr, row, fraction)`` of ideal spraying; ``split`` grows in place."""
    by_agg = np.zeros(shape.aggs)
    by_path = np.zeros(shape.aggs * shape.cores)
    ptr = np.zeros(src.size + 1, np.int64)
    row = np.empty(0, np.int32)
    fraction = np.empty(0, np.float64)
    failed = _mark(shape, src, dst, network, weight, irregular, split, by_agg, by_path)
    if failed >= 0:
        return failed, ptr, row, fraction
    room = 6 * src.size  # a path without split bundles has at most 6 rows; others are counted
    if split.any():
        _walk(shape, src, dst, network, weight, split, ptr, row, fraction, False, by_agg, by_path)
        room = ptr[-1]
    row = np.empty(room, np.int32)
    fraction = np.empty(room, np.float64)
    _walk(shape, src, dst, network, weight, split, ptr, row, fraction, True, by_agg, by_path)
    return failed, ptr, row[: ptr[-1]], fraction[: ptr[-1]]
