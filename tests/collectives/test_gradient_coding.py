"""Gradient codes: every set of survivors decodes the exact sum (all subsets up to n = 8)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from euston.collectives.gradient_coding import GradientCode
from euston.errors import ConfigError


@pytest.mark.parametrize("kind", ["auto", "cyclic"])
@pytest.mark.parametrize("n", range(1, 9))
def test_all_subsets_decode_the_exact_sum(n, kind):
    gradients = np.random.default_rng(n).standard_normal((n, 5))
    for s in range(n):
        code = GradientCode(n, s, kind)
        sent = code.matrix @ gradients
        assert ((code.matrix != 0).sum(axis=1) <= code.load).all()
        for missing in range(s + 1):
            for gone in combinations(range(n), missing):
                alive = ~np.isin(np.arange(n), gone)
                found = code.decode(alive)
                assert found.error < 1e-10 and (found.weights[~alive] == 0).all()
                assert np.allclose(found.weights @ sent, gradients.sum(axis=0), atol=1e-6)


def test_more_stragglers_than_agreed_give_the_least_squares_sum():
    code = GradientCode(6, 1, "cyclic")
    alive = np.array([True, False, False, True, True, True])
    found = code.decode(alive)
    a = code.matrix[alive].T
    best = np.linalg.pinv(a) @ np.ones(6)
    assert np.allclose(found.weights[alive], best)
    assert found.error == pytest.approx(((a @ best - 1) ** 2).sum() / 6) and found.error > 0.01
    assert code.decode(np.zeros(6, bool)).error == 1.0


def test_large_codes_are_well_conditioned():
    code = GradientCode(24, 3, "cyclic", seed=1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert code.decode(~np.isin(np.arange(24), rng.permutation(24)[:3])).error < 1e-9


def test_bad_input():
    for n, s, kind, words in (
        (0, 0, "auto", "`workers`"),
        (4, 4, "auto", "`stragglers`: 4 of 4 workers; choose 0 to 3"),
        (5, 1, "fractional", "2 does not divide 5 workers"),
        (4, 1, "random", "`kind`"),
    ):
        with pytest.raises(ConfigError, match=words):
            GradientCode(n, s, kind)
    with pytest.raises(ConfigError, match="`alive`: 3 workers; the code has 4"):
        GradientCode(4, 1).decode(np.ones(3, bool))
