"""Every algorithm as transfers, message by message, and as its closed form; what every link carries.

Oracles: the alpha-beta formulas of Thakur et al. (2005), Sanders et al. (2009) and Cho et al. (2019) on a
network where ranks are all equally far from each other; the same collective written message by message.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.clock import ProgramBuilder
from euston.collectives import ALGORITHMS, Collective, Group, Hop, collective, group_of, write_collective
from euston.collectives.dimensions import BlueConnect, Torus
from euston.collectives.double_binary_tree import parents
from euston.collectives.in_network import InNetwork
from euston.errors import ConfigError
from euston.fabrics import Fabric, LinkKind, clos, torus

from .run import hosts_on_leaves, run

ALPHA, M = 5e-6, 64e6
RATE = 50e9


def flat(n: int) -> tuple[Group, Fabric]:
    """n hosts of one rank on one switch: every message crosses a NIC up and a NIC down of `RATE`."""
    fabric = clos(n, 1, nic=RATE, hosts_per_tor=n, aggs_per_pod=1)
    return group_of(np.arange(n), between=Hop(ALPHA)), fabric


def hosts(per_host: int = 4, count: int = 4) -> tuple[Group, Fabric]:
    fabric = hosts_on_leaves(count, per_host)
    ranks = np.arange(per_host * count)
    return group_of(ranks, ranks // per_host, inside=Hop(2e-6), between=Hop(14e-6)), fabric


def seconds(planned: Collective, fabric: Fabric) -> tuple[float, np.ndarray]:
    builder, table = ProgramBuilder(), []
    end = write_collective(builder, table, planned)
    done, carried = run(builder, table, fabric)
    return float(done.end[end]), carried


def took(kind: str, group: Group, fabric: Fabric, algorithm: object, size: float = M) -> float:
    return seconds(collective(kind, group, size, algorithm), fabric)[0]  # type: ignore[arg-type]


# ---- closed forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_halving_doubling_of_a_power_of_two(n: int) -> None:
    """2 log2(n) alpha + 2 M (n-1)/n beta."""
    expected = 2 * np.log2(n) * ALPHA + 2 * M * (n - 1) / n / RATE
    assert took("all_reduce", *flat(n), "halving-doubling") == pytest.approx(expected, rel=1e-9)
    assert took("all_gather", *flat(n), "halving-doubling") == pytest.approx(expected / 2, rel=1e-9)


@pytest.mark.parametrize("n", [3, 6, 12])
def test_halving_doubling_folds_other_numbers_first(n: int) -> None:
    """The next power of two below, and 2 (alpha + M beta) more."""
    power = 1 << (n.bit_length() - 1)
    expected = 2 * (np.log2(power) + 1) * ALPHA + (2 * M * (power - 1) / power + 2 * M) / RATE
    assert took("all_reduce", *flat(n), "halving-doubling") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 8, 16])
def test_ring(n: int) -> None:
    """2 (n-1) (alpha + M/n beta)."""
    expected = 2 * (n - 1) * (ALPHA + M / n / RATE)
    assert took("all_reduce", *flat(n), "ring") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [4, 8, 16, 31])
def test_tree(n: int) -> None:
    """About 2 (log2(n) alpha + M beta): no rank sends more than 2 M, and the latency is twice the depth's."""
    group, fabric = flat(n)
    found, carried = seconds(collective("all_reduce", group, M, "tree"), fabric)
    depth = max(_depth(tree, r) for tree in parents(n) for r in range(n))
    assert found == pytest.approx(2 * depth * ALPHA + carried[fabric.kind == LinkKind.NIC_UP].max() / RATE)
    assert carried[fabric.kind == LinkKind.NIC_UP].max() <= 2 * M * (1 + 1e-12)
    assert depth <= np.log2(n) + 1


def _depth(tree: list[int], rank: int) -> int:
    return 0 if tree[rank] < 0 else 1 + _depth(tree, tree[rank])


@given(st.integers(2, 200))
def test_both_trees_hold_everybody_and_no_rank_is_inner_in_both(n: int) -> None:
    """Sanders et al.: with an even number, inner nodes of one tree are leaves of the other but for roots."""
    for tree in parents(n):
        assert tree.count(-1) == 1
        assert all(_depth(tree, r) <= np.log2(n) + 1 for r in range(n))
        assert max(tree.count(r) for r in range(n)) <= 2
    first, second = (set(tree) - {-1, tree.index(-1)} for tree in parents(n))
    if n % 2 == 0:
        assert not first & second


def test_in_network_moves_the_buffer_once_and_a_share() -> None:
    """M (1 + 1/n) over the links, at the switch's efficiency."""
    group, fabric = hosts(8, 1)
    group = Group(group.ranks, group.domain, Hop(1e-6, 450e9), group.between)
    found, carried = seconds(collective("all_reduce", group, M, InNetwork(0.85)), fabric)
    assert found == pytest.approx(1e-6 + M * (1 + 1 / 8) / (0.85 * 450e9), rel=1e-9)
    assert carried[fabric.kind == LinkKind.SCALE_UP_OUT] == pytest.approx(M * 9 / 8)


def test_dimensions_one_after_the_other() -> None:
    """Sum of 2 (n_i - 1)/n_i M / prod_{j<i} n_j (Cho et al. 2019)."""
    group, fabric = flat(12)
    expected = 2 * (M * 1 / 2 + M / 2 * 2 / 3 + M / 6 * 1 / 2) / RATE + 2 * (1 + 2 + 1) * ALPHA
    assert took("all_reduce", group, fabric, BlueConnect((2, 3, 2))) == pytest.approx(expected, rel=1e-9)


