"""Balancing policies: what every one of them keeps, and the fractions each of them promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from euston.errors import ConfigError, RouteError
from euston.fabrics import (
    Fabric,
    LinkKind,
    NodeKind,
    clos,
    clos3,
    leaf_spine,
    rail_optimized,
)
from euston.network.balancing import (
    BALANCING,
    Balancing,
    ChoosesAtStart,
    PathChoice,
    PathMode,
    Spread,
    StartRule,
    delivered,
)
from euston.network.balancing.adaptive import Adaptive
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.flowlet import Flowlet
from euston.network.balancing.oblivious import Oblivious
from euston.network.balancing.spray import Spray
from euston.network.balancing.wcmp import Wcmp
from euston.network.fluid import max_min
from euston.network.lowering import lower
from euston.network.transfer import Transfer, Transfers

NIC = 50e9
FABRICS = {
    "leaf-spine": leaf_spine(8, 2, nic=NIC, hosts_per_leaf=2, spines=4, scale_up=9 * NIC),
    "three tiers": clos3(12, 2, nic=NIC, hosts_per_tor=2, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=3),
    "rails": rail_optimized(12, 2, nic=NIC, hosts_per_segment=3, spines=3, scale_up=9 * NIC),
    "shared NICs, half-filled pod": clos(
        7, 4, nic=NIC, nics_per_host=2, hosts_per_tor=2, tors_per_pod=3, aggs_per_pod=2, cores_per_agg=2
    ),
    "two planes": clos(8, 2, nic=NIC, hosts_per_tor=2, aggs_per_pod=2, planes=2),
}
POLICIES: dict[str, Balancing] = {
    **{name: BALANCING.get(name)() for name in BALANCING.names()},
    "spray, adaptive": Spray(adaptive=True),
    "ecmp, 3 queue pairs": Ecmp(qps=3, seed=5),
    "ecmp, polarised crc": Ecmp(hash="crc32", polarised=True),
    "oblivious with a penalty": Oblivious(penalty=0.1),
    "conga": Flowlet(scheme="conga", paths=3),
    "adaptive per packet": Adaptive(per="packet"),
    "wcmp by links": Wcmp({"tor_up/p0/t0/a0": 3.0, "tor_up/p0/t1/a1": 0.25}),
}


def ints(*values: object) -> list[NDArray[np.int32]]:
    return [np.asarray(v, np.int32) for v in values]


def spread(
    policy: Balancing, fabric: Fabric, src: object, dst: object, capacity: NDArray[np.float64] | None = None
) -> Spread:
    now = np.array(fabric.capacity) if capacity is None else capacity
    alive = None if (now > 0).all() else now > 0
    return policy.spread(fabric, *ints(src, dst), alive=alive, capacity=now)


def link_loads(fabric: Fabric, found: Spread) -> NDArray[np.float64]:
    """Share of each flow on each link, float64[F, L]."""
    out = np.zeros((found.ptr.size - 1, fabric.links))
    for f in range(out.shape[0]):
        s = slice(found.ptr[f], found.ptr[f + 1])
        out[f] = fabric.link_load(
            np.bincount(found.row[s], weights=found.fraction[s], minlength=fabric.rows).astype(np.float64)
        )
    return out


def named(fabric: Fabric, load: NDArray[np.float64]) -> dict[str, float]:
    return {fabric.link_name(int(i)): float(load[i]) for i in np.flatnonzero(load)}


# ---- what all of them keep ---------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(list(FABRICS)), st.sampled_from(list(POLICIES)), st.integers(0, 2**32 - 1))
def test_what_flows_into_a_switch_leaves_it_and_dead_links_carry_nothing(
    name: str, policy: str, seed: int
) -> None:
    """One unit leaves the source, one unit reaches the destination, every switch passes on what it gets."""
    fabric, rng = FABRICS[name], np.random.default_rng(seed)
    made = POLICIES[policy]
    if policy == "wcmp by links":
        uplinks = rng.choice(np.flatnonzero(fabric.kind == LinkKind.TOR_UP), 2, replace=False)
        made = Wcmp({fabric.link_name(int(link)): w for link, w in zip(uplinks, (3.0, 0.25), strict=True)})
    src = rng.integers(0, fabric.endpoints, 20)
    dst = rng.integers(0, fabric.endpoints, 20)
    capacity = np.array(fabric.capacity)
    between = np.flatnonzero(fabric.kind >= LinkKind.TOR_UP)
    capacity[rng.choice(between, rng.integers(0, 3))] = 0.0
    capacity[rng.choice(between, rng.integers(0, 3))] *= 0.25
    try:
        found = spread(made, fabric, src, dst, capacity)
    except RouteError:
        return
    load = link_loads(fabric, found)
    assert (load[:, capacity == 0] == 0).all()
    assert (load >= 0).all()
    switch = fabric.node_kind >= NodeKind.TOR
    for f in range(20):
        gained = np.bincount(fabric.link_dst, weights=load[f], minlength=switch.size)
        gained -= np.bincount(fabric.link_src, weights=load[f], minlength=switch.size)
        np.testing.assert_allclose(gained[switch], 0.0, atol=1e-12)
        sent = load[f][fabric.kind == LinkKind.NIC_UP].sum()
        assert sent == pytest.approx(float(src[f] != dst[f]))
        for kind in range(8):  # a Clos is crossed once per tier
            total = load[f][fabric.kind == kind].sum()
            assert min(abs(total), abs(total - 1)) < 1e-12


@pytest.mark.parametrize("policy", POLICIES)
def test_no_flows_at_all(policy: str) -> None:
    found = spread(POLICIES[policy], FABRICS["three tiers"], [], [])
    assert found.ptr.tolist() == [0]
    assert found.row.size == found.fraction.size == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pair_without_a_path_is_named(policy: str) -> None:
    fabric = FABRICS["leaf-spine"]
    capacity = np.array(fabric.capacity)
    capacity[fabric.link_index("nic_down/h3/n1")] = 0.0
    with pytest.raises(RouteError, match="h0/g0 -> h3/g1"):
        spread(POLICIES[policy], fabric, [0, 0], [4, 7], capacity)


def test_packets_see_every_policy() -> None:
    expected = {
        "spray": PathMode.OBLIVIOUS,
        "oblivious": PathMode.OBLIVIOUS,
        "drb": PathMode.ROUND_ROBIN,
        "ecmp": PathMode.ECMP,
        "wcmp": PathMode.OBLIVIOUS,
        "flowlet": PathMode.FLOWLET,
        "adaptive": PathMode.ADAPTIVE,
        "reps": PathMode.REPS,
        "bitmap": PathMode.BITMAP,
        "mixed": PathMode.MIXED,
    }
    assert {name: BALANCING.get(name)().packet.mode for name in BALANCING.names()} == expected
    assert [BALANCING.get(name)().name for name in expected] == list(expected)
    assert Ecmp(qps=4).packet == PathChoice(PathMode.ECMP, 4)
    assert Flowlet(gap=1e-4, paths=16).packet == PathChoice(PathMode.FLOWLET, 16, 1e-4)
    assert Spray(adaptive=True).packet.mode == PathMode.ADAPTIVE
    with pytest.raises(ConfigError, match="letflow"):
        _ = Flowlet(scheme="conga").packet


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("oblivious", {"penalty": 1.0}), ("oblivious", {"penalty": -0.1}), ("oblivious", {"entropies": 0}),
        ("flowlet", {"gap": 0.0}), ("flowlet", {"gap": np.inf}), ("flowlet", {"paths": 0}),
        ("flowlet", {"scheme": "presto"}), ("adaptive", {"per": "burst"}), ("adaptive", {"paths": 0}),
        ("reps", {"entropies": 0}), ("bitmap", {"entropies": 0}), ("mixed", {"entropies": 0}),
        ("wcmp", {"weights": {"tor_up/p0/t0/a0": [1.0]}}), ("wcmp", {"weights": {"a -> b": 1.0}}),
        ("wcmp", {"weights": {"a -> b": [0.0, 0.0]}}), ("wcmp", {"weights": {"x": -1.0}}),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(values))}"):
        BALANCING.get(name)(**values)


# ---- spraying ----------------------------------------------------------------------------------------------


def test_spraying_over_k_paths_puts_one_kth_on_each() -> None:
    fabric = FABRICS["three tiers"]
    for name in ("spray", "oblivious", "drb", "reps", "bitmap", "mixed", "wcmp"):
        load = link_loads(fabric, spread(BALANCING.get(name)(), fabric, [0], [20]))[0]
        for kind, k in (
            (LinkKind.TOR_UP, 2),
            (LinkKind.AGG_UP, 6),
            (LinkKind.AGG_DOWN, 6),
            (LinkKind.TOR_DOWN, 2),
        ):
            on = load[(fabric.kind == kind) & (load > 0)]
            np.testing.assert_allclose(on, 1 / k, rtol=1e-14)
            assert on.size == k


@pytest.mark.parametrize(
    ("name", "share"),
    [("oblivious", 1 / 4), ("drb", 1 / 4), ("spray", 1 / 4)]
    + [(name, 0.2 / 3.2) for name in ("wcmp", "reps", "bitmap", "mixed")],
)
def test_a_slow_link_behind_the_first_hop(name: str, share: float) -> None:
    """Spine 2 reaches the destination's leaf at a fifth: oblivious 1/4 on it, by capacity 0.2/(3 + 0.2)."""
    fabric = FABRICS["leaf-spine"]
    slow = fabric.link_index("tor_down/p0/t2/a2")
    capacity = np.array(fabric.capacity)
    capacity[slow] *= 0.2
    load = link_loads(fabric, spread(BALANCING.get(name)(), fabric, [0], [8], capacity))[0]
    assert load[slow] == pytest.approx(share)
    assert load[fabric.link_index("tor_up/p0/t0/a2")] == pytest.approx(share)


