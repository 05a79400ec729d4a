"""One link by itself: flows that arrive over time share it evenly, none faster than its source sends."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["share_link"]


@njit(cache=True, no_cfunc_wrapper=True)
def share_link(start, size, limit, capacity):  # type: ignore[no-untyped-def]
    """Ends of flows on one link under max-min sharing (processor sharing with rate limits).

    Parameters
    ----------
    start : float64[n]
        Seconds, not falling.
    size : float64[n]
        Bytes.
    limit : float64[n]
        Bytes/s that each flow can reach.
    capacity : float
        Bytes/s.

    Returns
    -------
    float64[n]
    """
    n = start.size
    end = np.empty(n, np.float64)
    active = np.empty(n, np.int64)
    left = np.empty(n, np.float64)
    rate = np.empty(n, np.float64)
    many = 0
    arrived = 0
    now = 0.0
    while arrived < n or many > 0:
        # rates: those whose limit is below the even share get their limit, the others share what is left
        free = capacity
        open_ = many
        for i in range(many):
            rate[i] = -1.0
        changed = True
        while changed and open_ > 0:
            changed = False
            share = free / open_
            for i in range(many):
                if rate[i] < 0.0 and limit[active[i]] <= share:
                    rate[i] = limit[active[i]]
                    free -= rate[i]
                    open_ -= 1
                    changed = True
        share = free / open_ if open_ > 0 else 0.0
        soonest = np.inf
        for i in range(many):
            if rate[i] < 0.0:
                rate[i] = share
            soonest = min(soonest, left[i] / rate[i])
        until = now + soonest
        if arrived < n and start[arrived] <= until:
            step = start[arrived] - now
            for i in range(many):
                left[i] = max(0.0, left[i] - rate[i] * step)
            now = start[arrived]
            active[many] = arrived
            left[many] = size[arrived]
            many += 1
            arrived += 1
            continue
        i = 0
        while i < many:
            left[i] -= rate[i] * soonest
            if left[i] <= 1e-9 * size[active[i]]:
                end[active[i]] = until
                many -= 1
                active[i] = active[many]
                left[i] = left[many]
                rate[i] = rate[many]
            else:
                i += 1
        now = until
    return end
