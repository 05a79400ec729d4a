"""Link-by-link approximation of tails.

Oracles: a plain Python processor-sharing simulation, the mean response time x/(C(1 - rho)) of an M/G/1 queue
with processor sharing (insensitive to the sizes; Kleinrock 1976), and the engines: the fluid one where a
single link matters, the packet one on a loaded leaf-spine.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.fabrics import fat_tree, leaf_spine
from euston.network import Flows
from euston.network.balancing.ecmp import Ecmp
from euston.network.transport.nscc import Nscc
from euston.runs.traffic import simulate_traffic
from euston.scenario import from_data
from euston.seeds import stream
from euston.traffic import (
    DecomposedSettings,
    flow_result_to_result,
    matrix,
    open_loop,
    poisson_flows,
    run_decomposed,
)
from euston.traffic._link import share_link
from euston.traffic.arrivals import arrivals
from euston.traffic.cdf import published
from euston.traffic.run import run_flows
from euston.traffic.sizes import draw


def plain(start: list[float], size: list[float], limit: list[float], capacity: float) -> list[float]:
    """The same in words: at every moment raise all rates together until limits or the link stop them."""
    end: dict[int, float] = {}
    left: dict[int, float] = {}
    now, waiting = 0.0, list(range(len(start)))
    while len(end) < len(start):
        rate: dict[int, float] = {}
        free = capacity
        for i in sorted(left, key=lambda i: limit[i]):
            rate[i] = min(limit[i], free / (len(left) - len(rate)))
            free -= rate[i]
        first = min((left[i] / rate[i] for i in left), default=np.inf)
        then = min(now + first, start[waiting[0]] if waiting else np.inf)
        for i in list(left):
            left[i] -= rate[i] * (then - now)
            if left[i] <= 1e-9 * size[i]:
                end[i] = then
                del left[i]
        now = then
        while waiting and start[waiting[0]] <= now:
            i = waiting.pop(0)
            left[i] = size[i]
    return [end[i] for i in range(len(start))]


def check(start: list[float], size: list[float], limit: list[float], capacity: float) -> None:
    got = share_link(np.array(start), np.array(size), np.array(limit), capacity)
    assert got == pytest.approx(plain(start, size, limit, capacity), rel=1e-9, abs=1e-9)


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 30), st.sampled_from([1.0, 2.5, 4.0, 100.0])),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([1.0, 3.0, 8.0]),
)
def test_one_link_is_processor_sharing(flows: list[tuple[int, int, float]], capacity: float) -> None:
    flows.sort()
    check([float(s) for s, _, _ in flows], [float(b) for _, b, _ in flows], [r for *_, r in flows], capacity)


@pytest.mark.nojit
def test_one_link_by_hand() -> None:
    # alone until 1, then half each; the second is limited to 0.25, so the first has 0.75
    assert share_link(
        np.array([0.0, 1.0]), np.array([4.0, 1.0]), np.array([9.0, 0.25]), 1.0
    ) == pytest.approx([5.0, 5.0])
    check([0.0, 0.0, 2.0], [3.0, 3.0, 1.0], [9.0, 9.0, 9.0], 1.0)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_mean_slowdown_of_processor_sharing(load: float) -> None:
    """E[response | size x] = x / (C (1 - rho)), whatever the distribution of sizes."""
    sizes = published("websearch")
    _, start = arrivals("poisson", np.array([load / sizes.mean]), 1.5e11, stream(7, "ps"))
    size = draw(sizes, start.size, stream(7, "sizes")).astype(float)
    end = share_link(start, size, np.full(start.size, np.inf), 1.0)
    slowdown = (end - start) / size
    batches = np.array([part.mean() for part in np.array_split(slowdown, 20)])
    error = 4 * batches.std(ddof=1) / np.sqrt(20)
    assert slowdown.mean() == pytest.approx(1 / (1 - load), abs=error)
    assert error < 0.15 / (1 - load)


def test_where_one_link_matters_it_is_the_fluid_engine() -> None:
    fabric = leaf_spine(16, 1, nic="100 Gb/s", hosts_per_leaf=16, spines=1)
    # everyone sends into one endpoint of the same switch: only its NIC has contention to speak of
    pattern = matrix("incast", fabric, receiver=5)
    traffic = open_loop(fabric, pattern, "fb_hadoop", load=0.04, duration=0.2, seed=3)
    fluid = flow_result_to_result(run_flows(traffic.flows, fabric), fabric)
    ours = flow_result_to_result(run_decomposed(traffic.flows, fabric), fabric)
    assert ours.completion_mean == pytest.approx(fluid.completion_mean, rel=0.03)
    for percent in ("p50", "p90", "p99"):
        name = f"slowdown_{percent}"
        assert ours.scalars[name] == pytest.approx(fluid.scalars[name], rel=0.08), name
    assert (ours.tables["flows"]["slowdown"] >= 1 - 1e-9).all()
    assert ours.tables["links"]["wire_bytes"].sum() == pytest.approx(
        fluid.tables["links"]["wire_bytes"].sum()
    )


def test_clusters_save_links_and_change_little() -> None:
    fabric = leaf_spine(32, 1, nic="100 Gb/s", hosts_per_leaf=8, spines=4, oversubscription=2.0)
    traffic = poisson_flows(fabric, 0.3, "fb_hadoop", 0.01, seed=2)
    every = run_decomposed(traffic.flows, fabric, seed=1)
    some = run_decomposed(traffic.flows, fabric, seed=1, settings=DecomposedSettings(cluster=0.15))
    assert some.stats["simulated_links"] < 0.7 * every.stats["simulated_links"] == 0.7 * every.stats["links"]
    a, b = flow_result_to_result(every, fabric), flow_result_to_result(some, fabric)
    assert b.slowdown_p90 == pytest.approx(a.slowdown_p90, rel=0.15)
    again = run_decomposed(traffic.flows, fabric, seed=1)
    assert (again.end == every.end).all()
    assert every.meta["fidelity"] == "decomposed"


@pytest.mark.slow
def test_against_the_packet_engine() -> None:
    """Tails over all sizes within 20 %, where the fluid engine misses the short flows' queues altogether."""
    fabric = leaf_spine(32, 1, nic="100 Gb/s", hosts_per_leaf=8, spines=4, oversubscription=2.0)
    traffic = poisson_flows(fabric, 0.3, "fb_hadoop", 0.008, seed=2)
    transport = Nscc()
    frame = {"mtu": transport.mtu, "header": transport.header}
    ran = run_flows(traffic.flows, fabric, network="packet", transport=transport, balancing=Ecmp())
    packet = flow_result_to_result(ran, fabric, **frame)
    low = float(ran.meta["ecn_bytes"][0])
    decomposed = run_decomposed(
        traffic.flows, fabric, settings=DecomposedSettings(**frame, standing_queue=low)
    )
    ours = flow_result_to_result(decomposed, fabric)
    for percent in ("p50", "p90", "p99"):
        name = f"slowdown_{percent}"
        assert ours.scalars[name] == pytest.approx(packet.scalars[name], rel=0.2), name
    fluid = flow_result_to_result(run_flows(traffic.flows, fabric, balancing=Ecmp()), fabric)
    short = [r.tables["by_size"].row(0, named=True)["slowdown_p99"] for r in (packet, ours, fluid)]
    assert fluid.unfinished == 0 and short[2] < 0.5 * short[0] < short[1]


