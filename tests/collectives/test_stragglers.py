"""Straggler policies against plain loops over workers, order statistics, and a search of every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.collectives.stragglers import STRAGGLERS, History, best_threshold
from euston.errors import ConfigError


def policy(name, **settings):
    return STRAGGLERS.get(name)(**settings)


def times(seed, n=6, m=4):
    return np.random.default_rng(seed).lognormal(0, 0.5, (n, m)).cumsum(axis=1)


NOBODY = np.zeros(6, bool)
FIELDS = {"k_of_n": ("k", 5), "deadline": ("seconds", 50.0), "drop_compute": ("threshold", 2.0)}


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_k_of_n_is_the_kth_order_statistic(seed, k):
    ready = times(seed)
    got = policy("k_of_n", k=k).step(ready, NOBODY)
    assert got.time == np.sort(ready[:, -1])[k - 1]
    assert got.included.sum() == 4 * k == got.weight and got.late.sum() == 0
    stale = policy("k_of_n", k=k, stale=True).step(ready, NOBODY)
    assert (stale.included + stale.late == 4).all()
    assert policy("wait").step(ready, NOBODY).time == ready.max()


@given(st.integers(0, 2**32), st.floats(0.5, 9))
@settings(max_examples=50, deadline=None)
def test_drop_compute_is_what_a_loop_does(seed, tau):
    ready = times(seed)
    want_count, want_end = [], 0.0
    for worker in ready:
        elapsed, done = 0.0, 0
        for finish in worker:
            if elapsed >= tau:
                break
            elapsed, done = finish, done + 1
        want_count.append(done)
        want_end = max(want_end, elapsed)
    got = policy("drop_compute", threshold=tau).step(ready, NOBODY)
    assert got.included.tolist() == want_count and got.time == want_end
    assert got.weight == sum(want_count)


@given(st.integers(0, 2**32), st.floats(0.5, 12))
@settings(max_examples=50, deadline=None)
def test_deadline_takes_who_is_ready(seed, seconds):
    ready = times(seed)
    got = policy("deadline", seconds=seconds).step(ready, NOBODY)
    done = ready[:, -1] <= seconds
    if done.all():
        assert got.time == ready.max()
    elif done.any():
        assert got.time == seconds and ((got.included > 0) == done).all()
    else:
        assert got.time == ready[:, -1].min() and (got.included > 0).sum() == 1


def test_a_dead_worker_and_one_that_must_be_waited_for():
    ready = times(1)
    ready[2] = np.inf
    for name, (key, value) in FIELDS.items():
        got = policy(name, **{key: value}).step(ready, NOBODY)
        assert np.isfinite(got.time) and got.included[2] == 0
    ready = times(1)
    slow = int(ready[:, -1].argmax())
    must = np.arange(6) == slow
    for name, (key, _) in FIELDS.items():
        got = policy(name, **{key: 1 if key == "k" else 1e-3}).step(ready, must)
        assert got.included[slow] == 4 and got.time == ready.max()


def test_nobody_is_starved_and_fairness_is_reported():
    """One worker is always ten times slower: with `most` = 5 it is in every sixth step."""
    history, k5 = History(6, most=5), policy("k_of_n", k=5)
    for step in range(600):
        ready = times(step)
        ready[3] *= 10
        history.update(k5.step(ready, history.must), 4)
    assert history.inclusion[3] == pytest.approx(1 / 6, abs=0.01)
    assert (np.delete(history.inclusion, 3) == 1).all()


def test_best_threshold_is_the_best_of_all():
    trace = np.stack([times(seed) for seed in range(200)])
    trace[::7, 2] *= 6
    tau, gain = best_threshold(trace, communication=0.5)
    base = 24 / (trace[:, :, -1].max(axis=1).mean() + 0.5)

    def rate(threshold):
        steps = [policy("drop_compute", threshold=threshold).step(one, NOBODY) for one in trace]
        return np.mean([s.weight for s in steps]) / (np.mean([s.time for s in steps]) + 0.5)

    assert rate(tau) / base == pytest.approx(gain) and gain > 1.05
    assert all(rate(other) <= rate(tau) * (1 + 1e-12) for other in np.linspace(0.5, 20, 60))
    equal = np.broadcast_to(np.arange(1.0, 5.0), (10, 6, 4))
    assert best_threshold(equal, 0.0) == (float("inf"), 1.0)


def test_bad_input():
    for name, (key, _) in FIELDS.items():
        with pytest.raises(ConfigError, match=key):
            policy(name, **{key: 0})
    with pytest.raises(ConfigError, match="`k`: 7 of 6 workers"):
        policy("k_of_n", k=7).step(times(0), NOBODY)
    for wrong in (np.zeros(3), np.array([[2.0, 1.0]]), np.array([[np.nan]])):
        with pytest.raises(ConfigError, match="`ready`"):
            policy("wait").step(wrong, np.zeros(1, bool))
    with pytest.raises(ConfigError, match="max_consecutive_skips"):
        History(3, most=0)
    with pytest.raises(ConfigError, match="`trace`"):
        best_threshold(np.zeros((2, 2)))
