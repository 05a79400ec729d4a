"""Campaigns against closed forms: exact restart formula, Daly's optimum, published MTTF and ETTR."""

from __future__ import annotations

import math

import numpy as np
import pytest

from euston.training.reliability import (
    Campaign,
    Checkpoint,
    Exponential,
    FixedSteps,
    Mode,
    Recovery,
    daly,
    ettr_exact,
    ettr_first_order,
    modes,
    named_laws,
    population_of_hosts,
    run_campaign,
    run_repeats,
    segment_time,
    young,
)

DAY = 86_400.0


def plan(
    interval: float | str,
    stall: float,
    mttf: float,
    restart: float,
    *,
    during: bool = False,
    step: float = 1.0,
    seed: int = 0,
    days: float = 8.0,
    mode: str = "sync",
) -> Campaign:
    return Campaign(
        FixedSteps(step, 1.0),
        (Mode("software", Exponential(mttf)),),
        population_of_hosts(1),
        Checkpoint(mode, interval, stall=stall, write=0.0, load=0.0),  # type: ignore[arg-type]
        Recovery(detection=restart, reschedule=0.0, warm_up=0.0, fails_during_restart=during),
        parameters=1.0,
        ranks=8,
        duration=days * DAY,
        seed=seed,
    )


@pytest.mark.parametrize("during", [False, True])
@pytest.mark.parametrize(("interval", "stall", "mttf", "restart"), [(600, 30, 7200, 300), (300, 0, 900, 120)])
def test_ettr_is_the_exact_exponential_restart_formula(
    during: bool, interval: float, stall: float, mttf: float, restart: float
) -> None:
    """E = (1/lambda + u)(e^{lambda(D+C)} - 1) per segment, within three standard errors of 40 runs."""
    found = [o.ettr for o in run_repeats(plan(interval, stall, mttf, restart, during=during), 40)]
    exact = ettr_exact(interval, stall, 1 / mttf, restart, during_restart=during)
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 3 * error
    assert error < 0.005  # narrow enough to tell it from the first-order formula


def test_the_exact_formula_is_the_mean_of_a_plain_monte_carlo() -> None:
    """A loop in plain Python that knows nothing of the campaign."""
    rng = np.random.default_rng(3)
    length, rate, restart = 700.0, 1 / 1000.0, 120.0
    for during in (False, True):
        total, runs = [], 4000
        for _ in range(runs):
            time = 0.0
            while (strike := rng.exponential(1 / rate)) < length:
                time += strike
                while during and (again := rng.exponential(1 / rate)) < restart:
                    time += again
                time += restart
            total.append(time + length)
        error = np.std(total, ddof=1) / math.sqrt(runs)
        assert abs(np.mean(total) - segment_time(length, rate, restart, during_restart=during)) < 3 * error


def test_dalys_interval_is_the_best_of_the_exact_formula() -> None:
    """The optimum of the exact formula by brute force; Daly to 2 %, Young to 15 %."""
    stall, mttf = 60.0, 3600.0
    grid = np.linspace(100, 2000, 3801)
    best = grid[np.argmax([ettr_exact(d, stall, 1 / mttf, 100.0) for d in grid])]
    assert daly(stall, 1 / mttf) == pytest.approx(best, rel=0.02)
    assert young(stall, 1 / mttf) == pytest.approx(best, rel=0.15)
    assert daly(8000.0, 1 / 3600) == 3600.0  # stalls longer than twice the mean time between failures


def test_simulated_ettr_peaks_at_dalys_interval() -> None:
    stall, mttf = 60.0, 3600.0
    best = daly(stall, 1 / mttf)

    def ettr(interval: float) -> float:
        found = run_repeats(plan(interval, stall, mttf, 100.0, seed=5, days=20), 8)
        return float(np.mean([o.ettr for o in found]))

    at_best = ettr(best)
    assert at_best > ettr(best / 3) + 0.01
    assert at_best > ettr(best * 3) + 0.01
    assert at_best >= max(ettr(best / 1.3), ettr(best * 1.3)) - 0.002


def test_projected_times_to_failure_are_the_papers() -> None:
    """RSC-1's rate: 1.80 h on 16,384 GPUs, 0.23 h on 131,072 (Kokolis et al., arXiv:2410.21680)."""
    for gpus, hours in ((16_384, 1.80), (131_072, 0.23)):
        population = population_of_hosts(gpus // 8)
        rate = sum(m.rate(population) for m in modes(named_laws("rsc-1")))
        assert 1 / rate / 3600 == pytest.approx(hours, abs=0.005)


def test_llama_3_rates_give_419_interruptions_in_54_days() -> None:
    population = population_of_hosts(2048)
    rate = sum(m.rate(population) for m in modes(named_laws("llama3-2024")))
    assert rate * 54 * DAY == pytest.approx(419)
    campaign = Campaign(
        FixedSteps(5.8, 1.0, hosts_per_replica=2048),
        modes(named_laws("llama3-2024"), repair=0.0, noticed=600.0),
        population,
        Checkpoint("async", 600.0, stall=0.0, write=0.0, load=0.0),
        Recovery(spares=64),
        parameters=405e9,
        ranks=16_384,
        duration=54 * DAY,
    )
    found = list(run_repeats(campaign, 8))
    count = np.mean([o.interruptions for o in found])
    assert abs(count - 419) < 3 * math.sqrt(419 / 8)
    # "higher than 90 %" (section 3.3.4), with MegaScale's ten minutes to detect
    assert np.mean([o.ettr for o in found]) > 0.90


@pytest.mark.parametrize(("rates", "published"), [("rsc-1", 0.83), ("rsc-2", 0.94)])
def test_a_hundred_thousand_gpus_at_published_rates(rates: str, published: float) -> None:
    """12,500 hosts, two minutes between checkpoints and two to restart."""
    rate = 12_500 / named_laws(rates)["host"].mean
    assert ettr_first_order(120.0, 0.0, rate, 120.0) == pytest.approx(published, abs=0.005)
    campaign = Campaign(
        FixedSteps(10.0, 1.0, hosts_per_replica=12_500),
        modes(named_laws(rates), repair=0.0),
        population_of_hosts(12_500),
        Checkpoint("async", 120.0, stall=0.0, write=0.0, load=0.0),
        Recovery(detection=120.0, reschedule=0.0, warm_up=0.0, fails_during_restart=False),
        parameters=1.0,
        ranks=100_000,
        duration=7 * DAY,
    )
    found = [o.ettr for o in run_repeats(campaign, 6)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - ettr_exact(120.0, 0.0, rate, 120.0)) < max(3 * error, 1e-3)
    assert np.mean(found) == pytest.approx(published, abs=0.025)  # the formula is of first order


def test_first_order_formula_counts_the_queue() -> None:
    assert ettr_first_order(100.0, 0.0, 1e-9, 10.0) == pytest.approx(1.0, abs=1e-6)
    alone = ettr_first_order(100.0, 0.0, 1e-4, 10.0)
    assert ettr_first_order(100.0, 0.0, 1e-4, 10.0, queue=100.0) < alone
    assert ettr_first_order(3600.0, 0.0, 1 / 600.0, 10.0) == 0.0


def test_seconds_by_kind_sum_to_the_wall_time() -> None:
    o = run_campaign(plan(600, 30, 3600, 300))
    assert math.fsum(o.seconds.values()) == pytest.approx(o.wall, rel=1e-12)
    assert o.intervals[0].start == 0.0
    assert math.fsum(i.end - i.start for i in o.intervals) == pytest.approx(o.wall, rel=1e-12)