def test_what_cannot_be_decomposed() -> None:
    fabric = fat_tree(4, nic="100 Gb/s")
    for flows in (
        Flows.of([0, 0], [1, 2], [5, 5], after=[[], [0]]),
        Flows.of([0], [1], [5], weight=2),
        Flows.of([0], [1], [5], priority=1),
    ):
        with pytest.raises(ConfigError, match="do not wait"):
            run_decomposed(flows, fabric)
    with pytest.raises(ConfigError, match="standing_queue"):
        DecomposedSettings(standing_queue=-1.0)


NET = {
    "version": 1,
    "sites": [
        {"name": "dc", "hosts": 32, "accelerators_per_host": 1,
         "fabric": {"kind": "leaf_spine", "nic": "100 Gb/s", "hosts_per_leaf": 8, "spines": 8}}
    ],
    "jobs": [
        {"name": "search", "kind": "traffic",
         "flows": {"pattern": "uniform", "bytes": "websearch", "load": 0.3, "duration": "4 ms"}}
    ],
}  # fmt: skip


def test_a_scenario_runs_link_by_link() -> None:
    """The same flows as the fluid engine's, hashed by themselves; the frame is the transport's."""
    found = simulate_traffic(from_data(NET), network="decomposed", seed=3)
    fluid = simulate_traffic(from_data(NET), seed=3)
    assert found.meta["fidelity"] == "decomposed"
    assert found.meta["scenario"]["run"]["network"] == "decomposed"
    assert (found.meta["mtu"], found.meta["header"]) == (fluid.meta["mtu"], fluid.meta["header"])
    assert found.flows == fluid.flows > 100
    assert found.slowdown_p50 == pytest.approx(fluid.slowdown_p50, rel=0.3)
    written = simulate_traffic(
        from_data(NET | {"run": {"network": "decomposed", "decomposed": {"cluster": 0.3}}}), seed=3
    )
    assert written.simulated_links < found.simulated_links


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"policies": {"balancing": "spray"}}, "policies.balancing"),
        ({"policies": {"allocation": "strict_priority"}}, "policies.allocation"),
        ({"faults": [{"link": "nic_up/h0/n0", "factor": 0.5}]}, "faults"),
        ({"run": {"until": "1 ms"}}, "run.until"),
    ],
)
def test_what_links_by_themselves_cannot_have_is_refused(change: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        simulate_traffic(from_data(NET | change), network="decomposed")
