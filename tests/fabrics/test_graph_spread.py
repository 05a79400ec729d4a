"""Shares of switch graphs: those of the enumerated paths, weighed by their narrowest links."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import RouteError
from euston.fabrics import Fabric, Spread, dragonfly, hyperx, jellyfish, torus
from euston.network.balancing.spray import Spray
from euston.network.fluid import max_min
from euston.network.lowering import _can_bind, lower
from euston.network.transfer import Transfer, Transfers

from .graph_oracle import broken, graph, longer, shortest, switch_links, switch_of, via, with_ends
from .test_graph_routes import groups_of

Shares = dict[int, Fraction]


def per_link(fabric: Fabric, spread: Spread, flow: int) -> dict[int, float]:
    """Shares of links; a whole bundle's is even. No link stands twice."""
    found: dict[int, float] = {}
    for i in range(spread.ptr[flow], spread.ptr[flow + 1]):
        row, fraction = int(spread.row[i]), float(spread.fraction[i])
        if row < fabric.bundles:
            assert not spread.split[row]
            links = range(fabric.bundle_start[row], fabric.bundle_start[row + 1])
        else:
            links = range(row - fabric.bundles, row - fabric.bundles + 1)
            assert spread.split[fabric.bundle[links[0]]]
        for link in links:
            assert link not in found
            found[link] = fraction / len(links)
    return found


def shared(paths: dict[tuple[int, ...], Fraction]) -> Shares:
    share: Shares = {}
    for path, part in paths.items():
        for link in path:
            share[link] = share.get(link, Fraction(0)) + part
    return share


def alike(found: dict[int, float], expected: Shares) -> None:
    assert found.keys() == expected.keys()
    assert found == pytest.approx({link: float(part) for link, part in expected.items()}, rel=1e-12)


def admitted(
    fabric: Fabric, g: Any, s: int, d: int, alive: Any, weight: Any = None
) -> dict[Any, Fraction] | None:
    """Admitted paths of a pair and their shares, ends included; None where the oracle does not decide."""
    a, b = switch_of(fabric, s), switch_of(fabric, d)
    routing = fabric.structure.routing  # type: ignore[attr-defined]
    if s == d:
        return {(): Fraction(1)}
    if a == b:
        found = {(): Fraction(1)}
    elif routing.turns:
        turned = via(fabric, g, a, b, groups_of(fabric))
        if turned is None:
            return None
        found = turned
        if routing.kind == "ugal" and turned:
            minimal = shortest(g, a, b)
            found = {path: part / 2 for path, part in turned.items()}
            for path in minimal:
                found[path] = found.get(path, Fraction(0)) + Fraction(1, 2 * len(minimal))
    else:
        paths = shortest(g, a, b) if not routing.excess else longer(g, a, b, routing.excess)
        wide = [Fraction(1) if weight is None else min(Fraction(weight[link]) for link in p) for p in paths]
        found = {p: w / sum(wide) for p, w in zip(paths, wide, strict=True)}
    complete = {p: with_ends(fabric, s, d, [p], alive) for p in found}
    return {full[0]: found[p] for p, full in complete.items() if full}


def check(case: Any) -> None:
    fabric, alive, src, dst = case
    g = graph(fabric, alive)
    kept = []
    for s, d in zip(src.tolist(), dst.tolist(), strict=True):
        paths = admitted(fabric, g, s, d, alive)
        if paths is None:
            continue
        if not paths:
            with pytest.raises(RouteError):
                fabric.spread([s], [d], alive=alive)
            continue
        kept.append((s, d, shared(paths)))
    spread = fabric.spread([k[0] for k in kept], [k[1] for k in kept], alive=alive)
    for flow, (_, _, expected) in enumerate(kept):
        alike(per_link(fabric, spread, flow), expected)
    # bundles with a dead cable are split, and no others
    for b in range(fabric.bundles):
        links = slice(fabric.bundle_start[b], fabric.bundle_start[b + 1])
        assert spread.split[b] == (alive[links].size > 1 and not alive[links].all())


@settings(max_examples=100, deadline=None)
@given(broken())
def test_minimal_shares(case: Any) -> None:
    check(case)


@settings(max_examples=50, deadline=None)
@given(broken("detour"))
def test_detour_shares(case: Any) -> None:
    check(case)


@settings(max_examples=20, deadline=None)
@given(broken("valiant"))
def test_valiant_shares(case: Any) -> None:
    check(case)


@settings(max_examples=20, deadline=None)
@given(broken("ugal"))
def test_ugal_shares(case: Any) -> None:
    check(case)


@settings(max_examples=60, deadline=None)
@given(broken(), st.integers(0, 2**32))
def test_adaptive_shares_follow_the_narrowest_link(case: Any, seed: int) -> None:
    """Share of a path = its least capacity between switches over the sum of these, in exact fractions."""
    fabric, alive, src, dst = case
    rng = np.random.default_rng(seed)
    capacity = np.where(alive, rng.choice([2.0, 4.0, 8.0, 16.0], fabric.links), 0.0)
    g = graph(fabric, alive)
    for s, d in zip(src.tolist(), dst.tolist(), strict=True):
        paths = admitted(fabric, g, s, d, alive, capacity)
        if paths:
            alike(per_link(fabric, fabric.spread([s], [d], adaptive_capacity=capacity), 0), shared(paths))


