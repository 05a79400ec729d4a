"""EDEN and DRIVE: theory at d = 2^20, a plain NumPy EDEN, and packets lost on the way.

Oracles: vNMSE = D / (1 - D) with the published Lloyd-Max distortions; 1/((1 - D)(1 - p)) - 1 under loss;
pi/(2 r) - 1 below one bit; codes of a few lines of NumPy on the plain transform.
"""

import itertools
from functools import cache

import numpy as np
import pytest

from euston.compression import NonFinite, PacketsLost, Payload, SizeMismatch, StepKey, hadamard
from euston.compression.bits import unpack
from euston.compression.drive import Drive
from euston.compression.eden import Eden
from euston.compression.lloyd_max import lloyd_max
from euston.errors import ConfigError

D = 1 << 20
SEEDS = 8
# "EDEN", ICML 2022, theory for large d (Lloyd-Max distortions of Max 1960): D/(1 - D).
UNBIASED = {1: 0.570796, 2: 0.133121, 3: 0.035784, 4: 0.009592}
FRACTIONAL = {1.5: 0.316537, 2.5: 0.082269, 3.5: 0.022521}
SUB_BIT = {0.5: 2.141593, 0.25: 5.283185, 0.1: 14.707963, 0.05: 30.415927}


@cache
def gaussian(d=D, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


@cache
def lognormal(d=D, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.lognormal(0.0, 1.0, d) * rng.choice([-1.0, 1.0], d)).astype(np.float32)


@cache
def spiky(d=D, seed=0):
    """Nearly all energy in 2,000 coordinates, 0.2 %."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(d) * 1e-3
    x[rng.choice(d, 2000, replace=False)] += rng.standard_normal(2000) * 10
    return x.astype(np.float32)


@cache
def layered(d=D, seed=0):
    """Like a model's gradient: layers of very different sizes and scales, heavy tails within."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, d, 20))
    scale = np.repeat(rng.lognormal(-6.0, 2.0, 21), np.diff(np.concatenate(([0], cuts, [d]))))
    return (rng.standard_t(4, d) * scale).astype(np.float32)


INPUTS = {"gaussian": gaussian, "lognormal": lognormal, "spiky": spiky, "layered": layered}


def vnmse(got, x):
    difference = got - x
    return float(difference @ difference) / float(x @ x)


def mean_vnmse(codec, x, seeds=SEEDS, mask=None):
    errors = []
    for step in range(seeds):
        payload = codec.encode(x, StepKey(step=step))
        errors.append(vnmse(codec.decode(payload, None if mask is None else mask(step, payload)), x))
    return float(np.mean(errors))


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        *itertools.product(["gaussian"], range(1, 9)),
        *itertools.product(["layered", "lognormal", "spiky"], [1, 4]),
    ],
)
def test_error_of_whole_bits_is_theory(bits, name):
    codec, found = Eden(bits), mean_vnmse(Eden(bits), INPUTS[name]())
    theory = UNBIASED.get(bits, lloyd_max(bits).unbiased_vnmse)
    assert found == pytest.approx(theory, rel=0.01)
    assert codec.expected_vnmse(D) == pytest.approx(theory, rel=1e-4)


@pytest.mark.parametrize(("bits", "theory"), [*FRACTIONAL.items(), *SUB_BIT.items()])
def test_error_of_fractional_and_sub_bits_is_theory(bits, theory):
    codec = Eden(bits)
    assert mean_vnmse(codec, lognormal()) == pytest.approx(theory, rel=0.01)
    assert codec.expected_vnmse(D) == pytest.approx(theory, rel=0.004)  # widths come in whole groups
    assert codec.bytes(D) * 8 / D == pytest.approx(bits, rel=0.01)


@pytest.mark.parametrize("bits", [1, 2, 4, 2.5])
def test_error_of_biased_scales_is_theory(bits):
    keep = float(Eden(bits).kept(D)[0])
    assert mean_vnmse(Eden(bits, scale="mse"), gaussian()) == pytest.approx(1 - keep, rel=0.01)
    assert mean_vnmse(Eden(bits, scale="norm"), gaussian()) == pytest.approx(2 - 2 * np.sqrt(keep), rel=0.01)
    if bits in UNBIASED:
        assert 1 - keep == pytest.approx(UNBIASED[bits] / (1 + UNBIASED[bits]), rel=1e-4)


@pytest.mark.parametrize(
    ("bits", "loss"),
    [*itertools.product([1, 2, 3, 4, 5, 6, 7, 8, 2.5, 0.5], [0.1]), (1, 0.01), (4, 0.01), (4, 0.3)],
)
def test_error_under_packet_loss_is_theory(bits, loss):
    codec, lost = Eden(bits, packet=640 if bits < 5 else 1100), []
    rng = np.random.default_rng(1)

    def mask(step, payload):
        came = rng.random(len(payload)) >= loss
        lost.append(1 - payload.layout.received(came)[0])
        return came

    found = mean_vnmse(codec, lognormal(), mask=mask)
    # What is lost is known to the receiver: theory at the rates that were drawn.
    assert found == pytest.approx(np.mean([codec.expected_vnmse(D, p) for p in lost]), rel=0.01)
    keep = float(codec.kept(D)[0])
    assert codec.expected_vnmse(D, loss) == pytest.approx(1 / (keep * (1 - loss)) - 1, rel=1e-9)