@pytest.mark.parametrize("phi", [0.0, 0.1, 0.5])
def test_the_penalty_is_missing_between_switches_only(phi: float) -> None:
    """A permutation across a 1:1 fabric fills every uplink: rates are (1 - phi) of the NIC's."""
    fabric, policy = FABRICS["leaf-spine"], Oblivious(penalty=phi)
    share = delivered(policy, fabric)
    between = fabric.kind >= LinkKind.TOR_UP
    assert (share[between] == 1 - phi).all()
    assert (share[~between] == 1).all()
    ranks = np.arange(fabric.endpoints)
    transfers = Transfers.of([Transfer(ranks, np.roll(ranks, 4), 1.0, coupled=False)])
    low = lower(transfers, fabric, policy, capacity=fabric.capacity * share)
    rate = max_min(
        low.binding, low.capacity, column=low.column, weight=low.weight, rate_cap=low.rate_cap
    ).rate
    np.testing.assert_allclose(rate, (1 - phi) * NIC, rtol=1e-12)
    np.testing.assert_allclose(low.columns.load(rate).max(), max(NIC, (1 - phi) * 4 * NIC), rtol=1e-12)
    assert (delivered(Spray(), fabric) == 1).all()


# ---- weights -----------------------------------------------------------------------------------------------


