"""Numba kernels of the Clos family: one path, or all live shortest paths, from a few integers.

A flow between ToRs climbs to agg ``a`` of its pod and, between pods, on to core ``c`` above it; the way down
is then unique. So a path is the pair ``(a, c)`` and every link of it has a number in closed form. A fabric in
planes has one NIC port, ToR and set of aggs per plane: ``a`` counts the aggs of all planes, those of plane 0
first, and so says the plane too. Under one ToR a path is a plane, as it is within a scale-up domain.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["AUTO", "RAIL", "RAIL_PODS", "SCALE_OUT", "SCALE_UP", "Shape", "route", "spread"]

SCALE_OUT, SCALE_UP, AUTO = 0, 1, 2

# values of Shape.rail
RAIL, RAIL_PODS = 1, 2

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
    scale_up: int  # planes of the scale-up network, 0 where there is none
    hosts_per_tor: int  # hosts of a ToR, or of a segment of rail leaves
    rail: int  # RAIL: NIC n of a host on leaf n of its segment. RAIL_PODS: on its segment's leaf of pod n
    planes: int  # ports of a NIC, each on a ToR of its own
    tors: int  # of one plane
    tors_per_pod: int
    aggs: int  # per pod, of all planes
    cores: int  # per agg position
    out0: int
    in0: int
    nic_up0: int
    nic_down0: int
    tor_up0: int
    tor_down0: int
    agg_up0: int
    agg_down0: int
    # the bundles of scale-up out begin at 0
    in_bundle0: int
    nic_up_bundle0: int
    nic_down_bundle0: int
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
    if shape.rail == RAIL:
        tor = tor * shape.nics + position
    elif shape.rail == RAIL_PODS:
        tor += (host % shape.hosts_per_domain * shape.nics + position) * shape.tors_per_pod
    return host * shape.nics + position, tor, tor // shape.tors_per_pod


class Ends(NamedTuple):
    """Where a flow starts and ends; ``up`` and ``down`` are NICs, or endpoints within a scale-up domain."""

    reach: int
    up: int
    tor: int
    pod: int
    down: int
    to_tor: int
    to_pod: int


@_helper
def crossing(shape, src, dst, network):  # type: ignore[no-untyped-def]
    """What the flow crosses, with NIC, ToR and pod of both ends."""
    up, tor, pod = locate(shape, src)
    down, to_tor, to_pod = locate(shape, dst)
    reach = UNDER_ONE_TOR
    if src == dst:
        reach = NOTHING
    elif network != SCALE_OUT and shape.scale_up > 0:
        domain = shape.accelerators * shape.hosts_per_domain
        if src // domain == dst // domain:
            reach = WITHIN_DOMAIN
            up, down = src, dst
        elif network == SCALE_UP:
            reach = UNREACHABLE
    elif network == SCALE_UP:
        reach = UNREACHABLE
    if reach == UNDER_ONE_TOR and tor != to_tor:
        reach = WITHIN_POD if pod == to_pod else BETWEEN_PODS
        if (reach == WITHIN_POD and shape.aggs == 0) or (reach == BETWEEN_PODS and shape.cores == 0):
            reach = UNREACHABLE
    return Ends(reach, up, tor, pod, down, to_tor, to_pod)


@_helper
def _paths(shape, ends):  # type: ignore[no-untyped-def]
    """Number of paths when all is well."""
    if ends.reach == WITHIN_DOMAIN:
        return shape.scale_up
    if ends.reach == UNDER_ONE_TOR:
        return shape.planes
    return shape.aggs if ends.reach == WITHIN_POD else shape.aggs * shape.cores


@_helper
def _port(shape, ends, plane):  # type: ignore[no-untyped-def]
    """First and last link of a path in a plane."""
    if ends.reach == WITHIN_DOMAIN:
        n = shape.scale_up
        return shape.out0 + ends.up * n + plane, shape.in0 + ends.down * n + plane
    n = shape.planes
    return shape.nic_up0 + ends.up * n + plane, shape.nic_down0 + ends.down * n + plane


@_helper
def _port_bundles(shape, ends):  # type: ignore[no-untyped-def]
    """The bundles of all first and of all last links."""
    if ends.reach == WITHIN_DOMAIN:
        return ends.up, shape.in_bundle0 + ends.down
    return shape.nic_up_bundle0 + ends.up, shape.nic_down_bundle0 + ends.down


@_helper
def _whole(shape, ends, whole):  # type: ignore[no-untyped-def]
    """Whether all paths are alive."""
    first, last = _port_bundles(shape, ends)
    if not (whole[first] and whole[last]):
        return False
    if ends.reach >= WITHIN_POD and not (
        whole[shape.tor_up_bundle0 + ends.tor] and whole[shape.tor_down_bundle0 + ends.to_tor]
    ):
        return False
    return ends.reach != BETWEEN_PODS or (
        whole[shape.agg_up_bundle0 + ends.pod] and whole[shape.agg_down_bundle0 + ends.to_pod]
    )


@_helper
def _links(shape, ends, k, path):  # type: ignore[no-untyped-def]
    """Write the links of path ``k`` of a healthy fabric into ``path``; how many."""
    n = 1
    plane = k
    if ends.reach >= WITHIN_POD:
        a = k // shape.cores if ends.reach == BETWEEN_PODS else k
        plane = a // (shape.aggs // shape.planes)
        path[1] = shape.tor_up0 + ends.tor * shape.aggs + a
        n = 3
        if ends.reach == BETWEEN_PODS:
            path[2] = shape.agg_up0 + ends.pod * shape.aggs * shape.cores + k
            path[3] = shape.agg_down0 + ends.to_pod * shape.aggs * shape.cores + k
            n = 5
        path[n - 1] = shape.tor_down0 + ends.to_tor * shape.aggs + a
    first, last = _port(shape, ends, plane)
    path[0] = first
    path[n] = last
    return n + 1


@_helper
def _pick(shape, ends, choice, alive, whole, path):  # type: ignore[no-untyped-def]
    """Write the live path number ``choice % live`` into ``path``; how many links, 0 for no live path."""
    paths = _paths(shape, ends)
    if _whole(shape, ends, whole):
        return _links(shape, ends, np.int64(choice % np.uint64(paths)), path)
    live, left = 0, np.int64(-1)
    for turn in range(2):
        for k in range(paths):
            n = _links(shape, ends, k, path)
            fine = True
            for i in range(n):
                fine = fine and alive[path[i]]
            if fine and turn == 0:
                live += 1
            elif fine:
                if left == 0:
                    return n
                left -= 1
        if live == 0:
            return 0
        left = np.int64(choice % np.uint64(live))
    return 0


@njit(cache=True)
def route(shape, src, dst, choice, network, alive, whole, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` (int32[F, K], holding -1) with one live path each; the first flow without one, or -1."""
    path = np.empty(6, np.int64)
    for f in range(src.size):
        ends = crossing(shape, np.int64(src[f]), np.int64(dst[f]), network)
        if ends.reach == NOTHING:
            continue
        if ends.reach == UNREACHABLE:
            return f
        n = _pick(shape, ends, choice[f], alive, whole, path)
        if n == 0:
            return f
        for i in range(n):
            out[f, i] = path[i]
    return -1


