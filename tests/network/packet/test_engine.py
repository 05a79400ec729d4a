"""The packet engine against closed forms to the picosecond, its own conservation law, and itself in slices.

The pipeline formula of a message of n full packets and a last one over links of equal speed: the uplink sends
without a gap, every later hop adds the latency and, for the last packet that is full, its transmission; a
shorter last packet follows behind it.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError, RouteError, SimulationError
from euston.fabrics import Fabric, clos
from euston.network.balancing.base import PathChoice, PathMode
from euston.network.flows import Flows
from euston.network.packet import PacketEngine, PacketSettings, run_packets
from euston.network.transport.nscc import Nscc
from euston.network.transport.windowed import Windowed

MTU, HEADER, PAYLOAD = 4150, 64, 4086
ONE_PATH = PathChoice(PathMode.ECMP)


def tree(latency: str = "1 us", gbps: int = 100) -> Fabric:
    """16 hosts in 4 pods, full bisection: 2, 4 or 6 links."""
    return clos(
        16, 1, nic=f"{gbps} Gb/s", hosts_per_tor=2, tors_per_pod=2, aggs_per_pod=2, cores_per_agg=2,
        nic_latency=latency, tor_latency=latency, agg_latency=latency,
    )  # fmt: skip


def hops(src: int, dst: int) -> int:
    return 2 if src // 2 == dst // 2 else 4 if src // 4 == dst // 4 else 6


def message_ps(size: int, links: int, latency_ps: int, ps_per_byte: int) -> int:
    """Until the sender has the ACK of the last packet, alone on an idle network."""
    packets = -(-size // PAYLOAD)
    last = size - (packets - 1) * PAYLOAD + HEADER
    full = MTU * ps_per_byte
    # the last packet that is full passes a hop no earlier than it came; the short one never waits for more
    arrived = (packets - 1) * full + last * ps_per_byte + links * latency_ps
    arrived += (links - 1) * (full if packets > 1 else last * ps_per_byte)
    return arrived + links * (HEADER * ps_per_byte + latency_ps)


def sprayed_ps(size: int, links: int, latency_ps: int, ps_per_byte: int) -> int:
    """The same where a short last packet may overtake by another path: it still leaves last."""
    packets = -(-size // PAYLOAD)
    last = (size - (packets - 1) * PAYLOAD + HEADER) * ps_per_byte
    full = MTU * ps_per_byte
    arrived = (packets - 1) * full + max(links * last, (links - 1) * full if packets > 1 else 0)
    return arrived + links * (HEADER * ps_per_byte + 2 * latency_ps)


@settings(max_examples=25)
@given(
    size=st.integers(1, 400_000),
    pair=st.sampled_from([(0, 1), (0, 2), (0, 13), (7, 8)]),
    gbps=st.sampled_from([100, 200, 400, 800]),
    latency=st.sampled_from([0, 500, 1000]),
)
def test_a_single_message_takes_the_formula_to_the_picosecond(
    size: int, pair: tuple[int, int], gbps: int, latency: int
) -> None:
    on = tree(f"{latency} ns", gbps)
    result = run_packets(Flows.of(*[[e] for e in pair], size), on, transport=Windowed(), balancing=ONE_PATH)
    expected = message_ps(size, hops(*pair), latency * 1000, 8000 // gbps)
    assert round(float(result.end[0]) * 1e12) == expected


@pytest.mark.nojit
@pytest.mark.filterwarnings("ignore:overflow")  # plain Python warns of wrapping integers
def test_nscc_does_not_slow_a_message_alone() -> None:
    result = run_packets(Flows.of([0], [13], 50_000), tree(), balancing=ONE_PATH)
    assert round(float(result.end[0]) * 1e12) == message_ps(50_000, 6, 10**6, 80)
    assert result.stats["retransmitted"] == 0


def test_a_window_below_the_round_trip_bounds_the_rate() -> None:
    """One packet per round trip: packets x (data there + ACK back)."""
    packets = 7
    flows = Flows.of([0], [13], packets * PAYLOAD)
    result = run_packets(flows, tree(), transport=Windowed(window=1))
    trip = 6 * (MTU * 80 + HEADER * 80 + 2 * 10**6)
    assert round(float(result.end[0]) * 1e12) == packets * trip


def test_two_opposite_flows_do_not_share_a_link() -> None:
    """Only ACKs cross data: each waits for at most one packet per hop, and data for ACKs of 5 ns each."""
    result = run_packets(Flows.of([0, 13], [13, 0], 2_000_000), tree(), transport=Windowed())
    alone = message_ps(2_000_000, 6, 10**6, 80) * 1e-12
    assert (result.end >= alone).all()
    assert (result.end < alone * 1.006).all()


def test_flows_that_share_a_link_end_when_it_has_sent_both() -> None:
    """Both into host 15: 2 messages through one link, then its latency and the ACK."""
    size = 100 * PAYLOAD
    result = run_packets(
        Flows.of([0, 4], [15, 15], size),
        tree(),
        transport=Windowed(),
        settings=PacketSettings(queue="100 MB", ecn=None),
    )
    first = 5 * (MTU * 80 + 10**6)  # of either flow at the shared link
    busy = 200 * MTU * 80
    back = 10**6 + 6 * (HEADER * 80 + 10**6)
    assert round(result.makespan * 1e12) == first + busy + back


def test_a_rate_cap_paces() -> None:
    size, cap = 1_000_000, 1e9
    result = run_packets(Flows.of([0], [13], size, rate_cap=cap), tree())
    packets = -(-size // PAYLOAD)
    wire = size + packets * HEADER
    last = wire - (packets - 1) * MTU
    gap_end = (wire - last) / cap  # when the last packet leaves
    assert result.end[0] == pytest.approx(gap_end + message_ps(last - HEADER, 6, 10**6, 80) * 1e-12, rel=1e-6)


@settings(max_examples=20)
@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 15), st.integers(0, 15)).filter(lambda p: p[0] != p[1]),
        min_size=1,
        max_size=12,
    ),
    size=st.integers(1, 300_000),
    seed=st.integers(0, 99),
    trimming=st.booleans(),
)
def test_no_flow_beats_its_ideal_and_nothing_is_lost_by_the_engine(
    pairs: list[tuple[int, int]], size: int, seed: int, trimming: bool
) -> None:
    on = tree()
    flows = Flows.of([p[0] for p in pairs], [p[1] for p in pairs], size)
    settings_ = PacketSettings(trimming=trimming, queue="60 kB", rto="50 us", retries=1000)
    engine = PacketEngine(flows, on, settings=settings_, seed=seed)
    engine.advance()
    result = engine.result()  # asserts conservation
    assert engine.in_flight() == 0
    assert result.finished.all()
    ideal = np.array([sprayed_ps(size, hops(*p), 10**6, 80) for p in pairs]) * 1e-12
    assert (result.end >= ideal * (1 - 1e-12)).all()
    if not trimming:
        assert result.stats["trims"] == 0
    # every payload byte crossed its destination's link at least once, with its header
    for d in range(16):
        into = float(flows.bytes[flows.dst == d].sum())
        assert result.link_bytes[on.link_index(f"nic_down/h{d}/n0")] >= into


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    flows = Flows.of(np.arange(16), (np.arange(16) + 5) % 16, 500_000)
    one, again, other = (run_packets(flows, tree(), seed=s) for s in (1, 1, 2))
    assert (one.end == again.end).all()
    assert one.stats == again.stats
    assert (one.end != other.end).any()


def test_running_in_slices_changes_nothing() -> None:
    flows = Flows.of(
        np.arange(16), (np.arange(16) + 5) % 16, 300_000, after=[[]] * 8 + [[k] for k in range(8)]
    )
    whole = run_packets(flows, tree(), seed=3)
    engine = PacketEngine(flows, tree(), seed=3)
    time = 0.0
    while engine.next_time() < np.inf:
        assert engine.next_time() >= time - 1e-12
        time += 7.3e-6
        assert engine.advance(time).size == 0
        assert engine.now <= time + 1e-12
    assert (engine.result().end == whole.end).all()


def test_dependencies_delays_and_releases() -> None:
    on, size = tree(), 10 * PAYLOAD
    alone = message_ps(size, 6, 10**6, 80) * 1e-12
    flows = Flows.of([0, 0, 0], [13, 13, 13], size, after=[[], [0], []], delay=[0, 5e-6, 0])
    engine = PacketEngine(flows, on, notify=[True, True, False], held=[False, False, True])
    assert engine.advance().tolist() == [0]
    assert engine.now == pytest.approx(alone, rel=1e-12)
    assert engine.next_time() == pytest.approx(alone + 5e-6, rel=1e-12)
    assert engine.advance().tolist() == [1]
    assert engine.now == pytest.approx(2 * alone + 5e-6, rel=1e-12)
    assert engine.advance(1e-3).size == 0
    assert engine.next_time() == np.inf
    engine.release([2], 2e-3)
    engine.advance()
    result = engine.result()
    assert result.start.tolist() == pytest.approx([0, alone + 5e-6, 2e-3], rel=1e-12)
    assert result.end[2] == pytest.approx(2e-3 + alone, rel=1e-12)
    with pytest.raises(SimulationError, match="not held"):
        engine.release([0])


def test_unfinished_flows_have_no_end() -> None:
    result = run_packets(Flows.of([0, 2], [13, 9], [10_000, 10_000_000]), tree(), until=1e-4)
    assert result.finished.tolist() == [True, False]
    assert result.stats["unfinished"] == 1


def test_many_simultaneous_starts_grow_the_arrays() -> None:
    rng = np.random.default_rng(0)
    n = 5_000
    src = rng.integers(0, 16, n)
    flows = Flows.of(src, (src + rng.integers(1, 16, n)) % 16, 100)
    result = run_packets(flows, tree())
    assert result.finished.all()
    assert result.stats["data_packets"] == n


def test_series_and_mean_queue() -> None:
    """Three senders, one receiver: the sampled queue and the time-weighted mean agree."""
    on = tree()
    name = "nic_down/h15/n0"
    result = run_packets(
        Flows.of([0, 4, 8], [15, 15, 15], 2_000_000),
        on,
        settings=PacketSettings(sample="100 ns", sampled=(name,)),
    )
    series = result.tables["series"]
    queue = result.tables["queues"].filter(result.tables["queues"]["name"] == name)
    assert series["time"].diff().drop_nulls().round(10).unique().to_list() == [1e-7]
    assert series[name].max() <= queue["max_bytes"][0] <= result.meta["queue_bytes"]
    assert series[name].mean() == pytest.approx(queue["mean_bytes"][0], rel=0.02)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"queue": "0 B"}, "queue"),
        ({"ecn": (0.8, 0.2)}, "ecn"),
        ({"rto": "0 s"}, "rto"),
        ({"alpha": 0}, "alpha"),
        ({"pfc": "10 kB", "pfc_resume": "20 kB"}, "pfc_resume"),
        ({"window": 0}, "window"),
    ],
)
def test_settings_that_make_no_sense(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PacketSettings(**settings_)  # type: ignore[arg-type]


def test_bad_input_is_refused_before_anything_runs() -> None:
    on = tree()
    with pytest.raises(ConfigError, match="endpoint 16"):
        run_packets(Flows.of([0], [16], 1), on)
    with pytest.raises(ConfigError, match="entropy"):
        run_packets(Flows.of([0], [1], 1), on, balancing=PathChoice(PathMode.MIXED, 0))
    with pytest.raises(ConfigError, match="says nothing about packets"):
        run_packets(Flows.of([0], [1], 1), on, balancing=object())
    with pytest.raises(ConfigError, match="mtu"):
        Nscc(mtu=64)
    with pytest.raises(ConfigError, match="held"):
        PacketEngine(Flows.of([0], [1], 1), on, held=[True, False])
    with pytest.raises(ConfigError, match="bytes/s"):
        run_packets(Flows.of([0], [1], 1), clos(2, 1, nic="1 kb/s", hosts_per_tor=2))
    with pytest.raises(RouteError):
        run_packets(Flows.of([0], [1], 1), on, settings=PacketSettings(network="scale_up"))
