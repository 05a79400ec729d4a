"""The rotation against SciPy's dense Hadamard matrix, a plain fast transform, and its own inverse."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg import hadamard as dense

from euston.compression import SizeMismatch, hadamard
from euston.compression._fwht import rotate, tile_size
from euston.compression._hash import chain
from euston.compression.layout import pieces
from euston.errors import ConfigError


def plain_fwht(v):
    """Levels one by one in float64."""
    step, v = 1, v.astype(np.float64)
    while step < v.size:
        pair = v.reshape(-1, 2, step)
        v = np.stack([pair[:, 0] + pair[:, 1], pair[:, 0] - pair[:, 1]], axis=1).ravel()
        step *= 2
    return v


def signs(seed, n):
    """The definition, coordinate by coordinate."""
    out = np.empty(n)
    for i in range(n):
        group, j = divmod(i, 4096)
        word = chain(seed + 64 * group + j % 128 // 2)
        half = word >> 32 if j % 2 else word & 0xFFFFFFFF
        out[i] = -1.0 if half >> (j // 128) & 1 else 1.0
    return out


def vector(d, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


@pytest.mark.nojit
@pytest.mark.parametrize("d", [64, 128, 256, 1024])
def test_plain_transform_is_the_dense_matrix(d):
    x = vector(d)
    assert hadamard(x) == pytest.approx(dense(d) @ x / np.sqrt(d), abs=1e-5)


@pytest.mark.parametrize("d", [2048, 4096])
def test_larger_transforms_are_the_dense_matrix(d):
    x = vector(d)
    assert hadamard(x) == pytest.approx(dense(d) @ x / np.sqrt(d), abs=1e-5)


@pytest.mark.parametrize("d", [1 << 13, 1 << 15, 1 << 18, 1 << 20, 1 << 21])
def test_two_sweeps_are_one_transform(d):
    # Rows and columns: 64 rows up to 2^20 (rows of 128 to 16,384), then longer rows.
    x = vector(d)
    assert np.abs(hadamard(x, block=1 << 26) - plain_fwht(x) / np.sqrt(d)).max() < 1e-5


@pytest.mark.nojit
@pytest.mark.parametrize("d", [1, 63, 64, 65, 200, 1000])
def test_short_vectors_by_definition(d):
    check_definition(d, 256)


@pytest.mark.parametrize(("d", "block"), [(5000, 4096), (20_000, 8192), (70_001, 1 << 16), (9000, 256)])
def test_pieces_and_signs_by_definition(d, block):
    check_definition(d, block)


def check_definition(d, block):
    x, start = vector(d, d), pieces(d, block)
    padded = np.zeros(start[-1])
    padded[:d] = x
    padded *= signs(31, start[-1])
    expected = [plain_fwht(padded[lo:hi]) / np.sqrt(hi - lo) for lo, hi in pairwise(start)]
    got = hadamard(x, 31, block=block)
    assert np.abs(got - np.concatenate(expected)).max() < 1e-5
    assert np.abs(hadamard(got, 31, block=block, inverse=True, d=d) - x).max() < 1e-5


@pytest.mark.parametrize("d", [100, 4096, 12_345, 1 << 20])
def test_norm_is_kept(d):
    x = vector(d)
    assert np.linalg.norm(hadamard(x, 5).astype(float)) == pytest.approx(
        np.linalg.norm(x.astype(float)), rel=1e-5
    )


def test_sum_of_squares_comes_with_the_first_sweep():
    x, start = vector(70_001), pieces(70_001, 1 << 16)
    y, squares = np.empty(start[-1], np.float32), np.zeros(start.size - 1)
    ones, tile = np.ones(start.size - 1, np.float32), np.empty(tile_size(1 << 16), np.float32)
    rotate(x, y, tile, np.uint64(1), start, 0, start.size - 1, True, ones, squares)
    expected = [(x[lo:hi].astype(float) ** 2).sum() for lo, hi in pairwise(start)]
    assert squares == pytest.approx(expected, rel=1e-6)


def test_signs_are_balanced():
    d = 1 << 16
    flips = hadamard(hadamard(np.ones(d, np.float32)), 77, inverse=True)
    flips = np.sign(flips)  # H then D H: the signs themselves
    assert abs(flips.sum()) < 5 * np.sqrt(d)
    for lag in (1, 2, 64, 128, 4096):
        assert abs((flips[lag:] * flips[:-lag]).sum()) < 5 * np.sqrt(d)


def test_torch_tensors_are_taken_and_given_without_a_copy():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra lossy)")
    x = vector(5000)
    tensor, out = torch.from_numpy(x.copy()), torch.empty(hadamard(x).size)
    hadamard(tensor, 3, out=out)
    assert (out.numpy() == hadamard(x, 3)).all()


def test_refusals():
    with pytest.raises(SizeMismatch, match="float64"):
        hadamard(np.zeros(4))
    with pytest.raises(SizeMismatch, match="gaps"):
        hadamard(np.zeros(8, np.float32)[::2])
    with pytest.raises(SizeMismatch, match="128 are right"):
        hadamard(np.zeros(100, np.float32), inverse=True, d=100)
    with pytest.raises(SizeMismatch, match="room for 3"):
        hadamard(np.zeros(64, np.float32), out=np.zeros(3, np.float32))
    with pytest.raises(ConfigError, match="power of two"):
        hadamard(np.zeros(64, np.float32), block=300)
    assert hadamard(np.zeros(0, np.float32)).size == 0