def test_fractions_equal_the_table_of_links() -> None:
    """Two tiers of weights multiply; links that are not named weigh 1; the way down follows."""
    fabric = FABRICS["three tiers"]
    table = {"tor_up/p0/t0/a0": 3.0, "agg_up/p0/a0/c1": 2.0, "agg_up/p0/a1/c0": 0.0}
    load = named(fabric, link_loads(fabric, spread(Wcmp(table), fabric, [0], [20]))[0])
    expected = {
        "nic_up/h0/n0": 1.0, "nic_down/h10/n0": 1.0,
        "tor_up/p0/t0/a0": 3 / 4, "tor_up/p0/t0/a1": 1 / 4,
        "agg_up/p0/a0/c0": 3 / 16, "agg_up/p0/a0/c1": 3 / 8, "agg_up/p0/a0/c2": 3 / 16,
        "agg_up/p0/a1/c1": 1 / 8, "agg_up/p0/a1/c2": 1 / 8,
        "agg_down/p2/a0/c0": 3 / 16, "agg_down/p2/a0/c1": 3 / 8, "agg_down/p2/a0/c2": 3 / 16,
        "agg_down/p2/a1/c1": 1 / 8, "agg_down/p2/a1/c2": 1 / 8,
        "tor_down/p2/t1/a0": 3 / 4, "tor_down/p2/t1/a1": 1 / 4,
    }  # fmt: skip
    assert load == pytest.approx(expected)


