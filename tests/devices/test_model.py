"""The field and the fit that all kernel models share, against exact answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import solve

from euston.devices import _field
from euston.devices._model import Constant, Family, Machine, Model, Table, fit


def covariance(a: np.ndarray, b: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Matern 3/2, written out pair by pair."""
    out = np.empty((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            r = float(np.sqrt(3 * (((x - y) / lengths) ** 2).sum()))
            out[i, j] = (1 + r) * np.exp(-r)
    return out


def test_field_is_kriging() -> None:
    """Oracle: the textbook predictor k(q)^T (K + noise I)^-1 y with pairwise covariances."""
    rng = np.random.Generator(np.random.Philox(1))
    points, values, queries = rng.random((40, 3)), rng.standard_normal(40), rng.random((300, 3)) * 1.2
    lengths = np.array([0.3, 0.7, 1.5])
    field = _field.make(points, values, lengths, 0.05)
    expected = covariance(queries, points, lengths) @ solve(
        covariance(points, points, lengths) + 0.05 * np.eye(40), values
    )
    found, inside = field.at(queries)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert not inside[(queries > points.max(axis=0)).any(axis=1)].any()
    far, near = field.at(np.full((1, 3), 1e3))
    assert abs(far[0]) < 1e-12
    assert not near[0]
    edge, _ = field.at(np.full((1, 3), 1e3), clip=True)
    assert edge[0] == pytest.approx(field.at(points.max(axis=0)[None])[0][0])


def test_likelihood_slope_equals_differences() -> None:
    """Oracle: central differences of the likelihood itself."""
    rng = np.random.Generator(np.random.Philox(2))
    points, values = rng.random((30, 2)), rng.standard_normal(30)
    squares = (points.T[:, :, None] - points.T[:, None, :]) ** 2
    at = np.log([0.4, 0.9, 0.1])
    _, slope = _field._likelihood(at, values, squares)
    for i in range(3):
        step = np.eye(3)[i] * 1e-5
        up, down = (_field._likelihood(at + s, values, squares)[0] for s in (step, -step))
        assert slope[i] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-7)


FAMILY = Family(
    "line",
    ("x",),
    (Constant("base", 1.0, 0.1, 10.0), Constant("slope", 1.0, 0.1, 10.0)),
    lambda machine, constants, variant, columns: constants["base"] + constants["slope"] * columns["x"],
    lambda machine, columns: np.log(columns["x"])[:, None],
)
MACHINE = Machine(1.0, 1.0, 1, 2.0)


def test_fit_recovers_constants_and_table_points_come_back() -> None:
    """Oracle: a table made by the formula with a smooth factor on top."""
    x = np.geomspace(0.1, 50, 60)
    clean = Table({"x": x}, 2.0 + 3.0 * x)
    found = fit(FAMILY, MACHINE, clean)
    assert (found["base"], found["slope"]) == (pytest.approx(2.0, rel=1e-3), pytest.approx(3.0, rel=1e-3))
    table = Table({"x": x}, clean.seconds * (1 + 0.2 * np.sin(np.log(x))))
    model = Model(FAMILY, MACHINE, fit(FAMILY, MACHINE, table), table)
    seconds, sure = model.seconds({"x": x})
    np.testing.assert_allclose(seconds, table.seconds, rtol=1e-12)
    assert (sure == 0).all()
    between = np.sqrt(x[1:] * x[:-1])
    seconds, sure = model.seconds({"x": between})
    truth = (2 + 3 * between) * (1 + 0.2 * np.sin(np.log(between)))
    np.testing.assert_allclose(seconds, truth, rtol=0.01)
    assert (sure == 1).all()
    assert (model.seconds({"x": np.array([1e4])})[1] == 3).all()
