"""Rings: volumes and steps in closed form, and one coupled transfer against the ring sent step by step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.collectives import ring, ring_bytes, ring_in_steps, ring_steps
from euston.errors import ConfigError
from euston.fabrics import LinkKind

from .run import hosts_on_leaves, stepwise, together

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")
M = 256e6


@pytest.mark.parametrize(
    ("collective", "ranks", "sent", "steps"),
    [
        ("all_reduce", 2, 1.0, 2),
        ("all_reduce", 8, 1.75, 14),
        ("all_gather", 8, 0.875, 7),
        ("reduce_scatter", 4, 0.75, 3),
        ("all_reduce", 1, 0.0, 0),
    ],
)
def test_volume_and_steps(collective: str, ranks: int, sent: float, steps: int) -> None:
    """Oracle: Patarasuk & Yuan 2009, 2(n-1)/n of the buffer in 2(n-1) steps, half of it for the halves."""
    assert ring_bytes(collective, ranks, M) == sent * M
    assert ring_steps(collective, ranks) == steps


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_steps_move_the_volume(collective: str) -> None:
    group = [0, 5, 2, 9]
    steps = ring_in_steps(collective, group, M)
    whole = ring(collective, group, M)
    assert len(steps) == ring_steps(collective, 4)
    for i in range(4):
        assert sum(float(step[i].bytes[0]) for step in steps) == pytest.approx(float(whole.bytes[i]))
        assert {(int(step[i].src[0]), int(step[i].dst[0])) for step in steps} == {
            (int(whole.src[i]), int(whole.dst[i]))
        }


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize(
    ("group", "bandwidth"),
    [(range(4), 450e9), (range(0, 16, 4), 50e9), ([3, 14, 9, 4], 50e9), (range(16), 50e9)],
    ids=["inside a host", "one rank per host", "shuffled", "through hosts"],
)
def test_one_transfer_is_the_steps_on_a_free_fabric(collective: str, group: range, bandwidth: float) -> None:
    """Oracles: the steps one by one, and the closed form steps * (latency + M/n / bandwidth)."""
    fabric = hosts_on_leaves()
    n, latency = len(group), 14e-6
    coupled, carried = together([ring(collective, list(group), M, step_latency=latency)], fabric)
    steps, one_by_one = stepwise([ring_in_steps(collective, list(group), M, step_latency=latency)], fabric)
    closed = ring_steps(collective, n) * (latency + M / n / bandwidth)
    assert coupled[0] == pytest.approx(closed, rel=1e-12)
    assert steps[0] == pytest.approx(closed, rel=1e-9)
    np.testing.assert_allclose(carried, one_by_one, rtol=1e-12)


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("oversubscription", [4, 16])
def test_one_transfer_is_the_steps_on_a_contended_fabric(collective: str, oversubscription: int) -> None:
    """Four equal rings over four hosts share the uplinks of their leaves; each ring crosses one leaf once.

    Closed form: 4 rings on an uplink bundle of 8 NICs' bandwidth / oversubscription.
    """
    fabric = hosts_on_leaves(oversubscription=oversubscription)
    groups = [list(range(k, 16, 4)) for k in range(4)]
    coupled, carried = together([ring(collective, g, M) for g in groups], fabric)
    steps, one_by_one = stepwise([ring_in_steps(collective, g, M) for g in groups], fabric)
    bandwidth = min(50e9, 8 * 50e9 / oversubscription / 4)
    assert coupled == pytest.approx([ring_bytes(collective, 4, M) / bandwidth] * 4, rel=1e-12)
    assert steps == pytest.approx(coupled, rel=1e-9)
    np.testing.assert_allclose(carried, one_by_one, rtol=1e-12)


def test_rings_of_different_sizes_that_share_a_link() -> None:
    """Two rings of 2 and 1 buffers on the same two NICs: by hand, 2 units shared, then 1 unit alone."""
    fabric = hosts_on_leaves(2, 1)
    unit = ring_bytes("all_gather", 2, M) / 50e9
    both, _ = together([ring("all_gather", [0, 1], 2 * M), ring("all_gather", [0, 1], M)], fabric)
    assert both == pytest.approx([3 * unit, 2 * unit], rel=1e-12)
    steps, _ = stepwise(
        [ring_in_steps("all_gather", [0, 1], 2 * M), ring_in_steps("all_gather", [0, 1], M)], fabric
    )
    assert steps == pytest.approx(both, rel=1e-9)


def test_the_slowest_link_paces_a_coupled_ring() -> None:
    """A rate cap and a slow scale-out hop hold the whole ring, also its links inside the host."""
    fabric = hosts_on_leaves()
    seconds, carried = together([ring("all_reduce", range(8), M)], fabric)
    assert seconds == pytest.approx([ring_bytes("all_reduce", 8, M) / 50e9], rel=1e-12)
    capped, same = together([ring("all_reduce", range(8), M, rate_cap=10e9)], fabric)
    assert capped == pytest.approx([ring_bytes("all_reduce", 8, M) / 10e9], rel=1e-12)
    assert np.array_equal(carried, same)


@given(st.permutations(range(16)), st.integers(2, 16), st.sampled_from(COLLECTIVES))
@settings(max_examples=25)
def test_what_a_ring_puts_on_links(order: list[int], ranks: int, collective: str) -> None:
    """Every rank sends and receives its volume once, on the scale-up network or on its NIC."""
    fabric = hosts_on_leaves()
    group = order[:ranks]
    _, carried = together([ring(collective, group, M)], fabric)
    sent = ring_bytes(collective, ranks, M)
    for kinds in ((LinkKind.SCALE_UP_OUT, LinkKind.NIC_UP), (LinkKind.SCALE_UP_IN, LinkKind.NIC_DOWN)):
        per_endpoint = np.zeros(16)
        for kind in kinds:
            per_endpoint += carried[fabric.kind == kind]
        expected = np.zeros(16)
        expected[group] = sent
        np.testing.assert_allclose(per_endpoint, expected, rtol=1e-12)
    for up, down in ((LinkKind.NIC_UP, LinkKind.NIC_DOWN), (LinkKind.TOR_UP, LinkKind.TOR_DOWN)):
        assert carried[fabric.kind == up].sum() == pytest.approx(carried[fabric.kind == down].sum())


@pytest.mark.parametrize("group", [[3], [], [1, 2, 1]])
def test_a_ring_needs_two_different_ranks(group: list[int]) -> None:
    with pytest.raises(ConfigError, match="a ring needs at least 2 different endpoints"):
        ring("all_reduce", group, M)
    with pytest.raises(ConfigError, match="a ring needs at least 2 different endpoints"):
        ring_in_steps("all_reduce", group, M)


def test_unknown_collective() -> None:
    with pytest.raises(ConfigError, match="unknown collective 'allreduce'; did you mean 'all_reduce'"):
        ring("allreduce", [0, 1], M)
