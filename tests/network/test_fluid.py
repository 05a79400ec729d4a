"""Weighted max-min rates against four oracles: LPs, exact fractions, the certificate, closed forms."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from euston.errors import ConfigError
from euston.network.columns import Columns, ColumnsBuilder
from euston.network.fluid import Allocation, Method, max_min

# A flow: rows with coefficients, weight, cap (None: none). All numbers are small fractions, exact in float64.
Flow = tuple[dict[int, Fraction], Fraction, Fraction | None]
System = tuple[list[Fraction], list[Flow]]


def solve(system: System, method: Method = "auto") -> Allocation:
    capacity, flows = system
    builder = ColumnsBuilder(len(capacity))
    column = [builder.add({r: float(a) for r, a in use.items()}) for use, _, _ in flows]
    return max_min(
        builder.build(),
        [float(c) for c in capacity],
        column=column,
        weight=[float(w) for _, w, _ in flows],
        rate_cap=[np.inf if cap is None else float(cap) for _, _, cap in flows],
        method=method,
    )


def filling_in_fractions(system: System) -> list[Fraction]:
    """Progressive filling by the book: raise all levels together until a row or a cap stops somebody."""
    capacity, flows = system
    rate: dict[int, Fraction] = {}
    while len(rate) < len(flows):
        live = [f for f in range(len(flows)) if f not in rate]
        stops: list[tuple[Fraction, set[int]]] = []
        for f in live:
            cap = flows[f][2]
            if cap is not None:
                stops.append((cap / flows[f][1], {f}))
        for r, c in enumerate(capacity):
            on = {f for f in live if r in flows[f][0]}
            if on:
                used = sum((flows[f][0].get(r, Fraction(0)) * x for f, x in rate.items()), Fraction(0))
                stops.append(((c - used) / sum(flows[f][0][r] * flows[f][1] for f in on), on))
        level = min(s for s, _ in stops)
        for f in set().union(*(who for s, who in stops if s == level)):
            rate[f] = level * flows[f][1]
    return [rate[f] for f in range(len(flows))]


def lexicographic_lps(system: System) -> np.ndarray:
    """Max-min by a sequence of LPs (HiGHS): raise the lowest level, fix whoever can not rise, repeat."""
    capacity, flows = system
    n = len(flows)
    use = np.zeros((len(capacity), n))
    for f, (rows, _, _) in enumerate(flows):
        for r, a in rows.items():
            use[r, f] = float(a)
    weight = np.array([float(w) for _, w, _ in flows])
    upper = [None if cap is None else float(cap) for _, _, cap in flows]
    c = np.array([float(x) for x in capacity])
    fixed: dict[int, float] = {}

    def highest(objective: np.ndarray, floor: float | None) -> float:
        """Best objective over (x, level) with x >= weight * level (or ``floor``) for all unfixed flows."""
        a_ub = np.hstack([use, np.zeros((len(c), 1))])
        rise = np.hstack([-np.eye(n), weight[:, None]])[[f for f in range(n) if f not in fixed]]
        bounds = [(fixed[f], fixed[f]) if f in fixed else (0, upper[f]) for f in range(n)]
        bounds.append((0, None) if floor is None else (floor, floor))
        answer = linprog(
            -objective,
            A_ub=np.vstack([a_ub, rise]),
            b_ub=np.concatenate([c, np.zeros(len(rise))]),
            bounds=bounds,
        )
        assert answer.status == 0, answer.message
        return float(-answer.fun)

    while len(fixed) < n:
        level = highest(np.eye(n + 1)[n], None)
        slack = level * (1 - 1e-9)
        stuck = {f: level * weight[f] for f in range(n) if f not in fixed
                 and highest(np.eye(n + 1)[f], slack) <= level * weight[f] * (1 + 1e-6) + 1e-9}  # fmt: skip
        assert stuck
        fixed.update({f: x * (1 - 1e-12) for f, x in stuck.items()})
    return np.array([fixed[f] for f in range(n)])


@st.composite
def systems(draw: st.DrawFn, rows: int = 5, flows: int = 8, dead: bool = True) -> System:
    eighths = st.integers(1, 40).map(lambda k: Fraction(k, 8))
    capacity = draw(st.lists(st.just(Fraction(0)) | eighths if dead else eighths, min_size=1, max_size=rows))
    use = st.dictionaries(
        st.integers(0, len(capacity) - 1),
        st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 4), Fraction(3)]),
        min_size=1,
    )
    weight = st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 2), Fraction(7)])
    cap = st.none() | eighths
    return capacity, draw(st.lists(st.tuples(use, weight, cap), min_size=1, max_size=flows))


def big(flows: int = 4000, rows: int = 1500, seed: int = 0, method: Method = "auto") -> Allocation:
    rng = np.random.default_rng(seed)
    columns = Columns.from_entries(
        np.repeat(np.arange(flows), 5),
        rng.integers(0, rows, flows * 5).astype(np.int32),
        rng.choice([1.0, 0.5, 0.125, 1 / 3], flows * 5),
        columns=flows,
        rows=rows,
    )
    capacity = rng.uniform(1, 2, rows)
    capacity[rng.integers(0, rows, 5)] = 0.0
    weight, cap = rng.uniform(1, 3, flows), rng.uniform(0.05, 2, flows)
    return max_min(columns, capacity, weight=weight, rate_cap=cap, method=method)


@pytest.mark.nojit
@given(systems(rows=7, flows=12), st.sampled_from(["auto", "rounds", "heap"]))
def test_equals_exact_progressive_filling(system: System, method: Method) -> None:
    """Oracle: progressive filling in ``fractions.Fraction``."""
    answer = solve(system, method)
    exact = [float(x) for x in filling_in_fractions(system)]
    np.testing.assert_allclose(answer.rate, exact, rtol=1e-12, atol=1e-13)
    assert answer.certificate() < 1e-12


@settings(max_examples=25)
@given(systems(dead=False))
def test_equals_a_sequence_of_linear_programs(system: System) -> None:
    """Oracle: lexicographic maximisation, one HiGHS LP per level and flow."""
    np.testing.assert_allclose(solve(system).rate, lexicographic_lps(system), rtol=2e-6)


@pytest.mark.parametrize("flows", [300, 3_000, 30_000])
def test_rounds_heap_and_both_agree(flows: int) -> None:
    """Three ways to one answer: what the methods share is the definition, not the order of work."""
    answers = [big(flows, 1500, 5, method) for method in ("rounds", "heap", "auto")]
    assert answers[0].pops == 0 and answers[1].rounds == 0
    for other in answers[1:]:
        np.testing.assert_allclose(other.rate, answers[0].rate, rtol=1e-11, atol=1e-13)
        assert other.certificate() < 1e-9


def test_certificate_at_size() -> None:
    """Oracle: the optimality condition itself, 4,000 flows with weights, caps, fractions and dead rows."""
    answer = big()
    assert answer.certificate() < 1e-12
    assert (answer.rate > 0).any()
    assert (answer.bottleneck == -1).any()
    assert (answer.bottleneck >= 0).any()


def spoil(answer: Allocation, what: str) -> Allocation:
    rate, bottleneck = answer.rate.copy(), answer.bottleneck.copy()
    on_row = np.flatnonzero((bottleneck >= 0) & (rate > 0))
    own = np.flatnonzero(bottleneck == -1)
    f = on_row[0]
    match what:
        case "higher":
            rate[f] *= 1.01
        case "lower":
            rate[f] *= 0.99
        case "lower than the cap":
            rate[own[0]] *= 0.9
        case "all lower":
            rate *= 0.999
        case "two exchanged":
            g = next(g for g in on_row[1:] if rate[g] > 1.1 * rate[f])
            rate[[f, g]] = rate[[g, f]]
        case "not a number":
            rate[f] = np.nan
        case "infinite":
            rate[f] = np.inf
        case "negative":
            rate[f] = -1.0
        case "called unbounded":
            bottleneck[f] = -2
        case "called capped":
            bottleneck[f] = -1
        case "the wrong row":
            mine, _ = answer.columns.column(int(answer.column[f]))
            others = set(bottleneck[on_row].tolist()) - set(mine.tolist())
            bottleneck[f] = max(others, key=lambda r: -rate[bottleneck == r].max())
    return replace(answer, rate=rate, bottleneck=bottleneck)


@pytest.mark.parametrize(
    "what",
    [
        "higher", "lower", "lower than the cap", "all lower", "two exchanged", "not a number", "infinite",
        "negative", "called unbounded", "called capped", "the wrong row",
    ],
)  # fmt: skip
def test_a_spoiled_allocation_has_a_bad_certificate(what: str) -> None:
    assert not spoil(big(), what).certificate() < 1e-4


def test_a_faster_flow_elsewhere_does_not_prove_a_starved_one() -> None:
    """Two flows share a row 0.9 : 0.1: feasible and saturated, yet not max-min."""
    fair = solve(([Fraction(1)], [({0: Fraction(1)}, Fraction(1), None)] * 2))
    unfair = replace(fair, rate=np.array([0.9, 0.1]))
    assert fair.certificate() == 0.0
    assert unfair.certificate() > 0.5


# ---- closed forms ------------------------------------------------------------------------------------------


@pytest.mark.nojit
def test_dumbbell() -> None:
    """n pairs over one trunk of C: C/n each; fast edges do not matter."""
    n, trunk = 7, 10.0
    columns = Columns.from_entries(
        np.repeat(np.arange(n), 3),
        np.array([[1 + i, 0, 1 + n + i] for i in range(n)], np.int32).ravel(),
        np.ones(3 * n),
        columns=n,
        rows=1 + 2 * n,
    )
    answer = max_min(columns, [trunk] + [100.0] * (2 * n))
    np.testing.assert_allclose(answer.rate, trunk / n, rtol=1e-15)
    assert (answer.bottleneck == 0).all()


@pytest.mark.parametrize(("links", "short"), [(1, 1), (4, 1), (50, 3)])
def test_parking_lot(links: int, short: int) -> None:
    """A long flow over n links with ``short`` local flows on each gets C/(short + 1), as do they."""
    builder = ColumnsBuilder(links)
    column = [builder.add(dict.fromkeys(range(links), 1.0))]
    column += [builder.add({i: 1.0}) for i in range(links) for _ in range(short)]
    answer = max_min(builder.build(), np.full(links, 8.0), column=column)
    np.testing.assert_allclose(answer.rate, 8.0 / (short + 1), rtol=1e-15)


def test_parking_lot_in_one_link() -> None:
    """n + 1 flows that all enter a chain of equal links: the last link decides, C/(n + 1)."""
    n = 12
    builder = ColumnsBuilder(n)
    column = [builder.add(dict.fromkeys(range(i, n), 1.0)) for i in range(n)] + [builder.add({n - 1: 1.0})]
    np.testing.assert_allclose(
        max_min(builder.build(), np.ones(n), column=column).rate, 1 / (n + 1), rtol=1e-14
    )


@pytest.mark.nojit
def test_unequal_parking_lot_fills_level_by_level() -> None:
    """Link i of capacity 2^i with one local flow each, one flow over all: 1/2, then what is left."""
    n = 20
    builder = ColumnsBuilder(n)
    column = [builder.add(dict.fromkeys(range(n), 1.0))] + [builder.add({i: 1.0}) for i in range(n)]
    answer = max_min(builder.build(), 2.0 ** np.arange(n), column=column)
    np.testing.assert_allclose(answer.rate, np.concatenate(([0.5], 2.0 ** np.arange(n) - 0.5)), rtol=1e-15)


def test_incast() -> None:
    """n senders of 1 into one receiver of 1 get 1/n each; a sender's second flow gets what is left."""
    n = 9
    builder = ColumnsBuilder(n + 2)
    column = [builder.add({i: 1.0, n: 1.0}) for i in range(n)] + [builder.add({0: 1.0, n + 1: 1.0})]
    answer = max_min(builder.build(), np.ones(n + 2), column=column)
    np.testing.assert_allclose(answer.rate, [1 / n] * n + [1 - 1 / n], rtol=1e-15)


