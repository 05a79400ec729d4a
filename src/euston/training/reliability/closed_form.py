"""Closed forms of checkpoint and restart under exponential failures: what the campaign is checked against.

``rate`` is failures per second of the whole job, ``interval`` seconds of work between checkpoints, ``stall``
seconds a checkpoint stops the job, ``restart`` seconds from a failure to work again.
"""

from __future__ import annotations

import math

from euston.errors import ConfigError

__all__ = ["daly", "ettr_exact", "ettr_first_order", "segment_time", "young"]


def young(stall: float, rate: float) -> float:
    """Best interval to first order, sqrt(2 C / rate) (Young, CACM 1974)."""
    return math.sqrt(2.0 * _positive("stall", stall) / _positive("rate", rate))


def daly(stall: float, rate: float) -> float:
    """Best interval to higher order (Daly, FGCS 2006, eq. 37); the time between failures for C >= 2/rate."""
    c = _positive("stall", stall)
    mttf = 1.0 / _positive("rate", rate)
    if c >= 2.0 * mttf:
        return mttf
    x = c / (2.0 * mttf)
    return math.sqrt(2.0 * c * mttf) * (1.0 + math.sqrt(x) / 3.0 + x / 9.0) - c


def segment_time(length: float, rate: float, restart: float, *, during_restart: bool = False) -> float:
    """Mean seconds to get through ``length`` seconds (work and stall) without a failure.

    (1/rate + restart)(e^{rate length} - 1) where restarts do not fail; e^{rate restart}(e^{rate length} - 1)
    / rate where they can and start over (Daly 2006).
    """
    rate = _positive("rate", rate)
    grown = math.expm1(rate * length)
    if during_restart:
        return math.exp(rate * restart) * grown / rate
    return (1.0 / rate + restart) * grown


def ettr_exact(
    interval: float, stall: float, rate: float, restart: float, *, during_restart: bool = False
) -> float:
    """Productive share of the time of an endless job with checkpoints every ``interval``."""
    return interval / segment_time(interval + stall, rate, restart, during_restart=during_restart)


def ettr_first_order(
    interval: float, stall: float, rate: float, restart: float, *, queue: float = 0.0, work: float = math.inf
) -> float:
    """ETTR of a job of ``work`` seconds to first order in the rate (Kokolis et al., arXiv:2410.21680).

    T (1 - rate (D/2 + u)) = R (1 + C/D) + u and W = T + q (1 + rate T); 0 where failures outrun the work.
    """
    useful = 1.0 - rate * (interval / 2.0 + restart)
    if useful <= 0:
        return 0.0
    scheduled = (1.0 + stall / interval + restart / work) / useful
    return 1.0 / (scheduled + queue * (1.0 / work + rate * scheduled))


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ConfigError(f"`{name}`: {value} must be a finite number above 0")
    return value
