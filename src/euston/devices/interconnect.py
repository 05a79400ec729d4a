"""Collectives inside one scale-up domain: measured NCCL times, as a latency and a rate on the wire.

Sizes are the full buffer M of the nccl-tests convention. On the wire each rank sends ``(n-1)/n * M``
(all-gather, reduce-scatter, all-to-all) or ``2(n-1)/n * M`` (all-reduce, as a ring would), so that a transfer
of ``wire_bytes`` at ``wire_rate`` after ``latency`` ends at the measured time. A measured all-reduce may
exceed the link rate by a few per cent on Hopper: the switch adds (NVLS), and M rather than 2(n-1)/n * M
crosses the link.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from euston.devices._collective import Curves, machine_of, share
from euston.devices._collective import tables as collective_tables
from euston.devices._model import Table
from euston.devices._tables import constants, nearest_table, tabled
from euston.devices.base import Provenance, least_sure
from euston.errors import ConfigError, unknown

if TYPE_CHECKING:
    from euston.catalog import Accelerator

Implementation = Literal["nccl", "custom-graph", "custom-eager"]

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")

#: Simple-protocol rate over the link's: 222 of 300 GB/s (A100), 335 of 450 GB/s (H100 all-gather) at 512 MiB,
#: 8 ranks.
RING_EFFICIENCY = 0.74
#: NCCL's own estimate of a ring's latency on NVLink, microseconds: base, per step, share of the rate (NCCL
#: tuning.cc).
RING_PROTOCOLS = {"LL": (6.6, 0.6, 0.5), "LL128": (14.0, 1.9, 0.92), "Simple": (8.4, 3.4, 1.0)}


class ScaleUp(NamedTuple):
    """A collective's cost: ``latency`` s, then ``wire_bytes(...) / wire_rate`` s (B/s per rank)."""

    latency: float
    wire_rate: float
    provenance: Provenance


def wire_bytes(collective: str, ranks: int, nbytes: float) -> float:
    """Bytes each rank sends for a collective over a full buffer of ``nbytes``."""
    return nbytes * share(collective, ranks)


@cache
def _curves(device: str, collective: str, implementation: str) -> Curves | None:
    """The packaged curves of one collective, or None."""
    key = device, implementation, collective
    table = _tables_by_key().get(key)
    if table is None:
        return None
    return Curves(machine_of(tabled()[device]), constants()["collectives"]["/".join(key)], table)


@cache
def _tables_by_key() -> dict[tuple[str, str, str], Table]:
    return collective_tables()


def _measured(curves: Curves, device: str, collective: str, ranks: int, nbytes: float) -> ScaleUp:
    """One measured curve split in two: time = latency + wire bytes / wire rate, exactly the measured time.

    The latency is the smallest time of the curve unless what is left would beat the link; beyond the last
    size the last rate is kept, below the first the first time.
    """
    sizes = curves.sizes(ranks)
    nbytes = nbytes if nbytes >= 1.0 else 0.0
    log_m = math.log(max(nbytes, 1.0))
    inside = sizes[0] - 1e-9 <= log_m <= sizes[-1] + 1e-9
    at = min(max(log_m, float(sizes[0])), float(sizes[-1]))
    times = curves.seconds(collective, ranks, np.exp(np.array([*sizes, at])))
    smallest, seconds = float(times[:-1].min()), float(times[-1])
    wire = wire_bytes(collective, ranks, math.exp(at) if log_m > sizes[0] else nbytes)
    # never faster than the link, so that a fabric whose link has the datasheet's rate gives the measured time
    # back; only where the whole time already beats it (NVLS) does the rate exceed the link's, and no latency
    # is left
    limit = max(tabled()[device].scale_up_bandwidth, wire / seconds)
    latency = min(smallest, seconds - wire / limit)
    on_wire = seconds - latency
    rate = min(wire / on_wire, limit) if on_wire > 0 and wire > 0 else limit
    exact = bool(np.isclose(sizes, log_m, atol=1e-9).any())
    provenance: Provenance = ("measured" if exact else "interpolated") if inside else "roofline"
    return ScaleUp(latency, rate, provenance)


