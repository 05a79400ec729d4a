"""Incremental max-min against full solves (rounds and heap), the certificate, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.network import Columns, ColumnsBuilder, Incremental, max_min

# Small whole numbers make ties, which are where an incremental solver goes wrong.
systems = st.integers(1, 6).flatmap(
    lambda rows: st.tuples(
        st.lists(st.integers(0, 12), min_size=rows, max_size=rows),
        st.lists(
            st.dictionaries(
                st.integers(0, rows - 1), st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=rows
            ),
            min_size=1,
            max_size=8,
        ),
        st.lists(
            st.tuples(
                st.sampled_from(["open", "open", "open", "close", "capacity"]),
                st.integers(0, 1000),
                st.sampled_from([1.0, 1.0, 2.0, 3.0]),
                st.sampled_from([np.inf, np.inf, 1.0, 2.5]),
            ),
            max_size=25,
        ),
    )
)


def full(net: Incremental, capacity: np.ndarray, flows: dict[int, tuple[int, float, float]]) -> np.ndarray:
    slots = list(flows)
    column, weight, cap = (np.array([flows[s][i] for s in slots]) for i in range(3))
    rate = np.zeros(net.rate.size)
    rate[slots] = max_min(net.columns, capacity, column=column, weight=weight, rate_cap=cap).rate
    return rate


@settings(max_examples=300, deadline=None)
@given(systems)
def test_any_sequence_of_changes_ends_where_a_full_solve_does(system):
    capacities, usages, changes = system
    builder = ColumnsBuilder(len(capacities))
    column = [builder.add(use) for use in usages]
    capacity = np.array(capacities, float)
    net = Incremental(builder.build(), capacity, 30, most=np.full(len(capacities), 12.0))
    flows: dict[int, tuple[int, float, float]] = {}
    for what, number, weight, cap in changes:
        if what == "open":
            c = column[number % len(column)]
            (slot,) = net.change(column=[c], weight=weight, rate_cap=cap)
            flows[int(slot)] = (c, weight, cap)
        elif what == "close" and flows:
            slot = list(flows)[number % len(flows)]
            del flows[slot]
            net.change(close=[slot])
        elif what == "capacity":
            capacity[number % capacity.size] = number % 13
            net.change(rows=[number % capacity.size], capacity=[number % 13])
        if flows:
            assert net.rate == pytest.approx(full(net, capacity, flows), rel=1e-9, abs=1e-9)
            assert net.allocation().certificate() < 1e-9


@settings(max_examples=60, deadline=None)
@given(systems)
def test_several_changes_at_once_are_one_repair(system):
    capacities, usages, changes = system
    builder = ColumnsBuilder(len(capacities))
    column = np.array([builder.add(use) for use in usages])
    capacity = np.array(capacities, float)
    net = Incremental(builder.build(), capacity, 60)
    first = net.change(column=column)
    opened = column[[number % column.size for what, number, *_ in changes if what == "open"]]
    gone = first[: len(changes) % first.size]
    net.change(close=gone, column=opened)
    assert net.repairs == 2
    if net.rate.any():
        assert net.allocation().certificate() < 1e-9


def clos(rng: np.random.Generator, flows: int, hosts: int = 64, spines: int = 8) -> Columns:
    """Random flows of a leaf-spine of 8 leaves: NIC up, leaf up, leaf down, NIC down."""
    src = rng.integers(0, hosts, flows)
    dst = (src + rng.integers(1, hosts, flows)) % hosts
    spine, leaf = rng.integers(0, spines, flows), hosts // 8
    rows = np.stack(
        [
            src,
            2 * hosts + src // leaf * spines + spine,
            2 * hosts + (8 + dst // leaf) * spines + spine,
            hosts + dst,
        ]
    ).T.astype(np.int32)
    ptr = np.arange(flows + 1, dtype=np.int64) * 4
    return Columns(ptr, rows.ravel(), np.ones(rows.size), 2 * hosts + 16 * spines)


@pytest.mark.parametrize("per_host", [1, 4, 16])
def test_a_thousand_random_events_leave_no_error(per_host):
    rng = np.random.default_rng(per_host)
    n = 64 * per_host
    columns = clos(rng, n + 1000)
    capacity = np.full(columns.rows, 50e9)
    net = Incremental(columns, capacity, n)
    active = list(net.change(column=np.arange(n)))
    for i in range(1000):
        j = int(rng.integers(n))
        (active[j],) = net.change(close=[active[j]], column=[n + i])
    allocation = net.allocation()
    assert allocation.certificate() < 1e-9
    exact = max_min(columns, capacity, column=allocation.column, method="heap")
    assert allocation.rate == pytest.approx(exact.rate, rel=1e-9)
    assert net.full < 10  # dense contention is repaired where it changes, too


def test_taking_a_flow_away_again_restores_every_rate():
    rng = np.random.default_rng(5)
    columns = clos(rng, 300)
    net = Incremental(columns, np.full(columns.rows, 50e9), 300)
    net.change(column=np.arange(299))
    before = net.rate.copy()
    (slot,) = net.change(column=[299])
    assert net.rate[slot] > 0
    net.change(close=[slot])
    assert net.rate == pytest.approx(before, rel=1e-9)


def test_a_tolerance_bounds_the_certificate_and_saves_work():
    rng = np.random.default_rng(6)
    n = 1024
    columns = clos(rng, n + 400)
    moved = []
    for tol in (0.0, 1e-2):
        net = Incremental(columns, np.full(columns.rows, 50e9), n, tol=tol)
        active = list(net.change(column=np.arange(n)))
        for i in range(400):
            (active[i],) = net.change(close=[active[i]], column=[n + i])
        moved.append(net.touched)
        assert net.allocation().certificate() <= max(3 * tol, 1e-9)
    assert moved[1] < 0.7 * moved[0]


def test_parking_lot_grows_flow_by_flow():
    """n + 1 flows on n links in a row: the long one gets C / 2 once one link is shared (closed form)."""
    builder = ColumnsBuilder(5)
    long = builder.add(dict.fromkeys(range(5), 1.0))
    short = [builder.add({r: 1.0}) for r in range(5)]
    net = Incremental(builder.build(), np.full(5, 10.0), 20)
    (a,) = net.change(column=[long])
    assert net.rate[a] == 10.0
    for shared in range(1, 4):
        net.change(column=short)
        assert net.rate[a] == pytest.approx(10 / (shared + 1), rel=1e-12)


def test_a_dead_link_stops_its_flows_and_a_live_one_starts_them_again():
    builder = ColumnsBuilder(2)
    both, one = builder.add({0: 1.0, 1: 1.0}), builder.add({1: 1.0})
    net = Incremental(builder.build(), [4.0, 6.0], 4)
    a, b = net.change(column=[both, one])
    assert net.rate[[a, b]].tolist() == [3.0, 3.0]
    net.change(rows=[0], capacity=[0.0])
    assert net.rate[[a, b]].tolist() == [0.0, 6.0]
    net.change(rows=[0], capacity=[1.0])
    assert net.rate[[a, b]].tolist() == [1.0, 5.0]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"close": [3]}, "holds no flow"),
        ({"column": [9]}, "column must be 0 to 0"),
        ({"column": [0, 0, 0]}, "3 flows for 2 free slots"),
        ({"rows": [0], "capacity": [-1.0]}, ">= 0"),
        ({"rows": [7], "capacity": [1.0]}, "existing"),
        ({"column": [0], "weight": 0.0}, "weight must be positive"),
    ],
)
def test_changes_that_make_no_sense_are_refused(call, says):
    builder = ColumnsBuilder(1)
    builder.add({0: 1.0})
    net = Incremental(builder.build(), [1.0], 2)
    with pytest.raises(ConfigError, match=says):
        net.change(**{k: np.asarray(v) for k, v in call.items()})
    with pytest.raises(ConfigError, match="tol"):
        Incremental(builder.build(), [1.0], 2, tol=1.0)


@settings(max_examples=100, deadline=None)
@given(systems, st.data())
def test_rows_that_fail_and_are_repaired_restore_every_rate(system, data):
    capacities, usages, _ = system
    builder = ColumnsBuilder(len(capacities))
    column = [builder.add(use) for use in usages]
    capacity = np.array(capacities, float)
    net = Incremental(builder.build(), capacity, len(column))
    net.change(column=column)
    before = net.rate.copy()
    failed = data.draw(st.lists(st.integers(0, capacity.size - 1), min_size=1, unique=True))
    net.change(rows=failed, capacity=np.zeros(len(failed)))
    for k in data.draw(st.permutations(failed)):
        net.change(rows=[k], capacity=[capacity[k]])
    assert net.rate == pytest.approx(before, rel=1e-12, abs=1e-12)