def test_the_tail_under_loss_is_thin_after_a_rotation_only():
    # 1 % of packets lost of a vector with its energy in few places: the mean error is equal, the worst not.
    x, rng = layered(1 << 18), np.random.default_rng(3)
    codec = Eden(8)
    payload = codec.encode(x)
    rotated, raw = [], []
    n = len(payload)
    edges = np.linspace(0, x.size, n + 1).astype(int)
    energy = np.add.reduceat(x.astype(float) ** 2, edges[:-1]) / (x.astype(float) ** 2).sum()
    for _ in range(60):
        came = rng.random(n) >= 0.01
        rotated.append(vnmse(codec.decode(payload, came), x))
        raw.append(energy[~came].sum())
    assert np.max(rotated) < 5 * 0.01
    assert np.std(raw) > 2 * np.std(rotated)


@pytest.mark.parametrize("bits", [1, 2.5, 4])
def test_mean_of_many_decodings_approaches_the_vector(bits):
    d, n = 2048, 2000
    x, codec = lognormal(d), Eden(bits)
    mean = np.zeros(d)
    for step in range(n):
        mean += codec.decode(codec.encode(x, StepKey(step=step))) / n
    # A mean of n unbiased decodings is v/n away on average (squared), with a deviation of sqrt(2/d) of that.
    assert vnmse(mean, x) == pytest.approx(codec.expected_vnmse(d) / n, rel=0.2)


