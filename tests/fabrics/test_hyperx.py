"""HyperX: counts and bisection of Ahn et al. (2009), n! shortest paths, APR's detours counted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from euston.errors import FabricError
from euston.fabrics import LinkKind, NodeKind, hyperx

from .graph_oracle import switch_links

DIMENSIONS = [LinkKind.DIMENSION_1, LinkKind.DIMENSION_2, LinkKind.DIMENSION_3]


@pytest.mark.parametrize("dims", [(4,), (4, 3), (2, 3, 4), (2, 2, 2)])
def test_counts_and_capacities(dims: tuple[int, ...]) -> None:
    """prod S switches; S_k - 1 neighbours in dimension k, K_k cables to each, at the dimension's rate."""
    trunks, rates = [1, 2, 3][: len(dims)], [10.0, 20.0, 30.0][: len(dims)]
    f = hyperx(dims, nic=1.0, link=rates, cables=trunks, link_latency=["1 us", "2 us", "3 us"][: len(dims)])
    n = math.prod(dims)
    assert (f.node_kind == NodeKind.SWITCH).sum() == n
    for i, size in enumerate(dims):
        links = f.kind == DIMENSIONS[i]
        assert links.sum() == n * (size - 1) * trunks[i]
        assert (f.capacity[links] == rates[i]).all()
        assert f.latency[links] == pytest.approx((i + 1) * 1e-6)
        ends = [np.array(np.unravel_index(e[links] - f.endpoints, dims)) for e in (f.link_src, f.link_dst)]
        assert ((ends[0] != ends[1]) == (np.arange(len(dims)) == i)[:, None]).all()
    assert f.bundles == 2 * n + n * sum(size - 1 for size in dims)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_n_coordinates_are_corrected_in_any_order(n: int) -> None:
    f = hyperx((3,) * n, nic=1.0, link=1.0)
    last = 3**n - 1
    count = math.factorial(n)
    paths = f.route([0] * count, [last] * count, np.arange(count))
    assert len({tuple(p) for p in paths}) == count
    assert (paths >= 0).sum(axis=1).tolist() == [n + 2] * count
    assert len({tuple(f.kind[p[1:-1]]) for p in paths}) == count


def test_detours_are_counted_by_hand() -> None:
    """S = (4, 5), both coordinates differ: 2! shortest; with one hop more x goes over one of 2 others or y
    over one of 3, its two hops and the third in 3 orders: 3 (2 + 3) (APR of UB-Mesh).
    """
    f = hyperx((4, 5), nic=1.0, link=1.0, routing="detour")
    pair = np.array([[0], [19]], np.int32)
    assert f.structure.live_paths(*pair, np.ones(f.links, bool), None).tolist() == [2 + 15]
    paths = f.route([0] * 17, [19] * 17, np.arange(17))
    assert ((paths >= 0).sum(axis=1) == [4] * 2 + [5] * 15).all()
    assert len({tuple(p) for p in paths}) == 17


@pytest.mark.parametrize(
    ("dims", "trunks", "expected"),
    [((4, 4), 1, 16), ((8, 4), 1, 32), ((8, 4), [1, 4], 64), ((6, 4), 1, 24), ((2, 2, 2, 2, 2), 1, 16)],
)
def test_bisection(dims: tuple[int, ...], trunks: Any, expected: float) -> None:
    """One half of a dimension to the other: K S^2 / 4 cables for each of the n / S rows; the least of all."""
    f = hyperx(dims, nic=100.0, link=1.0, cables=trunks)
    assert f.bisection_bandwidth == expected


def test_hypercube_of_ten_dimensions() -> None:
    f = hyperx((2,) * 10, nic=1.0, link=1.0)
    assert switch_links(f).size == 10 * 1024
    assert (
        f.link_name(f.links - 1) == "dimension_6/a1.b1.c1.d1.e1.f1.g1.h1.i1.j1/a1.b1.c1.d1.e1.f1.g1.h1.i1.j0"
    )
    assert f.structure.live_paths(*np.array([[0], [1023]], np.int32), np.ones(f.links, bool), None) == 3628800


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": ()}, "`dims`: () is no row of 1 to 26 sizes, such as (4, 4, 4)"),
        ({"dims": (4, 0)}, "`dims[1]`: 0 is too few; it must be 1 or more"),
        ({"dims": (10**5, 10**5)}, "`dims`: 10,000,000,000 switches are too many; at most 134,217,727"),
        ({"link": [1.0]}, "`link`: 1 values for 2 dimensions; give one for all, or one each"),
        ({"cables": 0}, "`cables`: 0 is too few; it must be 1 or more"),
    ],
)
def test_bad_descriptions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FabricError) as caught:
        hyperx(**({"dims": (4, 4), "nic": 1.0, "link": 1.0} | change))
    assert str(caught.value) == message
