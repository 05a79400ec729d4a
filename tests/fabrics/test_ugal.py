"""UGAL-L: its rule, its candidates, and the path it takes for given queues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.errors import FabricError
from euston.fabrics import (
    LinkKind,
    dragonfly,
    hyperx,
    torus,
    ugal_candidates,
    ugal_prefers_minimal,
    ugal_route,
)  # fmt: skip


@given(st.integers(0, 99), st.integers(1, 6), st.integers(0, 99), st.integers(1, 6), st.integers(-50, 50))
def test_rule(q_min: int, h_min: int, q_non: int, h_non: int, bias: int) -> None:
    assert ugal_prefers_minimal(q_min, h_min, q_non, h_non, bias) == (q_min * h_min <= q_non * h_non + bias)


def test_rule_takes_arrays() -> None:
    """Idle: minimal. Twice the hops: non-minimal from twice the queue on."""
    found = ugal_prefers_minimal([0, 10, 10, 10], 3, [0, 4, 5, 6], [6, 6, 6, 6])
    assert found.tolist() == [True, False, True, True]


def test_candidates_are_minimal_and_valiant() -> None:
    f = dragonfly(4, 2, 2, nic=1.0, routing="ugal")
    rng = np.random.default_rng(0)
    src, dst, choice = rng.integers(0, 72, 100), rng.integers(0, 72, 100), rng.integers(0, 2**62, 100)
    minimal, other = ugal_candidates(f, src, dst, choice)
    assert (minimal[:, :5] == dragonfly(4, 2, 2, nic=1.0).route(src, dst, choice)).all()
    assert (minimal[:, 5:] == -1).all()
    crossed = ((other >= 0) & (f.kind[other] == LinkKind.GLOBAL)).sum(axis=1)
    assert (crossed == np.where(src // 2 == dst // 2, 0, 2)).all()


def test_route_goes_by_the_queue_behind_the_nic() -> None:
    f = dragonfly(4, 2, 2, nic=1.0, routing="ugal")
    src, dst, choice = np.arange(36), np.arange(36, 72), np.arange(36)
    minimal, other = ugal_candidates(f, src, dst, choice)
    idle = np.zeros(f.links)
    assert (ugal_route(f, src, dst, choice, idle)[:, : minimal.shape[1]] == minimal).all()
    busy = idle.copy()
    busy[minimal[0, 1]] = 100.0
    taken = ugal_route(f, src, dst, choice, busy)
    for flow in range(36):
        leaves = minimal[flow, 1] == minimal[0, 1] and other[flow, 1] != minimal[0, 1]
        expected = other[flow] if leaves else minimal[flow]
        assert taken[flow][taken[flow] >= 0].tolist() == expected[expected >= 0].tolist()
    hops = (minimal[0] >= 0).sum() - 2
    patient = ugal_route(f, src[:1], dst[:1], choice[:1], busy, bias=100.0 * hops)
    assert (patient[0, : minimal.shape[1]] == minimal[0]).all()


def test_pairs_with_nothing_to_turn_at_stay_minimal() -> None:
    f = hyperx((2,), nic=1.0, link=1.0, routing="ugal", hosts_per_switch=2)
    for one, other in (ugal_candidates(f, [0, 0], [1, 2], [3, 4]),):
        assert (one == other).all()
    assert (ugal_route(f, [0], [1], 0, np.zeros(f.links)) == f.route([0], [1], 0)).all()


def test_bad_questions() -> None:
    plain = torus((3, 3), nic=1.0, link=1.0)
    with pytest.raises(FabricError) as caught:
        ugal_candidates(plain, [0], [1], 0)
    assert str(caught.value) == '`torus`: has no UGAL candidates; build it with routing="ugal"'
    f = torus((3, 3), nic=1.0, link=1.0, routing="ugal")
    with pytest.raises(FabricError, match="`queue`: shape"):
        ugal_route(f, [0], [1], 0, np.zeros(3))
