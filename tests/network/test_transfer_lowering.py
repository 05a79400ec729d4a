"""Transfers and their lowering, against all shortest paths of the fabric, link by link (networkx)."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from euston.errors import ConfigError, RouteError
from euston.fabrics import Fabric, LinkKind, clos, clos3, leaf_spine, rail_optimized
from euston.network.balancing import BALANCING
from euston.network.balancing.ecmp import Ecmp, flow_hash
from euston.network.balancing.spray import Spray
from euston.network.columns import Columns
from euston.network.fluid import max_min
from euston.network.lowering import Lowered, lower
from euston.network.transfer import Tag, Transfer, Transfers

NIC = 50e9


def two_tiers(oversubscription: float = 1.0, spines: int = 4) -> Fabric:
    return leaf_spine(
        8, 2, nic=NIC, hosts_per_leaf=2, spines=spines, oversubscription=oversubscription, scale_up=9 * NIC
    )  # fmt: skip


def three_tiers(oversubscription: tuple[float, float] = (1.0, 1.0)) -> Fabric:
    return clos3(
        12, 2, nic=NIC, hosts_per_tor=2, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=3,
        oversubscription=oversubscription, scale_up=9 * NIC,
    )  # fmt: skip


def rails() -> Fabric:
    return rail_optimized(12, 2, nic=NIC, hosts_per_segment=3, spines=3, scale_up=9 * NIC)


FABRICS = {
    "leaf-spine": two_tiers(),
    "leaf-spine 2:1": two_tiers(2.0),
    "leaf-spine 2:5": two_tiers(0.4),
    "three tiers": three_tiers(),
    "three tiers 3:1 on top": three_tiers((1.0, 3.0)),
    "three tiers 4:1 below": three_tiers((4.0, 0.5)),
    "rails": rails(),
    "half-filled pod": clos(
        7, 2, nic=NIC, hosts_per_tor=2, tors_per_pod=3, aggs_per_pod=2, cores_per_agg=2,
        oversubscription=(2.0, 2.0), scale_up=9 * NIC,
    ),
}  # fmt: skip


def sprayed_links(
    fabric: Fabric, src: int, dst: int, alive: NDArray[np.bool_] | None = None
) -> dict[int, float]:
    """Fractions on links, by listing all shortest paths in networkx: 1/n on each of n."""
    inside = src // fabric.accelerators_per_host == dst // fabric.accelerators_per_host
    graph = nx.DiGraph()
    for link in range(fabric.links):
        if (fabric.kind[link] <= LinkKind.SCALE_UP_IN) == inside and (alive is None or alive[link]):
            graph.add_edge(int(fabric.link_src[link]), int(fabric.link_dst[link]), link=link)
    paths = list(nx.all_shortest_paths(graph, src, dst)) if src != dst else []
    out: dict[int, float] = {}
    for path in paths:
        for a, b in pairwise(path):
            link = graph.edges[a, b]["link"]
            out[link] = out.get(link, 0.0) + 1 / len(paths)
    return out


def on_links(fabric: Fabric, lowered: Lowered, rate: NDArray[np.float64]) -> NDArray[np.float64]:
    return fabric.link_load(lowered.columns.load(rate))


def written_out(fabric: Fabric, transfers: Transfers, alive: NDArray[np.bool_] | None = None) -> Columns:
    """Sprayed columns over single links, flow by flow: the plain version of `lower`."""
    triples: list[tuple[int, int, float]] = []
    flow = 0
    for t in range(len(transfers)):
        members = range(transfers.ptr[t], transfers.ptr[t + 1])
        largest = max(transfers.bytes[m] for m in members)
        for m in members:
            share = transfers.bytes[m] / largest if transfers.coupled[t] else 1.0
            for link, x in sprayed_links(fabric, int(transfers.src[m]), int(transfers.dst[m]), alive).items():
                triples.append((flow, link, x * share))
            flow += not transfers.coupled[t]
        flow += bool(transfers.coupled[t])
    column, row, value = (np.array(x) for x in zip(*triples, strict=True))
    return Columns.from_entries(column, row.astype(np.int32), value, columns=flow, rows=fabric.links)


def random_traffic(fabric: Fabric, rng: np.random.Generator, n: int = 12) -> Transfers:
    """Rings, scattered members, incast, weights and caps."""
    out = []
    for _ in range(n):
        ranks = rng.permutation(fabric.endpoints)[: rng.integers(2, 6)]
        kind = rng.integers(3)
        dst = np.roll(ranks, 1) if kind < 2 else np.full(ranks.size, (ranks[0] + 1) % fabric.endpoints)
        size = rng.choice([1e6, 3e6], ranks.size) if rng.random() < 0.3 else 1e6
        out.append(
            Transfer(
                ranks, dst, size, coupled=bool(kind == 0), weight=float(rng.choice([1.0, 2.0])),
                rate_cap=float(rng.choice([np.inf, NIC / 3])),
            )
        )  # fmt: skip
    return Transfers.of(out)


def rates(lowered: Lowered, columns: Columns) -> NDArray[np.float64]:
    answer = max_min(
        columns, lowered.capacity, column=lowered.column, weight=lowered.weight, rate_cap=lowered.rate_cap
    )
    assert answer.certificate() < 1e-9
    return answer.rate


def test_a_coupled_ring_takes_one_of_each_of_its_links() -> None:
    """A ring over the first GPUs of 4 hosts on 4 leaves: 1 on its NICs, 1/4 on each of a leaf's 4 uplinks."""
    fabric = two_tiers()
    ranks = np.array([0, 4, 8, 12])
    lowered = lower(Transfers.of([Transfer(ranks, np.roll(ranks, -1), 6.0)]), fabric, Spray())
    assert lowered.ptr.tolist() == [0, 1]
    assert lowered.size.tolist() == [6.0]
    load = on_links(fabric, lowered, np.ones(1))
    for kind, each, total in (
        (LinkKind.NIC_UP, 1.0, 4.0),
        (LinkKind.NIC_DOWN, 1.0, 4.0),
        (LinkKind.TOR_UP, 0.25, 4.0),
    ):
        used = load[fabric.kind == kind]
        assert set(used[used > 0].tolist()) == {each}
        assert used.sum() == total
    assert rates(lowered, lowered.columns) == pytest.approx([NIC])