def _between(curves: Curves, device: str, collective: str, ranks: int, nbytes: float) -> ScaleUp:
    """A measured curve, or the two around a number of ranks mixed, or the largest one stretched."""
    known = curves.ranks
    if ranks in known:
        return _measured(curves, device, collective, ranks, nbytes)
    low = max((n for n in known if n < ranks), default=known[0])
    high = min((n for n in known if n > ranks), default=None)
    a = _measured(curves, device, collective, low, nbytes)
    if high is None:  # latency grows with the steps of the ring, the rate stays
        return ScaleUp(
            a.latency * (ranks - 1) / (low - 1), a.wire_rate, least_sure((a.provenance, "transferred"))
        )
    b = _measured(curves, device, collective, high, nbytes)
    part = (ranks - low) / (high - low)
    return ScaleUp(
        (1 - part) * a.latency + part * b.latency,
        (1 - part) * a.wire_rate + part * b.wire_rate,
        least_sure((a.provenance, b.provenance, "interpolated")),
    )


def _default(bandwidth: float, collective: str, ranks: int, nbytes: float) -> ScaleUp:
    """NCCL's own ring estimate: the best of its three protocols at .74 of the link."""
    if collective == "send":
        steps = 1
    else:
        steps = 2 * (ranks - 1) if collective == "all_reduce" else ranks - 1
    wire = wire_bytes(collective, ranks, nbytes)
    options = [
        ((base + steps * step) * 1e-6, RING_EFFICIENCY * bandwidth * part)
        for base, step, part in RING_PROTOCOLS.values()
    ]
    latency, rate = min(options, key=lambda option: option[0] + wire / option[1])
    return ScaleUp(latency, rate, "roofline")


def scale_up_collective(
    accelerator: Accelerator,
    collective: str,
    ranks: int,
    nbytes: float,
    implementation: Implementation = "nccl",
) -> ScaleUp:
    """Latency and per-rank wire rate of a collective inside a scale-up domain.

    Parameters
    ----------
    accelerator
        From the catalogue; its ``scale_up_bandwidth`` is B/s per direction.
    collective
        ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``send``.
    ranks
        Accelerators that take part, all in one domain.
    nbytes
        The full buffer M in bytes: an all-gather ends with M on every rank, each having contributed M /
        ranks.
    implementation
        ``nccl``; ``custom-graph`` or ``custom-eager`` for vLLM's one-shot all-reduce with and without CUDA
        graphs (other collectives and devices without its table use NCCL's).

    Returns
    -------
    ScaleUp
        ``latency + wire_bytes(collective, ranks, nbytes) / wire_rate`` is the time. ``measured`` at a table
        point, ``interpolated`` between sizes or ranks, ``transferred`` from a relative (rate scaled by the
        ratio of scale-up bandwidths), ``roofline`` from NCCL's own latency figures or beyond the measured
        sizes.

    Raises
    ------
    ConfigError
        Unknown collective, fewer than one rank, or a negative or non-finite size.
    """
    if collective not in COLLECTIVES:
        raise ConfigError(unknown("collective", collective, COLLECTIVES))
    if ranks < 1:
        raise ConfigError(f"`ranks`: {ranks} accelerators cannot take part in {collective}; at least 1")
    if not (math.isfinite(nbytes) and nbytes >= 0):
        raise ConfigError(f"`nbytes`: {nbytes} is not a size; bytes, zero or more")
    bandwidth = accelerator.scale_up_bandwidth
    if ranks == 1:
        return ScaleUp(0.0, bandwidth, "measured")
    table, how = nearest_table(accelerator)
    curves = None
    if table is not None:
        curves = _curves(table.name, collective, implementation) or _curves(table.name, collective, "nccl")
    if table is None or curves is None:
        return _default(bandwidth, collective, ranks, nbytes)
    found = _between(curves, table.name, collective, ranks, nbytes)
    ratio = bandwidth / table.scale_up_bandwidth
    if abs(ratio - 1) < 1e-3:
        return found if how == "measured" else found._replace(provenance=least_sure((found.provenance, how)))
    return ScaleUp(found.latency, found.wire_rate * ratio, least_sure((found.provenance, "transferred")))
