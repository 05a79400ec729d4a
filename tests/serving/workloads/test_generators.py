"""Generated requests: means and burstiness in closed form, prefixes token by token, graphs by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from euston.errors import ConfigError
from euston.serving.workloads import (
    ARRIVALS,
    LENGTHS,
    Arrivals,
    Empirical,
    agents,
    arrival_times,
    closed_loop,
    conversations,
    independent,
    packaged,
    prefix_hits,
    shared_prefix,
    with_images,
)


def length(kind, *args):
    return LENGTHS.get(kind)(*args)


FEW, SHORT, LONG = length("fixed", 3), length("uniform", 50, 0.2), length("lognormal", 100, 1000)


@pytest.mark.parametrize("kind", [k for k in ARRIVALS if k != "burst"])
def test_the_mean_rate_is_what_was_asked(kind):
    settings = {"mmpp": {"spell": 0.05}, "diurnal": {"period": 10.0}}.get(kind, {})
    times = arrival_times(kind, 200_000, 40.0, np.random.default_rng(1), **settings)
    assert times.size == 200_000 and (np.diff(times) >= 0).all()
    assert times.size / times[-1] == pytest.approx(40, rel=0.03)


def test_burstiness_in_closed_form():
    """Squared coefficient of variation of gaps: gamma cv^2, Weibull by its moments, Poisson 1."""

    def cv2(kind, **settings):
        gaps = np.diff(arrival_times(kind, 400_000, 10.0, np.random.default_rng(2), **settings))
        return gaps.var() / gaps.mean() ** 2

    assert cv2("poisson") == pytest.approx(1, rel=0.02)
    assert cv2("gamma", cv=3.0) == pytest.approx(9, rel=0.05)
    shape = 0.7
    want = math.gamma(1 + 2 / shape) / math.gamma(1 + 1 / shape) ** 2 - 1
    assert cv2("weibull", shape=shape) == pytest.approx(want, rel=0.05)
    assert cv2("mmpp", spell=2.0) > 2


def test_day_and_night():
    """Counts per tenth of a period follow the integral of the rate."""
    times = arrival_times("diurnal", 400_000, 1000.0, np.random.default_rng(3), swing=0.8, period=100.0)
    times = times[times < 400]
    edges = np.linspace(0, 100, 11)
    counts = np.histogram(times % 100, edges)[0] / 4
    integral = 1000 * (edges - 0.8 * 100 / (2 * np.pi) * np.cos(2 * np.pi * edges / 100))
    assert np.abs(counts / np.diff(integral) - 1).max() < 0.04


def test_lengths_in_closed_form():
    rng = np.random.default_rng(4)
    uniform = length("uniform", 100, 0.5).draw(100_000, rng)
    assert (uniform.min(), uniform.max()) == (50, 100) and uniform.mean() == pytest.approx(75, rel=0.01)
    drawn = LONG.draw(400_000, rng)
    assert np.median(drawn) == pytest.approx(100, rel=0.01)
    assert np.quantile(drawn, 0.99) == pytest.approx(1000, rel=0.03)
    zipf = length("zipf", 1.5, 1, 4).draw(400_000, rng)
    share = np.arange(1, 5) ** -1.5
    assert np.bincount(zipf)[1:] / 400_000 == pytest.approx(share / share.sum(), rel=0.02)


def test_a_trace_keeps_prompts_with_their_answers():
    trace = packaged("azure_2023_conversation")
    drawn = independent(5000, Arrivals(10.0), Empirical(trace), seed=5)
    pairs = set(zip(trace.in_tok.tolist(), trace.out_tok.tolist(), strict=True))
    assert set(zip(drawn.in_tok.tolist(), drawn.out_tok.tolist(), strict=True)) <= pairs


def test_shared_prefixes_hit_what_they_share():
    """Every request after its group's first finds exactly the system prompt's full blocks."""
    made = shared_prefix(400, Arrivals(5.0), groups=7, system=1000, question=SHORT, answer=FEW, seed=1)
    assert prefix_hits(made).hits == (400 - 7) * (1000 // 16)
    assert np.unique(made.klass).size == 7


def one_depth_each(made):
    """A name stands at one depth only: it says all that comes before it."""
    ids = {}
    for i in range(len(made)):
        for k, one in enumerate(made.block_ids[made.blocks_ptr[i] : made.blocks_ptr[i + 1]].tolist()):
            ids.setdefault(one, (int(made.session[i]), k))
            assert ids[one][1] == k


def test_conversations_grow_and_wait():
    made = conversations(
        50, Arrivals(1.0), turns=length("uniform", 6, 0.3), question=SHORT, answer=SHORT, system=64, seed=2
    )
    first = made.turn == 0
    assert (made.think_s[first] == 0).all() and (made.think_s[~first] > 0).all()
    for i in np.flatnonzero(~first):
        (before,) = made.after[made.after_ptr[i] : made.after_ptr[i + 1]]
        assert made.session[before] == made.session[i] and made.turn[before] == made.turn[i] - 1
        history = made.in_tok[before] + made.out_tok[before]
        assert made.in_tok[i] > history
        old, new = (made.block_ids[made.blocks_ptr[j] : made.blocks_ptr[j + 1]] for j in (before, i))
        assert old.size == history // 16 and (new[: old.size] == old).all()
    one_depth_each(made)
    shared = {tuple(made.block_ids[made.blocks_ptr[i] :][:4]) for i in np.flatnonzero(first)}
    assert len(shared) == 1  # the system prompt


def test_agents_fan_out_join_and_forget():
    made = agents(
        200, Arrivals(1.0), calls=6, task=LONG, observation=SHORT, answer=SHORT,
        fan_out=3, fan_out_share=0.4, limit=400, compacted=100, system=32, seed=3,
    )  # fmt: skip
    waits = np.diff(made.after_ptr)
    assert set(waits.tolist()) == {0, 1, 3}
    for i in np.flatnonzero(waits == 3):
        subs = made.after[made.after_ptr[i] : made.after_ptr[i + 1]]
        parents = {tuple(made.after[made.after_ptr[s] : made.after_ptr[s + 1]]) for s in subs}
        assert len(parents) == 1  # all fork from one call
    calls = np.bincount(made.session[waits != 3], minlength=200)
    assert calls.min() >= 1
    later = np.flatnonzero((made.turn > 0) & (waits == 1))
    assert (
        made.in_tok[later] < made.in_tok[made.after[made.after_ptr[later]]]
    ).any()  # compaction shrank some
    one_depth_each(made)


def test_closed_loops():
    flat = independent(10, Arrivals(1.0), SHORT, FEW, seed=0)
    assert closed_loop(flat, 4).concurrency == 4 and (closed_loop(flat, 4).arrival_s == 0).all()
    users = closed_loop(flat, 4, think_s=2.0)
    assert (
        users.after.tolist() == [0, 1, 2, 3, 4, 5] and np.diff(users.after_ptr).tolist() == [0] * 4 + [1] * 6
    )
    assert users.think_s.tolist() == [0.0] * 4 + [2.0] * 6
    with pytest.raises(ConfigError, match="wait for each other already"):
        closed_loop(users, 2)


def test_images_lengthen_prompts():
    flat = independent(20_000, Arrivals(1.0), FEW, FEW, seed=0)
    seen = with_images(flat, 1.5, 576)
    assert seen.n_images.mean() == pytest.approx(1.5, rel=0.03)
    assert (seen.in_tok == 3 + 576 * seen.n_images).all()


def few_agents(**settings):
    return agents(1, Arrivals(1.0), calls=1, task=FEW, observation=FEW, answer=FEW, **settings)


def test_seeds_and_bad_input():
    def made(seed):
        return conversations(5, Arrivals(1.0), turns=FEW, question=SHORT, answer=SHORT, seed=seed)

    same, other, again = made(1), made(2), made(1)
    assert (same.in_tok == again.in_tok).all() and (same.in_tok != other.in_tok).any()
    rng = np.random.default_rng(0)
    for call, words in (
        (lambda: arrival_times("poison", 1, 1.0, rng), "did you mean 'poisson'"),
        (lambda: arrival_times("poisson", 1, 0.0, rng), "rate"),
        (lambda: arrival_times("gamma", 1, 1.0, rng, shape=1.0), "setting"),
        (lambda: arrival_times("mmpp", 1, 1.0, rng, peak=50.0), "peak"),
        (lambda: length("fixed", 0), "0 tokens"),
        (lambda: length("lognormal", 10, 5), "must rise"),
        (lambda: length("zipf", 1.0, 5, 4), "no range"),
        (lambda: independent(3, Arrivals(1.0), FEW), "`answer`: is missing"),
        (
            lambda: agents(1, Arrivals(1.0), calls=1, task=FEW, observation=FEW, answer=FEW, limit=5),
            "`compacted`",
        ),
        (lambda: closed_loop(same, 0), "concurrency"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
