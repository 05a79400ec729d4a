"""Erasure codes: every pattern of losses of small blocks, exact residual losses, exact confidence bounds."""

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from euston.compression import Fec, SizeMismatch, StepKey, choose_parity, residual_loss
from euston.compression.eden import Eden
from euston.compression.none import Plain
from euston.errors import ConfigError, MissingExtra

RS = pytest.param(
    "rs", marks=pytest.mark.skipif("not __import__('importlib').util.find_spec('zfec')", reason="zfec")
)
RAPTORQ = pytest.param(
    "raptorq",
    marks=pytest.mark.skipif("not __import__('importlib').util.find_spec('raptorq')", reason="raptorq"),
)


def payload(packets, seed=0, size=400):
    x = np.random.default_rng(seed).standard_normal(packets * size // 4 - 7).astype(np.float32)
    made = Plain(packet=size).encode(x, StepKey(seed))
    assert len(made) == packets
    return made


def damaged(whole, mask):
    """A receiver's payload: what did not arrive is noise."""
    got = Plain(packet=400).encode(
        np.random.default_rng(9).standard_normal(whole.d).astype(np.float32), whole.key
    )
    for j in np.flatnonzero(mask):
        got.place(j, whole.packet(j))
    return got


@pytest.mark.parametrize(("kind", "parity"), [("xor", 1), (*RS.values, 1), (*RS.values, 2), (*RS.values, 3)])
def test_every_pattern_of_losses_of_a_block(kind, parity):
    if kind == "rs":
        pytest.importorskip("zfec", reason="zfec is not installed (extra lossy)")
    fec, whole = Fec(5, parity, kind), payload(5)
    extra = fec.protect(whole)
    assert extra.shape == (parity, 400)
    for arrived in itertools.product([True, False], repeat=5 + parity):
        mask, parity_mask = np.array(arrived[:5]), np.array(arrived[5:])
        got = damaged(whole, mask)
        have = fec.recover(
            got, mask, np.where(parity_mask[:, None], extra, 255).astype(np.uint8), parity_mask
        )
        if sum(arrived) >= 5:  # any k of k + m
            assert have.all() and bytes(got) == bytes(whole)
        else:
            assert (have == mask).all()
            assert all(bytes(got.packet(j)) == bytes(whole.packet(j)) for j in np.flatnonzero(mask))


@pytest.mark.parametrize("kind", ["xor", RS, RAPTORQ])
@pytest.mark.parametrize("packets", [1, 7, 16, 33, 50])
def test_blocks_of_any_number_of_packets(kind, packets):
    fec, whole = Fec(8, 1 if kind == "xor" else 2, kind), payload(packets)
    extra = fec.protect(whole)
    rng = np.random.default_rng(packets)
    blocks = fec.blocks(packets)
    assert sorted(blocks[blocks >= 0].tolist()) == list(range(packets))
    mask = np.ones(packets, bool)
    mask[[rng.choice(block[block >= 0]) for block in blocks]] = False  # one of every block
    got = damaged(whole, mask)
    have = fec.recover(got, mask, extra, np.ones(len(extra), bool))
    assert have.all() and bytes(got) == bytes(whole)


def test_a_burst_costs_each_block_one_packet():
    fec, whole = Fec(8, 1, "xor"), payload(64)
    extra = fec.protect(whole)
    for start in (0, 20, 56):
        mask = np.ones(64, bool)
        mask[start : start + 8] = False  # eight blocks
        got = damaged(whole, mask)
        assert fec.recover(got, mask, extra, np.ones(8, bool)).all()
        assert bytes(got) == bytes(whole)


@pytest.mark.parametrize("kind", ["xor", RS])
def test_recovered_codes_decode_to_the_same_bits(kind):
    codec = Eden(4)
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    whole = codec.encode(x)
    fec = Fec(12, 1 if kind == "xor" else 3, kind)
    extra, mask = fec.protect(whole), np.ones(len(whole), bool)
    mask[:3] = False
    got = whole.fill(bytes(whole))
    for j in range(3):
        got.place(j, bytes(len(got.packet(j))))
    assert fec.recover(got, mask, extra, np.ones(len(extra), bool)).all()
    assert (codec.decode(got) == codec.decode(whole)).all()


@given(st.integers(1, 20), st.integers(0, 6), st.floats(0.001, 0.6))
def test_residual_loss_is_the_sum(data, parity, loss):
    n = data + parity
    expected = sum(comb(n, j) * loss**j * (1 - loss) ** (n - j) * j / n for j in range(parity + 1, n + 1))
    assert residual_loss(data, parity, loss) == pytest.approx(expected, rel=1e-9)


def test_residual_loss_is_what_recovery_leaves():
    fec, whole, rng = Fec(8, 1, "xor"), payload(40), np.random.default_rng(5)
    extra, left = fec.protect(whole), 0
    trials, loss = 1500, 0.1
    for _ in range(trials):
        mask, parity_mask = rng.random(40) >= loss, rng.random(5) >= loss
        left += (
            40
            - fec.recover(
                damaged(whole, mask) if False else whole.fill(bytes(whole)), mask, extra, parity_mask
            ).sum()
        )
    expected = residual_loss(8, 1, loss)
    assert left / trials / 40 == pytest.approx(expected, rel=0.08)
    assert residual_loss(8, 0, loss) == pytest.approx(loss) and residual_loss(8, 1, 0.0) == 0.0


def test_parity_follows_the_upper_bound_of_the_measured_loss():
    bound = beta.ppf(0.95, 21, 1980)
    chosen = choose_parity(16, 1e-4, 20, 2000)
    assert residual_loss(16, chosen, bound) < 1e-4 <= residual_loss(16, chosen - 1, bound)
    assert binom.cdf(20, 2000, bound) == pytest.approx(0.05, rel=1e-6)  # Clopper & Pearson's definition
    assert choose_parity(16, 1e-4, 0, 200) > choose_parity(
        16, 1e-4, 0, 200_000
    )  # little seen, little trusted
    with pytest.raises(ConfigError, match="leave more than"):
        choose_parity(16, 1e-6, 100, 100)
    with pytest.raises(ConfigError, match="no measurement"):
        choose_parity(16, 1e-6, 3, 0)


def test_bad_parameters_and_shapes_are_refused():
    for bad in ({"kind": "lt"}, {"parity": 2}, {"data": 0}, {"data": 250, "parity": 7, "kind": "rs"}):
        with pytest.raises(ConfigError, match="fec"):
            Fec(**bad)
    whole = payload(10)
    extra = Fec().protect(whole)
    with pytest.raises(SizeMismatch, match="do not belong"):
        Fec().recover(whole, np.ones(9, bool), extra, np.ones(1, bool))
    with pytest.raises(SizeMismatch, match="parity rows"):
        Fec().recover(whole, np.ones(10, bool), extra, np.ones(2, bool))


def test_missing_libraries_are_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "zfec", None)
    with pytest.raises(MissingExtra, match=r"zfec.*euston\[lossy\]"):
        Fec(4, 2, "rs").protect(payload(8))
