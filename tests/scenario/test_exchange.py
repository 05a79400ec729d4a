"""Scenarios of `kind: exchange`: the library gives the same exchanges, the page has the distribution, and
what cannot be is said with its place.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import euston
from euston import report, scenario
from euston.collectives.bounded import Bounded
from euston.collectives.exchange_runs import ExchangeSettings, run_exchanges
from euston.collectives.loss import Iid
from euston.collectives.stragglers import STRAGGLERS
from euston.collectives.tail import Tail
from euston.compression import CODECS
from euston.errors import BadInput
from euston.fabrics import clos
from euston.network.packet import PacketSettings
from euston.runs import runner

EXAMPLE = Path(__file__).parents[2] / "examples" / "lossy-all-reduce.yaml"
FABRIC = "{kind: clos, hosts_per_tor: 4, nic: 10 Gb/s, aggs_per_pod: 0, cores_per_agg: 0}"
TEXT = """
version: 1
sites:
  - {name: lab, hosts: 4, accelerators_per_host: 1, fabric: FABRIC}
jobs:
  - {name: g, kind: exchange, JOB}
run: {RUN}
"""


def load(job="bytes: 4 MB", run="network: fluid", fabric=FABRIC):
    return scenario.loads(TEXT.replace("FABRIC", fabric).replace("JOB", job).replace("RUN", run))


@pytest.mark.parametrize("network", ["fluid", "packet"])
def test_the_library_call_is_the_scenario(network):
    job = (
        "bytes: 2 MB, repeats: 5, codec: {kind: eden, bits: 2}, loss: {kind: iid, loss: 0.05}, "
        "compute: 10 ms, compute_tail: 1.5, stragglers: {kind: k_of_n, k: 3}, "
        "bounds: {t_b: 20 ms, floor: 1 ms, repair: none}"
    )
    made = euston.simulate(load(job, f"network: {network}, seed: 7"))
    settings = ExchangeSettings(
        4, 500_000, Bounded(t_b=0.02, floor=1e-3, repair="none"), CODECS.get("eden")(bits=2),
        losses=Iid(0.05), straggler=STRAGGLERS.get("k_of_n")(k=3), compute=0.01, compute_tail=Tail(1.5),
    )  # fmt: skip
    found = made.tables["exchanges"]
    if network == "fluid":
        table = run_exchanges(settings, repeats=5, rate=1.25e9, seed=7).table
        assert (found["transfer"] - table["transfer"]).abs().max() < 1e-5  # latencies
        assert found.drop("seconds", "transfer").equals(table.drop("seconds", "transfer"))
    else:
        fabric = clos(4, 1, nic="10 Gb/s", hosts_per_tor=4, aggs_per_pod=0, cores_per_agg=0)
        table = run_exchanges(
            settings, network="packet", repeats=5, fabric=fabric, members=range(4), seed=7,
            packet=PacketSettings(trimming=False),
        ).table  # fmt: skip
        assert found.equals(table)
    assert made.scalars["delivered_share"] == pytest.approx(0.75 * 0.95, abs=0.03)


def test_fluid_knows_the_fabrics_contention():
    """Two hosts per leaf and one uplink of their rate: each sends two of its three shards over it."""
    narrow = "{kind: leaf_spine, nic: 10 Gb/s, hosts_per_leaf: 2, spines: 1, oversubscription: 2}"
    job = "bytes: 40 MB, repeats: 1"
    wide, shared = (euston.simulate(load(job, fabric=one)) for one in (FABRIC, narrow))
    assert shared.scalars["completion_p50"] == pytest.approx(4 / 3 * wide.scalars["completion_p50"], rel=0.02)


def test_example_runs_and_its_page_shows_the_distribution(tmp_path):
    made = euston.simulate(EXAMPLE)
    assert made.kind == "exchange" and made.tables["exchanges"].height == 200
    assert made.scalars["delivered_share"] == pytest.approx(7 / 8 * 0.99, abs=0.01)
    assert 0 < made.scalars["resent_bytes"] < 0.02 * made.scalars["gradient_bytes"]
    page = tmp_path / "x.html"
    report.write(made, page)
    text = page.read_text()
    for words in (
        "Completion times", "What was delivered", "Whom the means were made of", "Gradients delivered",
    ):  # fmt: skip
        assert words in text


def test_a_switch_from_a_file():
    job = "bytes: 1 MB, repeats: 2, switch: {window: 64}, loss: {kind: iid, loss: 0.001}"
    made = euston.simulate(load(job))
    assert made.scalars["nmse"] == 0 and made.scalars["resent_bytes"] > 0


K = "stragglers: {kind: k_of_n, k:"


@pytest.mark.parametrize(
    ("job", "run", "words"),
    [
        ("bytes: 8", "", "`jobs[0].bytes`: 8 has no unit"),
        ("bytes: 8 MB, codec: edn", "", "did you mean 'eden'?"),
        ("bytes: 8 MB, codec: {kind: eden, bit: 4}", "", "`jobs[0].codec.bit`: unknown key"),
        ("bytes: 8 MB, codec: {kind: thc, workers: 2}", "", "`jobs[0].codec.workers`: 2 for 4 hosts"),
        (f"bytes: 8 MB, {K} 5}}, compute: 1 ms", "", "`jobs[0].stragglers.k`: 5 is more than the 4 hosts"),
        (f"bytes: 8 MB, {K} 3}}", "", "`jobs[0].compute`"),
        (f"bytes: 8 MB, {K} 3, stale: true}}, compute: 1 ms", "", "`jobs[0].stragglers.stale`"),
        ("bytes: 8 MB, loss: {kind: iid, loss: 1.0}", "", "`jobs[0].loss`: loses every packet"),
        ("bytes: 8 MB, tail: 2", "network: packet", "`jobs[0].tail`"),
        ("bytes: 8 MB, bounds: {repair: nack}", "network: packet", "`jobs[0].bounds.repair`"),
        ("bytes: 8 MB, bounds: {early: 0.6}", "", "`jobs[0].bounds.most_early`"),
        ("bytes: 8 MB, fec: {parity: 2}", "", "`jobs[0].fec.parity`"),
        ("bytes: 8 MB, switch: {}, codec: eden", "", "`jobs[0].codec`: does not go with `switch`"),
        ("bytes: 8 MB, switch: {least: 3}", "", "`jobs[0].switch.deadline`: is missing"),
        ("bytes: 8 MB, switch: {least: 9, deadline: 1 ms}", "", "`jobs[0].switch.least`: 9 is more than"),
        ("bytes: 8 MB, switch: {window: 9999}", "", "`jobs[0].switch.window`"),
        ("bytes: 8 MB, placement: {hosts: [0]}", "", "`jobs[0].placement`: has one host"),
        ("bytes: 12 B", "", "`jobs[0].bytes`: 12 B for 4 hosts"),
        ("bytes: 8 MB, micro_batches: 4", "", "`jobs[0].micro_batches`"),
        ("bytes: 8 MB", "network: none", "`run.network`: none moves no exchange"),
        ("bytes: 8 MB", "until: 1 s", "`run.until`"),
        ("bytes: 8 MB", "network: packet, packet: {trimming: true}", "`run.packet.trimming`"),
    ],
)
def test_bad_input_names_its_place(job, run, words):
    with pytest.raises(BadInput) as error:
        s = load(job, run)
        runner(s).prepare(s)
    assert words in str(error.value)
