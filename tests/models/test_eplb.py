"""Placement of experts with copies.

Oracles: exhaustive search over copies and over packings of small cases, the bound of list scheduling, and the
example of the published algorithm's own description (two layers of 12 experts on 8 ranks).
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.models.eplb import ExpertPlacement, in_order, place_experts

weights_of = st.lists(st.floats(0.01, 100), min_size=2, max_size=6)


@given(weights_of, st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_no_other_copies_have_a_lighter_heaviest_one(weights: list[float], redundant: int) -> None:
    """Adding the next copy to the heaviest is optimal for the largest load of a copy: against all choices."""
    experts = len(weights)
    found = place_experts(weights, 1, redundant)
    best = min(
        max(w / c for w, c in zip(weights, counts, strict=True))
        for counts in itertools.product(range(1, redundant + 2), repeat=experts)
        if sum(counts) == experts + redundant
    )
    assert (np.array(weights) / found.copies).max() == pytest.approx(best)
    assert found.copies.sum() == experts + redundant


@given(st.lists(st.floats(0.01, 10), min_size=6, max_size=6), st.sampled_from([2, 3]))
@settings(max_examples=40, deadline=None)
def test_packing_is_near_the_best_of_all(weights: list[float], ranks: int) -> None:
    """Largest load of a rank at most 4/3 of the best packing of equal sizes (Graham's bound), often equal."""
    found = place_experts(weights, ranks)
    each = len(weights) // ranks
    best = np.inf
    for order in itertools.permutations(range(6)):
        packs = np.array(order).reshape(ranks, each)
        best = min(best, np.array(weights)[packs].sum(axis=1).max())
    assert best - 1e-9 <= found.load(weights).max() <= 4 / 3 * best + 1e-9


@given(
    st.integers(0, 2**31),
    st.sampled_from([(16, 4, 0), (16, 4, 4), (32, 8, 8), (64, 8, 16)]),
    st.floats(0, 1.5),
)
@settings(max_examples=60, deadline=None)
def test_every_expert_is_there_and_no_load_is_lost(
    seed: int, sizes: tuple[int, int, int], alpha: float
) -> None:
    experts, ranks, redundant = sizes
    rng = np.random.default_rng(seed)
    weights = rng.permutation(np.arange(1, experts + 1) ** -alpha)
    found = place_experts(weights, ranks, redundant)
    assert found.expert.shape == (ranks, (experts + redundant) // ranks)
    assert np.array_equal(np.bincount(found.expert.ravel(), minlength=experts), found.copies)
    assert found.load(weights).sum() == pytest.approx(weights.sum())
    # greedy packing: at most the mean and one copy; consecutive experts have no such bound
    heaviest = (weights / found.copies).max()
    assert found.load(weights).max() <= weights.sum() / ranks + heaviest * (1 + 1e-12)


def test_the_published_example() -> None:
    """12 experts in 4 groups, 16 places on 8 ranks of 2 nodes: copies as the description prints them."""
    layers = [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
    published = [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]
    for weights, physical in zip(layers, published, strict=True):
        found = place_experts(weights, 8, 4, nodes=2, groups=4)
        theirs = ExpertPlacement(np.array(physical).reshape(8, 2), np.bincount(physical, minlength=12))
        assert np.array_equal(found.copies, theirs.copies)
        # the same experts share a node, and the same pairs share a rank
        assert {frozenset(row) for row in found.expert.reshape(2, -1).tolist()} == {
            frozenset(row) for row in theirs.expert.reshape(2, -1).tolist()
        }
        assert sorted(found.load(weights)) == pytest.approx(sorted(theirs.load(weights)))


def test_what_changing_over_moves() -> None:
    before, after = in_order(4, 2), ExpertPlacement(np.array([[0, 2], [1, 3]]), np.ones(4, np.int64))
    assert after.moved(before) == 2 and before.moved(before) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0] * 8, 3), "cannot be dealt evenly to 3 ranks"),
        (([1.0] * 8, 4, 2), "8 experts and 2 redundant"),
        (([1.0, -1.0], 2), "one finite number >= 0"),
        (([], 1), "one finite number >= 0"),
    ],
)
def test_refusals(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        place_experts(*arguments)  # type: ignore[arg-type]