@_helper
def _note(step, i, bundle, link, begin, end):  # type: ignore[no-untyped-def]
    step[i, 0] = bundle
    step[i, 1] = link
    step[i, 2] = begin
    step[i, 3] = end


@_helper
def _bundles(shape, ends, step):  # type: ignore[no-untyped-def]
    """Write the bundles on the way into ``step`` (int64[6, 4]); how many.

    A row is bundle, first link, and where in the array of `_shares` those of its links begin and end.
    """
    planes = shape.scale_up if ends.reach == WITHIN_DOMAIN else shape.planes
    agg0 = max(shape.planes, shape.scale_up)
    path0 = agg0 + shape.aggs
    plane = shape.aggs * shape.cores
    n = 1
    if ends.reach >= WITHIN_POD:
        n = 5 if ends.reach == BETWEEN_PODS else 3
        tor, to_tor = ends.tor, ends.to_tor
        _note(step, 1, shape.tor_up_bundle0 + tor, shape.tor_up0 + tor * shape.aggs, agg0, path0)
        _note(
            step, n - 1, shape.tor_down_bundle0 + to_tor, shape.tor_down0 + to_tor * shape.aggs, agg0, path0
        )
    if n == 5:
        pod, to_pod = ends.pod, ends.to_pod
        end = path0 + plane
        _note(step, 2, shape.agg_up_bundle0 + pod, shape.agg_up0 + pod * plane, path0, end)
        _note(step, 3, shape.agg_down_bundle0 + to_pod, shape.agg_down0 + to_pod * plane, path0, end)
    first, last = _port_bundles(shape, ends)
    up, down = _port(shape, ends, 0)
    _note(step, 0, first, up, 0, planes)
    _note(step, n, last, down, 0, planes)
    return n + 1


