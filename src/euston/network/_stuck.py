"""The sentence about flows that never end: how many, which, and why each kind of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.fabrics import Fabric
from euston.network.flows import Flows

__all__ = ["never_end"]

NAMED = 64
"""Flows that are named one by one; of more, the first ones."""


def never_end(
    flows: Flows, fabric: Fabric, ended: NDArray[np.bool_], started: NDArray[np.bool_], why: str
) -> str:
    """Which flows never end: those that run, ``why`` they do not, and those that wait for them.

    Parameters
    ----------
    ended, started : bool[F]
    """
    running, waiting = np.flatnonzero(~ended & started), np.flatnonzero(~ended & ~started)
    said = f"{running.size + waiting.size:,} of {len(flows):,} flows never end: "
    parts = []
    if running.size:
        parts.append(f"{running.size:,} started ({why}): {_named(flows, fabric, running)}")
    if waiting.size:
        parts.append(f"{waiting.size:,} wait for others: {_named(flows, fabric, waiting)}")
    return said + "; ".join(parts)


def _named(flows: Flows, fabric: Fabric, which: NDArray[np.int64]) -> str:
    shown = ", ".join(
        f"flow {f} ({fabric.endpoint_name(int(flows.src[f]))} -> {fabric.endpoint_name(int(flows.dst[f]))})"
        for f in which[:NAMED].tolist()
    )
    return f"{shown} and {which.size - NAMED:,} more" if which.size > NAMED else shown
