"""Ideal completion: how long a flow takes alone on an idle network, on the path model of the engines."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric, Network
from euston.network.flows import Flows

__all__ = ["ideal_completion", "wire_bytes"]

Model = Literal["fluid", "packet"]


def wire_bytes(bytes_: NDArray[np.int64], mtu: int, header: int) -> NDArray[np.float64]:
    """Bytes on the wire of flows: payload and one header per packet, float64[F].

    Parameters
    ----------
    bytes_ : int64[F]
        Payload.
    mtu, header : int
        Wire bytes of a full packet and of its header.
    """
    payload = mtu - header
    if payload <= 0 or header < 0:
        raise ConfigError(
            f"`mtu`: a packet of {mtu} bytes cannot hold a header of {header} bytes and payload"
        )
    size = np.asarray(bytes_, np.float64)
    return np.asarray(size + np.ceil(size / payload) * header, np.float64)


def ideal_completion(
    flows: Flows,
    fabric: Fabric,
    mtu: int = 4096,
    header: int = 0,
    *,
    model: Model = "fluid",
    acknowledged: bool = False,
    overhead: float = 0.0,
    sprayed: bool = False,
    choices: int = 4,
    network: Network = "auto",
) -> NDArray[np.float64]:
    """Seconds that each flow needs alone, float64[F]: the least over the paths that are looked at.

    Fluid: latency of the path, one packet stored and forwarded on every link after the first, and the bytes
    at the rate of the narrowest link. Packet: the last byte of the last packet at the destination, exactly,
    for packets sent back to back.

    Parameters
    ----------
    mtu, header : int
        Wire bytes of a full packet and of its header; the defaults are payload only.
    model : "fluid" | "packet"
        The formula of the engine.
    acknowledged : bool
        Until the sender has a header-sized answer to the last byte.
    overhead : float
        Seconds of a host per flow.
    sprayed : bool
        A flow may use all its paths at once: faster where links between switches are narrower than NICs, and
        a short last packet may overtake.
    choices : int
        Paths per pair that are looked at; of a regular fabric all are equal.

    Returns
    -------
    float64[F]

    Raises
    ------
    ConfigError
        For endpoints the fabric lacks, packets without room for payload.
    """
    flows.check(fabric)
    size = wire_bytes(flows.bytes, mtu, header)
    payload = mtu - header
    packets = np.ceil(flows.bytes / payload)
    last = flows.bytes - (packets - 1) * payload + header  # wire bytes of the last packet
    pair = flows.src.astype(np.int64) * fabric.endpoints + flows.dst
    key, at = np.unique(pair, return_inverse=True)
    src, dst = np.divmod(key, fabric.endpoints)
    wide = _spray_rate(fabric, src, dst, network)[at] if sprayed else None
    best = np.full(len(flows), np.inf)
    for choice in range(max(1, choices)):
        paths = fabric.route(src, dst, np.full(src.size, choice, np.uint64), network=network)
        used = paths >= 0
        rate = np.where(used, fabric.capacity[paths], np.inf)
        time = fabric.path_latency(paths)[at]
        if model == "packet":
            full = np.full(len(flows), float(mtu))
            send = _packets(rate[at], full, last, packets)
            if wide is not None:
                send = np.minimum(send, np.maximum(_overtaking(rate[at], full, last, packets), size / wide))
        else:
            first = np.minimum(float(mtu), size)
            send = size / np.minimum(rate.min(axis=1)[at], flows.rate_cap)
            send += first * (1.0 / rate[:, 1:]).sum(axis=1)[at]
            if wide is not None:
                narrow = rate.min(axis=1)[at]
                send -= np.maximum(0.0, size / narrow - size / np.maximum(narrow, wide))
        send = np.maximum(send, size / flows.rate_cap)
        if acknowledged:
            back = np.where(used, paths, 0)
            time = time + np.where(used, fabric.latency[fabric.reverse[back]], 0.0).sum(axis=1)[at]
            time = time + np.where(used, header / fabric.capacity[fabric.reverse[back]], 0.0).sum(axis=1)[at]
        best = np.minimum(best, time + send)
    return best + overhead


def _packets(
    rate: NDArray[np.float64], full: NDArray[np.float64], last: NDArray[np.float64], n: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Seconds from the first byte sent to the last received: n-1 full packets and a last one, float64[F].

    The last packet meets the queue of the others at link k, for some k: the longest way through the grid of
    packets and links (last-passage time of a tandem of queues; Glynn & Whitt 1991).

    Parameters
    ----------
    rate : float64[F, K]
        Bytes/s along the path, inf beyond its end.
    """
    each = 1.0 / rate
    until = np.cumsum(each, axis=1)
    slowest = np.maximum.accumulate(each, axis=1)
    onwards = until[:, -1:] - until + each
    via = full[:, None] * (until + (n[:, None] - 2) * slowest) + last[:, None] * onwards
    return np.where(n >= 2, np.where(each > 0, via, 0.0).max(axis=1), last * until[:, -1])


def _overtaking(
    rate: NDArray[np.float64], full: NDArray[np.float64], last: NDArray[np.float64], n: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The same when packets take different paths and meet on the first and the last link only, float64[F]."""
    each = 1.0 / rate
    size = (n - 1) * full + last
    first, rest = each[:, 0], each[:, 1:].sum(axis=1)
    final = np.take_along_axis(each, (each > 0).sum(axis=1, keepdims=True) - 1, axis=1)[:, 0]
    # the last full packet, the short one behind it, and all of them one by one into the destination
    full_one = np.where(n >= 2, (n - 1) * full * first + full * rest, 0.0)
    short_one = size * first + last * rest
    soonest = np.minimum(full * (first + rest - final), size * first + last * (rest - final))
    return np.maximum(np.maximum(full_one, short_one), np.where(n >= 2, soonest + size * final, short_one))


def _spray_rate(
    fabric: Fabric, src: NDArray[np.int64], dst: NDArray[np.int64], network: Network
) -> NDArray[np.float64]:
    """Bytes/s of each pair alone when it spreads over all its paths."""
    spread = fabric.spread(src, dst, network=network)
    capacity = fabric.row_capacity(split=spread.split)
    rate = np.full(src.size, np.inf)
    pair = np.repeat(np.arange(src.size), np.diff(spread.ptr))
    np.minimum.at(rate, pair, capacity[spread.row] / spread.fraction)
    return rate
