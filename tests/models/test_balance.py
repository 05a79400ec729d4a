"""Load of the slowest expert-parallel rank: closed forms, plain draws, capacity, refusals."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.models import Balance, ImageMix, transformer


def test_even_load() -> None:
    assert Balance().load(8192.0, 64, 8) == (1024.0, 128.0, 0.0)


def test_equal_weights_follow_the_law_of_the_maximum() -> None:
    """Oracle: expected maximum of n normal counts (Blom), their sd sqrt(mean), within 5 % of the excess."""
    load = Balance("multinomial").load(256 * 4096.0, 256, 256)
    excess = math.sqrt(4096) * NormalDist().inv_cdf((256 - 0.375) / (256 + 0.25))
    assert load.rows - 4096 == pytest.approx(excess, rel=0.05)
    assert load.busiest == load.rows  # one expert per rank
    assert load.dropped == 0.0


def test_trace_is_met_in_proportion() -> None:
    """With many tokens the counts tend to the weights: rank 1 holds experts of 3 and 5 of 10 parts."""
    load = Balance("trace", trace=(1, 1, 3, 5)).load(1e7, 4, 2)
    assert load.rows == pytest.approx(8e6, rel=1e-3)
    assert load.busiest == pytest.approx(5e6, rel=1e-3)


def test_against_plain_draws() -> None:
    """Oracle: the mean over many independent draws with NumPy's other generator, within 2 %."""
    weights = np.arange(1, 65, dtype=float) ** -0.5
    rng = np.random.default_rng(7)
    ours = Balance("zipf", alpha=0.5).load(65536.0, 64, 64).rows
    counts = rng.multinomial(65536, weights / weights.sum(), size=400)
    assert ours == pytest.approx(counts.max(axis=1).mean(), rel=0.02)


@given(
    st.sampled_from([1, 2, 8, 32]),
    st.sampled_from(["uniform", "multinomial", "zipf"]),
    st.floats(0.0, 1.5),
    st.integers(1, 200_000),
)
def test_slowest_rank_is_never_below_the_mean(ranks: int, kind: Any, alpha: float, tokens: int) -> None:
    load = Balance(kind, alpha=alpha).load(float(tokens), 64, ranks)
    assert load.rows >= tokens / ranks - 1e-6
    assert load.busiest <= load.rows + 1e-9
    assert load.busiest >= load.rows / (64 // ranks) - 1e-6


def test_capacity() -> None:
    capped = Balance("zipf", alpha=1.0, capacity_factor=1.0).load(6400.0, 64, 8)
    free = Balance("zipf", alpha=1.0).load(6400.0, 64, 8)
    assert capped.busiest <= 100
    assert capped.rows < free.rows
    assert 0.2 < capped.dropped < 0.8
    padded = Balance("zipf", alpha=1.0, capacity_factor=1.25, pad=True).load(6400.0, 64, 8)
    assert (padded.rows, padded.busiest) == (8 * 125, 125)
    assert Balance(capacity_factor=0.5).load(6400.0, 64, 8) == (400.0, 50.0, 0.5)


def test_same_seed_same_load() -> None:
    one, other = Balance("zipf", alpha=0.8, seed=1), Balance("zipf", alpha=0.8, seed=2)
    assert one.load(1e5, 64, 8) == one.load(1e5, 64, 8)
    assert one.load(1e5, 64, 8) != other.load(1e5, 64, 8)


def test_imbalance_reaches_operators_and_memory() -> None:
    model = transformer("mixtral-8x7b")

    def rows(balance: Balance) -> float:
        ops = model.operators(4096, 4096, expert_parallel=8, balance=balance)
        return next(op.shape[0] for op in ops if op.name == "expert_up")

    assert rows(Balance()) == 8192
    assert rows(Balance("zipf", alpha=1.0)) > 1.5 * 8192
    even = model.activation_bytes(4096, 4096, expert_parallel=8)
    assert model.activation_bytes(4096, 4096, expert_parallel=8, balance=Balance("zipf", alpha=1.0)) > even


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        (Balance("even"), "`balance.kind`: unknown balance 'even'"),  # type: ignore[arg-type]
        (Balance("zipf", alpha=-1.0), "`balance.alpha`: -1.0 must be zero or a positive number"),
        (Balance("trace"), "`balance.trace`: give tokens per expert with kind trace, and only then"),
        (Balance("trace", trace=(1.0, 2.0)), "`balance.trace`: 2 entries for 8 experts"),
        (Balance("trace", trace=(0.0,) * 8), "`balance.trace`: must hold numbers of at least 0, not all 0"),
    ],
)
def test_refusals(balance: Balance, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        balance.check(8)
    assert str(error.value).startswith(message)


def test_images() -> None:
    mix = ImageMix(1536, counts=(0, 1, 4), shares=(0.5, 0.25, 0.25))
    assert mix.mean == 1.25
    drawn = mix.draw(4000, 2)
    assert sum(drawn) / 8000 == pytest.approx(
        1.25, abs=0.08
    )  # 3 standard errors: 3 x 1.6 / sqrt(8000) = .055
    assert drawn == mix.draw(4000, 2)
    work = mix.work(4000, 2, 4096, 384)
    assert sum(work) / 4000 == pytest.approx(1.0, abs=0.01)
    assert len(set(work)) > 3
    with pytest.raises(ConfigError, match="do not fit a sequence of 400"):
        mix.work(4, 1, 400, 384)
    with pytest.raises(ConfigError, match=r"`images.shares`: 1 for 2 counts"):
        ImageMix(4, counts=(1, 2)).check()
