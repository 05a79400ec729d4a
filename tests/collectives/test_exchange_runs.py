"""Exchanges by one description. Oracles: closed forms without loss, the aggregator on real vectors, binomial
residuals of parity, either engine against the other.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from euston.collectives.aggregation import AGGREGATION, Aggregator
from euston.collectives.bounded import Bounded
from euston.collectives.bounded_exchange import HEADERS, simulate_exchanges
from euston.collectives.exchange_error import expected_nmse
from euston.collectives.exchange_runs import ExchangeSettings, SwitchSum, run_exchanges
from euston.collectives.loss import GilbertElliott, Iid
from euston.collectives.stragglers import STRAGGLERS
from euston.collectives.tail import Tail
from euston.compression import CODECS, Fec, residual_loss
from euston.errors import ConfigError
from euston.fabrics import clos
from euston.network.transport.switch_aggregation import SwitchPool, aggregation_time

RATE, D, N = 1.25e9, 1 << 18, 4
WAIT = Bounded(t_b=5e-3, floor=5e-4, repair="none")


def fabric():
    """Eight endpoints at one switch."""
    return clos(8, 1, nic="10 Gb/s", hosts_per_tor=8, nic_latency="1 us", aggs_per_pod=0, cores_per_agg=0)


def both(settings, repeats=20):
    """The same exchanges in either engine."""
    fluid = run_exchanges(settings, repeats=repeats, rate=RATE)
    packet = run_exchanges(settings, network="packet", repeats=repeats, fabric=fabric(), members=range(N))
    return fluid.table, packet.table


def test_without_loss_both_take_bytes_over_bandwidth():
    wire = D + HEADERS * -(-D // (1500 - HEADERS))  # a quarter of D coordinates is D bytes
    for table in both(ExchangeSettings(N, D), repeats=3):
        assert table["seconds"].to_numpy() == pytest.approx(2 * (N - 1) * wire / RATE, rel=0.02)
        assert table["delivered"].to_list() == [1.0] * 3 and table["nmse"].to_list() == [0.0] * 3
        assert table["payload_bytes"].to_list() == [N * 2 * (N - 1) * D] * 3
        assert table["parity_bytes"].sum() == table["resent_bytes"].sum() == 0


@pytest.mark.parametrize("loss", [Iid(0.02), GilbertElliott.of(0.02, 5)])
def test_what_is_delivered_is_one_minus_p_and_both_agree(loss):
    fluid, packet = both(ExchangeSettings(N, D, WAIT, losses=loss), repeats=60)
    for table in (fluid, packet):
        # 60 x 12 shards of 182 packets: four standard errors, bursts of 5 counted as one
        error = 4 * math.sqrt(0.02 * 0.98 / (60 * 12 * 182 / (1 if isinstance(loss, Iid) else 10)))
        assert table["delivered"].mean() == pytest.approx(0.98, abs=error)
        assert table["results"].mean() == pytest.approx(0.98, abs=error)
    assert packet["seconds"].mean() == pytest.approx(fluid["seconds"].mean(), rel=0.05)
    assert packet["nmse"].mean() == pytest.approx(fluid["nmse"].mean(), rel=0.15)


def test_repair_delivers_results_and_counts_what_is_sent_again():
    settings = ExchangeSettings(N, D, Bounded(t_b=10.0, floor=5e-4), losses=Iid(0.02))
    table = run_exchanges(settings, repeats=60, rate=RATE).table
    assert table["results"].mean() > 0.9995  # 0.02^2 and a few that have lost their last packet
    wire = D / (-(-D // (1500 - HEADERS))) + HEADERS
    asked = 0.02 * N * (N - 1) * -(-D // (1500 - HEADERS))
    assert table["resent_bytes"].mean() == pytest.approx(asked * wire, rel=0.1)


@pytest.mark.parametrize("network", ["fluid", "packet"])
def test_parity_leaves_the_residual_of_theory(network):
    fec = Fec(16, 2, "rs")
    settings = ExchangeSettings(N, D, WAIT, losses=Iid(0.05), fec=fec)
    more = {"rate": RATE} if network == "fluid" else {"fabric": fabric(), "members": range(N)}
    table = run_exchanges(settings, network=network, repeats=60, **more).table
    left = 1 - table["results"].mean()
    # blocks at a shard's end are short, which loses less
    assert left == pytest.approx(residual_loss(16, 2, 0.05), rel=0.2)
    packets = -(-D // (1500 - HEADERS))
    size = 1500 - HEADERS if network == "packet" else D / packets
    assert table["parity_bytes"][0] == pytest.approx(
        24 * fec.parity_packets(packets) * (size + HEADERS), rel=1e-3
    )


def test_survive_is_what_recover_puts_back():
    codec, rng = CODECS.get("none")(), np.random.default_rng(5)
    payload = codec.encode(rng.standard_normal(20_000).astype(np.float32))
    for fec in (Fec(8, 1, "xor"), Fec(8, 2, "rs")):
        parity = fec.protect(payload)
        assert fec.parity_packets(len(payload)) == len(parity)
        for _ in range(20):
            mask, other = rng.random(len(payload)) > 0.1, rng.random(len(parity)) > 0.1
            copy = codec.encode(codec.decode(payload))
            assert (fec.recover(copy, mask, parity, other) == fec.survive(mask, other)).all()


@pytest.mark.parametrize("rule", ["count", "ht", "zero", "local", "stale"])
def test_expected_error_is_the_aggregators_on_real_vectors(rule):
    n, packets, rng = 5, 400, np.random.default_rng(1)
    q = np.array([1.0, 0.9, 0.8, 0.95, 0.6])
    made = AGGREGATION.get(rule)()
    found = []
    for owner in range(n):
        x, before = rng.standard_normal((2, n, 8 * packets)).astype(np.float32)
        bounds = np.arange(packets + 1) * 8
        sums = Aggregator(made, n, bounds, inclusion=q, own=x[owner], previous=dict(enumerate(before)))
        for s in range(n):
            sums.add(s, x[s], rng.random(packets) < (1.0 if s == owner else q[s]))
        found.append(((sums.result().mean - x.mean(axis=0)) ** 2).mean())
    share = np.broadcast_to(np.where(np.eye(n, dtype=bool), 1.0, q), (n, n))
    received = np.stack((share, np.ones((n, n))))
    expected = np.mean([expected_nmse(made, received, q, seed=k) for k in range(20)])
    assert np.mean(found) == pytest.approx(expected, rel=0.06)


def test_a_lost_result_leaves_ones_own():
    received = np.ones((2, 4, 4))
    received[1] = np.where(np.eye(4, dtype=bool), 1.0, 0.75)
    rule = AGGREGATION.get("count")()
    # three of four shards of a receiver are others', a quarter of those is missing
    assert expected_nmse(rule, received, np.ones(4)) == pytest.approx(3 / 4 * 0.25 * 3 / 4)


def test_k_of_n_does_not_wait_and_leaves_out():
    settings = ExchangeSettings(
        N, D, compute=0.05, compute_tail=Tail(2.0), straggler=STRAGGLERS.get("k_of_n")(k=3)
    )
    first, whole = (
        run_exchanges(one, repeats=200, rate=RATE)
        for one in (settings, ExchangeSettings(N, D, compute=0.05, compute_tail=Tail(2.0)))
    )
    assert (first.table["workers"] == 3).all() and (whole.table["workers"] == 4).all()
    assert first.table["delivered"].to_list() == pytest.approx([0.75] * 200)
    # mean of the third and the fourth of four normal order statistics: 0.2970 and 1.0294
    sigma = Tail(2.0).sigma
    assert np.log(first.table["waiting"] / 0.05).mean() == pytest.approx(0.2970 * sigma, abs=0.06)
    assert np.log(whole.table["waiting"] / 0.05).mean() == pytest.approx(1.0294 * sigma, abs=0.06)
    # E of 1/3 - 1/4, everywhere
    assert first.table["nmse"].mean() == pytest.approx(1 / 3 - 1 / 4, rel=0.02)
    assert first.inclusion.mean() == pytest.approx(0.75)
    part = (1 + 3 / 4) / 2
    assert first.table["payload_bytes"][0] == whole.table["payload_bytes"][0] * part


def test_what_is_left_out_is_left_out_of_packets_too():
    settings = ExchangeSettings(
        N, D, compute=0.05, compute_tail=Tail(2.0), straggler=STRAGGLERS.get("k_of_n")(k=3)
    )
    fluid, packet = both(settings, repeats=4)
    assert packet["delivered"].to_list() == fluid["delivered"].to_list() == pytest.approx([0.75] * 4)
    assert packet["transfer"].to_numpy() == pytest.approx(fluid["transfer"].to_numpy(), rel=0.05)


def test_late_transfers_change_nothing_after_a_stage_is_closed():
    """The bound cuts: every exchange is two bounds long, and what came is time over bytes."""
    wire = D + HEADERS * -(-D // (1500 - HEADERS))
    t_b = 2 * wire / RATE  # of 3 shards 2
    made = simulate_exchanges(
        Bounded(t_b=t_b, repair="none"), ranks=N, d=D, rate=RATE, steps=5, gaps=np.full(5, 1.0)
    )
    assert made.seconds == pytest.approx(2 * t_b, rel=1e-6)
    off = ~np.eye(N, dtype=bool)
    assert made.received[:, 0, off].mean() == pytest.approx(2 / 3, rel=1e-6)
    # in the second stage the link first ends what is too late
    assert made.received[:, 1, off].mean() == pytest.approx(1 / 3, rel=1e-6)


def test_a_switch_takes_the_closed_form_and_closes_early():
    pool = SwitchPool()
    settings = ExchangeSettings(N, D, switch=SwitchSum(pool, rtt=1e-5))
    made = run_exchanges(settings, repeats=2, rate=RATE)
    assert made.table["seconds"].to_list() == pytest.approx([aggregation_time(D, RATE, 1e-5, pool, 256)] * 2)
    assert math.isnan(made.t_b) and made.table["nmse"].sum() == 0
    early = ExchangeSettings(
        N, 1 << 14, compute=0.01, compute_tail=Tail(3.0), switch=SwitchSum(pool, least=3, deadline=1e-6)
    )
    table = run_exchanges(early, repeats=20, rate=RATE).table
    assert 0.75 <= table["delivered"].min() < 1 and table["nmse"].max() <= 1 / 3 - 1 / 4 + 1e-12


def test_coded_error_without_loss_is_of_the_code():
    codec = CODECS.get("eden")(bits=2)
    table = run_exchanges(ExchangeSettings(N, D, codec=codec), repeats=2, rate=RATE).table
    v = codec.expected_vnmse(D // N)
    stage0 = v * 3 / 16  # three coded parts of a quarter's weight each
    assert table["nmse"].mean() == pytest.approx(stage0 + 3 / 4 * v / 4)


def test_bad_settings():
    tail = ExchangeSettings(N, D, tail=Tail(2.0))
    stale = ExchangeSettings(N, D, straggler=STRAGGLERS.get("k_of_n")(k=3, stale=True))
    for settings, more, words in (
        (ExchangeSettings(1, D), {}, "`ranks`"), (ExchangeSettings(N, D), {"rate": 0.0}, "`rate`"),
        (ExchangeSettings(N, D), {"network": "packet"}, "`members`"), (stale, {}, "`straggler`"),
        (tail, {"network": "packet", "fabric": fabric(), "members": range(N)}, "`tail`"),
        (ExchangeSettings(N, D, codec=CODECS.get("fp16")(), switch=SwitchSum()), {}, "`codec`"),
        (ExchangeSettings(N, D, losses=GilbertElliott(), switch=SwitchSum()), {}, "`losses`"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            run_exchanges(settings, **{"rate": RATE, "repeats": 1, **more})