def test_errors_of_senders_average_out_with_their_number():
    x = gaussian(1 << 14)
    codec, ns = Eden(1), np.array([1, 2, 4, 8, 16, 32, 64])
    decoded = np.stack([codec.decode(codec.encode(x, StepKey(sender=s))) for s in range(64 * 4)]).astype(
        np.float64
    )
    errors = [np.mean([vnmse(part.mean(axis=0), x) for part in np.split(decoded, 128 // n)]) for n in ns]
    slope = np.polyfit(np.log(ns), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.05)
    # A biased scale leaves a floor, one rotation for all leaves correlated errors.
    biased = Eden(1, scale="mse")
    decoded = np.stack([biased.decode(biased.encode(x, StepKey(sender=s))) for s in range(64)]).astype(
        np.float64
    )
    assert vnmse(decoded.mean(axis=0), x) > 0.1
    shared = Eden(1, shared=True)
    decoded = np.stack([shared.decode(shared.encode(x, StepKey(sender=s))) for s in range(8)]).astype(
        np.float64
    )
    assert vnmse(decoded.mean(axis=0), x) == pytest.approx(0.5708, rel=0.05)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_those_of_a_plain_eden(bits):
    d, key = 4096, StepKey(3, 1, 4, 1)
    x, codec, levels = lognormal(d), Eden(bits, packet=0), lloyd_max(bits)
    payload = codec.encode(x, key)
    y = hadamard(x, key.seed("rotation", shared=False)).astype(np.float64)
    z = y * np.sqrt(d) / np.linalg.norm(x.astype(np.float64))
    level = np.searchsorted(levels.thresholds, np.abs(z))
    code = level + np.where(z < 0, 1 << (bits - 1), 0)
    sent = unpack(payload.data[4:], d, bits)
    # float32 may put a coordinate that lies on a threshold on its other side.
    differ = sent != code
    distance = np.abs(np.abs(z)[:, None] - np.append(levels.thresholds, 0.0)[None, :]).min(axis=1)
    assert distance[differ].max(initial=0.0) < 2e-6
    assert differ.mean() < 1e-3
    q = np.sign(z) * levels.centroids[level]
    scale = payload.data[:4].view(np.float32)[0]
    assert scale == pytest.approx((y @ y) / (q @ y), rel=1e-5)
    assert codec.unpack(payload)[~differ] == pytest.approx((scale * q)[~differ], rel=1e-5)


def test_unbiased_scale_keeps_the_projection():
    # <decoded, x> = ||x||^2 for the unbiased scale, whatever x is: S is made so.
    for d in (40, 700, 5000):
        x = lognormal(d)
        decoded = Eden(2).decode(Eden(2).encode(x)).astype(np.float64)
        assert decoded @ x == pytest.approx(x.astype(np.float64) @ x, rel=1e-4)


def test_drive_is_eden_at_one_bit():
    x = gaussian(10_000)
    assert (Drive().decode(Drive().encode(x)) == Eden(1).decode(Eden(1).encode(x))).all()
    # Scale ||y||_2^2 / ||y||_1 (DRIVE, NeurIPS 2021).
    x = gaussian(4096)
    y = hadamard(x, StepKey().seed("rotation", shared=False)).astype(np.float64)
    scale = Drive(packet=0).encode(x).data[:4].view(np.float32)[0]
    centroid = np.sqrt(2 / np.pi)  # what EDEN's one-bit table calls 1
    assert scale * centroid == pytest.approx((y @ y) / np.abs(y).sum(), rel=1e-5)
    assert Drive(scale="mse").expected_vnmse(D) == pytest.approx(1 - 2 / np.pi, rel=1e-9)
    with pytest.raises(ConfigError, match="one bit each"):
        Drive(bits=2)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-13, 1e15, 1e32])
def test_tiny_and_huge_gradients_keep_their_precision(scale):
    x = (gaussian(3000).astype(np.float64) * scale).astype(np.float32)
    got = Eden(4).decode(Eden(4).encode(x)).astype(np.float64) / scale
    assert vnmse(got, x.astype(np.float64) / scale) == pytest.approx(
        0.0096, rel=0.2 if scale > 1e-40 else 1.0
    )
    assert got.any()


def test_one_hot_is_exact_and_zero_is_zero():
    x = np.zeros(5000, np.float32)
    assert not Eden(4).decode(Eden(4).encode(x)).any()
    x[17] = -3.0
    assert Eden(1).decode(Eden(1).encode(x)) == pytest.approx(
        x, abs=1e-5
    )  # all rotated values are equally large


@pytest.mark.parametrize("d", [0, 1, 2, 31, 64, 65, 257, 1023, 1025, 4097, 20_001])
@pytest.mark.parametrize("bits", [0.5, 1, 2.5, 3, 8])
def test_every_size_is_decoded(d, bits):
    x, codec = gaussian(d), Eden(bits, block=4096)
    payload = codec.encode(x)
    assert payload.data.size == codec.bytes(d)
    decoded = codec.decode(payload)
    assert decoded.shape == (d,)
    if d > 1000 and bits == 8:
        assert vnmse(decoded, x) < 1e-4


def test_lost_pieces_are_refused_or_zero_never_silently_rescaled():
    codec = Eden(4, block=4096)
    x = gaussian(8192 + 100)
    payload = codec.encode(x, StepKey(name="head.weight"))
    mask = payload.layout.piece != 1
    with pytest.raises(PacketsLost, match=r"head\.weight.*4096 to 8191"):
        codec.decode(payload, mask)
    got = codec.decode(payload, mask, lost="zero")
    assert not got[4096:8192].any()
    assert vnmse(got[:4096], x[:4096]) < 0.02


def test_payloads_of_others_are_refused():
    x = gaussian(1000)
    payload = Eden(4).encode(x)
    with pytest.raises(SizeMismatch, match=r"bits=4.*bits=3"):
        Eden(3).decode(payload)
    with pytest.raises(SizeMismatch, match="mask"):
        Eden(4).decode(payload, np.ones(7, bool))
    with pytest.raises(SizeMismatch, match="bytes where"):
        Payload.empty(Eden(4), 1000, StepKey()).fill(b"123")
    with pytest.raises(SizeMismatch, match="packet 0 has 3 bytes"):
        Payload.empty(Eden(4), 1000, StepKey()).place(0, b"123")
    with pytest.raises(SizeMismatch, match="packet 5 of"):
        Payload.empty(Eden(4), 1000, StepKey()).place(5, b"")


def test_nan_is_refused_with_the_bucket_and_the_place():
    x = gaussian(70_000).copy()
    x[65_537] = np.inf
    x[66_000] = np.nan
    with pytest.raises(NonFinite, match=r"layers\.3\.mlp.*2 values.*65537"):
        Eden(4, block=1 << 16).encode(x, StepKey(name="layers.3.mlp"))


def test_bad_parameters_are_refused():
    for bad in ({"bits": 0}, {"bits": 9}, {"scale": "best"}, {"block": 1000}, {"block": 128}):
        with pytest.raises(ConfigError, match="eden"):
            Eden(**bad)
    with pytest.raises(ConfigError, match="loss"):
        Eden().expected_vnmse(100, 1.0)


def test_sub_bit_without_energy_in_what_is_sent_is_refused():
    # Two equal coordinates rotate to values that vanish on every other group: crafted to miss what is sent.
    codec = Eden(1 / 16, block=4096)
    width = codec.layout(4096).width
    (sent,) = np.flatnonzero(width)
    refused = 0
    for step in range(16):
        x = np.zeros(4096, np.float32)
        x[[0, 256]] = 1.0
        try:
            codec.encode(x, StepKey(step=step))
        except NonFinite:
            refused += 1
    assert sent >= 0 and 0 < refused < 16
