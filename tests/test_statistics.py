"""Percentiles, Jain's index and bootstrap intervals.

Oracles: the definition of nearest rank in exact fractions, closed forms of Jain's index, the normal interval
of a mean.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.statistics import bootstrap, jain, nearest_rank, percentiles


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    st.sampled_from(["0", "10", "50", "90", "99", "99.9", "100"]),
)
def test_nearest_rank_is_its_definition(values: list[int], percent: str) -> None:
    share = Fraction(percent) / 100
    ordered = sorted(values)
    want = next(v for i, v in enumerate(ordered, 1) if Fraction(i, len(values)) >= share)
    assert nearest_rank(values, float(percent)) == want
    assert percentiles(values, [float(percent)]) == [want]


def test_a_rank_is_not_pushed_up_by_rounding() -> None:
    # 99.9 / 100 * 1000 is 999.0000000000001 in floating point; the rank is 999
    assert nearest_rank(range(1, 1001), 99.9) == 999
    assert percentiles(range(1, 1001), [99.9]) == [999.0]


def test_nothing_has_no_percentiles() -> None:
    assert all(math.isnan(v) for v in percentiles([], [50, 99]))
    assert math.isnan(nearest_rank([], 50))


def test_jain() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([5.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([1.0, 2.0]) == pytest.approx(9 / 10)
    assert jain([1e200, 1e200]) == pytest.approx(1.0)  # no overflow
    assert jain([0.0, 0.0]) == 1.0
    assert math.isnan(jain([]))


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(10.0, 2.0, 400)
    found = bootstrap(values, np.mean, level=0.95)
    half = 1.96 * values.std(ddof=1) / math.sqrt(values.size)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.25 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.25 * half)
    assert bootstrap(values, np.mean) == bootstrap(values, np.mean)


def test_bootstrap_of_little() -> None:
    one = bootstrap([4.0])
    assert one.value == 4.0 and math.isnan(one.low) and math.isnan(one.high)
    same = bootstrap([4.0, 4.0, 4.0])
    assert (same.low, same.high) == (4.0, 4.0)
    with pytest.raises(ConfigError, match="at least one finite value"):
        bootstrap([])
    with pytest.raises(ConfigError, match="write 0"):
        bootstrap([1.0, 2.0], level=95)
