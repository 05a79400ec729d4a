"""Sums in a switch: exact under every loss pattern, closed form without loss, states by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError, SimulationError
from euston.network.transport.switch_aggregation import (
    AggregationSwitch,
    SwitchPool,
    aggregation_time,
    simulate,
)

POOL = SwitchPool(slots=64, elements=4, header=16)


def vectors(seed, n, d):
    return np.random.default_rng(seed).integers(-1000, 1000, (n, d))


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 90), st.integers(1, 8), st.floats(0, 0.4))
@settings(max_examples=60, deadline=None)
def test_everybody_has_the_exact_sum_whatever_is_lost(seed, n, d, window, loss):
    x = vectors(seed, n, d)
    got = simulate(x, rate=1e9, rtt=1e-5, pool=POOL, window=window, loss=loss, seed=seed)
    assert (got.sums == x.sum(axis=0)).all()
    assert (got.contributors == n).all()
    assert got.sent - got.resent == n * -(-d // 4)


@pytest.mark.parametrize("window", [1, 3, 8, 40, 64])
@pytest.mark.parametrize("d", [1, 4, 37, 400])
def test_time_without_loss_is_the_closed_form(window, d):
    got = simulate(vectors(0, 4, d), rate=1e8, rtt=5e-6, pool=POOL, window=window)
    assert got.time == pytest.approx(aggregation_time(d, 1e8, 5e-6, POOL, window), rel=1e-9)
    assert got.resent == 0


def test_slots_needed_for_line_rate_are_littles_law():
    """With as many slots as packets are under way the time is line rate's; with half as many it doubles."""
    rate, rtt, d = 1e9, 1e-5, 400_000
    need = POOL.needed_slots(rate, rtt)
    line = d / 4 * POOL.packet / rate
    wide = SwitchPool(slots=4 * need, elements=4, header=16)
    assert aggregation_time(d, rate, rtt, wide, need + 2) == pytest.approx(line, rel=0.01)
    assert aggregation_time(d, rate, rtt, wide, need // 2) == pytest.approx(2 * line, rel=0.02)
    assert SwitchPool().memory == 2 * 8192 * 1024


def test_duplicates_and_late_copies_by_hand():
    switch = AggregationSwitch(2, POOL, window=2)
    one = np.ones(4, np.int64)
    assert switch.receive(0, 0, one)[0] == "wait"
    assert switch.receive(0, 0, one)[0] == "ignore"  # a second copy
    action, total = switch.receive(1, 0, 5 * one)
    assert action == "all" and (total == 6).all()
    assert switch.receive(0, 0, one)[0] == "one"  # its result was lost: answered from the slot
    assert switch.receive(0, 2, one)[0] == "wait"  # the other version of slot 0
    assert (switch.receive(1, 0, 5 * one)[1] == 6).all()  # worker 1 still may ask for chunk 0
    assert (switch.receive(1, 2, one)[1] == 2).all()  # now both have shown that they had chunk 0
    assert switch.receive(0, 4, 7 * one)[0] == "wait" and (switch.sum[0, 0] == 7).all()  # overwritten
    assert switch.receive(1, 0, 5 * one)[0] == "ignore"  # long over


def test_bounded_loss_closes_without_the_straggler():
    x = vectors(3, 4, 40)
    late = np.array([0.0, 0.0, 0.0, 0.01])
    got = simulate(x, rate=1e9, rtt=1e-5, pool=POOL, window=10, least=3, deadline=1e-4, start=late)
    assert (got.contributors == 3).all()
    assert (got.sums == x[:3].sum(axis=0)).all()
    patient = simulate(x, rate=1e9, rtt=1e-5, pool=POOL, window=10, start=late)
    assert (patient.sums == x.sum(axis=0)).all() and patient.time > 0.01


def test_bad_input_and_a_dead_network():
    x = vectors(0, 2, 8)
    for call, words in (
        (lambda: AggregationSwitch(33), "bitmap holds 1 to 32"),
        (lambda: AggregationSwitch(2, POOL, window=65), "`window`: 65; the pool has 64"),
        (lambda: AggregationSwitch(2, POOL, window=2, least=3), "`least`: 3 of 2"),
        (lambda: SwitchPool(slots=0), "`pool.slots`"),
        (lambda: simulate(x, rate=0, rtt=1), "`rate`"),
        (lambda: simulate(x, rate=1, rtt=1, loss=1.0), "`loss`"),
        (lambda: simulate(x, rate=1, rtt=1, least=1), "go together"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
    with pytest.raises(SimulationError, match="nothing gets through"):
        simulate(x, rate=1e9, rtt=1e-6, pool=POOL, loss=0.9999)
