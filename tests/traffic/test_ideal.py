"""Ideal completion times and bounds.

Oracles: a packet-by-packet replay of one flow over its links in exact fractions, the closed form of the fluid
model, the published completion of one message on an idle network (uet-htsim), cuts counted by hand.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.fabrics import fat_tree, leaf_spine
from euston.network import Flows
from euston.network.transport.nscc import Nscc
from euston.traffic import bounds, ideal_completion, matrix, wire_bytes
from euston.traffic.bounds import earliest
from euston.traffic.ideal import _overtaking, _packets
from euston.traffic.run import run_flows


def replay(sizes: list[int], rates: list[int]) -> Fraction:
    """When the last of the packets, sent back to back, has left the last of the links."""
    free = [Fraction(0)] * len(rates)
    for size in sizes:
        at = Fraction(0)
        for k, rate in enumerate(rates):
            at = max(at, free[k]) + Fraction(size, rate)
            free[k] = at
    return free[-1]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(1, 40),
    st.data(),
)
def test_packets_over_links_of_any_rate(rates: list[int], count: int, full: int, data: st.DataObject) -> None:
    last = data.draw(st.integers(1, full))
    padded = np.array([[*map(float, rates), np.inf, np.inf]])
    got = _packets(padded, np.array([float(full)]), np.array([float(last)]), np.array([float(count)]))
    assert got[0] == pytest.approx(float(replay([full] * (count - 1) + [last], rates)), rel=1e-12)


def test_one_message_of_the_reference() -> None:
    """2,000,000 B between pods, 100 Gb/s, 1 us per hop, packets of 4150 B: published 176.2 us."""
    fabric = fat_tree(4, nic="100 Gb/s")
    scale = 6e-6 / fabric.path_latency(fabric.route([0], [13], [0]))[0]
    flow = Flows.of([0], [13], [2_000_000])
    assert scale == pytest.approx(2.0)  # ours has 500 ns per hop
    got = ideal_completion(flow, fabric, 4150, 64, model="packet", acknowledged=True)[0] + 6e-6
    assert got * 1e6 == pytest.approx(176.2, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4086, 4087, 5000, 100_000, 2_000_000])
def test_the_packet_engine_alone_is_ideal(size: int) -> None:
    flow, transport = Flows.of([0], [5], [size]), Nscc()
    even = fat_tree(4, nic="100 Gb/s")
    narrow = leaf_spine(8, 1, nic="100 Gb/s", hosts_per_leaf=4, spines=2, oversubscription=4.0)
    for fabric in (even, narrow):
        took = run_flows(flow, fabric, network="packet", transport=transport).completion[0]
        ideal = ideal_completion(
            flow, fabric, transport.mtu, transport.header, model="packet", acknowledged=True, sprayed=True
        )[0]
        assert took >= ideal * (1 - 1e-9)
        if fabric is even:  # to the picosecond: an answer comes at once
            assert took == pytest.approx(ideal, abs=2e-12)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(2, 30), st.data())
def test_packets_on_paths_of_their_own(hops: int, count: int, full: int, data: st.DataObject) -> None:
    """Never later than on one path, never sooner than the first packet and all bytes into the last link."""
    last = data.draw(st.integers(1, full))
    rate = np.array([[2.0] * hops + [np.inf]])
    args = rate, np.array([float(full)]), np.array([float(last)]), np.array([float(count)])
    apart, together = _overtaking(*args)[0], _packets(*args)[0]
    assert apart <= together + 1e-12
    assert apart >= ((count - 1) * full + last) / 2.0
    if last == full:
        assert apart == pytest.approx(together)


def test_fluid_closed_form() -> None:
    fabric = leaf_spine(8, 1, nic="100 Gb/s", hosts_per_leaf=4, spines=2, oversubscription=4.0)
    flows = Flows.of([0, 0, 0], [1, 5, 5], [10_000, 10_000, 100], rate_cap=[np.inf, np.inf, 1e6])
    c, up = 12.5e9, 6.25e9  # four hosts over two uplinks at 4:1
    assert fabric.capacity[fabric.kind == 4][0] == up
    got = ideal_completion(flows, fabric, 1000, 0)
    hop = fabric.latency[0]
    assert got[0] == pytest.approx(2 * hop + 1000 / c + 10_000 / c)
    assert got[1] == pytest.approx(4 * hop + 2 * 1000 / up + 1000 / c + 10_000 / up)
    assert got[2] == pytest.approx(4 * hop + 2 * 100 / up + 100 / c + 100 / 1e6, rel=1e-3)
    # both uplinks together are as fast as the NIC
    wide = ideal_completion(flows, fabric, 1000, 0, sprayed=True)
    assert wide[1] == pytest.approx(got[1] - 10_000 / up + 10_000 / c)
    late = ideal_completion(flows, fabric, 1000, 0, overhead=1e-6, acknowledged=True)
    assert late[0] == pytest.approx(got[0] + 1e-6 + 2 * hop)


def test_wire_bytes() -> None:
    size = np.array([1, 936, 937, 10_000], np.int64)
    assert wire_bytes(size, 1000, 64).tolist() == [65, 1000, 937 + 128, 10_000 + 11 * 64]
    with pytest.raises(ConfigError, match="`mtu`"):
        wire_bytes(size, 64, 64)


def test_bounds_of_an_incast_and_of_a_cut() -> None:
    fabric = leaf_spine(16, 1, nic="100 Gb/s", hosts_per_leaf=4, spines=2, oversubscription=4.0)
    src, dst = matrix("incast", 16, receiver=5).pairs()
    flows = Flows.of(src, dst, 1_000_000)
    ideal = ideal_completion(flows, fabric, 1000, 0)
    found = bounds(flows, fabric, ideal)
    assert found.host == pytest.approx(15 * 1e6 / 12.5e9)
    # twelve senders of other leaves behind two downlinks of 6.25 GB/s each: one NIC's worth
    assert found.cut == found.host and "nic_down/h5" in found.cut_name
    assert found.chain == pytest.approx(ideal.max()) and found.makespan == found.host

    across = Flows.of(np.arange(8), np.arange(8) + 8, 1_000_000)
    found = bounds(across, fabric, ideal_completion(across, fabric, 1000, 0))
    assert found.host == pytest.approx(1e6 / 12.5e9)
    assert found.cut == pytest.approx(4 * 1e6 / (2 * 6.25e9 / 1))
    assert "tor" in found.cut_name


def test_starts_and_repeated_pairs_count() -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    flows = Flows.of([0, 0, 0], [9, 9, 9], 1_000_000, start=[1e-3, 2e-3, 5e-3])
    found = bounds(flows, fabric, ideal_completion(flows, fabric, 1000, 0))
    assert found.host == pytest.approx(1e-3 + 3e6 / 12.5e9)
    assert found.chain == pytest.approx(5e-3 + ideal_completion(flows, fabric, 1000, 0)[2])


@given(st.integers(1, 14), st.integers(0, 10**6))
def test_earliest_is_the_longest_path(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    after = [sorted({int(x) for x in rng.integers(0, f, rng.integers(0, 3))}) if f else [] for f in range(n)]
    flows = Flows.of(
        [0] * n, [1] * n, [5] * n, after=after, start=rng.random(n), delay=rng.integers(0, 3, n).astype(float)
    )
    ideal = rng.random(n)
    want = np.zeros(n)
    for f in range(n):
        ends = [want[p] + ideal[p] + flows.delay[f] for p in after[f]]
        want[f] = max([flows.start[f], *ends])
    assert earliest(flows, ideal) == pytest.approx(want)