def test_weights_one_to_three() -> None:
    answer = solve(
        ([Fraction(8)], [({0: Fraction(1)}, Fraction(1), None), ({0: Fraction(1)}, Fraction(3), None)])
    )
    np.testing.assert_allclose(answer.rate, [2.0, 6.0], rtol=1e-15)


def test_a_ring_and_a_sprayed_flow_on_shared_links() -> None:
    """A ring has 1 on each of its 4 links; a flow sprayed over two of them 1/2: r + r/2 = C, so r = 2C/3."""
    answer = solve(
        (
            [Fraction(3)] * 4,
            [
                ({i: Fraction(1) for i in range(4)}, Fraction(1), None),
                ({0: Fraction(1, 2), 1: Fraction(1, 2)}, Fraction(1), None),
            ],
        )
    )  # fmt: skip
    np.testing.assert_allclose(answer.rate, [2.0, 2.0], rtol=1e-15)


@pytest.mark.nojit
def test_dead_rows_stop_their_flows_only() -> None:
    builder = ColumnsBuilder(3)
    column = [builder.add({0: 1.0, 1: 1.0}), builder.add({1: 1.0}), builder.add({2: 1.0})]
    answer = max_min(builder.build(), [0.0, 4.0, 5.0], column=column)
    assert answer.rate.tolist() == [0.0, 4.0, 5.0]
    assert answer.bottleneck.tolist() == [0, 1, 2]
    assert answer.certificate() == 0.0


