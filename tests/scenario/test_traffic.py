"""Traffic jobs in scenario files: what they become, and what is refused in words.

Oracles: the generators of `euston.traffic` called directly, sets of pairs written out, counts by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from euston import scenario as sc
from euston.errors import BadInput, ConfigError, RouteError, SimulationError
from euston.network.balancing.ecmp import Ecmp
from euston.network.faults import LinkFault
from euston.network.transport.nscc import Nscc
from euston.runs import runner
from euston.runs.traffic import PreparedTraffic, compare_traffic, simulate_traffic
from euston.runs.traffic import prepare as prepare_traffic
from euston.scenario import dump, loads
from euston.simulate import simulate
from euston.traffic.matrices import matrix
from euston.traffic.run import framing, packet_faults, run_flows

HEAD = """\
version: 1
sites:
  - {name: dc, hosts: 16, accelerators_per_host: 1, fabric: {kind: leaf_spine, nic: 100 Gb/s,
    hosts_per_leaf: 4, spines: 4}}
"""
PERMUTATION = "{pattern: permutation, bytes: 2 MB}"


def text(flows: str = PERMUTATION, *, job: str = "", rest: str = "run: {seed: 1}\n", more: str = "") -> str:
    return f"{HEAD}jobs:\n  - {{name: a, kind: traffic, flows: {flows}{job}}}\n{more}{rest}"


def ready(flows: str = PERMUTATION, **parts: str) -> PreparedTraffic:
    return prepare_traffic(loads(text(flows, **parts), "s.yaml"))


def refused(flows: str = PERMUTATION, **parts: str) -> str:
    """The one sentence with which a scenario is refused, without its file, line and column."""
    with pytest.raises(BadInput) as caught:
        ready(flows, **parts)
    message = str(caught.value)
    assert "\n" not in message
    return message[message.index("`") :] if "`" in message else message


# ---- what jobs become --------------------------------------------------------------------------------------


def test_a_permutation_is_the_matrix_of_its_seed() -> None:
    flows = ready("{pattern: permutation, bytes: 2 MB, seed: 7}").flows.traffic.flows
    src, dst = matrix("permutation", 16, seed=7).pairs(7)
    assert np.array_equal(flows.src, src)
    assert np.array_equal(flows.dst, dst)
    assert set(flows.bytes.tolist()) == {2_000_000}


def test_seeds_follow_the_run_and_the_job() -> None:
    def drawn(seed: int, name: str = "a") -> list[int]:
        s = loads(text(rest=f"run: {{seed: {seed}}}\n").replace("name: a", f"name: {name}"))
        return prepare_traffic(s).flows.traffic.flows.dst.tolist()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1) != drawn(1, "b")


def test_placement_keeps_to_its_hosts_and_files_count_within_them(tmp_path: Path) -> None:
    flows = ready(PERMUTATION, job=", placement: {hosts: [3, 5, 8, 9]}").flows.traffic.flows
    assert sorted(flows.src.tolist()) == sorted(flows.dst.tolist()) == [3, 5, 8, 9]
    ranged = ready("{pattern: ring, bytes: 1 kB}", job=", placement: {first_host: 12, count: 3}")
    ends = ranged.flows.traffic.flows
    assert list(zip(ends.src.tolist(), ends.dst.tolist(), strict=True)) == [(12, 13), (13, 14), (14, 12)]
    (tmp_path / "f.csv").write_text("src,dst,bytes,start_us\n0,1,10,0\n1,0,20,3\n")
    placed = text("{file: f.csv}", job=", placement: {hosts: [7, 2]}")
    read = prepare_traffic(loads(placed, str(tmp_path / "s.yaml"))).flows.traffic.flows
    assert read.src.tolist() == [7, 2]
    assert read.dst.tolist() == [2, 7]
    assert read.start.tolist() == [0.0, 3e-6]


@pytest.mark.parametrize("pattern", ["uniform", "rack_skew", "hot_rack"])
def test_drawn_patterns_on_some_hosts_stay_among_them(pattern: str) -> None:
    load = f"{{pattern: {pattern}, bytes: 100 kB, load: 0.5, duration: 200 us}}"
    flows = ready(load, job=", placement: {first_host: 2, count: 9}").flows.traffic.flows
    assert set(flows.src.tolist()) | set(flows.dst.tolist()) <= set(range(2, 11))
    assert (flows.src != flows.dst).all()


def test_every_matrix_and_form_runs() -> None:
    for flows, count in (
        ("{pattern: incast, senders: 5, receiver: 2, bytes: 1 kB}", 5),
        ("{pattern: outcast, receivers: 3, sender: 0, bytes: 1 kB}", 3),
        ("{pattern: all_to_all, bytes: 1 kB}", 240),
        ("{pattern: stride, stride: 4, bytes: 1 kB, rounds: 3, period: 1 us}", 48),
        ("{pattern: tornado, dims: [4, 4], bytes: 1 kB}", 16),
        ("{pattern: uniform, bytes: websearch, flows: 20}", 20),
        ("{pattern: permutation, bytes: {distribution: uniform, low: 1 kB, high: 9 kB}}", 16),
        ("{collective: all_reduce, bytes: 1 MB, form: edges, algorithm: ring}", 16),
        ("{collective: all_to_all, bytes: 1 MB, iterations: 2, compute: 5 us}", 480),
        ("{stages: 4, bytes: 10 kB, micro_batches: 3, forward: 1 us}", 4 * 3 * 3),
    ):
        made = ready(flows)
        assert len(made.flows.traffic) == count, flows
        assert made.run("fluid").finished.all(), flows


def test_jobs_side_by_side_keep_their_names_dependencies_and_marks() -> None:
    more = "  - {name: b, kind: traffic, start: 1 ms, weight: 2, queue: 3, priority: 1, flows: " + (
        "{collective: all_gather, bytes: 1 MB, algorithm: ring}}\n"
    )
    made = ready(more=more)
    flows, job = made.flows.traffic.flows, made.flows.job
    assert made.flows.jobs == ("a", "b")
    assert job.tolist() == [0] * 16 + [1] * 240
    second = job == 1
    assert set(flows.weight[second]) == {2.0}
    assert set(flows.queue[second]) == {3}
    assert set(flows.priority[second]) == {1}
    for f in np.flatnonzero(second)[:40]:
        assert all(job[p] == 1 for p in flows.predecessors(int(f)))
    assert [flows.tags[g] for g in set(flows.group[second].tolist())] == ["b: all_gather 0"]
    result = simulate_traffic(made.scenario)
    assert result.tables["by_job"]["job"].to_list() == ["a", "b"]
    assert result.tables["by_job"]["flows"].to_list() == [16, 240]
    assert result.tables["flows"].filter(job="b")["start"].min() == pytest.approx(1e-3)


def test_a_scenario_comes_back_from_its_dump() -> None:
    for flows in (
        PERMUTATION,
        "{pattern: uniform, bytes: websearch, load: 0.3, duration: 1 ms, arrivals: lognormal, sigma: 2}",
        '{collective: all_to_all, bytes: 1 MiB, slow: {"3": 2.0}}',
        "{stages: 2, bytes: 1 kB, micro_batches: 1, backward: 1 us}",
        "{file: a.csv, format: csv}",
    ):
        s = loads(
            text(flows, job=", rate_cap: 40 Gb/s", rest="run: {network: packet, packet: {pfc: 100 kB}}\n")
        )
        assert loads(dump(s)) == s


# ---- one description, two engines --------------------------------------------------------------------------


def test_both_engines_move_the_same_bytes_and_the_fluid_one_is_no_slower() -> None:
    s = loads(text())
    fluid, packet = (
        simulate(s.model_copy(update={"run": s.run.model_copy(update={"network": n})}))
        for n in ("fluid", "packet")
    )
    assert fluid.meta["fidelity"] == "fluid"
    assert packet.meta["fidelity"] == "packet"
    assert fluid.scalars["makespan"] <= packet.scalars["makespan"]
    # 2 MB in packets of 4,086 bytes with 64 bytes of header, on 100 Gb/s
    wire = 2_000_000 + np.ceil(2_000_000 / 4086) * 64
    assert fluid.tables["links"]["wire_bytes"].max() == pytest.approx(wire)
    assert fluid.scalars["makespan"] == pytest.approx(wire / 12.5e9, rel=0.05)
    compared = compare_traffic(s)
    assert compared.scalars["makespan_packet"] == packet.scalars["makespan"]
    assert compared.scalars["goodput_bias"] > 0
    assert compared.tables["by_size"]["bucket"].to_list() == ["<= 10 MB", "all"]
    assert compared.tables["worst_flows"].height == 10


def test_hashed_flows_are_compared_on_the_same_paths() -> None:
    """With one path per flow both engines load every link with the same flows: tiers agree to the packet."""
    s = loads(
        text("{pattern: permutation, bytes: 4 MB}", rest="policies: {balancing: ecmp}\nrun: {seed: 3}\n")
    )
    tiers = compare_traffic(s).tables["tiers"].filter(tier="ToR up")
    share = {who: tiers[f"{who}_busiest"][0] * 1.0 for who in ("fluid", "packet")}
    assert share["fluid"] == pytest.approx(share["packet"], rel=0.25)
    imbalance = prepare_traffic(s)
    assert isinstance(imbalance.balancing, Ecmp)


def test_run_until_stops_there_and_counts_what_is_left() -> None:
    for network in ("fluid", "packet"):
        s = loads(text(rest=f"run: {{network: {network}, until: 100 us}}\n"))
        result = simulate(s)
        assert result.scalars["unfinished"] == 16
        assert result.tables["flows"]["completion"].null_count() == 16


def test_faults_reach_both_engines() -> None:
    one = "{pattern: incast, senders: 1, receiver: 1, seed: 0, bytes: 2 MB}"
    faults = "faults: [{link: nic_down/h1/n0, factor: 0.5}]\n"
    for network in ("fluid", "packet"):
        slow, whole = (
            simulate(loads(text(one, rest=f"{f}run: {{network: {network}}}\n"))).scalars["makespan"]
            for f in (faults, "")
        )
        assert slow / whole == pytest.approx(2.0, rel=0.06)


def test_packet_faults_say_what_changes_when() -> None:
    made = ready()
    faults = [LinkFault(3, 0.5, 0.0, 2e-3), LinkFault(3, 0.0, 1e-3, 1.5e-3), LinkFault(4, 0.5)]
    found = [(f.time, f.links, f.factor) for f in packet_faults(made.fabric, faults)]
    assert found == [(0.0, (3, 4), 0.5), (1e-3, (3,), 0.0), (1.5e-3, (3,), 0.5), (2e-3, (3,), 1.0)]


def test_a_partition_ends_with_the_names_of_stuck_flows() -> None:
    one = "{pattern: incast, senders: 1, receiver: 1, bytes: 2 MB}"
    dead = "faults: [{link: nic_down/h1/n0, factor: 0, at: 20 us}]\n"
    for network in ("fluid", "packet"):
        s = loads(text(one, rest=f"{dead}run: {{network: {network}}}\n"))
        with pytest.raises(SimulationError, match=r"flow.* 0 .*-> h1/g0"):
            simulate(s)


def test_a_pair_apart_from_the_start_is_a_route_error() -> None:
    one = "{pattern: incast, senders: 1, receiver: 1, bytes: 2 MB}"
    for network in ("fluid", "packet"):
        s = loads(
            text(one, rest=f"faults: [{{link: nic_down/h1/n0, factor: 0}}]\nrun: {{network: {network}}}\n")
        )
        with pytest.raises(RouteError, match=r"h1/g0: nic_down/h1/n0 is down"):
            simulate(s)


def test_framing_is_the_transports() -> None:
    settings = framing(Nscc(mtu=9000, header=100))
    assert (settings.mtu, settings.header) == (8900, 100)


# ---- what is refused ---------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, str], str]] = [
    ("{pattern: permutation, bytes: 0 B}", {}, "`jobs[0].flows.bytes`"),
    ("{pattern: permutation, bytes: -5 kB}", {}, "`jobs[0].flows.bytes`"),
    ("{pattern: permutation, bytes: 2 TiB}", {}, "`jobs[0].flows.bytes`"),
    ("{pattern: permutation, bytes: 2000000}", {}, "has no unit"),
    ("{pattern: permutaton, bytes: 1 kB}", {}, "did you mean 'permutation'?"),
    ("{pattern: permutation, bytes: websarch}", {}, "did you mean 'websearch'?"),
    ("{pattern: permutation, byte: 1 kB}", {}, "`jobs[0].flows.byte`: unknown key; did you mean 'bytes'?"),
    ("{pattern: permutation, bytes: 1 kB, senders: 3}", {}, "`jobs[0].flows.senders`: is no parameter of"),
    ("{pattern: incast, bytes: 1 kB, receiver: 16}", {}, "`jobs[0].flows.receiver`"),
    ("{pattern: stride, stride: 16, bytes: 1 kB}", {}, "`jobs[0].flows.stride`"),
    ("{pattern: uniform, bytes: 1 kB, load: 0.5}", {}, "`jobs[0].flows.duration`: is missing"),
    ("{pattern: uniform, bytes: 1 kB, duration: 1 ms}", {}, "`jobs[0].flows.duration`: belongs to `load`"),
    ("{pattern: uniform, bytes: 1 kB, load: 0.5, duration: 1 ms, rounds: 2}", {}, "`jobs[0].flows.rounds`"),
    ("{bytes: 1 kB}", {}, "`jobs[0].flows`: needs one of the keys file, pattern, collective, stages"),
    ("{collective: all_reduse, bytes: 1 kB}", {}, "did you mean 'all_reduce'?"),
    ("{collective: all_reduce, algorithm: rng, bytes: 1 MB}", {}, "did you mean 'ring'?"),
    ("{collective: all_reduce, bytes: 3 B}", {}, "`jobs[0].flows.bytes`"),
    (
        '{collective: all_reduce, bytes: 1 MB, slow: {"99": 2}}',
        {},
        "`jobs[0].flows.slow`: 99; the job has 0 to 15",
    ),
    ("{stages: 5, bytes: 1 kB, micro_batches: 2}", {}, "do not divide into 5 stages"),
    ("{file: nowhere.csv}", {}, "`jobs[0].flows.file`"),
    (PERMUTATION, {"job": ", placement: {hosts: [3, 16]}"}, "`jobs[0].placement`: needs hosts 3 to 16"),
    (PERMUTATION, {"job": ", placement: {hosts: [3]}"}, "has one accelerator"),
    (PERMUTATION, {"job": ", placement: {first_host: 20}"}, "`jobs[0].placement`"),
    (PERMUTATION, {"job": ", weight: 0"}, "`jobs[0].weight`"),
    (PERMUTATION, {"job": ", priority: 256"}, "`jobs[0].priority`"),
    (PERMUTATION, {"rest": "run: {network: none}\n"}, "`run.network`: none moves no traffic"),
    (PERMUTATION, {"rest": "run: {packet: {queue: 0 B}}\n"}, "`run.packet.queue`"),
    (PERMUTATION, {"rest": "run: {packet: {pfc: 1 kB, pfc_resume: 2 kB}}\n"}, "`run.packet.pfc_resume`"),
    (PERMUTATION, {"rest": "run: {packet: {sample: 1 us}}\n"}, "`run.packet.sampled`"),
    (
        PERMUTATION,
        {"rest": "run: {packet: {sample: 1 us, sampled: [tor_up/p0/t0/a9]}}\n"},
        "`run.packet.sampled[0]`",
    ),
    (PERMUTATION, {"rest": "run: {fluid: {tol: 1}}\n"}, "`run.fluid.tol`"),
    (PERMUTATION, {"rest": "policies: {transport: nsc}\n"}, "did you mean 'nscc'?"),
    (PERMUTATION, {"rest": "policies: {transport: {kind: nscc, mtu: 50}}\n"}, "`policies.transport.mtu`"),
    (PERMUTATION, {"rest": "faults: [{host: 1, speed: 0.5}]\n"}, "`faults[0].host`"),
    (PERMUTATION, {"rest": "faults: [{link: tor_up/p0/t9/a0, factor: 0}]\n"}, "`faults[0].link`"),
]


@pytest.mark.parametrize(("flows", "parts", "message"), WRONG, ids=[str(k) for k in range(len(WRONG))])
def test_refused_in_one_sentence(flows: str, parts: dict[str, str], message: str) -> None:
    assert message in refused(flows, **parts)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0,1,0,0", "column bytes: 0 is not a whole number of bytes between 1 and 2^40"),
        ("0,1,-4,0", "column bytes: -4"),
        ("0,1,1099511627777,0", "column bytes"),
        ("3,3,10,0", "a flow to itself"),
        ("0,16,10,0", "flow 0 of f.csv names endpoint 16; the job has 0 to 15"),
        ("0,1,10,-1", "column start_us"),
        ("0,1", "`jobs[0].flows.file`"),
    ],
)
def test_bad_flows_of_a_file_are_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f"src,dst,bytes,start_us\n{line}\n")
    with pytest.raises(BadInput) as caught:
        prepare_traffic(loads(text("{file: f.csv}"), str(tmp_path / "s.yaml")))
    assert message in str(caught.value)
    assert "`jobs[0].flows.file`" in str(caught.value)


def test_a_ring_too_large_to_write_out_is_refused_before_it_is() -> None:
    big = HEAD.replace("hosts: 16", "hosts: 8192").replace("hosts_per_leaf: 4", "hosts_per_leaf: 32")
    s = loads(big + "jobs: [{name: a, kind: traffic, flows: {collective: all_reduce, bytes: 1 GB}}]\n")
    with pytest.raises(ConfigError, match="134,217,728 messages"):
        prepare_traffic(s)


def test_traffic_beside_training_and_a_site_without_accelerator() -> None:
    training = {
        "name": "t",
        "kind": "training",
        "model": "llama3-8b",
        "parallel": {"tensor": 8, "data": 2},
        "batch": {"global": 16, "sequence": 1024},
    }
    traffic = {"name": "a", "kind": "traffic", "flows": {"pattern": "ring", "bytes": "1 kB"}}
    site = {
        "name": "dc",
        "hosts": 2,
        "accelerator": "h100-sxm",
        "fabric": {"kind": "clos", "nic": "400 Gb/s"},
    }

    def data(site: dict[str, Any], *jobs: dict[str, Any]) -> dict[str, Any]:
        return {"version": 1, "sites": [site], "jobs": list(jobs)}

    both = sc.from_data(data(site, training, traffic))
    assert not both.is_traffic
    with pytest.raises(ConfigError, match=r"`jobs\[1\].kind`: traffic beside training"):
        runner(both)
    bare = {key: value for key, value in site.items() if key != "accelerator"}
    with pytest.raises(ConfigError, match=r"`sites\[0\].accelerator`: is missing"):
        sc.from_data(data(bare, training))
    assert len(prepare_traffic(sc.from_data(data(bare, traffic))).flows.traffic) == 16


def test_settings_of_the_other_engine_and_unknown_engines() -> None:
    made = ready()
    flows = made.flows.traffic.flows
    with pytest.raises(ConfigError, match="FluidSettings is not for packet"):
        run_flows(flows, made.fabric, network="packet", settings=framing(Nscc()))
    with pytest.raises(ConfigError, match="did you mean 'fluid'"):
        run_flows(flows, made.fabric, network="fluit")