def test_a_ring_inside_hosts_uses_the_scale_up_network_and_crosses_out_once_per_host() -> None:
    fabric = two_tiers()
    ranks = np.arange(4)  # hosts 0 and 1, two GPUs each
    lowered = lower(Transfers.of([Transfer(ranks, np.roll(ranks, -1), 1.0)]), fabric, Spray())
    load = on_links(fabric, lowered, np.ones(1))
    by_name = {fabric.link_name(i): load[i] for i in np.flatnonzero(load)}
    assert set(by_name.values()) == {1.0}
    assert sorted(fabric.tier(i) for i in np.flatnonzero(load)) == sorted(
        ["scale-up out", "scale-up in", "NIC up", "NIC down"] * 2
    )


def test_uncoupled_members_have_a_column_each() -> None:
    """Incast of 6 into one NIC: C/6 each; every member is a flow of its own size."""
    fabric = two_tiers()
    transfers = Transfers.of(
        [Transfer(np.arange(2, 14, 2), np.zeros(6, int), np.arange(1.0, 7.0), coupled=False)]
    )
    lowered = lower(transfers, fabric, Spray())
    assert lowered.ptr.tolist() == [0, 6]
    assert lowered.size.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(rates(lowered, lowered.columns), NIC / 6)


def test_smaller_members_of_a_coupled_transfer_take_less() -> None:
    """They end together: a member of half the bytes runs at half the rate."""
    fabric = two_tiers()
    lowered = lower(Transfers.of([Transfer([0, 4], [4, 0], [10.0, 5.0])]), fabric, Spray())
    load = on_links(fabric, lowered, np.ones(1))
    assert load[fabric.link_index("nic_up/h0/n0")] == 1.0
    assert load[fabric.link_index("nic_up/h2/n0")] == 0.5
    assert lowered.size.tolist() == [10.0]


