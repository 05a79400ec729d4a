"""Bounded exchanges in simulated time; oracles: closed forms, the tail model's schemes."""

from __future__ import annotations

import numpy as np
import pytest

from euston.collectives.bounded import Bounded, Timeouts
from euston.collectives.bounded_exchange import HEADERS, as_transport, simulate_exchanges
from euston.collectives.tail import Tail, scheme_time
from euston.compression import CODECS
from euston.errors import ConfigError


def test_without_tail_and_loss_it_is_bytes_over_rate():
    """2 (n-1) shards with their headers, no more."""
    made = simulate_exchanges(Bounded(t_b=10.0), ranks=4, d=144_000, rate=1e8)
    packets = -(-36_000 * 4 // (1500 - HEADERS))
    size = 36_000 * 4 + packets * HEADERS
    assert made.bytes == 6 * size and made.seconds[0] == pytest.approx(6 * size / 1e8)
    assert (made.received == 1).all()


def test_a_codec_sends_its_own_bytes():
    codec = CODECS.get("eden")(bits=4)
    plain = simulate_exchanges(Bounded(t_b=10.0), ranks=4, d=1 << 20, rate=1e8)
    coded = simulate_exchanges(Bounded(t_b=10.0), ranks=4, d=1 << 20, rate=1e8, codec=codec)
    layout = codec.layout(1 << 18)
    assert coded.bytes == 6 * (layout.bytes + HEADERS * layout.packets)
    assert coded.seconds[0] < plain.seconds[0] / 7


def test_transfers_with_a_tail():
    """Waiting for everything is the transpose scheme of the tail model, up to owners that wait for owners."""
    d, n = 1 << 20, 8
    made = simulate_exchanges(Bounded(t_b=1e3), ranks=n, d=d, rate=1e9, tail=Tail(3.0), steps=400)
    unit = made.bytes / (2 * (n - 1)) * n / 1e9
    want = scheme_time("transpose", n, Tail(3.0))
    assert made.seconds.mean() / unit == pytest.approx(want, rel=0.08)


def test_the_deadline_and_what_is_lost_by_it():
    made = simulate_exchanges(Bounded(t_b=0.01), ranks=4, d=144_000, rate=1e7)  # a stage would take 45 ms
    assert made.stages == pytest.approx(0.01)
    size = made.bytes / 6
    assert made.received[0, 0].sum() == pytest.approx(4 + 4 * 0.01 * 1e7 / size)


def test_losses_end_early_and_inclusion_learns_them():
    made = simulate_exchanges(
        Bounded(t_b=1.0, repair="none", floor=1e-4), ranks=4, d=1 << 20, rate=1e9, loss=0.02, steps=50
    )
    assert made.seconds[5:].max() < 0.1  # far from t_B once a stage's time is known
    assert made.inclusion == pytest.approx(0.98, abs=0.005)
    repaired = simulate_exchanges(
        Bounded(t_b=1.0, floor=1e-4), ranks=4, d=1 << 20, rate=1e9, loss=0.02, steps=50
    )
    off = ~np.eye(4, dtype=bool)
    # gone: lost, and then the last packet, the request or the second one, and then again one of these two
    gone = 0.02 * (1 - 0.98**3) * (1 - 0.98**2)
    assert 1 - repaired.received[5:, 1][:, off].mean() == pytest.approx(gone, abs=3e-5)
    # packets of results are no news to who still waits for parts: nothing adds up from rank to rank
    assert made.seconds[5:].max() < 4 * made.bytes / 1e9


def test_waits_of_a_lossy_exchange_by_hand():
    """The floor once per stage when nothing is sent again; otherwise none, one or two in the second."""
    floor, settings = 0.05, {"ranks": 3, "d": 300_000, "rate": 1e9, "loss": 0.03, "steps": 40}
    plain = simulate_exchanges(Bounded(t_b=2.0, floor=floor, repair="none"), **settings)
    transfer = plain.bytes / 2 / 1e9
    assert plain.seconds[1:] == pytest.approx(2 * (floor + transfer), rel=0.02)
    repaired = simulate_exchanges(Bounded(t_b=2.0, floor=floor), **settings)
    waits = (repaired.seconds[1:] - 2 * transfer) / floor
    assert ((waits > 0.99) & (waits < 3.1)).all() and waits.min() < 1.1 and waits.max() > 1.9
    assert waits == pytest.approx(np.round(waits), abs=0.1)


def test_ranks_that_do_not_wait_for_each_other_drift_apart():
    settings = {"ranks": 3, "d": 300_000, "rate": 1e9, "loss": 0.03, "steps": 60}
    bounded = Bounded(t_b=2.0, floor=0.05)
    alone = simulate_exchanges(bounded, **settings, together=False)
    assert alone.seconds.mean() >= simulate_exchanges(bounded, **settings).seconds.mean()
    lossless = simulate_exchanges(bounded, **{**settings, "loss": 0.0}, together=False, overhead=0.01)
    assert lossless.seconds == pytest.approx(0.01 + lossless.bytes / 1e9, rel=1e-6)


def test_the_packet_engine_gets_the_same_bounds():
    limits = Timeouts(Bounded(t_b=0.02))
    assert as_transport(limits).deadline == 0.02 and as_transport(limits).silence is None
    limits.stage(0.01, 1.0)
    assert as_transport(limits).silence == limits.silence == pytest.approx(0.01)


def test_bad_input():
    for wrong, words in (
        ({"bounded": Bounded()}, "`t_b`"), ({"ranks": 1}, "`ranks`"), ({"rate": 0}, "`rate`"),
        ({"loss": 1.0}, "`rate`"),
    ):  # fmt: skip
        settings = {"bounded": Bounded(t_b=1.0), "ranks": 2, "d": 100, "rate": 1e9, **wrong}
        with pytest.raises(ConfigError, match=words):
            simulate_exchanges(settings.pop("bounded"), **settings)
