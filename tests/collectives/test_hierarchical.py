"""Hierarchical all-reduce: closed form, against the flat ring, and why its stages are never one column."""

from __future__ import annotations

import numpy as np
import pytest

from euston.collectives import hierarchical_all_reduce, ring
from euston.errors import ConfigError
from euston.fabrics import LinkKind

from .run import hosts_on_leaves, staged, together

M = 256e6
RANKS = np.arange(16).reshape(4, 4)


def test_closed_form() -> None:
    """RS(g, M) + AR(N, M/g) on g rails at once + AG(g, M), each with its steps' latencies."""
    fabric = hosts_on_leaves()
    up, out = 3e-6, 14e-6
    stages = hierarchical_all_reduce(RANKS, M, scale_up_latency=up, scale_out_latency=out)
    assert [s.name for s in stages] == [
        "reduce_scatter inside hosts", "all_reduce on rails", "all_gather inside hosts"
    ]  # fmt: skip
    seconds, carried = staged(stages, fabric)
    half = 3 * up + 0.75 * M / 450e9
    rails = 6 * out + 1.5 * (M / 4) / 50e9
    assert seconds == pytest.approx(2 * half + rails, rel=1e-12)
    np.testing.assert_allclose(carried[fabric.kind == LinkKind.SCALE_UP_OUT], 2 * 0.75 * M)
    np.testing.assert_allclose(carried[fabric.kind == LinkKind.NIC_UP], 1.5 * M / 4)


def test_equal_bandwidths_move_as_much_as_the_flat_ring() -> None:
    """With one bandwidth b everywhere: 2(g-1)/g + 2(N-1)/N/g = 2(n-1)/n, the flat ring's time, exactly."""
    fabric = hosts_on_leaves(nic=100e9, scale_up=100e9)
    seconds, _ = staged(hierarchical_all_reduce(RANKS, M), fabric)
    flat, _ = together([ring("all_reduce", RANKS.ravel(), M)], fabric)
    assert seconds == pytest.approx(flat[0], rel=1e-12)


def test_summing_the_stages_into_one_column_would_be_wrong() -> None:
    """Stages wait for each other. Run at the same time, as one summed column would, they take the longest
    stage instead of the sum: here half of the truth."""
    fabric = hosts_on_leaves(nic=100e9, scale_up=200e9)
    stages = hierarchical_all_reduce(RANKS, M)
    seconds, _ = staged(stages, fabric)
    inside, rails = 0.75 * M / 200e9, 1.5 * M / 4 / 100e9
    assert seconds == pytest.approx(2 * inside + rails, rel=1e-12)
    at_once, _ = together([t for s in stages for t in s.transfers], fabric)
    assert max(at_once) == pytest.approx(2 * inside, rel=1e-12)
    assert seconds / max(at_once) == pytest.approx(1.5, rel=1e-12)


@pytest.mark.parametrize(
    ("ranks", "names"),
    [
        ([[0, 1, 2, 3]], ["reduce_scatter inside hosts", "all_gather inside hosts"]),
        ([[0], [4], [8]], ["all_reduce on rails"]),
        ([[0]], []),
    ],
)
def test_one_host_or_one_rank_per_host(ranks: list[list[int]], names: list[str]) -> None:
    stages = hierarchical_all_reduce(ranks, M)
    assert [s.name for s in stages] == names
    seconds, _ = staged([*stages, *hierarchical_all_reduce(RANKS, M)[:1]], hosts_on_leaves())
    assert seconds > 0


def test_ranks_are_a_table() -> None:
    with pytest.raises(ConfigError, match=r"needs endpoints as \[hosts, ranks per host\]; got shape \(4,\)"):
        hierarchical_all_reduce([0, 1, 2, 3], M)


def test_it_beats_a_flat_ring_through_one_nic_at_a_time() -> None:
    """Closed forms: the flat ring sends 2(n-1)/n M through a NIC, the rails 2(N-1)/N M/g."""
    fabric = hosts_on_leaves()
    seconds, _ = staged(hierarchical_all_reduce(RANKS, M), fabric)
    flat, _ = together([ring("all_reduce", RANKS.ravel(), M)], fabric)
    assert flat[0] == pytest.approx(2 * 15 / 16 * M / 50e9, rel=1e-12)
    assert flat[0] / seconds > 3
