"""What an accelerator sustains under its power limit, and what it draws."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Literal

from euston.devices import _bandwidth, _tables
from euston.errors import ConfigError

if TYPE_CHECKING:
    from euston.catalog import Accelerator

Band = Literal["value", "low", "high"]

#: Idle power as a share of the limit where the catalogue has none.
DEFAULT_IDLE = 0.15
#: Share of peak that a busy matrix unit reaches where nothing sustained is published.
DEFAULT_EFF = 0.75


class Power:
    """Peaks, sustained rates and power of one accelerator; ``band`` is the end of the range that caps."""

    def __init__(self, accelerator: Accelerator, band: Band = "value") -> None:
        self.accelerator, self.band = accelerator, band
        table, _ = _tables.nearest_table(accelerator)
        self.table = table.name if table else None
        self._caps: dict[str, float | None] = {}

    def peak(self, dtype: str) -> float:
        """Dense peak of a dtype in FLOP/s, clock derate included."""
        peaks = self.accelerator.peak
        rate = peaks.get(dtype) or peaks.get(_tables.PEAK_DTYPE.get(dtype, dtype))
        if not rate:
            known = ", ".join(sorted(peaks))
            raise ConfigError(f"{self.accelerator.name} has no {dtype} arithmetic; it has {known}")
        return rate * self.accelerator.clock_derate

    def cap(self, dtype: str) -> float | None:
        """The sustained rate at the chosen end of its range; None where nothing is published."""
        if dtype not in self._caps:
            rates = self.sustained(dtype)
            self._caps[dtype] = rates[("value", "low", "high").index(self.band)] if rates else None
        return self._caps[dtype]

    def sustained(self, dtype: str) -> tuple[float, float, float] | None:
        """GEMM rate under the power limit as (value, low, high), FLOP/s; None where nothing is published.

        The catalogue's range; else the best published matmul rate, of a relative scaled by peak and, where
        this accelerator's power limit is lower, by an assumed square root of power.
        """
        published = self.accelerator.sustained
        plain = _tables.PEAK_DTYPE.get(dtype, dtype)
        band = published.get(dtype) or published.get(plain)
        if band:
            return band[0], band[1], band[2]
        for name in (self.accelerator.name, self.table or ""):
            best = _tables.achievable(name, plain)
            if best:
                rate = best[0] * self.peak(dtype) / best[1]
                borrowed = best == _tables.achievable(self.table or "", plain)
                power = self._share_of_power() if borrowed else 1.0
                # assumed: under a lower power limit the rate falls with its square root (clock and voltage
                # fall together); between not at all and in proportion
                return rate * math.sqrt(power), rate * power, rate
        return None

    def joules(self, seconds: float, flops: float, nbytes: float, dtype: str) -> float:
        """Idle power plus the rest of the limit times the busier of arithmetic and memory.

        NaN where the vendor publishes no power limit.
        """
        accelerator = self.accelerator
        limit = accelerator.power_limit
        if math.isnan(limit):
            return math.nan
        idle = accelerator.idle_power if accelerator.idle_power is not None else DEFAULT_IDLE * limit
        if seconds <= 0.0:
            return 0.0
        activity = nbytes / seconds / (_bandwidth.UPPER * accelerator.memory_bandwidth)
        if flops > 0:
            activity = max(activity, flops / seconds / self._best(dtype))
        return (idle + (limit - idle) * min(activity, 1.0)) * seconds

    def _best(self, dtype: str) -> float:
        found = _value(self, dtype)
        return found if found is not None else DEFAULT_EFF * self.peak(dtype)

    def _share_of_power(self) -> float:
        """Power limit over that of the nearest table's device, at most 1."""
        if self.table is None or math.isnan(self.accelerator.power_limit):
            return 1.0
        return min(self.accelerator.power_limit / _tables.tabled()[self.table].power_limit, 1.0)


@cache
def _value(power: Power, dtype: str) -> float | None:
    rates = power.sustained(dtype)
    return rates[0] if rates else None