@_helper
def _shares(shape, ends, weight, shares):  # type: ignore[no-untyped-def]
    """Weigh every plane, then every agg, then every path; the sum.

    A path weighs as much as the narrowest of its links between ToRs, a plane with slower ports
    proportionally less.
    """
    planes = shape.scale_up if ends.reach == WITHIN_DOMAIN else shape.planes
    agg0 = max(shape.planes, shape.scale_up)
    by_agg, by_path = shares[agg0 : agg0 + shape.aggs], shares[agg0 + shape.aggs :]
    total, best = 0.0, 0.0
    for p in range(planes):
        first, last = _port(shape, ends, p)
        shares[p] = min(weight[first], weight[last])
        total += shares[p]
        best = max(best, shares[p])
    if ends.reach < WITHIN_POD or total == 0.0:
        return total
    total = 0.0
    each = shape.aggs // shape.planes
    plane = shape.aggs * shape.cores
    for p in range(planes):
        port = shares[p] / best
        shares[p] = 0.0
        for a in range(p * each, (p + 1) * each):
            edge = min(
                weight[shape.tor_up0 + ends.tor * shape.aggs + a],
                weight[shape.tor_down0 + ends.to_tor * shape.aggs + a],
            )
            if ends.reach == WITHIN_POD:
                by_agg[a] = edge * port
            else:
                by_agg[a] = 0.0
                for k in range(a * shape.cores, (a + 1) * shape.cores):
                    up, down = shape.agg_up0 + ends.pod * plane + k, shape.agg_down0 + ends.to_pod * plane + k
                    by_path[k] = min(edge, min(weight[up], weight[down])) * port
                    by_agg[a] += by_path[k]
            shares[p] += by_agg[a]
        total += shares[p]
    return total


@_helper
def _mark(shape, src, dst, network, weight, irregular, split, shares, step):  # type: ignore[no-untyped-def]
    """Add to ``split`` the bundles that some flow uses unevenly; the first flow without a live path, or -1.

    Only a flow that crosses an irregular bundle (dead or unequal links) can use any bundle unevenly.
    """
    for f in range(src.size):
        ends = crossing(shape, np.int64(src[f]), np.int64(dst[f]), network)
        if ends.reach == NOTHING:
            continue
        if ends.reach == UNREACHABLE:
            return f
        n = _bundles(shape, ends, step)
        odd = False
        for i in range(n):
            odd = odd or irregular[step[i, 0]]
        if not odd:
            continue
        if _shares(shape, ends, weight, shares) == 0.0:
            return f
        for i in range(n):
            for k in range(step[i, 2], step[i, 3]):
                if shares[k] != shares[step[i, 2]]:
                    split[step[i, 0]] = True
    return -1


@_helper
def _walk(shape, src, dst, network, weight, split, ptr, row, fraction, write, shares, step):  # type: ignore[no-untyped-def]
    """Write (or only count into ``ptr``) the entries of every flow in path order."""
    at = 0
    for f in range(src.size):
        ends = crossing(shape, np.int64(src[f]), np.int64(dst[f]), network)
        n, divided = 0, False
        if ends.reach != NOTHING:
            n = _bundles(shape, ends, step)
        for i in range(n):
            divided = divided or split[step[i, 0]]
        total = _shares(shape, ends, weight, shares) if divided else 1.0
        for i in range(n):
            bundle = step[i, 0]
            if not split[bundle]:
                if write:
                    row[at] = bundle
                    fraction[at] = 1.0
                at += 1
                continue
            link = split.size + step[i, 1]
            values = shares[step[i, 2] : step[i, 3]]
            for k in range(values.size):
                if values[k] > 0.0:
                    if write:
                        row[at] = link + k
                        fraction[at] = values[k] / total
                    at += 1
        ptr[f + 1] = at


@njit(cache=True)
def spread(shape, src, dst, network, weight, irregular, split):  # type: ignore[no-untyped-def]
    """CSR ``(failed, ptr, row, fraction)`` of ideal spraying; ``split`` grows in place."""
    shares = np.zeros(max(shape.planes, shape.scale_up) + shape.aggs * (1 + shape.cores))
    step = np.zeros((6, 4), np.int64)
    ptr = np.zeros(src.size + 1, np.int64)
    row = np.empty(0, np.int32)
    fraction = np.empty(0, np.float64)
    failed = _mark(shape, src, dst, network, weight, irregular, split, shares, step)
    if failed >= 0:
        return failed, ptr, row, fraction
    room = 6 * src.size  # a path without split bundles has at most 6 rows; others are counted
    if split.any():
        _walk(shape, src, dst, network, weight, split, ptr, row, fraction, False, shares, step)
        room = ptr[-1]
    row = np.empty(room, np.int32)
    fraction = np.empty(room, np.float64)
    _walk(shape, src, dst, network, weight, split, ptr, row, fraction, True, shares, step)
    return failed, ptr, row[: ptr[-1]], fraction[: ptr[-1]]
