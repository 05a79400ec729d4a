"""Lloyd-Max tables: the two optimality conditions by numerical integration, and published values."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from euston.compression.lloyd_max import lloyd_max
from euston.errors import ConfigError

# Max, "Quantizing for minimum distortion", IRE Trans. 1960, table I, as EDEN (ICML 2022) uses them.
PUBLISHED = {
    1: ([0.797885], 0.363380),
    2: ([0.452780, 1.510418], 0.117482),
    3: ([0.245094, 0.756005, 1.343909, 2.151946], 0.034548),
    4: ([0.128395, 0.388048, 0.656759, 0.942340, 1.256231, 1.618046, 2.069017, 2.732589], 0.009501),
}


@pytest.mark.parametrize("bits", PUBLISHED)
def test_published_values(bits):
    centroids, distortion = PUBLISHED[bits]
    found = lloyd_max(bits)
    assert found.centroids == pytest.approx(centroids, abs=6e-7)
    assert found.distortion == pytest.approx(distortion, abs=6e-7)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_centroids_are_the_means_of_their_cells(bits):
    found = lloyd_max(bits)
    edges = np.concatenate(([0.0], found.thresholds, [np.inf]))
    for k in {0, len(found.centroids) // 2, len(found.centroids) - 1}:
        mass = quad(norm.pdf, edges[k], edges[k + 1])[0]
        first = quad(lambda z: z * norm.pdf(z), edges[k], edges[k + 1])[0]
        assert found.centroids[k] == pytest.approx(first / mass, abs=1e-7)
    assert found.thresholds == pytest.approx((found.centroids[1:] + found.centroids[:-1]) / 2)


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_distortion_by_integration(bits):
    found = lloyd_max(bits)
    edges = np.concatenate(([0.0], found.thresholds, [np.inf]))
    cells = zip(edges[:-1], edges[1:], found.centroids, strict=True)
    error = sum(2 * quad(lambda z, c=c: (z - c) ** 2 * norm.pdf(z), lo, hi)[0] for lo, hi, c in cells)
    assert found.distortion == pytest.approx(error, rel=1e-7)


def test_closed_forms_of_one_bit():
    found = lloyd_max(1)
    assert found.distortion == pytest.approx(1 - 2 / np.pi, rel=1e-12)
    assert found.unbiased_vnmse == pytest.approx(np.pi / 2 - 1, rel=1e-12)


def test_each_bit_divides_the_distortion_by_nearly_four():
    # Panter & Dite: D ~ sqrt(3) pi / 2 * 4^-b.
    assert lloyd_max(8).distortion * 4**8 == pytest.approx(np.sqrt(3) * np.pi / 2, rel=0.01)


def test_other_numbers_of_bits_are_refused():
    with pytest.raises(ConfigError, match="1 to 8"):
        lloyd_max(9)
