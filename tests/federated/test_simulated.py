"""The simulated federation against two oracles: Photon's wall-time formulas, and the bytes that the real
trainer counts for the same configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from euston.errors import ConfigError, SimulationError
from euston.fabrics import wan
from euston.federated import DataSet, FederationConfig, Flat, train, wall_time
from euston.federated.simulated import Client, Simulated, simulate_federation
from euston.federated.wan import Wan
from euston.network.faults import LinkFault

Make = Callable[..., FederationConfig]
STEP = 0.1


def star(clients: int, bandwidth: str = "1 MB/s", trip: str = "20 ms", faults: tuple = ()) -> Wan:
    """An aggregator (place 0) with a cable to each site."""
    return Wan(wan([("hub", f"s{i}", bandwidth, trip) for i in range(clients)], tunnels=1), faults)


def simulate(config: FederationConfig, net: Wan | None = None, **how) -> Simulated:  # type: ignore[no-untyped-def]
    clients = [Client(f"c{i}", i + 1, STEP) for i in range(config.clients)]
    return simulate_federation(config, clients, net or star(config.clients), 0, **how)


@pytest.mark.parametrize("clients", [1, 3])
def test_parameter_server_is_the_formula(federation: Make, clients: int) -> None:
    """Each site has a cable of its own, so nothing is shared: T = R (H / nu + 2 (S / B + l))."""
    config = federation(clients=clients, rounds=20)
    size = 4 * Flat.of(config.model).size
    foreseen = wall_time(size, clients, 4, 20, 1 / STEP, 1e6, "ps", latency=0.01)
    found = simulate(config)
    assert found.wall == pytest.approx(foreseen.total, rel=1e-9)
    assert found.utilisation == pytest.approx(foreseen.utilisation, rel=1e-9)
    assert found.link_bytes.sum() == pytest.approx(20 * clients * foreseen.bytes_per_client)


def test_a_shared_cable_is_shared(federation: Make) -> None:
    """All clients at one site: K updates over one cable."""
    config = federation(rounds=5)
    size = 4 * Flat.of(config.model).size
    net = Wan(wan([("hub", "far", "1 MB/s", "20 ms")], tunnels=1))
    found = simulate_federation(config, [Client(f"c{i}", 1, STEP) for i in range(3)], net, 0)
    foreseen = wall_time(size, 3, 4, 5, 1 / STEP, 1e6, "ps", latency=0.01, server_bandwidth=1e6)
    assert found.wall == pytest.approx(foreseen.total, rel=1e-9)


@pytest.mark.parametrize("topology", ["ar", "rar"])
def test_peers_are_the_formula(federation: Make, topology: str) -> None:
    """Full mesh of three: everybody to everybody uses a cable per pair, the ring one way of each."""
    config = federation(rounds=10, topology=topology)
    size = 4 * Flat.of(config.model).size
    mesh = wan([(a, b, "1 MB/s", "20 ms") for a, b in (("a", "b"), ("b", "c"), ("c", "a"))], tunnels=1)
    found = simulate_federation(config, [Client(f"c{i}", i, STEP) for i in range(3)], Wan(mesh), 0)
    first = size / 1e6 + 0.01  # the first model comes from the aggregator
    if topology == "ar":  # one update per cable and direction at a time
        each = 4 * STEP + size / 1e6 + 0.01
    else:
        each = wall_time(size, 3, 4, 1, 1 / STEP, 1e6, "rar", latency=0.01).total
    assert found.wall == pytest.approx(10 * each + first, rel=1e-3)


def test_overlap_hides_the_exchange(federation: Make) -> None:
    """tau steps of the next round run while an update is under way: of a shorter exchange only the first
    model and the last update show; of a longer one tau steps do not.
    """
    config = federation(rounds=21, sync={"fragments": 2, "overlap_steps": 1})
    layout = Flat.of(config.model, 2)
    ends = 4 * layout.size / 1e6 + layout.payload_bytes(0, "none") / 1e6 + 2 * 0.01
    assert simulate(config).wall == pytest.approx(21 * 2 * STEP + ends, rel=1e-9)
    slow, plain = (
        simulate(c, star(3, "10 kB/s")) for c in (config, federation(rounds=21, sync={"fragments": 2}))
    )
    assert plain.wall - slow.wall == pytest.approx(20 * STEP, rel=1e-9)


VARIANTS = [
    {},
    {"outer": {"kind": "nesterov", "lr": 0.7}, "sync": {"codec": "fp4", "down_codec": "fp4"}},
    {"sync": {"fragments": 2, "overlap_steps": 1, "mix": 0.5, "codec": "int8", "down_codec": "int8"}},
    {"sync": {"fragments": 2}, "per_round": 2},
    {"per_round": 2, "sync": {"codec": "int8", "down_codec": "int8"}},
    {"local": {"inner_state": "averaged", "average_first_every": 2, "average_second_every": 3}},
    {"topology": "ar"},
    {"topology": "ar", "per_round": 2},
    {"topology": "rar", "sync": {"codec": "int8"}},
    {"topology": "rar", "local": {"inner_state": "averaged"}},
    {"islands": 2},
]  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_bytes_are_the_trainers(federation: Make, data: DataSet, tmp_path: Path, changes: dict) -> None:
    """Oracle 9: what the real trainer sends, round by round and kind by kind, is what the simulator moves."""
    config = federation(rounds=7, **changes)
    rows = train(config, data, tmp_path).tables["rounds"]
    found = simulate(config)
    for kind in ("up", "down", "initial", "peers"):
        measured = rows[f"bytes_{kind}"].to_list()
        assert [getattr(r, kind) for r in found.rounds] == measured, kind
    assert found.tokens == rows["tokens"][-1]
    payload = sum(found.total(kind) for kind in ("up", "down", "initial", "peers"))
    hops = found.total("peers")  # of which every byte takes two cables of the star
    assert found.link_bytes.sum() == pytest.approx(payload + hops, rel=0.01)


def test_headers_are_less_than_a_hundredth(data: DataSet, federation: Make, tmp_path: Path) -> None:
    """Of a model that is no toy, so that payload is what crosses the wire."""
    from euston.models import Transformer

    model = Transformer(
        "small", layers=2, hidden=64, heads=2, vocab=257, gated=False, norm="layernorm", positions="learned",
        max_positions=16, tied=True, biases=True,
    )  # fmt: skip
    config = federation(rounds=2, model=model, local={"steps": 1})
    scalars = train(config, data, tmp_path).scalars
    found = simulate(config)
    moved = scalars["payload_bytes"] + scalars["initial_bytes"] + scalars["control_bytes"]
    assert found.link_bytes.sum() == pytest.approx(moved, rel=0.01)


def test_a_deadline_shortens_slow_sites(federation: Make) -> None:
    config = federation(rounds=3, fault={"deadline": 2.0, "first_deadline": 2.0})
    clients = [Client("a", 1, STEP), Client("b", 2, STEP), Client("c", 3, 0.7)]
    found = simulate_federation(config, clients, star(3), 0)
    assert all(r.steps == (4, 4, 2) and r.participants == (0, 1, 2) for r in found.rounds)
    assert found.tokens == 3 * 10 * 2 * 16


def test_a_reply_after_the_deadline_is_lost(federation: Make) -> None:
    """A site behind a thin cable misses every round, and is counted as having missed them all."""
    config = federation(rounds=3, fault={"deadline": 1.0, "first_deadline": 1.0})
    size = 4 * Flat.of(config.model).size
    cables = [("hub", f"s{i}", f"{size if i else size / 10} B/s", "2 ms") for i in range(3)]
    fast = [(a, b, "1 MB/s" if b != "s0" else rate, t) for a, b, rate, t in cables]
    found = simulate_federation(
        config, [Client(f"c{i}", i + 1, STEP) for i in range(3)], Wan(wan(fast, tunnels=1)), 0
    )
    assert all(r.participants == (1, 2) for r in found.rounds)
    assert all(r.end - r.start == pytest.approx(1.0) for r in found.rounds)
    with pytest.raises(SimulationError, match="without a quorum of 3"):
        simulate(config.with_(fault={"quorum": 3, "max_failed_rounds": 1}), star(3, "10 B/s"))


def test_grace_ends_a_round_early(federation: Make) -> None:
    config = federation(rounds=2, fault={"quorum": 2, "grace": 0.25, "deadline": 9.0, "first_deadline": 9.0})
    clients = [Client("a", 1, STEP), Client("b", 2, STEP), Client("c", 3, 1.0)]
    found = simulate_federation(config, clients, star(3), 0)
    first = found.rounds[0]
    assert first.participants == (0, 1)
    assert first.end == pytest.approx(first.arrived[1] + 0.25)


def test_a_cut_cable_stalls_and_comes_back(federation: Make) -> None:
    """Dead from 1 s to 5 s: the run ends that much later; without an end it cannot go on."""
    config = federation(rounds=10)
    whole = simulate(config)
    net = star(3)
    cut = LinkFault(net.fabric.link_index("wan/hub/s1"), 0.0, 1.0, 5.0)
    found = simulate(config, star(3, faults=(cut,)))
    assert 3.0 < found.wall - whole.wall <= 4.0
    with pytest.raises(SimulationError, match="cut off for good"):
        simulate(config, star(3, faults=(LinkFault(cut.link, 0.0, 1.0),)))


def test_memory_changes_nothing(federation: Make) -> None:
    """Rounds that are alike are looked up; a fault that never binds switches that off."""
    config = federation(rounds=9, per_round=2, sync={"fragments": 2, "overlap_steps": 1})
    never = LinkFault(0, 1.0, 1e9, 2e9)
    a, b = simulate(config), simulate(config, star(3, faults=(never,)))
    assert a.wall == pytest.approx(b.wall, rel=1e-12)
    np.testing.assert_allclose(a.link_bytes, b.link_bytes, rtol=1e-12)


SCENARIO = """
version: 1
name: two
sites:
  - name: north
    accelerator: h100-sxm
    hosts: 1
    fabric: {kind: leaf_spine, nic: 400 Gb/s, hosts_per_leaf: 1, spines: 1}
  - name: south
    accelerator: a100-sxm-80gb
    hosts: 2
    fabric: {kind: leaf_spine, nic: 200 Gb/s, hosts_per_leaf: 1, spines: 1}
