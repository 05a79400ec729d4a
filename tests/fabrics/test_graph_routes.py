"""Routes of switch graphs against networkx's enumeration of admitted live paths, whatever links are dead."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import FabricError, RouteError
from euston.fabrics import Fabric, LinkKind, dragonfly, from_graph, hyperx, jellyfish, torus
from euston.fabrics.structure import CountsPaths, HashesPerSwitch

from .graph_oracle import broken, fabrics, graph, longer, shortest, switch_links, switch_of, via, with_ends


def taken(fabric: Fabric, s: int, d: int, choices: Any, alive: Any) -> list[tuple[int, ...]]:
    n = len(choices)
    paths = fabric.route([s] * n, [d] * n, np.asarray(choices, np.uint64), alive=alive)
    return [tuple(row[row >= 0].tolist()) for row in paths]


def check_all_numbers(case: Any, choice: int, more: int | None) -> None:
    """Choices 0 to n - 1 give the n enumerated paths, each once; any other is taken modulo n."""
    fabric, alive, src, dst = case
    g = graph(fabric, alive)
    for s, d in zip(src.tolist(), dst.tolist(), strict=True):
        a, b = switch_of(fabric, s), switch_of(fabric, d)
        if a == b:
            between: list[Any] = [()]
        else:
            between = shortest(g, a, b) if more is None else longer(g, a, b, more)
        expected = [()] if s == d else with_ends(fabric, s, d, between, alive)
        if not expected:
            with pytest.raises(RouteError) as caught:
                fabric.route([s], [d], [choice], alive=alive)
            assert str(caught.value).startswith(f"{fabric.endpoint_name(s)} -> {fabric.endpoint_name(d)}: ")
            continue
        n = len(expected)
        ours = taken(fabric, s, d, range(n), alive)
        assert sorted(ours) == sorted(expected)
        assert taken(fabric, s, d, [choice], alive) == [ours[choice % n]]
        whole = np.ones(fabric.bundles, bool)
        one = np.array([s], np.int32), np.array([d], np.int32)
        assert isinstance(fabric.structure, CountsPaths)
        assert s == d or fabric.structure.live_paths(*one, alive, whole)[0] == n


@settings(max_examples=80, deadline=None)
@given(broken(), st.integers(0, 2**64 - 1))
def test_minimal_routes_are_the_live_shortest_paths(case: Any, choice: int) -> None:
    check_all_numbers(case, choice, None)


@settings(max_examples=60, deadline=None)
@given(broken("detour"), st.integers(0, 2**64 - 1))
def test_detour_routes_are_the_live_paths_of_one_hop_more(case: Any, choice: int) -> None:
    check_all_numbers(case, choice, 1)


@settings(max_examples=60, deadline=None)
@given(broken("k_shortest", paths=8))
def test_k_shortest_routes_have_the_lengths_of_the_shortest_loop_free_paths(case: Any) -> None:
    """networkx's loop-free paths, the first 8 of up to two hops above the least."""
    fabric, alive, src, dst = case
    g = graph(fabric, alive)
    for s, d in zip(src.tolist(), dst.tolist(), strict=True):
        a, b = switch_of(fabric, s), switch_of(fabric, d)
        expected = with_ends(fabric, s, d, longer(g, a, b, 2), alive) if a != b else []
        if not expected:
            continue
        ours = taken(fabric, s, d, range(min(8, len(expected))), alive)
        assert len(set(ours)) == len(ours)
        assert set(ours) <= set(expected)
        assert [len(p) for p in ours] == [len(p) for p in expected[:8]]
        assert taken(fabric, s, d, [len(ours)], alive) == ours[:1]


@settings(max_examples=40, deadline=None)
@given(broken("valiant"))
def test_valiant_routes_turn_anywhere(case: Any) -> None:
    """All numbers together give every path over every intermediate, and nothing else."""
    fabric, alive, src, dst = case
    g = graph(fabric, alive)
    groups = groups_of(fabric)
    for s, d in zip(src[:3].tolist(), dst[:3].tolist(), strict=True):
        a, b = switch_of(fabric, s), switch_of(fabric, d)
        found = via(fabric, g, a, b, groups) if a != b else None
        if not found:
            continue
        expected = with_ends(fabric, s, d, list(found), alive)
        if not expected:
            continue
        legs = max(len(shortest(g, v, w)) for v in (a, *g) for w in g if v != w)
        turns = len(set(groups.values()))
        choices = np.arange(min(turns * legs**2 * 2, 20000))
        if choices.size < turns * legs**2 * 2:
            assert set(taken(fabric, s, d, choices, alive)) <= set(expected)
            continue
        # every number of intermediates from 1 up divides its own stretch of the numbers
        assert set(taken(fabric, s, d, choices, alive)) == set(expected)