@settings(max_examples=40, deadline=None)
@given(broken("k_shortest", paths=4), st.booleans())
def test_k_shortest_shares_are_those_of_its_routes(case: Any, adaptive: bool) -> None:
    fabric, alive, src, dst = case
    capacity = np.where(alive, 1.0 + np.arange(fabric.links) % 3, 0.0)
    g = graph(fabric, alive)
    for s, d in zip(src.tolist(), dst.tolist(), strict=True):
        if not admitted(fabric, g, s, d, alive) or switch_of(fabric, s) == switch_of(fabric, d):
            continue
        number = np.arange(4 * 3 * 2)  # 1, 2, 3 and 4 divide it
        routes = fabric.route([s] * number.size, [d] * number.size, number, alive=alive)
        paths = sorted({tuple(row[row >= 0].tolist()) for row in routes})
        wide = [Fraction(min(capacity[i] for i in p[1:-1])) if adaptive else Fraction(1) for p in paths]
        expected = shared({p: w / sum(wide) for p, w in zip(paths, wide, strict=True)})
        spread = fabric.spread([s], [d], alive=alive, adaptive_capacity=capacity if adaptive else None)
        alike(per_link(fabric, spread, 0), expected)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["minimal", "valiant", "ugal"]), st.data())
def test_flow_is_conserved_at_every_node(routing: str, data: Any) -> None:
    fabric, _, src, dst = data.draw(broken(routing))
    spread = fabric.spread(src, dst)
    for flow in range(src.size):
        net = np.zeros(fabric.node_kind.size)
        for link, fraction in per_link(fabric, spread, flow).items():
            net[fabric.link_src[link]] -= fraction
            net[fabric.link_dst[link]] += fraction
        ends = np.flatnonzero(np.abs(net) > 1e-9)
        assert ends.size in (0, 2)  # 0: both behind one NIC
        assert np.abs(net[ends]) == pytest.approx(1.0)


def test_uniform_traffic_loads_a_torus_evenly() -> None:
    """All pairs on a k-ary n-cube, k even: a flow takes k/4 hops per dimension, half of them either way."""
    f = torus((4, 4, 4), nic=1.0, link=1.0)
    src, dst = (a.ravel() for a in np.meshgrid(np.arange(64), np.arange(64)))
    spread = f.spread(src, dst)
    load = f.link_load(np.bincount(spread.row, spread.fraction, f.rows))[switch_links(f)]
    assert load == pytest.approx(np.full(load.size, 64 * 4 / 8))


@pytest.mark.nojit
def test_valiant_levels_tornado_traffic() -> None:
    """Minimal routing sends all of it one way round the ring (Singh 2005). By hand, over the 6 switches that
    a pair may turn at, 10/6 hops go the short way round and 16/6 the other.
    """
    shift = (np.arange(8) + 3) % 8
    expected = {"minimal": [0.0, 3.0], "valiant": [10 / 6, 16 / 6]}
    for routing, loads in expected.items():
        f = torus((8,), nic=1.0, link=1.0, routing=routing)
        spread = f.spread(np.arange(8), shift)
        load = np.sort(f.link_load(np.bincount(spread.row, spread.fraction, f.rows))[switch_links(f)])
        assert load == pytest.approx(np.repeat(loads, 8))


@pytest.mark.nojit
def test_trunks_stay_whole_until_a_cable_fails() -> None:
    f = hyperx((3, 2), nic=1.0, link=1.0, cables=[3, 1])
    spread = f.spread([0], [5])
    assert not spread.split.any()
    assert spread.row.max() < f.bundles
    alive = f.mask(["dimension_1/x0.y0/x2.y0/c1"])
    spread = f.spread([0], [5], alive=alive)
    assert spread.split.sum() == 1
    # 2 of 5 paths cross the broken trunk, 3 the other one of dimension 1
    assert per_link(f, spread, 0)[f.link_index("dimension_1/x0.y0/x2.y0/c0")] == pytest.approx(1 / 5)
    assert f.row_capacity(split=spread.split)[f.bundles + f.link_index("dimension_1/x0.y0/x2.y0/c0")] == 1.0


def test_a_split_asked_for_is_kept() -> None:
    f = hyperx((2,), nic=1.0, link=1.0, cables=2)
    split = np.zeros(f.bundles, bool)
    split[f.bundle[f.link_index("dimension_1/x0/x1/c0")]] = True
    spread = f.spread([0], [1], split=split)
    assert per_link(f, spread, 0)[f.link_index("dimension_1/x0/x1/c1")] == 0.5
    assert spread.row.max() >= f.bundles


def test_fluid_rates_of_a_ring() -> None:
    """Tornado on a ring: three flows on every link one way round, so a third of it each."""
    f = torus((8,), nic=9.0, link=6.0)
    e = np.arange(8)
    lowered = lower(Transfers.of([Transfer(e, (e + 3) % 8, 1.0, coupled=False)]), f, Spray())
    answer = max_min(lowered.binding, lowered.capacity)
    assert answer.rate == pytest.approx(np.full(8, 2.0))


def test_no_row_of_a_switch_graph_is_taken_to_never_bind() -> None:
    """The fluid engine leaves out Clos rows that cannot bind; here every link may."""
    for f in (
        torus((4,), nic=1.0, link=9.0),
        dragonfly(2, 1, 1, nic=1.0),
        jellyfish(8, 3, nic=1.0, link=9.0),
    ):
        assert _can_bind(f, f.row_capacity()).all()
