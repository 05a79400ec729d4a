"""QUIC-FL: the sender's rule against linear programs, unbiasedness by coordinate, published errors."""

import numpy as np
import pytest
from scipy.optimize import linprog

from euston.compression import StepKey
from euston.compression.quic_fl import QuicFl
from euston.compression.quic_fl_table import _error, quic_table
from euston.errors import ConfigError

# (bits, randomness, vNMSE) at p = 1/512: tables of amitport/QUIC-FL, measured on 2^20 normal samples.
PUBLISHED = [(1, 64, 1.457), (2, 32, 0.2143), (3, 16, 0.0431), (4, 16, 0.0097)]


def expectations(table, z):
    """E R and E (R - z)^2 of the sender's rule at z."""
    j = min(max(int(np.searchsorted(table.mean, z, "right")) - 1, 0), table.row.size - 1)
    up = (z - table.mean[j]) / (table.mean[j + 1] - table.mean[j])
    rows = np.arange(table.values.shape[0])
    before, after = table.values[rows, table.code[j]], table.values[rows, table.code[j + 1]]
    first = (1 - up) * before + up * after
    return first.mean(), ((1 - up) * (before - z) ** 2 + up * (after - z) ** 2).mean()


@pytest.mark.parametrize(("bits", "rows"), [(1, 8), (2, 8), (3, 4), (2, 32)])
def test_the_rule_is_unbiased_and_the_best_there_is(bits, rows):
    table = quic_table(bits, rows, 1 / 512)
    levels = 1 << bits
    for z in np.linspace(-0.999, 0.999, 9) * table.reach:
        mean, error = expectations(table, z)
        assert mean == pytest.approx(z, abs=1e-9)
        # The linear program over P(send x | h): least error, unbiased, each row a distribution.
        cost = ((table.values - z) ** 2).ravel() / rows
        equal = np.zeros((rows + 1, rows * levels))
        for h in range(rows):
            equal[h, h * levels : (h + 1) * levels] = 1.0
        equal[rows] = table.values.ravel() / rows
        found = linprog(cost, A_eq=equal, b_eq=np.append(np.ones(rows), z), method="highs")
        assert error == pytest.approx(found.fun, rel=1e-6)


@pytest.mark.parametrize(("bits", "rows", "published"), PUBLISHED)
def test_errors_are_as_published_or_better(bits, rows, published):
    table = quic_table(bits, rows, 1 / 512)
    assert table.error <= published * 1.01
    assert table.mean[0] == pytest.approx(-table.reach) and table.mean[-1] == pytest.approx(table.reach)
    assert (np.diff(table.values, axis=1) >= 0).all()
    z = np.random.default_rng(0).standard_normal(20_000)
    inside = z[np.abs(z) < table.reach]
    sampled = np.mean([expectations(table, v)[1] for v in inside[:4000]]) * inside.size / z.size
    assert table.error == pytest.approx(sampled, rel=0.05)


def test_gradient_of_the_error_is_right_where_the_edges_stay():
    values = np.sort(np.random.default_rng(1).normal(size=(4, 4)), axis=1)
    _, gradient = _error(values)
    for h, x in [(0, 1), (1, 2), (3, 1), (2, 2)]:
        step = np.zeros_like(values)
        step[h, x] = 1e-6
        slope = (_error(values + step)[0] - _error(values - step)[0]) / 2e-6
        assert gradient[h, x] == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_error_is_theory(bits):
    d, codec = 1 << 20, QuicFl(bits)
    x = np.random.default_rng(0).lognormal(size=d).astype(np.float32)
    errors = [
        ((codec.decode(codec.encode(x, StepKey(step=s))) - x) ** 2).sum() / (x**2).sum() for s in range(8)
    ]
    assert np.mean(errors) == pytest.approx(codec.expected_vnmse(d), rel=0.01)
    assert codec.bytes(d) * 8 / d < 1.13 * bits + 0.1


def test_error_under_loss_is_theory():
    d, codec, rng = 1 << 20, QuicFl(3), np.random.default_rng(0)
    x, found, theory = rng.standard_normal(d).astype(np.float32), [], []
    for step in range(8):
        payload = codec.encode(x, StepKey(step=step))
        came = rng.random(len(payload)) >= 0.1
        found.append(((codec.decode(payload, came) - x) ** 2).sum() / (x**2).sum())
        theory.append(codec.expected_vnmse(d, 1 - payload.layout.received(came)[0]))
    assert np.mean(found) == pytest.approx(np.mean(theory), rel=0.01)


@pytest.mark.parametrize("codec", [QuicFl(2), QuicFl(1, outlier=1 / 32, packet=0)])
def test_mean_of_many_decodings_approaches_the_vector(codec):
    d, n = 2048, 2000
    x = np.random.default_rng(0).standard_normal(d).astype(np.float32)
    mean, errors = np.zeros(d), []
    for step in range(n):
        got = codec.decode(codec.encode(x, StepKey(step=step)))
        mean += got / n
        errors.append(((got - x) ** 2).sum())
    assert ((mean - x) ** 2).sum() == pytest.approx(np.mean(errors) / n, rel=0.25)


def test_more_outliers_than_places_stay_unbiased():
    # Four equal coordinates rotate to 0, 1 and 2: an eighth lies beyond 1.86, a sixteenth was planned for.
    codec, d, n = QuicFl(4, outlier=1 / 16, packet=8924), 1 << 14, 200
    x = np.zeros(d, np.float32)
    x[np.arange(4) * 300] = 1.0
    crowded, mean, total = 0, np.zeros(d), 0.0
    for step in range(n):
        payload = codec.encode(x, StepKey(step=step))
        crowded += payload.words[payload.layout.ptr[0] // 4 + 1] == codec.places
        got = codec.decode(payload).astype(np.float64)
        mean += got / n
        total += ((got - x) ** 2).sum() / n
    assert crowded == n
    assert ((mean - x) ** 2).sum() < 1.5 * total / n


def test_senders_share_the_rotation_but_not_their_noise():
    codec, d = QuicFl(2), 8192
    x = np.random.default_rng(0).standard_normal(d).astype(np.float32)
    payloads = [codec.encode(x, StepKey(sender=s)) for s in range(16)]
    together = np.mean([codec.unpack(p) for p in payloads], axis=0)
    got = codec.restore(together, StepKey(), d)
    each = np.mean([codec.decode(p) for p in payloads], axis=0)
    assert np.abs(got - each).max() < 1e-5  # one inverse rotation instead of sixteen
    assert ((got - x) ** 2).sum() / (x**2).sum() == pytest.approx(codec.expected_vnmse(d) / 16, rel=0.1)


def test_bad_parameters_are_refused():
    for bad in ({"bits": 5}, {"bits": 0}, {"outlier": 0.0}, {"outlier": 0.7}):
        with pytest.raises(ConfigError, match="quic_fl"):
            QuicFl(**bad)
    with pytest.raises(ConfigError, match="power of two"):
        quic_table(2, 12, 1 / 512)
