"""Plain number formats: fp16, bf16, FP8, FP4, INT8, INT4 against NumPy, torch and exhaustive rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from euston.compression import CODECS, StepKey
from euston.compression.half import Bf16, Fp16
from euston.compression.integer import Int4, Int8
from euston.compression.minifloat import _E3M0_SIZES, _E4M3, Fp4, Fp8
from euston.compression.none import Plain
from euston.errors import ConfigError

FORMATS = ["none", "fp16", "bf16", "fp8", "fp4", "int8", "int4"]
VECTORS = arrays(np.float32, st.integers(0, 600), elements=st.floats(-1e6, 1e6, width=32))


def gaussian(d, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def vnmse(got, x):
    return float(((got.astype(np.float64) - x) ** 2).sum() / (x.astype(np.float64) ** 2).sum())


def nearest(values, levels):
    """The nearest of `levels`, by looking at all of them."""
    return levels[np.abs(values[:, None].astype(np.float64) - levels[None, :]).argmin(axis=1)]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packet", [0, 1452])
def test_error_is_theory(name, packet):
    codec, d = CODECS.get(name)(packet=packet), 1 << 20
    # Mantissas of a normal vector are not log-uniform: average over scales for the floats.
    scales = np.exp2(np.linspace(0, 1, 4, endpoint=False)) if name in ("fp16", "bf16") else [1.0]
    found = []
    for scale in scales:
        x = (gaussian(d) * scale).astype(np.float32)
        found.append(vnmse(codec.decode(codec.encode(x)), x))
    assert np.mean(found) == pytest.approx(codec.expected_vnmse(d), rel=0.02 if name == "fp4" else 0.01)
    assert codec.bytes(d) == len(bytes(codec.encode(x)))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_error_under_loss_is_theory(name, loss):
    codec, d, rng = CODECS.get(name)(packet=600), 1 << 18, np.random.default_rng(1)
    found, theory = [], []
    for seed in range(8):
        x = gaussian(d, seed)
        payload = codec.encode(x)
        came = rng.random(len(payload)) >= loss
        found.append(vnmse(codec.decode(payload, came), x))
        theory.append(codec.expected_vnmse(d, 1 - payload.layout.received(came)[0]))
    assert np.mean(found) == pytest.approx(np.mean(theory), rel=0.02)


@settings(max_examples=60)
@given(VECTORS, st.sampled_from(FORMATS), st.sampled_from([0, 600]))
def test_any_vector_survives_and_zero_stays_zero(x, name, packet):
    codec = CODECS.get(name)(packet=packet)
    got = codec.decode(codec.encode(x))
    assert got.shape == x.shape
    assert (got[x == 0] == 0).all()
    assert (np.sign(got) * np.sign(x) >= 0).all()
    if x.size:
        assert np.abs(got).max() <= np.abs(x).max() * (1 + 2.0**-8)


@settings(max_examples=40)
@given(VECTORS)
def test_int8_errs_by_half_a_step_of_its_group_at_most(x):
    for codec, top in ((Int8(), 127), (Int4(), 7)):
        got = codec.decode(codec.encode(x))
        for at in range(0, x.size, 256):
            part = x[at : at + 256]
            step = np.abs(part).max() / top
            assert (
                np.abs(got[at : at + 256].astype(np.float64) - part) <= step / 2 * (1 + 1e-5) + 1e-44
            ).all()


def test_integers_are_packed():
    assert Int8(packet=0).bytes(2560) == 2560 + 40  # a scale of four bytes per 256
    assert Int4(packet=0).bytes(2560) == 1280 + 40
    assert Int4(packet=0).bytes(257) == 128 + 4 + 16 + 4  # the last group is filled up to 32


def test_stochastic_rounding_is_unbiased():
    codec, x, n = Int4(rounding="stochastic"), gaussian(1 << 12), 1500
    assert codec.unbiased and not Int4().unbiased
    mean = np.mean(
        [codec.decode(codec.encode(x, StepKey(step=s))).astype(np.float64) for s in range(n)], axis=0
    )
    assert vnmse(mean, x) == pytest.approx(codec.expected_vnmse(x.size) / n, rel=0.1)
    with pytest.raises(ConfigError, match="nearest or stochastic"):
        Int8(rounding="up")


def test_fp8_is_the_nearest_e4m3_value():
    x = gaussian(5000) ** 3
    codec = Fp8()
    payload = codec.encode(x)
    got = codec.decode(payload)
    levels = np.unique(_E4M3[np.isfinite(_E4M3) & (np.abs(_E4M3) <= 448)].astype(np.float64))
    for at in range(0, x.size, 256):
        part = x[at : at + 256]
        scale = np.float64(np.abs(part).max()) / 448
        scaled = (part.astype(np.float64) * (448 / np.float64(np.abs(part).max()))).astype(np.float32)
        assert got[at : at + 256] == pytest.approx(nearest(scaled, levels) * scale, rel=1e-6, abs=1e-12)


def test_fp8_is_torchs():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra lossy)")
    x = np.concatenate([np.linspace(-448, 448, 20_001), np.ldexp(gaussian(3000), -7)]).astype(np.float32)
    theirs = torch.from_numpy(x).to(torch.float8_e4m3fn).float().numpy()
    codec = Fp8(packet=0)
    for at in range(0, x.size, 255):
        part = np.append(x[at : at + 255], np.float32(448))  # the scale is 1
        assert (codec.decode(codec.encode(part))[:-1] == theirs[at : at + 255]).all()


def test_fp4_is_the_nearest_power_of_two_and_monotone():
    codec = Fp4()
    x = np.append(gaussian(3000), np.float32(4)).clip(-4, 4)
    got = codec.decode(codec.encode(x))
    levels = np.concatenate([-_E3M0_SIZES[:0:-1], _E3M0_SIZES]) * 4
    assert (got == nearest(x, levels)).all()
    order = np.argsort(x)
    assert (np.diff(got[order]) >= 0).all()
    assert (np.diff(_E3M0_SIZES) > 0).all() and _E3M0_SIZES.size == 8  # a sign and three bits
    assert codec.bytes(1 << 20) * 8 / (1 << 20) < 4.02


def test_bf16_is_torchs():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra lossy)")
    x = np.concatenate([gaussian(5000) * 1e-3, gaussian(5000) * 1e30, np.float32([0, -0.0, 1e-42])])
    theirs = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    assert (Bf16().decode(Bf16().encode(x)) == theirs).all()
    # A 16-bit tensor comes in widened, exactly.
    tensor = torch.from_numpy(x).to(torch.bfloat16)
    assert (Bf16().decode(Bf16().encode(tensor)) == theirs).all()


def test_the_largest_float_does_not_become_infinite():
    x = np.full(4, np.finfo(np.float32).max)
    for codec in (Bf16(), Fp16(), Fp8(), Int8()):
        assert np.isfinite(codec.decode(codec.encode(x))).all()


@pytest.mark.parametrize("scale", [1e-43, 1e-30, 1e-9, 1.0, 1e9, 1e37])
def test_fp16_is_numpys_at_any_scale(scale):
    x = (gaussian(3000).clip(-3, 3) * np.float64(scale)).astype(np.float32)
    got = Fp16().decode(Fp16().encode(x))
    for at in range(0, 3000, 724):  # one power of two per packet
        part = x[at : at + 724].astype(np.float64)
        power = 2.0 ** (15 - np.frexp(np.abs(part).max())[1])
        expected = (part * power).astype(np.float16).astype(np.float64) / power
        assert (got[at : at + 724] == expected.astype(np.float32)).all()
    assert got.any()


def test_plain_packets_are_the_floats():
    x = gaussian(1000)
    payload = Plain(packet=400).encode(x)
    assert len(payload) == 10
    assert bytes(payload.packet(3)) == x[300:400].tobytes()
    came = np.ones(10, bool)
    came[3] = False
    got = Plain(packet=400).decode(payload, came)
    assert not got[300:400].any()
    assert got[:300] == pytest.approx(x[:300] / 0.9)
