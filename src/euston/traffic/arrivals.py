"""Arrival times: Poisson, log-normal bursts, periodic, per source, stationary from the first second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, unknown

__all__ = ["ARRIVALS", "arrivals"]

ARRIVALS = ("poisson", "lognormal", "periodic")
"""Kinds of inter-arrival times."""

_MOST = 2**24


def arrivals(
    kind: str,
    rate: NDArray[np.float64],
    duration: float,
    generator: np.random.Generator,
    *,
    sigma: float = 1.0,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Arrivals of independent sources within [0, duration).

    Every source is a stationary renewal process, so ``rate * duration`` arrivals are expected whatever the
    burstiness: the first gap is the residual of a gap that was going on.

    Parameters
    ----------
    kind : "poisson" | "lognormal" | "periodic"
        Distribution of the gaps. Periodic sources start at random phases.
    rate : float64[n]
        Mean arrivals per second of each source; 0 for none.
    duration : float
        Seconds.
    sigma : float
        Standard deviation of the logarithm of log-normal gaps: burstiness, 1 to 2 in traces.

    Returns
    -------
    source, time : int32[A], float64[A]
        Sorted by time.
    """
    if kind not in ARRIVALS:
        raise ConfigError(f"`arrivals`: {unknown('kind of arrivals', kind, ARRIVALS)}")
    if not 0 < duration < np.inf:
        raise ConfigError(f"`duration`: {duration} is no time; write seconds above 0")
    if not 0 < sigma <= 5:
        raise ConfigError(f"`sigma`: {sigma} must be above 0 and at most 5; traces have 1 to 2")
    rate = np.asarray(rate, np.float64)
    if not ((rate >= 0) & (rate < np.inf)).all():
        raise ConfigError("`rate`: arrivals per second must be finite and 0 or more")
    if rate.sum() * duration > _MOST:
        raise ConfigError(
            f"`duration`: {rate.sum() * duration:.3g} arrivals are expected; at most {_MOST:,} can be drawn"
        )
    sources = np.flatnonzero(rate > 0)
    mean = 1.0 / rate[sources]
    time = mean * _residual(kind, sources.size, generator, sigma)
    found_source: list[NDArray[np.int64]] = []
    found_time: list[NDArray[np.float64]] = []
    while sources.size:
        inside = time < duration
        sources, mean, time = sources[inside], mean[inside], time[inside]
        found_source.append(sources)
        found_time.append(time)
        # a block of gaps per source, about as many as are missing
        block = int(np.clip(np.max((duration - time) / mean, initial=0.0) * 1.05 + 3, 1, 4096))
        block = max(1, min(block, 4_000_000 // max(1, sources.size)))
        gaps = mean[:, None] * _gaps(kind, (sources.size, block), generator, sigma)
        times = time[:, None] + np.cumsum(gaps, axis=1)
        kept = times[:, :-1] < duration
        found_source.append(np.repeat(sources, kept.sum(axis=1)))
        found_time.append(times[:, :-1][kept])
        time = times[:, -1]
    source, at = np.concatenate(found_source or [sources]), np.concatenate(found_time or [time])
    order = np.lexsort((source, at))
    return source[order].astype(np.int32), at[order]


def _gaps(
    kind: str, shape: tuple[int, int], generator: np.random.Generator, sigma: float
) -> NDArray[np.float64]:
    """Gaps of mean 1."""
    if kind == "poisson":
        return generator.standard_exponential(shape)
    if kind == "lognormal":
        return generator.lognormal(-(sigma**2) / 2, sigma, shape)
    return np.ones(shape)


def _residual(kind: str, n: int, generator: np.random.Generator, sigma: float) -> NDArray[np.float64]:
    """What is left of the gap that covers time 0: a uniform share of a gap drawn by its length (Cox 1962).

    By its length, a log-normal gap is again log-normal with its location raised by sigma^2.
    """
    if kind == "poisson":
        return generator.standard_exponential(n)
    share = generator.random(n)
    if kind == "lognormal":
        return share * generator.lognormal(sigma**2 / 2, sigma, n)
    return share
