"""The progressive-filling kernel behind every fluid solve: weighted max-min by local bottlenecks.

In each round a row on which all its flows find their smallest share is a bottleneck of the final
allocation, because shares only rise while other flows freeze; its flows freeze at that share. Independent
parts of the network freeze in the same round.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Shares within this relative slack are equal: it absorbs the dust of the subtractions, nothing else.
SLACK = 1e-12

# What holds a flow's rate when no row does.
OWN_CAP = -1
UNBOUNDED = -2
_UNDECIDED = -3


@njit(cache=True)
def fill(
    flows, column, weight, rate_cap, ptr, row, coefficient, capacity, free, demand, low, rate, bottleneck
):  # type: ignore[no-untyped-def]
    """Rates of ``flows`` (slots), which together must be all the flows on every row they touch.

    Scratch ``free``, ``demand``, ``low``: float64[rows], no initialisation needed. Writes ``rate[slot]``
    (bytes/s) and ``bottleneck[slot]`` (row, ``OWN_CAP`` or ``UNBOUNDED``). Returns the number of rounds.
    """
    live = flows.copy()
    frozen = np.empty_like(flows)
    n = live.size
    for i in range(n):
        c = column[live[i]]
        for e in range(ptr[c], ptr[c + 1]):
            free[row[e]] = capacity[row[e]]
    rounds = 0
    while n > 0:
        rounds += 1
        for i in range(n):
            c = column[live[i]]
            for e in range(ptr[c], ptr[c + 1]):
                demand[row[e]] = 0.0
                low[row[e]] = np.inf
        for i in range(n):
            f = live[i]
            c = column[f]
            for e in range(ptr[c], ptr[c + 1]):
                demand[row[e]] += coefficient[e] * weight[f]
        for i in range(n):
            f = live[i]
            c = column[f]
            level = rate_cap[f] / weight[f]
            for e in range(ptr[c], ptr[c + 1]):
                share = free[row[e]] / demand[row[e]]
                if share < level:
                    level = share
            rate[f] = level
            for e in range(ptr[c], ptr[c + 1]):
                if level < low[row[e]]:
                    low[row[e]] = level
        # Judge every flow on the state at the start of the round, then settle the frozen ones.
        kept = 0
        settled = 0
        for i in range(n):
            f = live[i]
            c = column[f]
            level = rate[f]
            at = _UNDECIDED
            if rate_cap[f] / weight[f] <= level:
                at = UNBOUNDED if level == np.inf else OWN_CAP
            else:
                for e in range(ptr[c], ptr[c + 1]):
                    share = free[row[e]] / demand[row[e]]
                    if low[row[e]] >= share * (1.0 - SLACK):
                        at = row[e]
                        break
            bottleneck[f] = at
            if at == _UNDECIDED:
                live[kept] = f
                kept += 1
            else:
                frozen[settled] = f
                settled += 1
        for i in range(settled):
            f = frozen[i]
            c = column[f]
            rate[f] *= weight[f]
            if rate[f] == np.inf:
                continue
            for e in range(ptr[c], ptr[c + 1]):
                left = free[row[e]] - coefficient[e] * rate[f]
                free[row[e]] = left if left > 0.0 else 0.0
        n = kept
    return rounds
