"""Times of schemes under a tail: closed forms without one, others' Monte-Carlo figures, small exact cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import lognorm

from euston.collectives.tail import SCHEMES, Tail, bounded_stage, scheme_time
from euston.errors import ConfigError

IDEAL = {"stream_tree": lambda n: 2.0}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [2, 8, 16])
def test_without_a_tail_it_is_the_bandwidth_term(scheme, n):
    """2(n-1)/n of the buffer per node (Patarasuk & Yuan 2009); trees send it twice."""
    want = IDEAL.get(scheme, lambda n: 2 * (n - 1) / n)(n)
    assert scheme_time(scheme, n, Tail(1), draws=3) == pytest.approx(want)


@pytest.mark.parametrize(
    ("scheme", "n", "ratio", "published"),
    [
        ("barrier_ring", 8, 3, 3.58), ("message_ring", 8, 3, 2.87), ("transpose", 8, 3, 2.53),
        ("barrier_ring", 64, 3, 6.10), ("message_ring", 64, 3, 3.32), ("transpose", 64, 3, 2.55),
        ("barrier_ring", 64, 1.5, 2.97), ("message_ring", 64, 1.5, 2.33), ("transpose", 64, 1.5, 2.11),
    ],
)  # fmt: skip
def test_agrees_with_another_simulation(scheme, n, ratio, published):
    """Figures of an independent Monte-Carlo program for the same lognormal."""
    assert scheme_time(scheme, n, Tail(ratio)) == pytest.approx(published, rel=0.01)


def test_the_largest_of_n_is_that_of_n_draws():
    rng, tail = np.random.default_rng(0), Tail(3)
    drawn = tail.sample(rng, 40_000, 20).max(axis=1)
    assert tail.largest(rng, 20, 40_000).mean() == pytest.approx(drawn.mean(), rel=0.01)
    assert np.quantile(tail.sample(rng, 10**6), 0.99) == pytest.approx(3, rel=0.02)
    huge = tail.largest(rng, 10**9, 1000)
    assert np.isfinite(huge).all() and huge.mean() == pytest.approx(np.exp(tail.sigma * 6.0), rel=0.1)


def test_two_nodes_by_hand():
    """Two nodes: stages of one transfer each way; E max of two lognormals is in closed form."""
    tail = Tail(2)
    largest = 2 * np.exp(tail.sigma**2 / 2) * 0.5 * (1 + _erf(tail.sigma / 2))
    assert scheme_time("barrier_ring", 2, tail, draws=200_000) == pytest.approx(largest, rel=0.01)
    assert scheme_time("transpose", 2, tail, draws=200_000) == pytest.approx(largest, rel=0.01)


def _erf(x):
    from math import erf

    return erf(x)


@pytest.mark.parametrize("deadline", [0.7, 1.0, 2.0, 5.0])
def test_lost_bytes_of_a_bounded_stage_by_quadrature(deadline):
    tail = Tail(3)
    density = lognorm(tail.sigma).pdf
    want = quad(lambda x: (1 - deadline / x) * density(x), deadline, np.inf)[0]
    got = bounded_stage(64, tail, deadline, draws=20_000)
    assert got.loss == pytest.approx(want, rel=1e-6)
    assert got.time <= deadline * (1 + 1e-12)
    assert got.closed == pytest.approx(1 - lognorm(tail.sigma).cdf(deadline) ** 64, abs=0.01)
    assert bounded_stage(64, Tail(1), deadline, draws=10).loss == max(0.0, 1 - deadline)


def test_bad_input():
    for call, words in (
        (lambda: Tail(0.9), "p99_over_p50"),
        (lambda: scheme_time("ring", 8, Tail(2)), "`scheme`"),
        (lambda: scheme_time("barrier_ring", 1, Tail(2)), "`nodes`: 1"),
        (lambda: scheme_time("bcube", 6, Tail(2)), "6 is no power of two"),
        (lambda: bounded_stage(0, Tail(2), 1), "transfers"),
        (lambda: bounded_stage(1, Tail(2), 0), "deadline"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
