"""Top-k, rand-k and PowerSGD: against sorting, exact probabilities, and singular values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston.compression import StepKey
from euston.compression.power_sgd import PowerSgd, ddp_hook
from euston.compression.rand_k import RandK, permuted
from euston.compression.top_k import TopK
from euston.errors import ConfigError, MissingExtra


def gaussian(d, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def vnmse(got, x):
    return float(((got.astype(np.float64) - x) ** 2).sum() / (x.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.3, 1.0])
def test_top_k_keeps_the_largest(ratio):
    x, codec = gaussian(5000), TopK(ratio, packet=500)
    got, k = codec.decode(codec.encode(x)), round(ratio * 5000)
    largest = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
    assert (np.flatnonzero(got) == largest).all()
    assert (got[largest] == x[largest]).all()
    assert codec.bytes(5000) == 8 * k  # index and value, nothing else
    assert vnmse(got, x) <= codec.expected_vnmse(5000)


def test_top_k_ties_go_to_lower_indices_and_its_bound_is_reached():
    x, codec = np.ones(100, np.float32), TopK(0.25)
    got = codec.decode(codec.encode(x))
    assert got.tolist() == [1.0] * 25 + [0.0] * 75
    assert vnmse(got, x) == codec.expected_vnmse(100) == 0.75


def test_top_k_packets_decode_alone_and_forged_indices_do_nothing():
    x, codec = gaussian(5000), TopK(0.1, packet=400)
    payload = codec.encode(x)
    together = np.zeros(5000, np.float32)
    for j in range(len(payload)):
        only = np.arange(len(payload)) == j
        together += codec.unpack(payload, only)
    assert (together == codec.unpack(payload)).all()
    payload.words[0] = 4_000_000_000
    assert np.isfinite(codec.unpack(payload)).all()


@given(st.integers(1, 3000), st.integers(0, 50))
def test_permuted_is_a_permutation(d, seed):
    assert sorted(permuted(d, d, seed).tolist()) == list(range(d))


def test_rand_k_draws_every_coordinate_equally_often():
    d, n, codec = 300, 4000, RandK(0.1)
    counts = np.zeros(d)
    for step in range(n):
        index = codec.indices(d, StepKey(step=step))
        assert np.unique(index).size == 30
        counts[index] += 1
    expected = n * 0.1
    chi = ((counts - expected) ** 2 / (expected * 0.9)).sum()
    assert abs(chi - d) < 5 * np.sqrt(2 * d)


def test_rand_k_errors_are_exact():
    d, n, x = 2000, 1500, gaussian(2000) ** 3
    unbiased, plain = RandK(0.05), RandK(0.05, scale="plain")
    assert unbiased.unbiased and not plain.unbiased
    errors, kept, mean = [], [], np.zeros(d)
    for step in range(n):
        got = unbiased.decode(unbiased.encode(x, StepKey(step=step))).astype(np.float64)
        errors.append(vnmse(got, x))
        kept.append(vnmse(plain.decode(plain.encode(x, StepKey(step=step))), x))
        mean += got / n
    assert np.mean(errors) == pytest.approx(
        unbiased.expected_vnmse(d), rel=5 * np.std(errors) / np.sqrt(n) / 19
    )
    assert np.mean(kept) == pytest.approx(plain.expected_vnmse(d), abs=5 * np.std(kept) / np.sqrt(n))
    assert (unbiased.expected_vnmse(d), plain.expected_vnmse(d)) == (pytest.approx(19.0), pytest.approx(0.95))
    assert vnmse(mean, x) == pytest.approx(19.0 / n, rel=0.3)


def test_rand_k_senders_share_their_coordinates_or_not():
    shared, own = RandK(0.1), RandK(0.1, shared=False)
    a, b = StepKey(sender=1), StepKey(sender=2)
    assert (shared.indices(1000, a) == shared.indices(1000, b)).all()
    assert not (own.indices(1000, a) == own.indices(1000, b)).all()
    assert shared.bytes(1000) == 400  # values only


@pytest.mark.parametrize("codec", [TopK, RandK])
def test_ratios_out_of_range_are_refused(codec):
    for ratio in (0.0, 1.5):
        with pytest.raises(ConfigError, match="ratio"):
            codec(ratio)
    assert codec(0.001).decode(codec(0.001).encode(gaussian(3))).size == 3  # at least one of three
    assert codec().decode(codec().encode(gaussian(0))).size == 0


torch_needed = pytest.mark.skipif("not __import__('importlib').util.find_spec('torch')", reason="needs torch")


@torch_needed
def test_power_sgd_finds_a_low_rank_vector_exactly():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((64, 3)) @ rng.standard_normal((3, 64))).astype(np.float32).ravel()
    codec = PowerSgd(3)
    assert codec.shape(4096) == (64, 64, 3)
    assert vnmse(codec.decode(codec.encode(x)), x) < 1e-9
    assert codec.bytes(4096) == 4 * 3 * 128


@torch_needed
def test_power_sgd_approaches_the_best_low_rank_error_with_a_warm_start():
    rng = np.random.default_rng(1)
    left, right = (
        np.linalg.qr(rng.standard_normal((70, 70)))[0],
        np.linalg.qr(rng.standard_normal((70, 70)))[0],
    )
    matrix = left @ np.diag(0.8 ** np.arange(70)) @ right
    x = matrix.astype(np.float32).ravel()
    codec = PowerSgd(4)
    errors = [vnmse(codec.decode(codec.encode(x, StepKey(step=s))), x) for s in range(30)]
    best = 0.8**8  # what Eckart & Young leave of a geometric spectrum
    assert errors[0] > best * 1.05
    assert errors[-1] == pytest.approx(best, rel=0.01)
    assert np.mean(errors) <= codec.expected_vnmse(x.size)


@torch_needed
def test_power_sgd_survives_lost_rows_and_odd_sizes():
    x = gaussian(5000)
    codec = PowerSgd(4, packet=200)
    payload = codec.encode(x)
    rows, columns, rank = codec.shape(5000)
    came = np.arange(len(payload)) != 1
    lo, hi = payload.layout.coordinate[1:3] // rank
    whole, part = codec.unpack(payload).copy(), codec.unpack(payload, came)
    matrix = np.zeros(rows * columns, np.float32)
    matrix[:5000] = whole
    matrix.reshape(rows, columns)[lo:hi] = 0
    assert (part == matrix[:5000]).all()
    share = 1 - (hi - lo) / rows
    assert codec.decode(payload, came) == pytest.approx(part / share, rel=1e-5)
    for d in (0, 1, 2, 7, 50):
        assert codec.decode(codec.encode(gaussian(d))).shape == (d,)


@torch_needed
def test_power_sgd_hook_is_torchs():
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    state, hook = ddp_hook(2, start_step=10)
    assert hook is powerSGD_hook.powerSGD_hook
    assert (state.matrix_approximation_rank, state.start_powerSGD_iter) == (2, 10)
    with pytest.raises(ConfigError, match="from step 1"):
        ddp_hook(2, start_step=1)


def test_power_sgd_without_torch_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"euston\[lossy\]"):
        PowerSgd().encode(gaussian(100))
