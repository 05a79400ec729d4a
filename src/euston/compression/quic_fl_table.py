"""The tables of QUIC-FL: unbiased quantisation of a bounded normal with shared randomness, solved exactly.

Sender and receiver draw h in [0, H) together. The receiver reads code x as R[h, x]. For given R the
sender's best unbiased rule follows from Lagrange's condition: it takes the value of its row that is nearest
to a target t(z), the same for all h. As t grows, rows switch to their next value one after the other, at
midpoints; between two switches E[R] stays, at a switch it jumps by (R[h, x + 1] - R[h, x]) / H, and a z
inside the jump is met by switching with that probability. So the sender's rule is a list of switches in the
order of their midpoints, and the error a sum of truncated normal moments over them: no grid over z is
needed.

R itself minimises that error. Its gradient is (2 / H) E[1{x sent} (R[h, x] - t(z))] by the envelope
theorem, and L-BFGS does the rest from a dithered uniform start.

Ben Basat, Vargaftik, Portnoy, Einziger, Ben-Itzhak & Mitzenmacher, "QUIC-FL: Quick Unbiased Compression for
Federated Learning", ICML 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtr

from euston.compression.thc_table import truncation
from euston.errors import ConfigError

__all__ = ["QuicTable", "quic_table"]


@dataclass(frozen=True, eq=False)
class QuicTable:
    """Sender's and receiver's tables.

    Attributes
    ----------
    reach : float
        t: the range is [-t, t] standard deviations.
    values : float64[H, 2**bits]
        R[h, x], ascending in x.
    mean : float64[J + 1]
        E[R] after so many of the J = H (2**bits - 1) switches; from -reach to reach.
    row : int64[J]
        The row that makes switch j, for z between mean[j] and mean[j + 1].
    code : uint8[J + 1, H]
        x of each row after so many switches.
    error : float
        E (z - R)^2 over the range, z ~ N(0, 1), nothing beyond it.
    """

    reach: float
    values: NDArray[np.float64]
    mean: NDArray[np.float64]
    row: NDArray[np.int64]
    code: NDArray[np.uint8]
    error: float


def _moments(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Integrals of phi, z phi and z^2 phi over each interval between neighbours of `z`."""
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return tuple(np.diff(part) for part in (ndtr(z), -density, ndtr(z) - z * density))


def _switches(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Row, code before, and midpoint of each switch, in the order in which targets reach them."""
    middle = (values[:, 1:] + values[:, :-1]) / 2
    order = np.argsort(middle, axis=None, kind="stable")
    row, before = np.divmod(order, values.shape[1] - 1)
    return row, before, middle.ravel()[order]


def _error(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """E (z - R)^2 over the range, and its gradient."""
    rows, levels = values.shape
    row, before, middle = _switches(values)
    low, high = values[row, before], values[row, before + 1]
    mean = values[:, 0].mean() + np.concatenate(([0.0], np.cumsum((high - low) / rows)))
    m0, m1, m2 = _moments(mean)
    gap = np.maximum(np.diff(mean), 1e-300)
    # In interval j the switching row sends `high` with probability (z - mean[j]) / gap.
    up = (m1 - mean[:-1] * m0) / gap
    # E (z - R)^2 = E z^2 - 2 E z E[R | z] + E R^2, and E[R | z] = z: the error is E R^2 - E z^2.
    square = (values[:, 0] ** 2).sum() + np.concatenate(([0.0], np.cumsum(high**2 - low**2)))[:-1]
    error = ((square * m0 + (high**2 - low**2) * up) / rows - m2).sum()
    # Mass and target of each (row, code): whole intervals by differences of prefix sums, the switch by `up`.
    mass, target = np.concatenate(([0.0], np.cumsum(m0))), np.concatenate(([0.0], np.cumsum(m0 * middle)))
    at = np.empty((rows, levels - 1), np.int64)
    at[row, before] = np.arange(row.size)
    weight, pull = np.zeros_like(values), np.zeros_like(values)
    left = np.concatenate(
        [np.zeros((rows, 1), np.int64), at + 1], axis=1
    )  # first interval after the switch in
    right = np.concatenate([at, np.full((rows, 1), row.size)], axis=1)  # the interval of the switch out
    weight += mass[right] - mass[left]
    pull += target[right] - target[left]
    weight[:, 1:] += up[at]
    pull[:, 1:] += (up * middle)[at]
    weight[:, :-1] += (m0 - up)[at]
    pull[:, :-1] += ((m0 - up) * middle)[at]
    return float(error), 2.0 / rows * (weight * values - pull)


def _from_free(free: NDArray[np.float64], rows: int, levels: int, reach: float) -> NDArray[np.float64]:
    """Values from the optimiser's variables: odd under (h, x) -> (H-1-h, L-1-x), edges +-reach on average."""
    values = free.reshape(rows, levels)
    values = (values - values[::-1, ::-1]) / 2
    shift = -reach - values[:, 0].mean()
    values = values.copy()
    values[:, 0] += shift
    values[:, -1] -= shift
    return values


def _to_free(gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """The transpose of `_from_free`, for gradients."""
    gradient = gradient.copy()
    gradient[:, 0] -= gradient[:, 0].mean()
    gradient[:, -1] -= gradient[:, -1].mean()
    return ((gradient - gradient[::-1, ::-1]) / 2).ravel()


@cache
def quic_table(bits: int, rows: int, outlier: float) -> QuicTable:
    """Tables for `bits` bits, `rows` values of shared randomness, and a share `outlier` that is sent apart.

    Raises
    ------
    ConfigError
        Bits outside 1 to 4, rows outside 2 to 256, or a share that is no probability.
    """
    if not 1 <= bits <= 4:
        raise ConfigError(f"`quic_fl.bits`: {bits}; tables are solved for 1 to 4")
    if not 2 <= rows <= 256 or rows & (rows - 1):
        raise ConfigError(f"`quic_fl.randomness`: {rows}; a power of two from 2 to 256")
    reach, levels = truncation(outlier), 1 << bits
    # Start: a uniform quantiser whose rows are shifted against each other over one step (subtractive dither).
    step = 2.0 * reach / (levels - 1)
    dither = (np.arange(rows) + 0.5) / rows - 0.5
    start = np.linspace(-reach, reach, levels)[None, :] + step * dither[:, None]

    def objective(free: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        values = np.sort(_from_free(free, rows, levels, reach), axis=1)
        error, gradient = _error(values)
        return error, _to_free(gradient)

    found = minimize(
        objective,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 3000, "maxfun": 6000, "ftol": 1e-12},
    )
    values = np.sort(_from_free(found.x, rows, levels, reach), axis=1)
    row, before, _ = _switches(values)
    jumps = (values[row, before + 1] - values[row, before]) / rows
    mean = np.concatenate(([0.0], np.cumsum(jumps))) + values[:, 0].mean()
    code = np.zeros((row.size + 1, rows), np.uint8)
    for j in range(row.size):
        code[j + 1] = code[j]
        code[j + 1, row[j]] += 1
    return QuicTable(reach, values, mean, row, code, _error(values)[0])
