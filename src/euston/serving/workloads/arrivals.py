"""When requests come: Poisson, bursty, day and night, all at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, unknown

__all__ = ["ARRIVALS", "arrival_times"]


def _poisson(n: int, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.exponential(1 / rate, n).cumsum()


def _gamma(n: int, rate: float, rng: np.random.Generator, *, cv: float = 2.0) -> NDArray[np.float64]:
    _positive("cv", cv)
    return rng.gamma(1 / cv**2, cv**2 / rate, n).cumsum()


def _weibull(n: int, rate: float, rng: np.random.Generator, *, shape: float = 0.6) -> NDArray[np.float64]:
    _positive("shape", shape)
    return (rng.weibull(shape, n) / (rate * math.gamma(1 + 1 / shape))).cumsum()


def _constant(n: int, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.arange(n) / rate


def _burst(n: int, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.zeros(n)


def _mmpp(
    n: int,
    rate: float,
    rng: np.random.Generator,
    *,
    peak: float = 5.0,
    busy: float = 0.1,
    spell: float = 30.0,
) -> NDArray[np.float64]:
    """Two states: ``busy`` of the time the rate is ``peak`` times the mean, for ``spell`` s on average."""
    _positive("spell", spell)
    if not 0 < busy < 1 or not 1 <= peak <= 1 / busy:
        raise ConfigError(f"`arrivals`: peak {peak}, busy {busy}; need 0 < busy < 1 <= peak <= 1/busy")
    rates = rate * (1 - busy * peak) / (1 - busy), rate * peak
    stay = spell * (1 - busy) / busy, spell
    times: list[NDArray[np.float64]] = []
    state, now, have = int(rng.random() < busy), 0.0, 0
    while have < n:
        length = rng.exponential(stay[state])
        found = np.sort(rng.random(rng.poisson(rates[state] * length))) * length + now
        times.append(found)
        have, now, state = have + found.size, now + length, 1 - state
    return np.concatenate(times)[:n]


def _diurnal(
    n: int,
    rate: float,
    rng: np.random.Generator,
    *,
    swing: float = 0.5,
    period: float = 86400.0,
    phase: float = 0.0,
) -> NDArray[np.float64]:
    """A Poisson process of rate(t) = rate (1 + swing sin(2 pi t / period + phase)), by thinning."""
    _positive("period", period)
    if not 0 <= swing <= 1:
        raise ConfigError(f"`arrivals`: swing {swing} must be 0 to 1")
    times: list[NDArray[np.float64]] = []
    have, now = 0, 0.0
    while have < n:
        found = now + rng.exponential(1 / (rate * (1 + swing)), max(n - have, 16)).cumsum()
        keep = rng.random(found.size) * (1 + swing) < 1 + swing * np.sin(2 * np.pi * found / period + phase)
        times.append(found[keep])
        have, now = have + int(keep.sum()), float(found[-1])
    return np.concatenate(times)[:n]


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"`arrivals`: {name} {value} must be more than 0")


ARRIVALS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "poisson": _poisson,
    "gamma": _gamma,
    "weibull": _weibull,
    "constant": _constant,
    "burst": _burst,
    "mmpp": _mmpp,
    "diurnal": _diurnal,
}
"""Processes by name; gamma takes ``cv``, weibull ``shape``, mmpp ``peak, busy, spell``, diurnal ``swing,
period, phase``."""


def arrival_times(
    kind: str, n: int, rate: float, rng: np.random.Generator, **settings: float
) -> NDArray[np.float64]:
    """The first ``n`` arrivals of a process, float64[n], s from 0.

    Parameters
    ----------
    rate : float
        Mean arrivals per second (of no meaning for ``burst``, where all come at once).

    Raises
    ------
    ConfigError
        An unknown process or setting, a rate that is not above 0.
    """
    if kind not in ARRIVALS:
        raise ConfigError(f"`arrivals`: {unknown('process', kind, ARRIVALS)}")
    if n < 0:
        raise ConfigError(f"`requests`: {n} must be 0 or more")
    if kind != "burst":
        _positive("rate", rate)
    known = (ARRIVALS[kind].__kwdefaults__ or {}).keys()
    for name in settings:
        if name not in known:
            raise ConfigError(f"`arrivals`: {kind}: {unknown('setting', name, list(known))}")
    return ARRIVALS[kind](n, rate, rng, **settings)
