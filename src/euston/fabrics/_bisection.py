"""The smallest cut between two halves of the endpoints of a graph of switches.

Exact up to 16 switches (every half is tried). Above that the halves tried are those a family names (its
planes, its groups) or, for irregular graphs, those of the Laplacian's slowest eigenvectors (Fiedler 1973)
improved by swaps (Kernighan & Lin 1970): an upper bound, as every bisection found by search is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from euston.fabrics._graph_tables import TO, Graph

# SciPy is imported where it is used: it takes as long as the rest of the room
if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Cuts", "smallest_cut"]

_EXACT = 16
_DENSE = 600
_SWAPS = 2000


@dataclass(frozen=True, eq=False)
class Cuts:
    """Where to cut.

    Attributes
    ----------
    orders : int64[C, n]
        Orders of the switches that are cut in the middle; none for an irregular graph.
    grain : int
        Switches that stay together: the cut falls on a multiple of it.
    """

    orders: NDArray[np.int64]
    grain: int = 1


def smallest_cut(graph: Graph, capacity: NDArray[np.float64], hosts: NDArray[np.int64], cuts: Cuts) -> float:
    """Bytes/s across the smallest cut found that halves the hosts (as nearly as whole switches can).

    Parameters
    ----------
    capacity : float64[m]
        Of the links between switches.
    hosts : int64[n]
        Hosts below each switch.
    """
    from scipy.sparse import coo_array

    n = graph.ptr.size - 1
    if np.count_nonzero(hosts) < 2:
        return float("inf")
    src = np.repeat(np.arange(n), np.diff(graph.ptr))
    ways = coo_array((capacity, (src, graph.link[:, TO])), shape=(n, n)).tocsr()
    if n <= _EXACT:
        return _exact(ways.toarray(), hosts)
    if cuts.orders.size:
        sides = [_half(order, hosts, cuts.grain) for order in cuts.orders]
    else:
        both = ways + ways.T
        sides = [_swapped(both, _half(order, hosts, 1), hosts) for order in _slowest(both)]
    return min(_across(ways, side, hosts) for side in sides)


def _exact(ways: NDArray[np.float64], hosts: NDArray[np.int64]) -> float:
    """Every half there is; switch 0 may stay on its side, for both directions are looked at."""
    n = hosts.size
    sides = (np.arange(1 << (n - 1))[:, None] >> np.arange(n) & 1).astype(float)
    uneven = np.abs(2 * (sides @ hosts) - hosts.sum())
    sides = sides[uneven == uneven.min()]
    out = ((sides @ ways) * (1 - sides)).sum(axis=1)
    back = ((sides @ ways.T) * (1 - sides)).sum(axis=1)
    return float(np.minimum(out, back).min())


def _half(order: NDArray[np.int64], hosts: NDArray[np.int64], grain: int) -> NDArray[np.bool_]:
    """The first switches of an order that hold half of the hosts, or nearly, bool[n]."""
    before = np.cumsum(hosts[order])
    ends = np.arange(grain, order.size, grain)
    if not ends.size:
        ends = np.arange(1, order.size)
    end = int(ends[np.argmin(np.abs(2 * before[ends - 1] - before[-1]))])
    side = np.zeros(order.size, bool)
    side[order[:end]] = True
    return side


def _across(ways: csr_array, side: NDArray[np.bool_], hosts: NDArray[np.int64]) -> float:
    """What the hosts of one side can send to those of the other, the smaller of both directions."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    if (hosts > 0).all():
        one = side.astype(float)
        return float(min(one @ (ways @ (1 - one)), (1 - one) @ (ways @ one)))
    low = float(ways.data.min())
    whole = ways.data / low
    # whole numbers of the slowest link where these are exact, else steps of a 2^31st of all links together
    exact = bool(np.abs(whole - np.rint(whole)).max() < 1e-9 and whole.sum() < 2**31)
    unit = low if exact else float(ways.data.sum()) / (2**31 - 1)
    n = hosts.size
    found = []
    for left in (side, ~side):
        begin, end = np.flatnonzero(left & (hosts > 0)), np.flatnonzero(~left & (hosts > 0))
        units = coo_array(ways)
        amount = np.floor(units.data / unit + 1e-9).astype(np.int32)
        room = np.full(begin.size + end.size, 2**31 - 1, np.int32)
        row = np.concatenate((units.row, np.full(begin.size, n), end))
        column = np.concatenate((units.col, begin, np.full(end.size, n + 1)))
        net = coo_array((np.concatenate((amount, room)), (row, column)), shape=(n + 2, n + 2)).tocsr()
        found.append(maximum_flow(net, n, n + 1).flow_value * unit)
    return float(min(found))


def _slowest(both: csr_array) -> list[NDArray[np.int64]]:
    """Orders of the switches along the slowest eigenvectors of the Laplacian."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    n = both.shape[0]
    degree = np.asarray(both.sum(axis=1)).ravel()
    natural = np.arange(n)
    if n <= _DENSE:
        vectors = np.linalg.eigh(np.diag(degree) - both.toarray())[1][:, 1:4]
    else:
        # the largest of (2 max degree - Laplacian) are the smallest of the Laplacian, and need no solving
        shifted = diags_array(2 * degree.max() - degree) + both
        start = np.cos(np.arange(n) * 0.7 + 0.3)
        try:
            values, vectors = eigsh(shifted.tocsr(), k=4, which="LA", v0=start, tol=1e-3, maxiter=3000)
        except ArpackNoConvergence as failed:
            values, vectors = failed.eigenvalues, failed.eigenvectors
        vectors = vectors[:, np.argsort(-values)][:, 1:]
    return [natural, *(np.argsort(column, kind="stable") for column in vectors.T)]


def _swapped(both: csr_array, side: NDArray[np.bool_], hosts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Swap pairs of switches with equally many hosts as long as that makes the cut smaller."""
    side = side.copy()
    sign = np.where(side, 1.0, -1.0)
    # what the cut loses when a switch changes sides: its links across less its links within
    gain = -sign * (both @ sign)
    for _ in range(_SWAPS):
        best, pair = 1e-9 * float(np.abs(both.data).max()), (-1, -1)
        for count in np.unique(hosts):
            a, b = (np.flatnonzero(s & (hosts == count)) for s in (side, ~side))
            if not (a.size and b.size):
                continue
            a, b = (v[np.argsort(-gain[v], kind="stable")[:16]] for v in (a, b))
            total = gain[a][:, None] + gain[b] - 2 * both[a][:, b].toarray()
            i, j = np.unravel_index(np.argmax(total), total.shape)
            if total[i, j] > best:
                best, pair = float(total[i, j]), (int(a[i]), int(b[j]))
        if pair[0] < 0:
            break
        for v in pair:
            side[v] = not side[v]
            row = slice(both.indptr[v], both.indptr[v + 1])
            near, weight = both.indices[row], both.data[row]
            sign[v] = -sign[v]
            gain[v] = -gain[v]
            gain[near] -= 2 * sign[v] * sign[near] * weight
    return side