def groups_of(fabric: Fabric) -> dict[int, int]:
    """Group of each switch, by the dragonfly's names; a group each elsewhere."""
    first = fabric.endpoints
    nodes = [i for i in range(first, fabric.node_kind.size) if fabric.node_name(i).startswith("switch/")]
    names = {i: fabric.node_name(i).removeprefix("switch/") for i in nodes}
    grouped = "groups" in fabric.structure.describe()[-2] and not names[nodes[-1]].startswith("g0")
    return {i: int(name.split(".")[0][1:]) if grouped else i for i, name in names.items()}


@settings(max_examples=40, deadline=None)
@given(broken("ugal"), st.integers(0, 2**40))
def test_ugal_numbers_alternate(case: Any, choice: int) -> None:
    """Even numbers are minimal paths, odd ones Valiant paths."""
    fabric, alive, src, dst = case
    g = graph(fabric, alive)
    for s, d in zip(src[:3].tolist(), dst[:3].tolist(), strict=True):
        a, b = switch_of(fabric, s), switch_of(fabric, d)
        found = via(fabric, g, a, b, groups_of(fabric)) if a != b else None
        minimal = with_ends(fabric, s, d, shortest(g, a, b), alive) if found else []
        if not found or not minimal:
            continue
        n = len(minimal)
        assert sorted(taken(fabric, s, d, 2 * np.arange(n), alive)) == sorted(minimal)
        assert taken(fabric, s, d, [2 * choice + 1], alive)[0] in with_ends(fabric, s, d, list(found), alive)


@settings(max_examples=60, deadline=None)
@given(broken(), st.integers(0, 2**32))
def test_hashed_paths_take_the_hashed_next_hop_everywhere(case: Any, seed: int) -> None:
    """The plain walk: at each switch next hop number ``word % live next hops``, in order of links."""
    fabric, alive, src, dst = case
    g = graph(fabric, alive)
    word = np.random.default_rng(seed).integers(0, 2**63, (src.size, fabric.node_kind.size)).astype(np.uint64)
    structure = fabric.structure
    assert isinstance(structure, HashesPerSwitch)
    choice = structure.hashed_choice(
        src.astype(np.int32),
        dst.astype(np.int32),
        lambda f, v: word[f, v],
        alive,
        np.ones(fabric.bundles, bool),
    )
    for f, (s, d) in enumerate(zip(src.tolist(), dst.tolist(), strict=True)):
        a, b = switch_of(fabric, s), switch_of(fabric, d)
        if s == d or not nx.has_path(g, a, b) or not with_ends(fabric, s, d, [()], alive):
            continue
        cost = nx.single_source_dijkstra_path_length(g.reverse(), b, weight="cost")
        walk = []
        while a != b:
            hops = sorted(
                link
                for w in g[a]
                for link in g.edges[a, w]["cables"]
                if w in cost and cost[w] + g.edges[a, w]["cost"] == cost[a]
            )
            walk.append(hops[int(word[f, a] % len(hops))])
            a = int(fabric.link_dst[walk[-1]])
        assert taken(fabric, s, d, [choice[f]], alive)[0][1:-1] == tuple(walk)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["minimal", "valiant", "ugal"]), st.data(), st.integers(0, 2**32))
def test_paths_are_contiguous(routing: str, data: Any, seed: int) -> None:
    fabric = data.draw(fabrics(routing))
    rng = np.random.default_rng(seed)
    src, dst = rng.integers(0, fabric.endpoints, (2, 50))
    paths = fabric.route(src, dst, rng.integers(0, 2**63, 50).astype(np.uint64))
    assert paths.dtype == np.int32
    for s, d, row in zip(src.tolist(), dst.tolist(), paths, strict=True):
        links = row[row >= 0]
        assert (row[: links.size] >= 0).all()
        if s == d:
            assert links.size == 0
            continue
        assert fabric.kind[links[0]] == LinkKind.NIC_UP
        assert fabric.kind[links[-1]] == LinkKind.NIC_DOWN
        assert fabric.link_dst[links[0]] == switch_of(fabric, s)
        assert fabric.link_src[links[-1]] == switch_of(fabric, d)
        assert (fabric.link_dst[links[:-1]] == fabric.link_src[links[1:]]).all()


