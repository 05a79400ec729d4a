"""Learning rate by position in the run: warm-up, then cosine, warm-up-stable-decay or constant.

The position is the aggregator's count of serial steps, never a site's own: a site that joins late starts
where the federation is.
"""

from __future__ import annotations

import math

from euston.federated.config import LocalConfig

__all__ = ["learning_rate"]


def learning_rate(local: LocalConfig, position: int, total: int) -> float:
    """Learning rate of the step at `position` (counted from 0) of a schedule of `total` steps.

    Examples
    --------
    >>> local = LocalConfig(lr=1.0, warmup=4, floor=0.1)
    >>> [round(learning_rate(local, t, 12), 3) for t in (0, 3, 4, 8, 12)]
    [0.25, 1.0, 1.0, 0.55, 0.1]
    """
    if position < local.warmup:
        return local.lr * (position + 1) / local.warmup
    if local.schedule == "constant":
        return local.lr
    if local.schedule == "cosine":
        done = min(1.0, (position - local.warmup) / max(1, total - local.warmup))
        return local.lr * (local.floor + (1.0 - local.floor) * 0.5 * (1.0 + math.cos(math.pi * done)))
    start = max(local.warmup, round(total * (1.0 - local.decay)))
    done = min(1.0, max(0.0, (position - start) / max(1, total - start)))
    return local.lr * (1.0 - (1.0 - local.floor) * done)