def test_flows_without_rows_run_at_their_cap() -> None:
    columns = Columns(np.zeros(3, np.int64), np.zeros(0, np.int32), np.zeros(0), 0)
    answer = max_min(columns, np.zeros(0), rate_cap=[5.0, np.inf])
    assert answer.rate.tolist() == [5.0, np.inf]
    assert answer.bottleneck.tolist() == [-1, -2]
    assert answer.certificate() == 0.0


@pytest.mark.nojit
def test_rows_out_of_use_may_be_infinite() -> None:
    """Lowered systems give rows that nobody may use an infinite capacity."""
    builder = ColumnsBuilder(3)
    builder.add({0: 1.0, 1: 1.0})
    answer = max_min(builder.build(), [2.0, np.inf, np.inf])
    assert answer.rate.tolist() == [2.0]
    assert answer.certificate() == 0.0
    free = max_min(builder.build(), [np.inf] * 3)
    assert free.rate.tolist() == [np.inf]
    assert free.bottleneck.tolist() == [-2]
    assert free.certificate() == 0.0


def test_no_flows() -> None:
    assert max_min(ColumnsBuilder(2).build(), [1.0, 1.0]).rate.size == 0


# ---- properties --------------------------------------------------------------------------------------------


@given(systems(), st.randoms(use_true_random=False))
def test_order_of_flows_and_rows_does_not_matter(system: System, random: object) -> None:
    capacity, flows = system
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    rows, order = rng.permutation(len(capacity)), rng.permutation(len(flows))
    new_row = {int(old): new for new, old in enumerate(rows)}
    moved = (
        [capacity[r] for r in rows],
        [({new_row[r]: a for r, a in flows[f][0].items()}, flows[f][1], flows[f][2]) for f in order],
    )
    np.testing.assert_allclose(solve(moved).rate, solve(system).rate[order], rtol=1e-12, atol=1e-13)