def test_a_balanced_all_to_all_is_held_by_its_nics() -> None:
    """n ranks, n(n-1) members of b bytes: every NIC carries n-1 of them."""
    fabric = two_tiers()
    ranks = np.array([0, 4, 8, 12])
    src, dst = (x.ravel() for x in np.meshgrid(ranks, ranks))
    keep = src != dst
    lowered = lower(Transfers.of([Transfer(src[keep], dst[keep], 1.0)]), fabric, Spray())
    assert rates(lowered, lowered.columns) == pytest.approx([NIC / 3])


def test_zero_bytes_and_members_to_themselves() -> None:
    fabric = two_tiers()
    transfers = Transfers.of(
        [Transfer([0, 4], [4, 0], 0.0), Transfer([3], [3], 7.0), Transfer([0], [4], 1.0)]
    )
    lowered = lower(transfers, fabric, Spray())
    assert lowered.size.tolist() == [0.0, 7.0, 1.0]
    assert np.diff(lowered.columns.ptr)[1] == 0


@pytest.mark.parametrize("name", FABRICS)
def test_sprayed_loads_and_rates_equal_the_written_out_system(name: str) -> None:
    """Oracle: all shortest paths of each pair by networkx, one row per link."""
    fabric = FABRICS[name]
    rng = np.random.default_rng(5)
    transfers = random_traffic(fabric, rng)
    lowered = lower(transfers, fabric, Spray())
    plain = written_out(fabric, transfers)
    amount = rng.uniform(1, 2, lowered.size.size)
    np.testing.assert_allclose(on_links(fabric, lowered, amount), plain.load(amount), rtol=1e-12, atol=1e-12)
    expected = max_min(plain, fabric.capacity, weight=lowered.weight, rate_cap=lowered.rate_cap).rate
    np.testing.assert_allclose(rates(lowered, lowered.columns), expected, rtol=1e-9)
    np.testing.assert_allclose(rates(lowered, lowered.binding), expected, rtol=1e-9)


@settings(max_examples=60)
@given(
    st.sampled_from(list(FABRICS)), st.integers(0, 2**32 - 1), st.sampled_from(["spray", "adaptive", "ecmp"])
)
def test_pruned_rows_are_never_the_bottleneck(name: str, seed: int, policy: str) -> None:
    """`binding` and `columns` give equal rates, whole, with slow links and with dead ones."""
    fabric = FABRICS[name]
    rng = np.random.default_rng(seed)
    balancing = {"spray": Spray(), "adaptive": Spray(adaptive=True), "ecmp": Ecmp(qps=2)}[policy]
    capacity = fabric.capacity.copy()
    between = np.flatnonzero(fabric.kind >= LinkKind.TOR_UP)
    if rng.random() < 0.6:
        capacity[rng.choice(between, 2)] *= 0.3
    if rng.random() < 0.5:
        capacity[rng.choice(between, 1)] = 0.0
    transfers = random_traffic(fabric, rng)
    try:
        lowered = lower(transfers, fabric, balancing, capacity=capacity)
    except RouteError:
        return  # a pair of the smallest fabrics lost its only path
    np.testing.assert_allclose(rates(lowered, lowered.binding), rates(lowered, lowered.columns), rtol=1e-9)
    assert (on_links(fabric, lowered, np.ones(lowered.size.size))[capacity == 0] == 0).all()


def test_pruning_leaves_out_what_it_can_and_keeps_what_binds() -> None:
    """1:1 uplinks can not bind, 2:1 uplinks can."""
    for fabric, kept in ((two_tiers(1.0), False), (two_tiers(2.0), True)):
        lowered = lower(Transfers.of([Transfer([0, 4], [8, 12], 1.0)]), fabric, Spray())
        uplinks = np.flatnonzero(
            np.isin(fabric.kind[fabric.bundle_start[:-1]], [LinkKind.TOR_UP, LinkKind.TOR_DOWN])
        )
        assert np.isin(lowered.columns.row, uplinks).any()
        assert np.isin(lowered.binding.row, uplinks).any() == kept


