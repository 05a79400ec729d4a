"""Hierarchical max-min rates of small systems against exact oracles.

All equilibria (every assignment of bottlenecks tried, linear systems solved in fractions), nested
water-filling of one link in fractions, closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.network.columns import ColumnsBuilder
from euston.network.hierarchical import QueueAllocation, hierarchical_max_min

Exact = tuple[Fraction, ...]


@dataclass(frozen=True)
class Flow:
    """Rows with coefficients, queue, weight, cap (None: none); small fractions, exact in float64."""

    use: dict[int, Fraction]
    queue: int = 0
    weight: Fraction = Fraction(1)
    cap: Fraction | None = None


@dataclass(frozen=True)
class System:
    capacity: list[Fraction]
    phi: list[list[Fraction]]
    flows: list[Flow]


def on(*rows: int, queue: int = 0, weight: int = 1, cap: int | None = None) -> Flow:
    return Flow(
        dict.fromkeys(rows, Fraction(1)), queue, Fraction(weight), None if cap is None else Fraction(cap)
    )


def solve(system: System, **options: object) -> QueueAllocation:
    builder = ColumnsBuilder(len(system.capacity))
    column = [builder.add({r: float(a) for r, a in f.use.items()}) for f in system.flows]
    return hierarchical_max_min(
        builder.build(),
        [float(c) for c in system.capacity],
        column=column,
        queue=[f.queue for f in system.flows],
        phi=[[float(w) for w in line] for line in system.phi],
        weight=[float(f.weight) for f in system.flows],
        rate_cap=[np.inf if f.cap is None else float(f.cap) for f in system.flows],
        **options,  # type: ignore[arg-type]
    )


# ---- oracle: every exact equilibrium of a small system -----------------------------------------------------


def eliminate(matrix: list[list[Fraction]]) -> list[Fraction] | None:
    """Gauss and Jordan on [A | b]; None when A is singular."""
    n = len(matrix)
    m = [line[:] for line in matrix]
    for c in range(n):
        pivot = next((r for r in range(c, n) if m[r][c]), None)
        if pivot is None:
            return None
        m[c], m[pivot] = m[pivot], m[c]
        m[c] = [v / m[c][c] for v in m[c]]
        for r in range(n):
            if r != c and m[r][c]:
                m[r] = [x - m[r][c] * y for x, y in zip(m[r], m[c], strict=True)]
    return [line[n] for line in m]


def is_equilibrium(system: System, rate: Exact) -> bool:
    """The two-level condition in exact numbers."""
    flows = list(zip(system.flows, rate, strict=True))

    def taken(row: int, queue: int | None = None) -> Fraction:
        mine = (f.use.get(row, Fraction(0)) * x for f, x in flows if queue in (None, f.queue))
        return sum(mine, Fraction(0))

    load = [taken(r) for r in range(len(system.capacity))]
    if any(have > c for have, c in zip(load, system.capacity, strict=True)) or min(rate) < 0:
        return False
    for f, x in flows:
        if f.cap is not None and x > f.cap:
            return False
        held = f.cap == x
        for row in f.use:
            rivals = [g for g, _ in flows if row in g.use]
            held |= (
                load[row] == system.capacity[row]
                and all(y / g.weight <= x / f.weight for g, y in flows if row in g.use and g.queue == f.queue)
                and all(
                    taken(row, q) / system.phi[row][q] <= taken(row, f.queue) / system.phi[row][f.queue]
                    for q in {g.queue for g in rivals}
                )
            )
        if not held:
            return False
    return True


Held = tuple["int | None", ...]
Pair = tuple[int, int]


def equation(
    system: System, held: Held, pairs: list[Pair], levels: int, row: int, pair: tuple[int, int] | None
) -> list[Fraction]:
    """What flows take of ``row`` is its capacity; or what those of a queue take, phi times the row's level.

    Unknown are the shares of ``pairs`` (rate/weight of the flows held there), then levels of rows. ``pair``:
    the queue and the number of the row's level, None for the first kind. Flows that no row holds have their
    cap.
    """
    left = [Fraction(0)] * (len(pairs) + levels)
    right = system.capacity[row] if pair is None else Fraction(0)
    for f, at in zip(system.flows, held, strict=True):
        if row not in f.use or (pair is not None and pair[0] != f.queue):
            continue
        if at is None:
            assert f.cap is not None
            right -= f.use[row] * f.cap
        else:
            left[pairs.index((at, f.queue))] += f.use[row] * f.weight
    if pair is not None:
        left[len(pairs) + pair[1]] -= system.phi[row][pair[0]]
    return [*left, right]


def equilibria(system: System) -> tuple[set[Exact], bool]:
    """All of them, and whether some assignment of bottlenecks has a singular system (there may be more)."""
    found, singular = set(), False
    options = [[*f.use, *([None] if f.cap is not None else [])] for f in system.flows]
    for held in product(*options):
        pairs = sorted({(r, f.queue) for r, f in zip(held, system.flows, strict=True) if r is not None})
        rows = sorted({r for r, _ in pairs})
        matrix = [equation(system, held, pairs, len(rows), r, (q, rows.index(r))) for r, q in pairs]
        matrix += [equation(system, held, pairs, len(rows), r, None) for r in rows]
        answer = eliminate(matrix)
        if answer is None:
            singular = True
            continue
        rate = []
        for f, at in zip(system.flows, held, strict=True):
            rate.append(f.cap if at is None else f.weight * answer[pairs.index((at, f.queue))])
        if is_equilibrium(system, tuple(rate)):  # type: ignore[arg-type]
            found.add(tuple(rate))
    return found, singular  # type: ignore[return-value]


@st.composite
def systems(draw: st.DrawFn, rows: int = 3, flows: int = 4, alike: bool = False) -> System:
    eighths = st.integers(1, 40).map(lambda k: Fraction(k, 8))
    capacity = draw(st.lists(eighths, min_size=1, max_size=rows))
    part = st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(2)])
    use = st.dictionaries(st.integers(0, len(capacity) - 1), part, min_size=1)
    line = st.lists(st.sampled_from([Fraction(1), Fraction(3), Fraction(8)]), min_size=3, max_size=3)
    phi = [draw(line)] * len(capacity) if alike else [draw(line) for _ in capacity]
    flow = st.builds(Flow, use, st.integers(0, 2), part, st.none() | eighths)
    return System(capacity, phi, draw(st.lists(flow, min_size=1, max_size=flows)))


@settings(max_examples=40)
@given(systems())
def test_finds_an_exact_equilibrium(system: System) -> None:
    """Oracle: all equilibria in fractions. Where there is one (as a rule), it is this one."""
    answer = solve(system)
    found, singular = equilibria(system)
    if answer.settled:
        assert answer.certificate() < 1e-11
    if not singular:
        assert found
        near = [np.allclose(answer.rate, [float(x) for x in one], rtol=1e-10, atol=1e-12) for one in found]
        assert any(near) or not answer.settled


def test_there_may_be_more_than_one_equilibrium() -> None:
    """Even with equal queue weights everywhere, given fractional use and flow weights: three exact ones."""
    half = Fraction(1, 2)
    system = System(
        [Fraction(5, 8), Fraction(9, 8)],
        [[Fraction(1)] * 2] * 2,
        [
            Flow({0: Fraction(1), 1: half}, 0, half),
            Flow({1: Fraction(1)}, 0, Fraction(2), Fraction(5, 8)),
            Flow({0: half, 1: half}, 1),
        ],
    )
    found, _ = equilibria(system)
    assert len(found) == 3
    assert tuple(Fraction(x).limit_denominator(100) for x in solve(system).rate) in found


def test_opposed_weights_leave_a_range_of_equilibria() -> None:
    """Weights 1:3 at one link, 3:1 at the next: every split of 4 between 1:3 and 3:1 has the certificate."""
    phi = [[Fraction(1), Fraction(3)], [Fraction(3), Fraction(1)]]
    system = System([Fraction(4)] * 2, phi, [on(0, 1), on(0, 1, queue=1)])
    answer = solve(system)
    assert answer.rate.sum() == pytest.approx(4, rel=1e-12)
    assert 1 <= answer.rate[0] <= 3
    for x in (1.0, 2.5, 3.0):
        assert replace(answer, rate=np.array([x, 4 - x]), bottleneck=np.array([0, 1])).certificate() == 0
    for x in (0.9, 3.1):
        assert replace(answer, rate=np.array([x, 4 - x]), bottleneck=np.array([0, 1])).certificate() > 0.01


def test_a_circle_without_rest_ends_feasible_and_full() -> None:
    """Three links; at each a flow with a tenth of the weight of one that takes thrice its rate: no answer is
    stable (the one equilibrium repels). The rates given are feasible, fill the network, and say so."""
    use = [{i: Fraction(1), (i - 1) % 3: Fraction(3)} for i in range(3)]
    phi = [[Fraction(10) if q == (r + 1) % 3 else Fraction(1) for q in range(3)] for r in range(3)]
    system = System([Fraction(8)] * 3, phi, [Flow(use[i], i) for i in range(3)])
    assert equilibria(system)[0] == {(Fraction(2),) * 3}
    answer = solve(system)
    assert not answer.settled
    assert answer.certificate() > 0.01
    load = answer.load()
    assert (load <= 8 * (1 + 1e-12)).all()
    assert (load[answer.bottleneck] >= 8 * (1 - 1e-12)).all()


# ---- oracle: nested water-filling of one link --------------------------------------------------------------


def water(capacity: Fraction, wants: list[Fraction | None], weights: list[Fraction]) -> list[Fraction]:
    """Shares by weight, nobody more than it wants (None: no end); what is left over goes to the others."""
    got: dict[int, Fraction] = {}
    while len(got) < len(wants):
        rest = [i for i in range(len(wants)) if i not in got]
        level = (capacity - sum(got.values(), Fraction(0))) / sum(weights[i] for i in rest)
        small = [i for i in rest if wants[i] is not None and wants[i] <= weights[i] * level]  # type: ignore[operator]
        got |= {i: wants[i] for i in small} if small else {i: weights[i] * level for i in rest}  # type: ignore[misc]
    return [got[i] for i in range(len(wants))]


def nested(system: System) -> list[Fraction]:
    """First among queues, each wanting what its flows want; then inside each."""
    queues = sorted({f.queue for f in system.flows})
    members = {q: [i for i, f in enumerate(system.flows) if f.queue == q] for q in queues}

    def want(i: int) -> Fraction | None:
        cap = system.flows[i].cap
        return None if cap is None else cap * system.flows[i].use[0]

    wants: list[Fraction | None] = []
    for q in queues:
        each = [want(i) for i in members[q]]
        wants.append(None if None in each else sum(each, Fraction(0)))  # type: ignore[arg-type]
    rate = [Fraction(0)] * len(system.flows)
    for q, amount in zip(
        queues, water(system.capacity[0], wants, [system.phi[0][q] for q in queues]), strict=True
    ):
        mine = [system.flows[i] for i in members[q]]
        inside = water(amount, [want(i) for i in members[q]], [f.weight * f.use[0] for f in mine])
        for i, f, x in zip(members[q], mine, inside, strict=True):
            rate[i] = x / f.use[0]
    return rate


@pytest.mark.nojit
@given(systems(rows=1, flows=12))
def test_one_link_is_nested_water_filling(system: System) -> None:
    answer = solve(system)
    np.testing.assert_allclose(answer.rate, [float(x) for x in nested(system)], rtol=1e-12, atol=1e-15)
    assert answer.settled
    assert answer.certificate() < 1e-12


# ---- closed forms ------------------------------------------------------------------------------------------


@pytest.mark.nojit
def test_the_rest_of_a_share_stays_in_its_queue_first() -> None:
    """C = 10, two equal queues, one with a flow held at 1: 1 + 4 and 5. One residual for all would give 4.5
    and 4.5: that formula, (C - what frozen flows take) * phi / sum(phi), forgets whose queue froze."""
    system = System([Fraction(10)], [[Fraction(1)] * 2], [on(0, cap=1), on(0), on(0, queue=1)])
    assert solve(system).rate.tolist() == [1.0, 4.0, 5.0]


@pytest.mark.nojit
@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 1), (1, 7), (40, 3)])
def test_shares_do_not_depend_on_how_many_flows_a_queue_has(m: int, n: int) -> None:
    """Weights 1:3: the queues get C/4 and 3C/4, a flow C/4m or 3C/4n."""
    system = System([Fraction(8)], [[Fraction(1), Fraction(3)]], [on(0)] * m + [on(0, queue=1)] * n)
    np.testing.assert_allclose(solve(system).rate, [2 / m] * m + [6 / n] * n, rtol=1e-14)


def test_what_a_queue_leaves_goes_to_the_others_by_weight() -> None:
    """C = 12, weights 1:2:3, the third wants 3 of its 6: the rest, 9, is shared 1:2."""
    phi = [[Fraction(1), Fraction(2), Fraction(3)]]
    system = System([Fraction(12)], phi, [on(0), on(0, queue=1), on(0, queue=2, cap=3)])
    assert solve(system).rate.tolist() == [3.0, 6.0, 3.0]


def test_links_that_hold_each_others_queues_are_equations() -> None:
    """f is held at the first link by two others of its queue, g at the second: (4 - x)/3 = x, so 1 each.

    Freezing local bottlenecks in order gives f 2/3, g 10/9, and 8/9 of the first link's 4 to nobody.
    """
    first, second = [on(0, 1), on(0), on(0)], [on(0, 1, queue=1), on(1, queue=1), on(1, queue=1)]
    system = System([Fraction(4)] * 2, [[Fraction(1)] * 2] * 2, first + second)
    np.testing.assert_allclose(solve(system).rate, 1.0, rtol=1e-12)
    assert equilibria(replace(system, flows=[*first[:2], *second[:2]]))[0]  # 4/3 each, with one local flow
    np.testing.assert_allclose(
        solve(replace(system, flows=[*first[:2], *second[:2]])).rate, 4 / 3, rtol=1e-12
    )


@pytest.mark.nojit
def test_a_level_starves_those_after_it() -> None:
    """First flows without end take all; capped ones leave the rest; a queue split holds inside a level."""
    columns = ColumnsBuilder(1)
    column = [columns.add({0: 1.0})] * 4
    table = {"capacity": [10.0], "column": column, "queue": [0, 0, 1, 2], "phi": [1.0, 1.0, 3.0]}
    full = hierarchical_max_min(columns.build(), priority=[0, 1, 1, 2], **table)  # type: ignore[arg-type]
    assert full.rate.tolist() == [10.0, 0.0, 0.0, 0.0]
    assert full.certificate() == 0.0
    cap = [2.0, np.inf, np.inf, np.inf]
    rest = hierarchical_max_min(columns.build(), priority=[0, 1, 1, 2], rate_cap=cap, **table)  # type: ignore[arg-type]
    assert rest.rate.tolist() == [2.0, 4.0, 4.0, 0.0]
    assert rest.queue_load().tolist() == [[6.0, 4.0, 0.0]]


@pytest.mark.nojit
def test_dead_and_endless_rows() -> None:
    builder = ColumnsBuilder(3)
    use = [{0: 1.0, 1: 1.0}, {1: 1.0}, {1: 1.0, 2: 1.0}, {2: 1.0}]
    column = [builder.add(u) for u in use]
    answer = hierarchical_max_min(
        builder.build(), [0.0, 4.0, np.inf], column=column, queue=[0, 0, 1, 1], phi=[1.0, 1.0]
    )
    assert answer.rate.tolist() == [0.0, 2.0, 2.0, np.inf]
    assert answer.bottleneck.tolist() == [0, 1, 1, -2]
    assert answer.certificate() == 0.0
    none = hierarchical_max_min(ColumnsBuilder(2).build(), [1.0, 1.0], queue=[], phi=[1.0, 1.0])
    assert none.rate.size == 0
    assert none.certificate() == 0.0


def test_an_unfair_split_between_queues_is_no_bottleneck() -> None:
    """Feasible, full, fair inside each queue; only the queues' shares are wrong."""
    fair = solve(System([Fraction(8)], [[Fraction(1), Fraction(3)]], [on(0), on(0, queue=1)]))
    assert fair.certificate() == 0.0
    assert replace(fair, rate=np.array([4.0, 4.0])).certificate() > 0.5


@settings(max_examples=30)
@given(systems(rows=4, flows=8), st.sampled_from([Fraction(1, 1024), Fraction(4)]))
def test_scales_change_nothing_but_the_scale(system: System, k: Fraction) -> None:
    """Capacities and caps times k: rates times k; queue weights times k: nothing. Bit for bit: k is 2^i."""
    rate = solve(system).rate
    flows = [replace(f, cap=None if f.cap is None else f.cap * k) for f in system.flows]
    larger = System([c * k for c in system.capacity], system.phi, flows)
    assert (solve(larger).rate == rate * float(k)).all()
    assert (solve(replace(system, phi=[[w * k for w in line] for line in system.phi])).rate == rate).all()