@given(systems(), st.sampled_from([Fraction(1, 1024), Fraction(3), Fraction(10**9)]))
def test_capacities_and_caps_times_k_give_rates_times_k(system: System, k: Fraction) -> None:
    capacity, flows = system
    scaled = [c * k for c in capacity], [(u, w, None if cap is None else cap * k) for u, w, cap in flows]
    rate = solve(system).rate * float(k)
    np.testing.assert_allclose(solve(scaled).rate, rate, rtol=1e-12, atol=1e-13 * float(k))


@given(systems())
def test_a_flow_of_weight_two_is_two_of_weight_one(system: System) -> None:
    capacity, flows = system
    use, _, cap = flows[0]
    rest = flows[1:]
    one = solve((capacity, [(use, Fraction(2), cap), *rest])).rate
    two = solve((capacity, [(use, Fraction(1), None if cap is None else cap / 2)] * 2 + rest)).rate
    np.testing.assert_allclose(two, np.concatenate(([one[0] / 2] * 2, one[1:])), rtol=1e-12, atol=1e-13)


@given(systems())
def test_one_more_flow_never_raises_the_lowest_level(system: System) -> None:
    """And removing it restores every rate exactly: nothing remembers it."""
    capacity, flows = system
    if len(flows) == 1:
        return
    weight = np.array([float(w) for _, w, _ in flows])
    before, after = solve((capacity, flows[:-1])), solve(system)
    lowest = (before.rate / weight[:-1]).min()
    assert (after.rate[:-1] / weight[:-1]).min() <= lowest * (1 + 1e-12)
    assert (solve((capacity, flows[:-1])).rate == before.rate).all()