def test_more_paths_than_numbers() -> None:
    """A 2-D torus corner to corner has 2^2 binomial(32, 16) = 2.4e9 paths, beyond 2^31: drawn, still uniform.

    Of the first hops each of the four directions is taken by a quarter of the paths; halfway along, the
    number of x hops has the hypergeometric distribution of a uniform path.
    """
    f = torus((32, 32), nic=1.0, link=1.0)
    n = 20000
    choice = np.random.default_rng(3).integers(0, 2**63, n).astype(np.uint64)
    paths = f.route(np.zeros(n, int), np.full(n, 16 * 32 + 16), choice)
    assert paths.shape == (n, 34)
    assert (
        f.structure.live_paths(*np.array([[0], [528]], np.int32), np.ones(f.links, bool), None)[0]
        == 2404321560
    )
    first = np.unique(paths[:, 1], return_counts=True)[1]
    assert first.size == 4
    assert np.abs(first / n - 0.25).max() < 0.02
    x_hops = (f.kind[paths[:, 1:17]] == LinkKind.DIMENSION_1).sum(axis=1)
    variance = 16 * 0.25 * 16 / 31  # of 16 draws without replacement from 16 + 16
    assert x_hops.mean() == pytest.approx(8, abs=0.1)
    assert x_hops.var() == pytest.approx(variance, rel=0.06)
    assert (f.route([0], [528], choice[:1]) == f.route([0], [528], choice[:1] % np.uint64(2404321560))).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["minimal", "valiant", "k_shortest"]), st.data())
def test_rows_are_equally_long_whatever_is_asked(routing: str, data: Any) -> None:
    """One width per state of the links, so that answers can be put together: the diameter if none is dead."""
    fabric, alive, _, _ = data.draw(broken(routing))
    e = np.arange(fabric.endpoints)
    g = graph(fabric, alive)
    legs = [len(p) for a in g for b in g for p in shortest(g, a, b)[:1] if a != b]
    more = {"minimal": 0, "valiant": 0, "k_shortest": 2}[routing]
    for live in (alive, np.ones(fabric.links, bool)):
        widths = set()
        for d in e.tolist():
            try:
                widths.add(fabric.route(e, np.full(e.size, d), d, alive=live).shape[1])
            except RouteError:
                continue
        assert len(widths) <= 1
        if live is alive and widths:
            assert widths.pop() >= (2 if routing == "valiant" else 1) * (max(legs, default=0) + more) + 2
        elif widths:
            whole = graph(fabric, live)
            longest = max(len(p) for a in whole for b in whole for p in shortest(whole, a, b)[:1])
            close = 1 if "groups" in fabric.structure.describe()[-2] else 0  # 3 hops, unless it is very small
            assert widths.pop() - 2 - (2 if routing == "valiant" else 1) * (longest + more) in range(
                4 * close + 1
            )


def test_small_numbers_differ_from_the_first_hop_on() -> None:
    """8 consecutive numbers of 9! = 362,880 paths start with at least 5 different links."""
    f = hyperx((2,) * 9, nic=1.0, link=1.0)
    paths = f.route([0] * 8, [511] * 8, np.arange(8))
    assert np.unique(paths[:, 1]).size >= 5


def test_destinations_are_served_part_by_part_when_tables_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from euston.fabrics import _graph_tables

    whole = jellyfish(16, 4, nic=1.0, routing="minimal")
    src, dst = (a.ravel() for a in np.meshgrid(np.arange(16), np.arange(16)))
    expected = whole.route(src, dst, src + dst)
    shares = whole.spread(src, dst)
    monkeypatch.setattr(_graph_tables, "_TABLE_BYTES", 16 * 12 * 3)
    small = jellyfish(16, 4, nic=1.0, routing="minimal")
    for _ in range(2):
        np.testing.assert_array_equal(small.route(src, dst, src + dst), expected)
    again = small.spread(src, dst)
    for name in ("ptr", "row", "fraction"):
        np.testing.assert_array_equal(getattr(again, name), getattr(shares, name))
    turning = jellyfish(16, 4, nic=1.0, routing="valiant")
    assert turning.route(src, dst, src + dst).shape[0] == 256
    with pytest.raises(
        FabricError, match="valiant paths over 16 switches are too many to spread over at once"
    ):
        turning.spread(src, dst)


