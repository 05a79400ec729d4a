"""Lifetimes against SciPy's distributions, conditional draws against survival, sources against renewal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from euston import catalog
from euston.errors import ConfigError
from euston.training.reliability import (
    COMPONENTS,
    Exponential,
    Mixture,
    Mode,
    Weibull,
    bathtub,
    mean_lifetimes,
)
from euston.training.reliability.modes import Source

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("age", [0.0, 500.0])
def test_what_is_left_follows_the_conditional_survival(shape: float, age: float) -> None:
    law = Weibull.with_mean(1000.0, shape)
    assert law.mean == pytest.approx(1000.0)
    exact = stats.weibull_min(shape, scale=law.scale)
    assert law.survival(700.0) == pytest.approx(exact.sf(700.0))
    drawn = law.left(RNG, 4000, age)
    found = stats.kstest(drawn, lambda x: 1 - exact.sf(x + age) / exact.sf(age))
    assert found.pvalue > 1e-3


def test_a_bathtub_falls_and_rises_and_its_old_units_are_the_strong_ones() -> None:
    law = bathtub(1000.0, 0.1, 20.0)
    hazard = [(law.survival(t) - law.survival(t + 1)) / law.survival(t) for t in (1.0, 200.0, 1500.0)]
    assert hazard[0] > 2 * hazard[1]
    assert hazard[2] > 2 * hazard[1]
    assert law.mean == pytest.approx(0.1 * 20 + 0.9 * 1000)
    drawn = law.left(RNG, 4000, 300.0)
    left = stats.kstest(drawn, lambda x: np.array([1 - law.survival(v + 300) / law.survival(300) for v in x]))
    assert left.pvalue > 1e-3
    with pytest.raises(ConfigError, match="bathtub"):
        bathtub(1000.0, 0.1, 20.0, wear_shape=0.9)
    with pytest.raises(ConfigError, match="sum to 1"):
        Mixture((0.5, 0.6), (Exponential(1.0), Exponential(2.0)))


def test_a_memoryless_source_is_a_poisson_process_over_all_units() -> None:
    source = Source(Mode("host", Exponential(1000.0)), 50, 0, "test")
    gaps, units, before = [], [], 0.0
    for _ in range(4000):
        gaps.append(source.time - before)
        units.append(source.unit)
        before = source.time
        source.next()
    assert stats.kstest(gaps, "expon", args=(0, 20.0)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(units, minlength=50)).pvalue > 1e-3


def test_units_with_memory_renew_one_by_one() -> None:
    """Wear-out of shape 4: nobody fails early, and the long-run rate is units over mean (renewal theorem)."""
    source = Source(Mode("host", Weibull.with_mean(1000.0, 4.0)), 30, 0, "test")
    last = dict.fromkeys(range(30), 0.0)
    lives, count = [], 0
    while source.time < 50_000:
        lives.append(source.time - last[source.unit])
        last[source.unit] = source.time
        count += 1
        source.next()
    assert count == pytest.approx(30 * 50, rel=0.03)
    law = Weibull.with_mean(1000.0, 4.0)
    assert stats.kstest(lives, lambda x: np.array([1 - law.survival(v) for v in x])).pvalue > 1e-3
    old = Source(Mode("host", Weibull.with_mean(1000.0, 4.0), age=950.0), 30, 0, "test")
    assert old.time < 100


def test_packaged_sets_are_the_published_figures() -> None:
    day, month = 86_400.0, 365.25 / 12 * 86_400.0
    assert 1000 * day / mean_lifetimes("rsc-1")["host"] == pytest.approx(6.5)
    assert 1000 * day / mean_lifetimes("RSC2")["host"] == pytest.approx(2.34)
    assert month / mean_lifetimes("hpn")["switch"] == pytest.approx(0.00051)
    llama = mean_lifetimes("llama3")
    assert set(llama) <= set(COMPONENTS)
    # 148 + 72 + 19 + 17 + 6 faults of GPUs in 54 days on 16,384 of them
    assert llama["accelerator"] == pytest.approx(16_384 * 54 * day / 262)
    counts = catalog.entry("reliability", "llama3-2024").values["events"]
    assert math.fsum(counts.values()) == 419