jobs:
  - name: photon
    kind: federated
    federation: federation.yaml
    wan: {cables: [{between: [north, south], bandwidth: 10 Gb/s, round_trip: 10 ms}]}
"""
FEDERATION = """
version: 1
model: {name: small, layers: 4, hidden: 256, heads: 4, vocab: 257}
clients: 2
rounds: 6
local: {steps: 16, batch: 16, sequence: 512, precision: bf16}
"""


def scenario(folder: Path, **changes: str) -> Path:
    text, federation = SCENARIO, FEDERATION
    for key, value in changes.items():
        old = key.replace("__", ": ").replace("_", " ")
        assert old in text + federation
        text, federation = text.replace(old, value), federation.replace(old, value)
    (folder / "federation.yaml").write_text(federation)
    (folder / "two.yaml").write_text(text)
    return folder / "two.yaml"


def test_a_scenario_takes_its_steps_from_the_accelerators(tmp_path: Path) -> None:
    """A site's steps per second are what a training job with the same batch and layout takes there."""
    import euston as eu

    result = eu.simulate(scenario(tmp_path))
    sites = {row["site"]: row for row in result.tables["sites"].to_dicts()}
    text = (
        SCENARIO[: SCENARIO.index("jobs:")]
        + """jobs:
  - name: alone
    kind: training
    model: {layers: 4, hidden: 256, heads: 4, ffn: 1024, vocab: 257}
    parallel: {dp: 16}
    batch: {global: 16, sequence: 512}
    placement: {site: south}
"""
    )
    config = FederationConfig.from_values(
        {"model": {"layers": 4, "hidden": 256, "heads": 4, "vocab": 257}, "clients": 2, "rounds": 1}
    )
    (tmp_path / "alone.yaml").write_text(text.replace("ffn: 1024", f"ffn: {config.model.ffn}"))
    alone = eu.simulate(tmp_path / "alone.yaml")
    assert sites["south"]["steps_per_second"] == pytest.approx(1 / alone.scalars["step_time"])
    assert sites["north"]["steps_per_second"] != sites["south"]["steps_per_second"]
    table = result.tables["topologies"]
    assert set(table["method"]) == {"parameter server", "all to all", "ring", "data parallel, every step"}
    assert table.height == 16
    own = table.filter((table["method"] == "parameter server") & (table["bandwidth"] == 1.25e9))
    assert own["wall_time"][0] == pytest.approx(result.scalars["wall_time"], rel=1e-9)
    assert own["bytes"][0] == pytest.approx(result.scalars["payload_bytes"], rel=1e-9)
    given = eu.simulate(
        scenario(tmp_path, **{"    wan": "    members: [{site: north, steps_per_second: 2}, "
                              "{site: south, steps_per_second: 4}]\n    wan"})
    )  # fmt: skip
    assert given.tables["sites"]["steps_per_second"].to_list() == [2, 4]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("clients: 2", "clients: 3", "`jobs[0].members`: 2 clients; the federation has clients: 3"),
        ("batch: 16", "batch: 17", "no multiple of data 8"),
        ("precision: bf16", "precision: fp32", "fp32 steps have no prices"),
        ("federation: federation.yaml", "federation: other.yaml", "cannot be read"),
        ("layers: 4", "layers: 4, gatd: true", "unknown key; did you mean 'gated'?"),
        ("between: [north, south]", "between: [north, east]", "'south' is joined to nothing"),
        ("round_trip: 10 ms", "round_trip: 10", "has no unit"),
        ("kind: federated", "kind: federated\n    aggregator: rome", "unknown place of the WAN 'rome'"),
        ("kind: federated", "kind: federated\n    placement: {site: north}", "placed by `members`"),
    ],
)
def test_bad_scenarios_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    import euston as eu

    path = scenario(tmp_path)
    for file in (path, tmp_path / "federation.yaml"):
        file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ConfigError) as caught:
        eu.simulate(path)
    assert words in str(caught.value)
