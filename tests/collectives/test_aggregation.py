"""Aggregation rules against the masked mean, exact enumeration of arrivals, and their own claims of bias."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.collectives.aggregation import AGGREGATION, Aggregator, Inclusion
from euston.compression import PacketsLost, SizeMismatch
from euston.errors import ConfigError

NAMES = AGGREGATION.names()
BOUNDS = np.array([0, 3, 4, 9])


def rule(name):
    return AGGREGATION.get(name)()


def mean(name, x, arrived, *, inclusion=None, own=None, previous=None):
    aggregator = Aggregator(rule(name), len(x), BOUNDS, inclusion=inclusion, own=own, previous=previous)
    for sender, vector in enumerate(x):
        aggregator.add(sender, vector, arrived[sender])
    return aggregator.result()


@pytest.mark.parametrize("name", NAMES)
def test_everything_arrived_is_the_plain_mean(name):
    x = np.random.default_rng(1).standard_normal((5, 9)).astype(np.float32)
    got = mean(name, x, np.ones((5, 3), bool), own=x[0])
    assert np.abs(got.mean - x.mean(axis=0)).max() < 1e-6
    assert (got.contributors == 5).all() and (got.received == 1).all()


@given(st.integers(0, 2**32), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_count_is_the_masked_mean(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 9)).astype(np.float32)
    arrived = rng.random((n, 3)) < 0.6
    arrived[0] = True
    mask = np.repeat(arrived, np.diff(BOUNDS), axis=1)
    want = np.ma.masked_array(x.astype(np.float64), ~mask).mean(axis=0)
    assert np.abs(mean("count", x, arrived).mean - want).max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_bias_is_what_enumerating_every_outcome_gives(name):
    """Each sender's weight in E[result], over all 2^n arrivals of one packet."""
    pi = np.array([0.9, 0.5, 0.8, 0.3])
    n, weight, total = 4, np.zeros(4), 0.0
    for outcome in product([False, True], repeat=n):
        a = np.array(outcome)
        p = float(np.prod(np.where(a, pi, 1 - pi)))
        if not a.any() and name == "count":
            continue  # refused: counted as nothing, as `bias` does
        for i in range(n):  # the result for x = e_i is sender i's weight
            x = np.zeros((n, 1), np.float32)
            x[i] = 1
            aggregator = Aggregator(
                rule(name), n, np.array([0, 1]), inclusion=pi, own=np.zeros(1, np.float32)
            )
            for s in range(n):
                aggregator.add(s, x[s], a[s : s + 1])
            weight[i] += p * (aggregator.result().mean[0] if a.any() or name in ("stale", "local") else 0)
        total += p
    assert np.allclose(n * weight, rule(name).bias(pi), atol=1e-5)


def test_the_count_rule_forgets_slow_workers_and_horvitz_thompson_does_not():
    """Workers with other data: the mean over 4,000 steps of each rule against the true mean."""
    rng = np.random.default_rng(3)
    x = np.array([[1.0], [1.0], [1.0], [9.0]], np.float32)  # worker 3 is slow and its data differ
    pi = np.array([1.0, 1.0, 1.0, 0.4])
    found = {"count": [], "ht": [], "zero": []}
    for _ in range(4000):
        a = rng.random(4) < pi
        for name, values in found.items():
            aggregator = Aggregator(rule(name), 4, np.array([0, 1]), inclusion=pi)
            for s in range(4):
                aggregator.add(s, x[s], a[s : s + 1])
            values.append(aggregator.result().mean[0])
    assert abs(np.mean(found["ht"]) - 3.0) < 4 * np.std(found["ht"]) / 4000**0.5
    assert abs(np.mean(found["count"]) - 3.0) > 20 * np.std(found["count"]) / 4000**0.5
    assert abs(np.mean(found["zero"]) - (3 + 0.4 * 9) / 4) < 0.1


def test_order_and_duplicates_change_nothing():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 9)).astype(np.float32)
    first, second = (Aggregator(rule("count"), 3, BOUNDS) for _ in range(2))
    for sender in range(3):
        first.add(sender, x[sender])
    for sender, packet in rng.permutation([(s, p) for s in range(3) for p in range(3)] * 2):
        second.add(int(sender), x[sender], np.arange(3) == packet)
    assert (first.result().mean == second.result().mean).all()
    assert second.add(0, x[0]) == 0


def test_stale_and_local_put_in_what_they_say():
    x = np.ones((2, 9), np.float32)
    previous = {1: np.full(9, 5, np.float32)}
    arrived = np.array([[True] * 3, [True, False, True]])
    got = mean("stale", x, arrived, previous=previous).mean
    assert got[3] == 3 and got[0] == 1
    assert mean("local", x, arrived, own=np.full(9, 7, np.float32)).mean[3] == 4
    with pytest.raises(ConfigError, match="`rule`: local puts the receiver's own vector in; give `own`"):
        Aggregator(rule("local"), 2, BOUNDS)


def test_nothing_arrived_is_never_silent_zeros():
    with pytest.raises(PacketsLost, match="1 of 3 packets came from no sender"):
        mean("count", np.ones((2, 9), np.float32), np.array([[True, False, True]] * 2))


def test_inclusion_forgets_and_bad_input_is_refused():
    inclusion = Inclusion(2, memory=0.9)
    for _ in range(200):
        inclusion.update(np.array([1.0, 0.25]))
    assert np.allclose(inclusion.probability, [1, 0.25], atol=1e-6)
    for wrong in ({"memory": 1.0}, {"prior": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Inclusion(2, **wrong)
    aggregator = Aggregator(rule("count"), 2, BOUNDS)
    with pytest.raises(SizeMismatch, match="sender 2 of 2"):
        aggregator.add(2, np.zeros(9, np.float32))
    with pytest.raises(SizeMismatch, match="8 coordinates where 9 are right"):
        aggregator.add(0, np.zeros(8, np.float32))
    with pytest.raises(SizeMismatch, match="a mask of 2 packets; there are 3"):
        aggregator.add(0, np.zeros(9, np.float32), np.ones(2, bool))
    with pytest.raises(SizeMismatch, match="1 probabilities for 2 senders"):
        Aggregator(rule("ht"), 2, BOUNDS, inclusion=np.ones(1))
    with pytest.raises(ConfigError, match="`least`"):
        AGGREGATION.get("ht")(least=0)
