"""Slow and failed links over time: what every engine is told, and the moments at which something changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric

__all__ = ["LinkFault", "capacity_at", "change_times", "changing_bundles"]


@dataclass(frozen=True)
class LinkFault:
    """Link number ``link`` keeps ``factor`` of its capacity from ``at`` to ``until`` seconds; 0 is dead."""

    link: int
    factor: float
    at: float = 0.0
    until: float = np.inf


def change_times(faults: Sequence[LinkFault]) -> list[float]:
    """Seconds at which links change, in order, 0 first."""
    ends = [t for f in faults for t in (f.at, f.until) if 0 < t < np.inf]
    return [0.0, *sorted(set(ends))]


def capacity_at(fabric: Fabric, faults: Sequence[LinkFault], time: float) -> NDArray[np.float64]:
    """Bytes/s of every link at ``time``, float64[L]; of several faults of a link the worst counts."""
    share = np.ones(fabric.links)
    for fault in faults:
        if fault.at <= time < fault.until:
            share[fault.link] = min(share[fault.link], fault.factor)
    return np.asarray(fabric.capacity * share, np.float64)


def changing_bundles(fabric: Fabric, faults: Sequence[LinkFault]) -> NDArray[np.bool_]:
    """Bundles of which single links change after the start, bool[bundles]: flows must name links there."""
    out = np.zeros(fabric.bundles, bool)
    size = np.diff(fabric.bundle_start)
    for fault in faults:
        if fault.at > 0 or fault.until < np.inf:
            bundle = fabric.bundle[fault.link]
            out[bundle] = size[bundle] > 1
    return out
