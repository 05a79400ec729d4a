"""Counter-based randomness: against plain Python integers, and for plain statistical defects."""

import numpy as np

from euston.compression._hash import chain, keys, numbers
from euston.compression.base import StepKey

MASK = (1 << 64) - 1


def splitmix(z: int) -> int:
    """SplitMix64's output function as Steele, Lea & Flood (2014) print it."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def lowbias32(x: int) -> int:
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def test_known_first_outputs_of_splitmix64():
    # The first outputs of the reference generator with seed 1234567 (Vigna's test vector).
    assert splitmix(1234567) == 6457827717110365317
    assert chain(1234567) == 6457827717110365317


def test_numbers_are_two_keyed_rounds():
    k0, k1 = (int(k) for k in keys(99))
    expected = [lowbias32((lowbias32(i ^ k0) + k1) & 0xFFFFFFFF) >> 8 for i in range(50)]
    assert numbers(50, 99).tolist() == [value * 2.0**-24 for value in expected]


def test_numbers_are_uniform_and_uncorrelated_between_seeds_and_neighbours():
    n = 1 << 18
    a, b = numbers(n, 1).astype(float), numbers(n, 2).astype(float)
    counts = np.bincount((a * 256).astype(int), minlength=256)
    assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 255 + 5 * np.sqrt(2 * 255)  # chi square, 5 sigma
    for x, y in ((a, b), (a[1:], a[:-1]), (a[64:], a[:-64])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 5 / np.sqrt(n)


def test_seeds_depend_on_every_part_of_the_key():
    base = StepKey(job=1, step=2, bucket=3, sender=4)
    others = [StepKey(0, 2, 3, 4), StepKey(1, 0, 3, 4), StepKey(1, 2, 0, 4), StepKey(1, 2, 3, 0)]
    seeds = {key.seed("x", shared=False) for key in (base, *others)}
    assert len(seeds) == 5
    assert base.seed("x", shared=False) != base.seed("y", shared=False)
    # A shared seed leaves out the sender, and nothing else.
    assert base.seed("x", shared=True) == others[3].seed("x", shared=True)
    assert len({key.seed("x", shared=True) for key in (base, *others)}) == 4
    # The name is for errors only.
    assert StepKey(1, 2, 3, 4, name="w").seed("x", shared=False) == base.seed("x", shared=False)