def test_weights_of_links_move_to_the_living() -> None:
    fabric = FABRICS["leaf-spine"]
    table = {f"tor_up/p0/t0/a{a}": float(a + 1) for a in range(4)}
    capacity = np.array(fabric.capacity)
    capacity[fabric.link_index("tor_down/p0/t2/a3")] = 0.0
    load = link_loads(fabric, spread(Wcmp(table), fabric, [0, 4], [8, 8], capacity))
    up = [load[0, fabric.link_index(f"tor_up/p0/t0/a{a}")] for a in range(4)]
    assert up == pytest.approx([1 / 6, 2 / 6, 3 / 6, 0])
    other = [load[1, fabric.link_index(f"tor_up/p0/t1/a{a}")] for a in range(4)]
    assert other == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    drained = Wcmp({f"tor_up/p0/t0/a{a}": 0.0 for a in range(4)})
    with pytest.raises(RouteError, match="h0/g0 -> h4/g0"):
        spread(drained, fabric, [0], [8])


def test_fractions_equal_the_table_of_paths() -> None:
    """Path a*cores + c; endpoints win over switches; others are weighed by links; dead paths are left out."""
    fabric = FABRICS["three tiers"]
    table: dict[str, Any] = {
        "tor/p0/t0 -> tor/p2/t1": [1.0, 0.0, 0.0, 0.0, 0.0, 3.0],
        "h0/g1->h10/g1": [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        "tor_up/p0/t1/a1": 4.0,
    }
    policy = Wcmp(table)
    policy.check(fabric)
    flows = ([0, 1, 4, 3, 5], [20, 21, 20, 3, 8])
    load = [named(fabric, x) for x in link_loads(fabric, spread(policy, fabric, *flows))]
    assert load[0] == pytest.approx(
        {
            "nic_up/h0/n0": 1, "tor_up/p0/t0/a0": 0.25, "tor_up/p0/t0/a1": 0.75,
            "agg_up/p0/a0/c0": 0.25, "agg_up/p0/a1/c2": 0.75,
            "agg_down/p2/a0/c0": 0.25, "agg_down/p2/a1/c2": 0.75,
            "tor_down/p2/t1/a0": 0.25, "tor_down/p2/t1/a1": 0.75, "nic_down/h10/n0": 1,
        }
    )  # fmt: skip
    assert load[1]["agg_up/p0/a0/c1"] == 1.0
    assert load[2]["tor_up/p0/t1/a1"] == pytest.approx(0.8)
    assert load[3] == {}
    assert load[4]["agg_up/p0/a1/c0"] == pytest.approx(0.8 / 3)
    capacity = np.array(fabric.capacity)
    capacity[fabric.link_index("agg_down/p2/a1/c2")] = 0.0
    left = link_loads(fabric, spread(policy, fabric, [0], [20], capacity))[0]
    assert left[fabric.link_index("agg_up/p0/a0/c0")] == 1.0
    capacity[fabric.link_index("tor_up/p0/t0/a0")] = 0.0
    with pytest.raises(RouteError, match="every path with a weight"):
        spread(policy, fabric, [0], [20], capacity)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"tor_up/p0/t0/a9": 1.0}, "did you mean 'tor_up/p0/t0/a1'"),
        ({"tor/p0/t7 -> tor/p0/t1": [1.0]}, "unknown node 'tor/p0/t7'"),
        ({"tor/p0/t0 -> tor/p2/t1": [1.0, 2.0]}, "2 weights for 6 paths"),
    ],
)
def test_tables_that_do_not_fit_the_fabric(table: dict[str, Any], message: str) -> None:
    policy = Wcmp(table)
    with pytest.raises(ConfigError, match=message) as caught:
        policy.check(FABRICS["three tiers"])
        spread(policy, FABRICS["three tiers"], [0], [20])
    assert str(caught.value).startswith("`policies.balancing.weights.t")


def test_packets_cannot_follow_a_table() -> None:
    with pytest.raises(ConfigError, match="equal paths"):
        _ = Wcmp({"tor_up/p0/t0/a0": 2.0}).packet


# ---- choices at the start ----------------------------------------------------------------------------------


class _Uncounted:
    """A structure of which only the protocol's own methods are known."""

    def __init__(self, inner: Any) -> None:
        self.route, self.spread, self.why_unreachable = inner.route, inner.spread, inner.why_unreachable
        self.node_name, self.link_name, self.link_index = inner.node_name, inner.link_name, inner.link_index