@given(systems())
def test_no_capacity_is_left_for_anybody(system: System) -> None:
    """Work conservation: every flow is at its cap or crosses a full row."""
    capacity, flows = system
    answer = solve(system)
    full = answer.load() >= np.array([float(c) for c in capacity]) * (1 - 1e-12)
    for f, (use, _, cap) in enumerate(flows):
        assert any(full[r] for r in use) or answer.rate[f] == float(cap or -1)


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"capacity": [1.0]}, "capacity has shape"),
        ({"capacity": [1.0, -1.0]}, "capacity of row 1"),
        ({"capacity": [np.nan, 1.0]}, "capacity of row 0"),
        ({"weight": [1.0, 0.0]}, "weight of flow 1"),
        ({"weight": [np.inf, 1.0]}, "weight of flow 0"),
        ({"weight": [1.0]}, "weight has shape"),
        ({"rate_cap": [np.nan, 1.0]}, "rate_cap of flow 0"),
        ({"rate_cap": [1.0, -2.0]}, "rate_cap of flow 1"),
        ({"column": [0, 2]}, "column of flow 1"),
        ({"column": [-1, 0]}, "column of flow 0"),
    ],
)
def test_bad_input_is_named(bad: dict[str, list[float]], words: str) -> None:
    builder = ColumnsBuilder(2)
    builder.add({0: 1.0})
    builder.add({1: 1.0})
    arguments = {"capacity": [1.0, 1.0], **bad}
    with pytest.raises(ConfigError, match=words):
        max_min(builder.build(), **arguments)  # type: ignore[arg-type]


def test_the_builder_interns_equal_columns_and_refuses_nonsense() -> None:
    builder = ColumnsBuilder(2)
    assert builder.add({0: 1.0, 1: 0.5}) == builder.add({1: 0.5, 0: 1.0}) == 0
    assert builder.add({0: 1.0}) == 1
    columns = builder.build()
    assert columns.load(np.array([2.0, 4.0])).tolist() == [6.0, 1.0]
    assert [c.tolist() for c in columns.by_row[:1]] == [[0, 2, 3]]
    for usage in ({2: 1.0}, {-1: 1.0}, {0: 0.0}, {0: np.inf}, {0: np.nan}):
        with pytest.raises(ConfigError):
            builder.add(usage)


@pytest.mark.nojit
def test_columns_from_entries_sum_repeats_and_can_lose_rows() -> None:
    """Oracle: the same matrix, dense."""
    rng = np.random.default_rng(1)
    column, row, value = (
        rng.integers(0, 6, 40),
        rng.integers(0, 5, 40).astype(np.int32),
        rng.uniform(1, 2, 40),
    )
    dense = np.zeros((5, 6))
    np.add.at(dense, (row, column), value)
    columns = Columns.from_entries(column, row, value, columns=6, rows=5)
    amount = rng.uniform(0, 1, 6)
    np.testing.assert_allclose(columns.load(amount), dense @ amount, rtol=1e-14)
    drop = np.array([True, False, True, False, False])
    dense[drop] = 0
    np.testing.assert_allclose(columns.without_rows(drop).load(amount), dense @ amount, rtol=1e-14)
    ptr, by_row = columns.by_row
    for r in range(5):
        assert sorted(by_row[ptr[r] : ptr[r + 1]]) == sorted(set(column[row == r]))