def test_a_torus_works_in_all_dimensions_at_once() -> None:
    """4 x 4 torus: two halves side by side take half of one whole, and every link carries the same."""
    fabric = torus((4, 4), link=25e9, nic=100e9)
    group = group_of(np.arange(16), between=Hop(0.0))
    whole, _ = seconds(collective("all_reduce", group, M, BlueConnect((4, 4))), fabric)
    parts, carried = seconds(collective("all_reduce", group, M, Torus((4, 4))), fabric)
    assert parts < 0.75 * whole
    nic = np.isin(fabric.kind, (LinkKind.NIC_UP, LinkKind.NIC_DOWN))
    used = carried[(carried > 0) & ~nic]
    assert used.min() == pytest.approx(used.max())


def test_all_to_all_directly_and_in_two_hops() -> None:
    """NIC: M (N-1)/N either way; inside, M (g-1)/n directly and M (g-1)/g in two hops."""
    group, fabric = hosts()
    nic, inside = fabric.kind == LinkKind.NIC_UP, fabric.kind == LinkKind.SCALE_UP_OUT
    _, straight = seconds(collective("all_to_all", group, M, "direct"), fabric)
    _, hops = seconds(collective("all_to_all", group, M, "two-level"), fabric)
    np.testing.assert_allclose(straight[nic], M * 3 / 4)
    np.testing.assert_allclose(hops[nic], M * 3 / 4)
    np.testing.assert_allclose(straight[inside], M * 3 / 16)
    np.testing.assert_allclose(hops[inside], M * 3 / 4)


# ---- transfers against messages ----------------------------------------------------------------------------

PLACES = {
    "flat 8": lambda: flat(8),
    "flat 6": lambda: flat(6),
    "hosts": hosts,
    "one host": lambda: hosts(8, 1),
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_transfers_and_messages_agree(name: str, where: str) -> None:
    """Same bytes on every link and the same time, but for what ``TOLERANCE`` says."""
    group, fabric = PLACES[where]()
    algorithm = ALGORITHMS.get(name)()
    if name == "in-network" and where != "one host":
        algorithm = InNetwork(1.0)
    if name == "in-network":
        group = Group(group.ranks, group.domain, Hop(2e-6, 450e9), group.between)
    if name in ("torus", "blueconnect"):
        per = len(group) // group.domains if 1 < group.domains < len(group) else 2
        algorithm = ALGORITHMS.get(name)(shape=(per, len(group) // per))
    for kind in algorithm.collectives:
        one, first = seconds(collective(kind, group, M, algorithm), fabric)
        many, second = seconds(collective(kind, group, M, algorithm, detail="steps"), fabric)
        np.testing.assert_allclose(first, second, rtol=1e-9, atol=1.0)
        assert many == pytest.approx(one, rel=TOLERANCE.get((name, where), 1e-6)), kind


TOLERANCE = {
    # Trees: chunks fill and drain. The others: some ranks run ahead into links that others still use.
    **{("tree", where): 0.1 for where in PLACES},
    ("halving-doubling", "flat 6"): 0.3,
    ("pairwise", "hosts"): 0.15,
    ("ring", "hosts"): 0.2,
    **{("in-network", where): 0.1 for where in PLACES},
}


@given(
    st.sampled_from(["ring", "halving-doubling", "tree", "hierarchical"]),
    st.integers(1, 4),
    st.integers(2, 9),
)
@settings(max_examples=30, deadline=None)
def test_every_rank_sends_at_least_what_an_all_reduce_needs(name: str, per_host: int, count: int) -> None:
    """Lower bound 2 (n-1)/n M on what all ranks send together, whatever the algorithm (Patarasuk & Yuan)."""
    group, fabric = hosts(per_host, count) if per_host > 1 else flat(count)
    planned = collective("all_reduce", group, M, name)
    sent = sum(float(t.bytes.sum()) for t in planned.transfers)
    n = len(group)
    assert sent >= 2 * (n - 1) * M * (1 - 1e-9)
    took_, _ = seconds(planned, fabric)
    assert took_ > 0


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_conformance(name: str) -> None:
    from euston.testing import check_policy

    made = ALGORITHMS.get(name)
    check_policy(made(shape=(4, 2)) if name == "torus" else made())


def test_conformance_finds_messages_that_are_missing() -> None:
    from euston.collectives.rings import Ring
    from euston.testing import PolicyError, check_policy

    class Forgetful(Ring):
        def messages(self, collective: str, group: Group, buffer_bytes: float):  # type: ignore[no-untyped-def]
            return super().messages(collective, group, buffer_bytes)[:-1]

    with pytest.raises(PolicyError, match="messages and transfers differ"):
        check_policy(Forgetful())


# ---- errors ------------------------------------------------------------------------------------------------


def test_errors() -> None:
    group, _ = flat(4)
    with pytest.raises(ConfigError, match="tree does not do all_gather; it does all_reduce"):
        collective("all_gather", group, M, "tree")
    with pytest.raises(ConfigError, match="did you mean 'ring'"):
        collective("all_reduce", group, M, "rinq")
    with pytest.raises(ConfigError, match="auto needs the rates"):
        collective("all_reduce", group, M)
    with pytest.raises(ConfigError, match="as many ranks in every scale-up domain"):
        collective("all_reduce", group_of(np.arange(5), [0, 0, 0, 1, 1]), M, "hierarchical")
    with pytest.raises(ConfigError, match="at least 2 different endpoints"):
        group_of([3, 3])
    with pytest.raises(ConfigError, match="holds 6 ranks, not 4"):
        collective("all_reduce", group, M, BlueConnect((2, 3)))
    with pytest.raises(ConfigError, match="neither transfer nor steps"):
        collective("all_reduce", group, M, "ring", detail="both")  # type: ignore[arg-type]
