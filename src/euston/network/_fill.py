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
OWN_CAP, UNBOUNDED, _UNDECIDED = np.array([-1, -2, -3])

# Lines of the array of rows: bytes/s there are and are left, summed weights, least level of the undecided.
CAPACITY, FREE, DEMAND, LOW = np.arange(4, dtype=np.uintp)


@njit(cache=True, no_cfunc_wrapper=True)
def fill(live, n, column, weight, rate_cap, ptr, row, coefficient, rows, rate, bottleneck):  # type: ignore[no-untyped-def]
    """Rates of the first ``n`` flows (slots) of ``live``: all the flows on every row that they touch.

    ``live`` is used up. Of ``rows``, float64[4, rows], line ``CAPACITY`` is read, the others are scratch.
    Writes ``rate[slot]`` (bytes/s) and ``bottleneck[slot]`` (row, ``OWN_CAP`` or ``UNBOUNDED``). Returns the
    number of rounds.
    """
    capacity, free, demand, low = rows[CAPACITY], rows[FREE], rows[DEMAND], rows[LOW]
    for i in range(n):
        c = column[live[i]]
        for e in range(ptr[c], ptr[c + 1]):
            r = row[e]
            free[r] = capacity[r]
            demand[r] = 0.0
            low[r] = np.inf
    rounds = 0
    while n > 0:
        rounds += 1
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
                level = min(level, free[row[e]] / demand[row[e]])
            rate[f] = level
            for e in range(ptr[c], ptr[c + 1]):
                low[row[e]] = min(low[row[e]], level)
        # Judge every flow on the state at the start of the round, then settle the frozen ones.
        for i in range(n):
            f = live[i]
            c = column[f]
            at = _UNDECIDED
            if rate_cap[f] / weight[f] <= rate[f]:
                at = UNBOUNDED if rate[f] == np.inf else OWN_CAP
            else:
                for e in range(ptr[c], ptr[c + 1]):
                    share = free[row[e]] / demand[row[e]]
                    if low[row[e]] >= share * (1.0 - SLACK):
                        at = np.int64(row[e])
                        break
            bottleneck[f] = at
        kept = 0
        for i in range(n):
            f = live[i]
            c = column[f]
            if bottleneck[f] == _UNDECIDED:
                live[kept] = f
                kept += 1
                for e in range(ptr[c], ptr[c + 1]):
                    demand[row[e]] = 0.0
                    low[row[e]] = np.inf
                continue
            rate[f] *= weight[f]
            if rate[f] < np.inf:
                for e in range(ptr[c], ptr[c + 1]):
                    left = free[row[e]] - coefficient[e] * rate[f]
                    free[row[e]] = max(left, 0.0)
        n = kept
    return rounds