def test_the_floor_keeps_rows_that_will_bind_later() -> None:
    """A planned loss of uplink capacity makes an uplink row binding though it is not today."""
    fabric = two_tiers(1.0)
    transfers = Transfers.of([Transfer([0], [8], 1.0)])
    floor = fabric.capacity.copy()
    floor[fabric.kind == LinkKind.TOR_UP] *= 0.5
    uplinks = np.flatnonzero(fabric.kind[fabric.bundle_start[:-1]] == LinkKind.TOR_UP)
    assert np.isin(lower(transfers, fabric, Spray(), floor=floor).binding.row, uplinks).any()
    assert not np.isin(lower(transfers, fabric, Spray()).binding.row, uplinks).any()


def test_a_dead_uplink_is_avoided_by_all_policies() -> None:
    """Oracle for spraying: networkx on the living graph. ECMP must reach everybody without the link."""
    fabric = two_tiers(2.0)
    dead = fabric.link_index("tor_up/p0/t0/a1")
    capacity = fabric.capacity.copy()
    capacity[dead] = 0.0
    src, dst = np.arange(4), np.arange(8, 12)
    transfers = Transfers.of([Transfer(src, dst, 1.0, coupled=False)])
    for balancing in (Spray(), Spray(adaptive=True), Ecmp(), Ecmp(qps=8, seed=3)):
        lowered = lower(transfers, fabric, balancing, capacity=capacity)
        load = on_links(fabric, lowered, np.ones(4))
        assert load[dead] == 0.0
        assert load[fabric.kind == LinkKind.TOR_UP].sum() == pytest.approx(4.0)
        assert (rates(lowered, lowered.binding) > 0).all()
    alive = capacity > 0
    lowered = lower(transfers, fabric, Spray(), capacity=capacity)
    expected = max_min(written_out(fabric, transfers, alive), capacity).rate
    np.testing.assert_allclose(rates(lowered, lowered.columns), expected, rtol=1e-12)


def test_a_dead_nic_has_no_way_round() -> None:
    fabric = two_tiers()
    capacity = fabric.capacity.copy()
    capacity[fabric.link_index("nic_up/h1/n0")] = 0.0
    transfers = Transfers.of([Transfer([0, 2], [8, 8], 1.0, tag=Tag(kind="gradients"))])
    for balancing in (Spray(), Ecmp()):
        with pytest.raises(RouteError, match="h1/g0 -> h4/g0"):
            lower(transfers, fabric, balancing, capacity=capacity)


def test_adaptive_spraying_follows_capacity_and_oblivious_does_not() -> None:
    """One of two spines' uplinks at half speed: 1/2 : 1/2, or 1/3 : 2/3."""
    fabric = two_tiers(2.0, spines=2)
    slow, other = (fabric.link_index(f"tor_up/p0/t0/a{a}") for a in (0, 1))
    capacity = fabric.capacity.copy()
    capacity[slow] /= 2
    transfers = Transfers.of([Transfer([0], [8], 1.0)])
    for balancing, share in ((Spray(), 1 / 2), (Spray(adaptive=True), 1 / 3)):
        load = on_links(fabric, lower(transfers, fabric, balancing, capacity=capacity), np.ones(1))
        assert load[[slow, other]] == pytest.approx([share, 1 - share])


# ---- ECMP --------------------------------------------------------------------------------------------------


def test_ecmp_puts_each_queue_pair_on_single_links() -> None:
    fabric = three_tiers()
    src, dst = np.arange(8), np.arange(16, 24)
    for qps in (1, 4):
        lowered = lower(Transfers.of([Transfer(src, dst, 1.0, coupled=False)]), fabric, Ecmp(qps=qps))
        assert len(lowered.columns) == 8
        for f in range(8):
            rows, share = lowered.columns.column(f)
            load = np.zeros(fabric.rows)
            load[rows] = share
            links = fabric.link_load(load)
            for kind in (
                LinkKind.NIC_UP,
                LinkKind.TOR_UP,
                LinkKind.AGG_UP,
                LinkKind.AGG_DOWN,
                LinkKind.TOR_DOWN,
            ):
                on = links[fabric.kind == kind]
                assert on.sum() == pytest.approx(1.0)
                np.testing.assert_allclose(on * qps, np.round(on * qps), atol=1e-12)
    assert not np.isin(np.flatnonzero(lowered.split), lowered.columns.row).any()  # split bundles: links only


