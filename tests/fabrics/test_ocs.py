"""Optical circuit switches: matchings of a tournament, and liveness in time against a plain replay."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import FabricError, RouteError
from euston.fabrics import Circuits, LinkKind, leaf_spine, ocs, round_robin


def rotor(n: int = 6, **more: Any) -> Circuits:
    given: dict[str, Any] = {"nic": "100 Gb/s", "slot": "100 us", "reconfiguration": "10 us"}
    return ocs(round_robin(n), **(given | more))


@given(st.integers(2, 13))
def test_round_robin_is_a_tournament(n: int) -> None:
    """Every pair meets once; in no round a switch stands twice."""
    rounds = round_robin(n)
    assert len(rounds) == n - 1 + n % 2
    pairs = [pair for matching in rounds for pair in matching]
    assert sorted(pairs) == sorted(combinations(range(n), 2))
    for matching in rounds:
        ends = [end for pair in matching for end in pair]
        assert len(set(ends)) == len(ends) == n - n % 2


def test_counts() -> None:
    c = rotor(8)
    circuits = c.fabric.kind == LinkKind.OCS
    assert np.count_nonzero(circuits) == 8 * 7
    assert c.lit.shape == (7, c.fabric.links)
    assert (c.lit[:, ~circuits]).all()
    assert (c.lit[:, circuits].sum(axis=1) == 8).all()  # four circuits, both ways
    assert (c.lit[:, circuits].sum(axis=0) == 1).all()
    assert c.period == pytest.approx(700e-6)
    assert c.duty == pytest.approx(0.9)
    assert (c.fabric.link_src[c.fabric.reverse] == c.fabric.link_dst).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 7), st.floats(0, 3e-3), st.integers(1, 3))
def test_changes_replayed_are_the_capacity_at_any_time(n: int, time: float, uplinks: int) -> None:
    rounds = round_robin(n)
    count = len(rounds)
    matchings = [[pair for k in range(uplinks) for pair in rounds[(i + k) % count]] for i in range(count)]
    c = ocs(matchings, nic=1e9, slot=1e-4, reconfiguration=1e-5, uplinks=uplinks)
    changes = c.changes(5e-3)
    assert (np.diff(changes.time) >= 0).all()
    capacity = c.capacity(0.0)
    for at, link, rate in zip(changes.time, changes.link, changes.capacity, strict=True):
        if at <= time:
            capacity[link] = rate
    np.testing.assert_array_equal(capacity, c.capacity(time))


def test_circuits_that_stay_are_never_dark() -> None:
    c = ocs([[(0, 1), (2, 3)], [(0, 1), (1, 2)]], nic=1.0, slot=1.0, reconfiguration=0.25, uplinks=2)
    stays = c.fabric.link_index("ocs/s0/s1")
    assert stays not in c.changes(10.0).link
    assert c.alive(1.1)[stays]
    goes = c.fabric.link_index("ocs/s2/s3")
    assert [c.alive(t)[goes] for t in (0.0, 0.9, 1.0, 1.9, 2.0, 2.2, 2.25, 3.0)] == [
        True, True, False, False, False, False, True, False,
    ]  # fmt: skip


def test_a_direct_circuit_is_the_path_and_waits_for_its_turn() -> None:
    c = rotor(6)
    for s in range(6):
        for d in range(6):
            if s == d:
                continue
            path = c.fabric.route([s], [d], 0)[0]
            assert [c.fabric.kind[i] for i in path] == [LinkKind.NIC_UP, LinkKind.OCS, LinkKind.NIC_DOWN]
            assert c.lit[:, path].all(axis=1).sum() == 1
    with pytest.raises(RouteError):  # in one matching most pairs have no way
        c.fabric.route([0] * 5, [1, 2, 3, 4, 5], 0, alive=c.alive(0.0))


def test_parallel_circuits_and_rows() -> None:
    """A pair with two circuits in one matching and one in the next: a trunk that must be split to change."""
    c = ocs([[(0, 1), (0, 1)], [(0, 1), (1, 2)], [(0, 2)]], nic=1.0, slot=1.0, reconfiguration=0.5, uplinks=2)
    f = c.fabric
    assert [f.link_name(i) for i in np.flatnonzero(f.kind == LinkKind.OCS)][:2] == [
        "ocs/s0/s1/c0",
        "ocs/s0/s1/c1",
    ]
    changes = c.changes(2.0)
    with pytest.raises(FabricError, match="stand in a whole bundle; split it"):
        changes.rows(f, np.zeros(f.bundles, bool))
    split = np.diff(f.bundle_start) > 1
    rows = changes.rows(f, split)
    assert np.isfinite(f.row_capacity(split=split)[rows]).all()
    assert len(changes) == rows.size


@pytest.mark.parametrize(
    ("matchings", "change", "message"),
    [
        ([[]], {}, "`matchings`: hold no circuit"),
        ([[(0, 0)]], {}, "`matchings[0][0]`: joins switch 0 to itself"),
        ([[(0, 1), (1, 2)]], {}, "`matchings[0][1]`: switch 1 has more than 1 circuits; raise `uplinks`"),
        ([[(0, 1, 2)]], {}, "`matchings[0][0]`: (0, 1, 2) is no pair of switches"),
        ([[(0, -1)]], {}, "`matchings[0][0]`: -1 is too few; it must be 0 or more"),
        ([[(0, 1)]], {"reconfiguration": 1.0}, "`reconfiguration`: 1 s leave nothing of slots of 1 s"),
        ([[(0, 1)], [(2, 3)]], {}, "`matchings`: the hosts fall into 2 parts that no circuit joins"),
    ],
)
def test_bad_matchings(matchings: Any, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"nic": 1.0, "slot": 1.0, "reconfiguration": 0.1}
    with pytest.raises(FabricError) as caught:
        ocs(matchings, **(given | change))
    assert str(caught.value).startswith(message)


def test_no_moment_before_the_first() -> None:
    with pytest.raises(FabricError, match="`time`: -1 is no moment of the schedule"):
        rotor().alive(-1)
    assert len(rotor().changes(1e-5)) == 0
    assert leaf_spine(2, 1, nic=1.0, hosts_per_leaf=1, spines=1).links == 8  # a fabric without circuits