def test_a_lattice_with_dead_links_is_routed_as_any_graph() -> None:
    """Pairs that keep the translated table: the same as from tables of the same graph without a lattice."""
    f = torus((4, 5), nic=1.0, link=1.0)
    cables = [tuple(f.link_name(i).split("/")[1:]) for i in switch_links(f) if f.link_src[i] < f.link_dst[i]]
    names = [f.node_name(i).removeprefix("switch/") for i in range(20, 40)]
    plain = from_graph(cables, nic=1.0, link=1.0, switches=names)
    rng = np.random.default_rng(5)
    src, dst = rng.integers(0, 20, (2, 200))
    for dead in (1, 4):
        alive = np.ones(f.links, bool)
        alive[rng.choice(switch_links(f), dead, replace=False)] = False
        ours, same = (g.route(src, dst, np.arange(200), alive=alive) for g in (f, plain))
        np.testing.assert_array_equal(ours[:, : same.shape[1]], same)
        assert (ours[:, same.shape[1] :] == -1).all()


def test_a_few_intermediates_are_distinct_and_the_same_for_route_and_spread() -> None:
    f = hyperx((4, 4), nic=1.0, link=1.0, routing="valiant", intermediates=5)
    every = hyperx((4, 4), nic=1.0, link=1.0, routing="valiant")
    for s, d in ((0, 1), (0, 5), (3, 12)):
        ours = set(taken(f, s, d, range(400), None))
        assert ours < set(taken(every, s, d, range(4000), None))
        # consecutive numbers turn at consecutive intermediates, all paths over one are equally long
        turns = taken(f, s, d, range(5), None)
        assert len(set(turns)) == 5
        spread = f.spread([s], [d])
        assert set(spread.row.tolist()) == {link for path in ours for link in path}
        assert spread.fraction[1:-1].sum() == pytest.approx(np.mean([len(path) - 2 for path in turns]))


@pytest.mark.parametrize(
    ("dead", "network", "message"),
    [
        ([], "scale_up", "h0/g1 -> h3/g1: they are in different scale-up domains"),
        (["nic_down/h3/n0"], "scale_out", "h0/g1 -> h3/g1: nic_down/h3/n0 is down"),
        (
            ["dimension_1/x2/x3", "dimension_1/x0/x3"],
            "scale_out",
            "h0/g1 -> h3/g1: every path from switch x0 to x3 crosses a link that is down",
        ),
    ],
)
def test_unreachable_pairs_are_named(dead: list[str], network: Any, message: str) -> None:
    f = torus((4,), nic=1.0, link=1.0, accelerators_per_host=2, nics_per_host=1, scale_up=8.0)
    for ask in (f.route, f.spread):
        more: dict[str, Any] = {"choice": 0} if ask == f.route else {}
        with pytest.raises(RouteError) as caught:
            ask([1, 1], [4 if network == "scale_out" else 0, 7], alive=f.mask(dead), network=network, **more)
        assert str(caught.value) == message
    bare = torus((4,), nic=1.0, link=1.0)
    with pytest.raises(RouteError, match="has no scale-up network"):
        bare.route([0], [1], 0, network="scale_up")


@pytest.mark.nojit
def test_traffic_goes_round_what_is_down() -> None:
    """Without its only global channel a pair of groups is reached over a third one."""
    f = dragonfly(2, 1, 1, nic=1.0)
    direct = f.route([0], [2], 0)[0]
    channel = next(int(i) for i in direct if f.kind[i] == LinkKind.GLOBAL)
    alive = np.ones(f.links, bool)
    alive[channel] = False
    around = f.route([0], [2], 0, alive=alive)[0]
    assert (f.kind[around[around >= 0]] == LinkKind.GLOBAL).sum() == 2


@pytest.mark.nojit
def test_scale_up_within_domains() -> None:
    f = torus((4,), nic=1.0, link=1.0, accelerators_per_host=2, scale_up=8.0, hosts_per_domain=2)
    row = f.route([0, 0, 0], [3, 4, 0], 0, network="auto")
    names = [[f.link_name(i) for i in r if i >= 0] for r in row]
    assert names[0] == ["scale_up_out/h0/g0", "scale_up_in/h1/g1"]
    assert names[1][0] == "nic_up/h0/n0"
    assert names[2] == []
    spread = f.spread([0, 0], [3, 4], network="auto")
    assert spread.row[:2].tolist() == [f.link_index(n) for n in names[0]]


def test_no_flows() -> None:
    for f in (
        torus((3, 3), nic=1.0, link=1.0),
        jellyfish(8, 3, nic=1.0),
        dragonfly(2, 1, 1, nic=1.0, routing="ugal"),
    ):
        assert f.route([], [], []).shape[0] == 0
        assert len(f.spread([], [])) == 0