def test_ecmp_leaves_idle_links_as_balls_in_bins_do() -> None:
    """m flows on n equal uplinks leave (1 - 1/n)^m idle ; here 8 flows on 16 uplinks, 200 seeds."""
    fabric = leaf_spine(2, 8, nic=NIC, hosts_per_leaf=1, spines=16)
    uplinks = fabric.kind == LinkKind.TOR_UP
    transfers = Transfers.of([Transfer(np.arange(8), np.arange(8, 16), 1.0, coupled=False)])
    idle = []
    for seed in range(200):
        load = on_links(fabric, lower(transfers, fabric, Ecmp(seed=seed)), np.ones(8))
        idle.append((load[uplinks][:16] == 0).mean())
    assert np.mean(idle) == pytest.approx((1 - 1 / 16) ** 8, abs=0.015)


def test_ecmp_is_repeatable_and_its_seed_matters() -> None:
    fabric = three_tiers()
    transfers = Transfers.of([Transfer(np.arange(12), np.arange(12, 24), 1.0, coupled=False)])
    a, b, c = (lower(transfers, fabric, Ecmp(seed=s)).columns for s in (0, 0, 1))
    assert (a.row == b.row).all()
    assert not np.array_equal(a.row, c.row)


def test_the_flow_hash_tells_its_arguments_apart() -> None:
    src, dst, qp = (x.ravel().astype(np.int32) for x in np.meshgrid(range(40), range(40), range(4)))
    words = np.concatenate([flow_hash(src, dst, qp, seed) for seed in (0, 1)])
    assert np.unique(words).size == words.size
    assert abs((words % np.uint64(16)).astype(float).mean() - 7.5) < 0.2


def test_policies_are_found_by_name() -> None:
    assert BALANCING.get("spray") is Spray
    assert BALANCING.get("ecmp") is Ecmp
    with pytest.raises(ConfigError):
        Ecmp(qps=0)


# ---- the noun itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"dst": [1, 2]}, "1 sources but 2 destinations"),
        ({"bytes": -1.0}, "bytes"),
        ({"bytes": np.nan}, "bytes"),
        ({"bytes": 2.0**51}, "bytes"),
        ({"weight": 0.0}, "weight"),
        ({"weight": np.nan}, "weight"),
        ({"weight": np.inf}, "weight"),
        ({"rate_cap": 0.0}, "rate_cap"),
        ({"latency": -1.0}, "latency"),
        ({"latency": np.inf}, "latency"),
    ],
)
def test_a_nonsense_transfer_is_refused(bad: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Transfer(**{"src": [0], "dst": [1], "bytes": 1.0, "tag": Tag(kind="x"), **bad})  # type: ignore[arg-type]


def test_flat_forms_agree() -> None:
    """`uniform`, `of` and `concatenate` write the same table."""
    src, dst = np.array([[0, 1], [2, 3], [4, 5]]), np.array([[1, 0], [3, 2], [5, 4]])
    one = Transfers.uniform(src, dst, [1.0, 2.0, 3.0], kind="ring", owner=[0, 1, 2], role=7, latency=0.5)
    tag = Tag(kind="ring", role=7)
    other = Transfers.of(
        [Transfer(s, d, b, latency=0.5, tag=tag) for s, d, b in zip(src, dst, (1.0, 2.0, 3.0), strict=True)],
        owner=[0, 1, 2],
    )
    extra = Transfers.of([Transfer([0, 1, 2], [3, 4, 5], 9.0, coupled=False, tag=Tag(kind="incast"))])
    for a, b in (
        (one, other),
        (Transfers.concatenate([one, extra, one]), Transfers.concatenate([other, extra, other])),
    ):
        assert a.kinds == b.kinds
        for name in vars(a):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    both = Transfers.concatenate([one, extra, one])
    assert both.ptr.tolist() == [0, 2, 4, 6, 9, 11, 13, 15]
    assert both.kinds == ("ring", "incast")
    assert both.kind.tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert both.coupled.tolist() == [True] * 3 + [False] + [True] * 3