def test_candidates_are_distinct_paths_and_the_first_is_ecmps() -> None:
    fabric = FABRICS["three tiers"]
    src, dst = ints([0, 0, 4, 2, 0, 7], [20, 20, 8, 3, 4, 7])
    dead = fabric.mask(["agg_up/p0/a1/c2"])
    for policy in (Flowlet(paths=5, seed=2), Adaptive(paths=5, seed=2)):
        assert isinstance(policy, ChoosesAtStart)
        for alive, counts in ((None, [5, 5, 5, 1, 2, 1]), (dead, [5, 5, 5, 1, 2, 1])):
            capacity = np.where(dead if alive is not None else True, fabric.capacity, 0.0)
            found = policy.candidates(fabric, src, dst, alive=alive, capacity=capacity)
            assert found is not None
            assert np.diff(found.ptr).tolist() == counts
            assert found.pair[0] == found.pair[1]
            assert np.unique(found.pair).size == 5
            load = link_loads(fabric, found.spread)
            hashed = link_loads(fabric, Ecmp(seed=2).spread(fabric, src, dst, alive=alive, capacity=capacity))
            for f in range(6):
                mine = load[found.ptr[f] : found.ptr[f + 1]]
                assert np.unique(mine, axis=0).shape[0] == counts[f]
                assert (mine[0] == hashed[f]).all()
            assert (load[:, fabric.link_index("tor_up/p0/t0/a0")] > 0).any()
            assert (load[:, fabric.link_index("tor_up/p0/t0/a1")] > 0).any()


def test_rules_and_gaps_reach_the_engine() -> None:
    fabric = FABRICS["leaf-spine"]
    src, dst = ints([0], [8])
    capacity = np.array(fabric.capacity)
    rules = {
        Flowlet(gap=2e-4): (StartRule.RANDOM_AFTER_GAP, 2e-4),
        Flowlet(scheme="conga"): (StartRule.LEAST_LOADED_AFTER_GAP, 500e-6),
        Adaptive(): (StartRule.LEAST_LOADED, 0.0),
    }
    for policy, (rule, gap) in rules.items():
        found = policy.candidates(fabric, src, dst, alive=None, capacity=capacity, seed=9)
        assert found is not None
        assert (found.rule, found.gap, found.seed) == (rule, gap, 9)
        assert np.diff(found.ptr).tolist() == [4]
    assert Adaptive(per="packet").candidates(fabric, src, dst, alive=None, capacity=capacity) is None


def test_a_flow_without_gaps_is_ecmps() -> None:
    """Continuous RDMA flows have no gaps, so that flowlet switching and ECMP are the same there."""
    fabric = FABRICS["three tiers"]
    src, dst = np.arange(12), np.arange(12, 24)
    hashed = spread(Ecmp(seed=4), fabric, src, dst)
    for policy in (Flowlet(seed=4), Flowlet(scheme="conga", seed=4), Adaptive(seed=4)):
        found = spread(policy, fabric, src, dst)
        assert (found.row == hashed.row).all()
        assert (found.fraction == hashed.fraction).all()


def test_candidates_without_a_count_of_paths() -> None:
    """A structure that neither counts its paths nor says where it hashes: still live paths, one hash."""
    fabric = FABRICS["leaf-spine"]
    plain = replace(fabric, structure=_Uncounted(fabric.structure))
    rng = np.random.default_rng(0)
    src = rng.integers(0, 8, 400).astype(np.int32)
    dst = rng.integers(8, 16, 400).astype(np.int32)
    capacity = np.array(fabric.capacity)
    found = Flowlet(seed=1).candidates(plain, src, dst, alive=None, capacity=capacity)
    load = link_loads(fabric, found.spread)
    first = link_loads(fabric, Ecmp(seed=1).spread(plain, src, dst, alive=None, capacity=capacity))
    assert (load[found.ptr[:-1]] == first).all()
    uplinks = load[:, fabric.kind == LinkKind.TOR_UP].sum(axis=0).reshape(-1, 4).sum(axis=0)
    assert np.diff(found.ptr).tolist() == [8] * 400
    assert np.abs(uplinks / uplinks.sum() - 1 / 4).max() < 0.03
