"""Flows on the fluid engine: closed forms, a plain event loop on full solves, folding, failures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError, RouteError, SimulationError
from euston.fabrics import clos, jellyfish
from euston.network import Columns, Flows, max_min
from euston.network.balancing.adaptive import Adaptive
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.spray import Spray
from euston.network.faults import LinkFault
from euston.traffic.fluid import FluidSettings, path_latency, run_fluid

RATE = 12.5e9
PLAIN = FluidSettings(header=0, window=0.0)


def leaf_spine(hosts: int = 8, per_leaf: int = 4, spines: int = 2):
    return clos(
        hosts, 1, nic=RATE, hosts_per_tor=per_leaf, aggs_per_pod=spines, nic_latency=1e-6, tor_latency=1e-6
    )


def test_one_message_ends_after_transfer_latency_and_store_and_forward():
    """Closed form: bytes / rate + four hops of 1 us + three packets stored on the way."""
    fabric = leaf_spine()
    assert fabric.capacity.min() == RATE
    run = run_fluid(
        Flows.of([0], [5], [2_000_000]), fabric, Spray(), settings=FluidSettings(mtu=4096, header=58)
    )
    packets = -(-2_000_000 // 4096)
    wire = 2_000_000 + packets * 58
    hops = fabric.latency[fabric.route([0], [5], [0])].sum()
    assert run.end[0] == pytest.approx(wire / RATE + hops + 3 * (4096 + 58) / (2 * RATE), rel=0.02)
    assert run.link_bytes.sum() == pytest.approx(4 * wire)
    assert run.meta["ends"] and run.meta["settings"]["mtu"] == 4096


def test_incast_shares_the_last_link():
    """n senders of B bytes to one receiver end together after n B / rate (closed form)."""
    fabric = leaf_spine()
    src = np.array([1, 2, 3, 4, 5, 6, 7])
    run = run_fluid(Flows.of(src, 0, 1_000_000), fabric, Spray(), settings=PLAIN)
    near = run.end[:3].max()
    assert near == pytest.approx(7e6 / RATE, rel=0.01)
    assert run.finished.all() and run.makespan == run.end.max()


def test_dependencies_delays_and_starts():
    """A chain: 1 MB, then 20 us of computing, then 1 MB, not before 500 us."""
    fabric = leaf_spine()
    flows = Flows.of(
        [0, 1, 2], [1, 2, 3], 1_000_000, after=[[], [0], [1]], delay=[0, 20e-6, 0], start=[0, 0, 500e-6]
    )
    run = run_fluid(flows, fabric, Spray(), settings=PLAIN)
    one = run.end[0]
    assert run.start == pytest.approx([0, one + 20e-6, 500e-6])
    assert run.end == pytest.approx([one, 2 * one + 20e-6, 500e-6 + one])


def plain(flows: Flows, fabric, ports) -> np.ndarray:
    """Slow oracle for flows without dependencies: full max-min solve at every event, Python loop.

    ``ports``: rows of each flow as (row, fraction) arrays with the capacities.
    """
    columns, capacity = ports
    left, end, now = flows.bytes.astype(float), np.full(len(flows), np.nan), 0.0
    while np.isnan(end).any():
        active = np.flatnonzero((left > 0) & (flows.start <= now))
        later = flows.start[(left > 0) & (flows.start > now)]
        step = later.min() - now if later.size else np.inf
        if active.size:
            rate = max_min(columns, capacity, column=active, weight=flows.weight[active], method="heap").rate
            step = min(step, (left[active] / rate).min())
            left[active] -= rate * step
            now += step
            done = active[left[active] <= 1e-6]
            left[done] = 0
            end[done] = now
        else:
            now += step
    return end


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["spray", "ecmp"]), st.booleans())
def test_equals_a_plain_event_loop_over_full_solves(seed, name, folding):
    rng = np.random.default_rng(seed)
    fabric = leaf_spine(16, 4, 3)
    n = int(rng.integers(2, 40))
    src = rng.integers(0, 16, n)
    dst = (src + rng.integers(1, 16, n)) % 16
    flows = Flows.of(
        src,
        dst,
        rng.integers(1, 5, n) * 100_000,
        start=rng.integers(0, 4, n) * 1e-5,
        weight=rng.integers(1, 4, n),
    )
    policy = Spray() if name == "spray" else Ecmp(seed=seed)
    run = run_fluid(flows, fabric, policy, settings=FluidSettings(header=0, window=0.0, folding=folding))
    spread = policy.spread(fabric, flows.src, flows.dst, alive=None, capacity=fabric.capacity)
    columns = Columns.from_entries(
        np.repeat(np.arange(n), np.diff(spread.ptr)), spread.row, spread.fraction, columns=n, rows=fabric.rows
    )
    end = plain(flows, fabric, (columns, fabric.row_capacity(None, spread.split)))
    assert run.end == pytest.approx(end + path_latency(flows, fabric, PLAIN, columns), rel=1e-9)


@pytest.mark.parametrize("policy", [Spray(), Ecmp()])
@pytest.mark.parametrize("shift", [1, 4, 16])
def test_folding_changes_nothing(policy, shift):
    fabric = leaf_spine(64, 8, 4)
    src = np.arange(64)
    flows = Flows.of(
        np.tile(src, 3), np.tile((src + shift) % 64, 3), 1_000_000,
        after=[()] * 64 + [(i,) for i in range(128)], delay=1e-6,
    )  # fmt: skip
    folded = run_fluid(flows, fabric, policy, settings=FluidSettings(window=0.0))
    each = run_fluid(flows, fabric, policy, settings=FluidSettings(window=0.0, folding=False))
    assert folded.end == pytest.approx(each.end, rel=1e-9)
    assert folded.link_bytes == pytest.approx(each.link_bytes, rel=1e-9)
    if isinstance(policy, Spray):
        assert folded.meta["fold_ratio"] > 10


def test_one_background_flow_splits_only_what_it_touches():
    fabric = leaf_spine(64, 8, 4)
    src = np.arange(64)
    ring = Flows.of(src, (src + 8) % 64, 1_000_000)
    beside = Flows.of(np.append(src, 3), np.append((src + 8) % 64, 40), 1_000_000)
    alone, shared = (run_fluid(f, fabric, Spray(), settings=PLAIN) for f in (ring, beside))
    each = run_fluid(beside, fabric, Spray(), settings=FluidSettings(header=0, window=0.0, folding=False))
    assert shared.end == pytest.approx(each.end, rel=1e-9)
    assert 65 / shared.meta["fold_ratio"] < 15 and alone.meta["fold_ratio"] == 64
    assert (shared.end[[3]] > alone.end[[3]] * 1.5).all()
    assert shared.end[20] == pytest.approx(alone.end[20])


@pytest.mark.parametrize("folding", [True, False])
def test_a_link_that_dies_while_sprayed_on_leaves_the_others(folding):
    """Four hosts send through two spines at line rate; one uplink dies at 40 us, for good.

    Closed form: until then each has 40 us of its rate, afterwards the leaf has half its uplinks.
    """
    fabric = leaf_spine(8, 4, 2)
    flows = Flows.of([0, 1, 2, 3], [4, 5, 6, 7], 1_000_000)
    up = next(i for i in range(fabric.links) if fabric.link_name(i).startswith("tor_up"))
    assert fabric.capacity[up] == 2 * RATE
    quiet = run_fluid(flows, fabric, Spray(), settings=PLAIN)
    extra = quiet.end[0] - 1e6 / RATE
    run = run_fluid(
        flows, fabric, Spray(), faults=[LinkFault(up, 0.0, 40e-6)],
        settings=FluidSettings(header=0, window=0.0, folding=folding),
    )  # fmt: skip
    left = 1e6 - 40e-6 * RATE
    assert run.end == pytest.approx(np.full(4, 40e-6 + left / (RATE / 2) + extra), rel=1e-9)
    assert run.link_bytes[up] == pytest.approx(4 * 40e-6 * RATE / 2)
    assert run.stats["route_changes"] == 1
    late = run_fluid(
        flows, fabric, Spray(), faults=[LinkFault(up, 0.0, 40e-6)],
        settings=FluidSettings(header=0, window=0.0, folding=folding, reconvergence=10e-6),
    )  # fmt: skip
    assert late.end == pytest.approx(run.end + 10e-6, rel=1e-9)
    back = run_fluid(
        flows, fabric, Spray(), faults=[LinkFault(up, 0.0, 40e-6, 50e-6)],
        settings=FluidSettings(header=0, window=0.0, folding=folding),
    )  # fmt: skip
    assert back.end == pytest.approx(quiet.end + 5e-6, rel=1e-9)


def test_hashed_flows_leave_a_dead_link():
    """Plain ECMP hashes modulo the live paths: all flows may move when their number changes."""
    fabric = leaf_spine(16, 8, 4)
    src = np.arange(8)
    flows = Flows.of(src, src + 8, 1_000_000)
    quiet = run_fluid(flows, fabric, Ecmp(), settings=PLAIN)
    ups = [
        i
        for i in range(fabric.links)
        if fabric.link_name(i).startswith("tor_up/") and quiet.link_bytes[i] > 0
    ]
    run = run_fluid(flows, fabric, Ecmp(), faults=[LinkFault(ups[0], 0.0, 20e-6)], settings=PLAIN)
    assert run.finished.all()
    assert 0 < run.link_bytes[ups[0]] < quiet.link_bytes[ups[0]]


def test_a_partition_ends_with_the_names_and_a_repaired_one_goes_on():
    fabric = leaf_spine(8, 4, 2)
    nic = fabric.link_index("nic_up/h1/n0")
    flows = Flows.of([0, 1], [4, 5], 1_000_000)
    with pytest.raises(SimulationError, match=r"flow 1 \(h1/g0 -> h5/g0\)"):
        run_fluid(flows, fabric, Spray(), faults=[LinkFault(nic, 0.0, 10e-6)], settings=PLAIN)
    run = run_fluid(flows, fabric, Spray(), faults=[LinkFault(nic, 0.0, 10e-6, 110e-6)], settings=PLAIN)
    assert run.end[1] - run.end[0] == pytest.approx(100e-6)
    with pytest.raises(RouteError, match="h1/g0"):
        run_fluid(flows, fabric, Spray(), faults=[LinkFault(nic, 0.0)], settings=PLAIN)


def test_until_leaves_flows_unfinished_and_counts_their_bytes():
    fabric = leaf_spine()
    run = run_fluid(Flows.of([0, 1], [4, 5], [1000, 10**9]), fabric, Spray(), settings=PLAIN, until=1e-3)
    assert run.finished.tolist() == [True, False]
    assert run.link_bytes.max() == pytest.approx(1e-3 * RATE, rel=0.01)


def test_adaptive_routing_spreads_flows_that_hashing_piles_up():
    fabric = leaf_spine(32, 16, 16)
    src = np.arange(16)
    flows = Flows.of(src, src + 16, 1_000_000, start=src * 1e-9)
    hashed = run_fluid(flows, fabric, Ecmp(), settings=PLAIN)
    chosen = run_fluid(flows, fabric, Adaptive(paths=16), settings=PLAIN)
    ideal = run_fluid(flows, fabric, Spray(), settings=PLAIN)
    assert ideal.makespan <= chosen.makespan * (1 + 1e-9) < hashed.makespan


def test_effects_of_congestion_control_are_off_by_default_and_do_what_they_say():
    fabric = leaf_spine()
    flows = Flows.of([0, 1, 2], [4, 5, 6], 1_000_000, start=[0, 0, 5e-6])
    base = run_fluid(flows, fabric, Spray(), settings=PLAIN)
    slow = run_fluid(
        flows,
        fabric,
        Spray(),
        settings=FluidSettings(header=0, window=0.0, utilisation=0.95, queue_delay=3e-6),
    )
    transfer = 1e6 / RATE
    assert slow.completion[0] - base.completion[0] == pytest.approx(transfer * (1 / 0.95 - 1) + 3e-6)


def test_bad_settings_and_endpoints_are_refused():
    fabric = leaf_spine()
    with pytest.raises(ConfigError, match="utilisation"):
        FluidSettings(utilisation=0.0)
    with pytest.raises(ConfigError, match="endpoint 99"):
        run_fluid(Flows.of([0], [99], [1]), fabric, Spray())


def test_a_million_simultaneous_flows_end():
    """10^6 starts at one moment on a 64-host fabric: an incast of everything, folded to a handful."""
    fabric = leaf_spine(64, 8, 8)
    src = np.tile(np.arange(64), 15_625)
    flows = Flows.of(src, (src + 8) % 64, 1000)
    run = run_fluid(flows, fabric, Spray(), settings=PLAIN)
    assert run.finished.all()
    assert run.makespan == pytest.approx(15_625 * 1000 / RATE, rel=0.01)


def test_latency_is_that_of_the_paths_taken():
    """Jellyfish, paths of unequal length: hashed flows wait for their own path, sprayed ones for the mean."""
    fabric = jellyfish(12, 3, nic=RATE, seed=1)
    src = np.arange(12)
    flows = Flows.of(src, (src + 5) % 12, 4096)
    policy = Ecmp(seed=2)
    choice = policy.choices(fabric, flows.src, flows.dst, np.zeros(12, np.int32))
    paths = fabric.route(flows.src, flows.dst, choice)
    hops = (paths >= 0).sum(axis=1)
    assert np.unique(hops).size > 1
    hashed = run_fluid(flows, fabric, policy, settings=PLAIN)
    spread = policy.spread(fabric, flows.src, flows.dst, alive=None, capacity=fabric.capacity)
    columns = Columns(spread.ptr, spread.row, spread.fraction, fabric.rows)
    own = path_latency(flows, fabric, PLAIN, columns)
    assert own == pytest.approx(fabric.path_latency(paths) + (hops - 1) * 4096 / RATE, abs=1e-15)
    assert (hashed.end >= own + 4096 / RATE * (1 - 1e-9)).all()

    spread = Spray().spread(fabric, flows.src, flows.dst, alive=None, capacity=fabric.capacity)
    columns = Columns(spread.ptr, spread.row, spread.fraction, fabric.rows)
    mean = path_latency(flows, fabric, PLAIN, columns)
    every = [fabric.route(flows.src, flows.dst, np.full(12, k, np.uint64)) for k in range(8)]
    of_paths = np.array([fabric.path_latency(p) + ((p >= 0).sum(axis=1) - 1) * 4096 / RATE for p in every])
    assert (mean > of_paths.min(axis=0)).any()
    assert (mean >= of_paths.min(axis=0) - 1e-14).all()
    assert (mean <= of_paths.max(axis=0) + 1e-14).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_integral_of_the_rates_is_the_size(seed, folding):
    """Rates of full solves between the run's own starts and ends, times the seconds that they hold."""
    rng = np.random.default_rng(seed)
    fabric = leaf_spine(16, 4, 3)
    n = int(rng.integers(2, 30))
    src = rng.integers(0, 16, n)
    dst = (src + rng.integers(1, 16, n)) % 16
    flows = Flows.of(src, dst, rng.integers(1, 10**7, n), start=rng.integers(0, 4, n) * 1e-4)
    policy = Ecmp(seed=seed)
    run = run_fluid(flows, fabric, policy, settings=FluidSettings(header=0, window=0.0, folding=folding))
    spread = policy.spread(fabric, flows.src, flows.dst, alive=None, capacity=fabric.capacity)
    columns = Columns(spread.ptr, spread.row, spread.fraction, fabric.rows)
    last = run.end - path_latency(flows, fabric, PLAIN, columns)
    moments = np.unique(np.concatenate((flows.start, last)))
    through = np.zeros(n)
    for begin, end in pairwise(moments):
        active = np.flatnonzero((flows.start < (begin + end) / 2) & (last > (begin + end) / 2))
        if active.size:
            capacity = fabric.row_capacity(None, spread.split)
            through[active] += max_min(columns, capacity, column=active).rate * (end - begin)
    assert through == pytest.approx(flows.bytes, rel=1e-9, abs=1e-3)
    assert run.link_bytes.sum() == pytest.approx((flows.bytes * np.diff(spread.ptr)).sum(), rel=1e-9)
