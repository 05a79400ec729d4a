"""Steps as a function of noise; oracles: a line through known points, NumPy's own least squares."""

from __future__ import annotations

import numpy as np
import pytest

from euston.collectives.time_to_accuracy import StepsCurve, time_to_accuracy
from euston.errors import ConfigError


def test_a_line_is_found_again():
    v = np.array([0.0, 0.1, 0.2, 0.5])
    curve = StepsCurve.fit(v, 1 + 0.7 * v)
    assert curve.slope == pytest.approx(0.7) and curve.half_width == pytest.approx(0, abs=1e-9)
    assert curve.multiplier(0.3) == pytest.approx(1.21) and curve.largest == 0.5
    assert time_to_accuracy(1000, 0.2, 0.1, curve, 0.3) == pytest.approx(1.21 * 1000 * 0.3)


def test_the_interval_covers_the_truth_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        v = rng.uniform(0, 0.5, 12)
        y = 1 + 0.4 * v + 0.05 * rng.standard_normal(12)
        curve = StepsCurve.fit(v, y)
        assert curve.slope == pytest.approx(np.linalg.lstsq(v[:, None], y - 1, rcond=None)[0][0])
        covered += abs(curve.slope - 0.4) <= curve.half_width
    assert 0.935 < covered / 2000 < 0.965


def test_bad_input():
    for v, s in (([0.1], [1.1]), ([0.1, 0.2], [1.0]), ([0.1, np.nan], [1, 1]), ([0, 0], [1, 1])):
        with pytest.raises(ConfigError, match="`v`"):
            StepsCurve.fit(v, s)
    with pytest.raises(ConfigError, match="`compute`"):
        time_to_accuracy(1, -1, 0, StepsCurve(0.1))
    assert StepsCurve(-0.2).multiplier(1.0) == 1.0
