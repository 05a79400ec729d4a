"""Flow sizes: distributions of published workloads, of the user's own file, and the parametric ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from euston import units
from euston.errors import ConfigError, nearest, unknown
from euston.network.flows import MAX_FLOW_BYTES
from euston.seeds import stream
from euston.traffic.cdf import PUBLISHED, SizeCdf, published, read_cdf

__all__ = ["BoundedPareto", "Fixed", "LogNormal", "SizeDistribution", "Uniform", "size_distribution", "sizes"]


class SizeDistribution(Protocol):
    """Where flow sizes come from."""

    @property
    def name(self) -> str:
        """What a report calls it."""

    @property
    def mean(self) -> float:
        """Expected bytes, in closed form."""

    def quantile(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes below which a ``share`` in [0, 1) of the flows lie (inverse of the distribution function)."""

    def about(self) -> dict[str, Any]:
        """Plain data for the result: parameters, mean, interpolation, source."""


@dataclass(frozen=True)
class Fixed:
    """All flows of one size."""

    bytes: float

    def __post_init__(self) -> None:
        _in_range("bytes", self.bytes)

    @property
    def name(self) -> str:
        """``"2 MB"``."""
        return units.format_bytes(self.bytes)

    @property
    def mean(self) -> float:
        """That size."""
        return float(self.bytes)

    def quantile(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `SizeDistribution.quantile`."""
        return np.full(np.shape(share), float(self.bytes))

    def about(self) -> dict[str, Any]:
        """See `SizeDistribution.about`."""
        return {"distribution": "fixed", "bytes": self.bytes, "mean_bytes": self.mean}


@dataclass(frozen=True)
class Uniform:
    """Uniform between two sizes."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)

    @property
    def name(self) -> str:
        """``"uniform 1 kB to 1 MB"``."""
        return f"uniform {units.format_bytes(self.low)} to {units.format_bytes(self.high)}"

    @property
    def mean(self) -> float:
        """Halfway."""
        return (self.low + self.high) / 2

    def quantile(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `SizeDistribution.quantile`."""
        return self.low + (self.high - self.low) * np.asarray(share, np.float64)

    def about(self) -> dict[str, Any]:
        """See `SizeDistribution.about`."""
        return {"distribution": "uniform", "low": self.low, "high": self.high, "mean_bytes": self.mean}


@dataclass(frozen=True)
class LogNormal:
    """Log-normal sizes cut off at ``high``: ``exp(N(ln median, sigma^2))`` given that it is below.

    Parameters
    ----------
    median : float
        Bytes; of the distribution before the cut.
    sigma : float
        Standard deviation of the logarithm.
    high : float
        Largest flow.
    """

    median: float
    sigma: float
    high: float = float(MAX_FLOW_BYTES)

    def __post_init__(self) -> None:
        _ordered(self.median, self.high, "median")
        if not 0 < self.sigma <= 10:
            raise ConfigError(f"`sigma`: {self.sigma} must be above 0 and at most 10; traces have 1 to 3")

    @property
    def name(self) -> str:
        """``"log-normal around 100 kB, sigma 2"``."""
        return f"log-normal around {units.format_bytes(self.median)}, sigma {self.sigma:g}"

    @property
    def _cut(self) -> float:
        return math.log(self.high / self.median) / self.sigma

    @property
    def mean(self) -> float:
        """Of the cut distribution: median exp(sigma^2/2) Phi(z - sigma) / Phi(z), z the cut's score."""
        z = self._cut
        share = _phi(z - self.sigma) / _phi(z)
        return self.median * math.exp(self.sigma**2 / 2) * share

    def quantile(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `SizeDistribution.quantile`."""
        from scipy.special import ndtri

        below = np.asarray(share, np.float64) * _phi(self._cut)
        return np.asarray(np.minimum(self.high, self.median * np.exp(self.sigma * ndtri(below))), np.float64)

    def about(self) -> dict[str, Any]:
        """See `SizeDistribution.about`."""
        return {
            "distribution": "lognormal",
            "median": self.median,
            "sigma": self.sigma,
            "high": self.high,
            "mean_bytes": self.mean,
        }


@dataclass(frozen=True)
class BoundedPareto:
    """Heavy tail between two sizes: P(X > x) falls as ``x**-shape``."""

    shape: float
    low: float
    high: float = 1e9

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)
        if not 0 < self.shape <= 100:
            raise ConfigError(f"`shape`: {self.shape} must be above 0 and at most 100; web files have 1.1")

    @property
    def name(self) -> str:
        """``"Pareto 1.2, 1 kB to 1 GB"``."""
        span = f"{units.format_bytes(self.low)} to {units.format_bytes(self.high)}"
        return f"Pareto {self.shape:g}, {span}"

    @property
    def mean(self) -> float:
        """Closed form of the bounded distribution."""
        a, ratio = self.shape, self.low / self.high
        if abs(a - 1.0) < 1e-9:
            return self.low * -math.log(ratio) / (1.0 - ratio) if ratio < 1.0 else self.low
        if ratio == 1.0:
            return self.low
        return self.low * a / (a - 1.0) * (1.0 - ratio ** (a - 1.0)) / (1.0 - ratio**a)

    def quantile(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `SizeDistribution.quantile`."""
        left = 1.0 - np.asarray(share, np.float64) * (1.0 - (self.low / self.high) ** self.shape)
        return np.asarray(np.minimum(self.high, self.low * left ** (-1.0 / self.shape)), np.float64)

    def about(self) -> dict[str, Any]:
        """See `SizeDistribution.about`."""
        return {
            "distribution": "pareto",
            "shape": self.shape,
            "low": self.low,
            "high": self.high,
            "mean_bytes": self.mean,
        }


def sizes(dist: object, n: int, seed: int = 0) -> NDArray[np.int64]:
    """Sizes of ``n`` flows by inverse-transform sampling.

    Parameters
    ----------
    dist : str, number, mapping or SizeDistribution
        See `size_distribution`.
    n : int
    seed : int

    Returns
    -------
    int64[n]
        Whole bytes, at least 1.

    Raises
    ------
    ConfigError
        As `size_distribution`, or for a negative ``n``.
    """
    return draw(size_distribution(dist), n, stream(seed, "sizes"))


def draw(dist: SizeDistribution, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Sizes of ``n`` flows from a stream that the caller owns, int64[n] >= 1."""
    if n < 0:
        raise ConfigError(f"`flows`: {n} flows; a number of 0 or more is needed")
    drawn = np.rint(dist.quantile(generator.random(n)))
    return np.clip(drawn, 1, MAX_FLOW_BYTES).astype(np.int64)


_KINDS: dict[str, tuple[type[Any], dict[str, str]]] = {
    "fixed": (Fixed, {"bytes": "data"}),
    "uniform": (Uniform, {"low": "data", "high": "data"}),
    "lognormal": (LogNormal, {"median": "data", "sigma": "", "high": "data"}),
    "pareto": (BoundedPareto, {"shape": "", "low": "data", "high": "data"}),
}


def size_distribution(spec: object, where: str = "bytes") -> SizeDistribution:
    """A distribution from what a person writes.

    Parameters
    ----------
    spec : str, number, mapping or SizeDistribution
        ``"websearch"`` and the other published ones (`PUBLISHED`); a size, ``"2 MB"`` or 2e6; a file of
        points, ``"sizes.csv"``; ``{"distribution": "lognormal", "median": "100 kB", "sigma": 2}``, also
        ``fixed`` (bytes), ``uniform`` (low, high), ``pareto`` (shape, low, high) and
        ``{"distribution": "file", "file": PATH}``.
    where : str
        The place named in errors.

    Raises
    ------
    ConfigError, UnitError, TraceError
        Unknown names (with the nearest), parameters out of range, files that cannot be read.
    """
    if isinstance(spec, Mapping):
        return _from_mapping(dict(spec), where)
    if isinstance(spec, str):
        if spec in PUBLISHED:
            return published(spec)
        if units.split(spec) is not None:
            return Fixed(units.data(spec, positive=True, where=where))
        if Path(spec).suffix.lower() in (".csv", ".txt", ".cdf", ".tsv"):
            return read_cdf(spec)
        raise ConfigError(f"`{where}`: {unknown('flow-size distribution', spec, (*PUBLISHED, *_KINDS))}")
    if isinstance(spec, int | float | np.integer | np.floating) and not isinstance(spec, bool):
        return Fixed(units.data(float(spec), positive=True, where=where))
    if isinstance(spec, Fixed | Uniform | LogNormal | BoundedPareto | SizeCdf) or _is_distribution(spec):
        return spec  # type: ignore[return-value]
    raise ConfigError(f"`{where}`: {spec!r} is no size; write 2 MB, or the name of a distribution")


def _is_distribution(spec: object) -> bool:
    return all(hasattr(spec, name) for name in ("name", "mean", "quantile", "about"))


def _from_mapping(given: dict[str, Any], where: str) -> SizeDistribution:
    kind = given.pop("distribution", None)
    if not isinstance(kind, str):
        raise ConfigError(f"`{where}.distribution`: is missing; one of {', '.join((*_KINDS, 'file'))}")
    if kind == "file":
        if set(given) != {"file"} or not isinstance(given["file"], str | Path):
            raise ConfigError(f"`{where}`: a distribution from a file needs `file` and nothing else")
        return read_cdf(given["file"])
    if kind in PUBLISHED:
        if given:
            raise ConfigError(f"`{where}.{next(iter(given))}`: {kind!r} is published as it is; leave it out")
        return published(kind)
    if kind not in _KINDS:
        names = (*_KINDS, "file", *PUBLISHED)
        raise ConfigError(f"`{where}.distribution`: {unknown('flow-size distribution', kind, names)}")
    make, fields = _KINDS[kind]
    values: dict[str, float] = {}
    for key, value in given.items():
        if key not in fields:
            guess = nearest(key, fields)
            hint = f"; did you mean {guess!r}?" if guess else f"; it takes {', '.join(fields)}"
            raise ConfigError(f"`{where}.{key}`: no parameter of {kind!r}{hint}")
        if fields[key]:
            values[key] = units.parse(value, fields[key], positive=True, where=f"{where}.{key}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"`{where}.{key}`: {value!r} is not a number")
        else:
            values[key] = float(value)
    try:
        made: SizeDistribution = make(**values)
    except TypeError:
        missing = [name for name in fields if name not in values and name != "high"] or ["high"]
        raise ConfigError(f"`{where}.{missing[0]}`: is missing for {kind!r}") from None
    except ConfigError as error:
        raise ConfigError(f"`{where}`: {error}") from None
    return made


def _in_range(name: str, value: float) -> None:
    if not 1 <= value <= MAX_FLOW_BYTES:
        raise ConfigError(f"`{name}`: {value:.15g} bytes; a flow has 1 to 2^40 (1.0995e12)")


def _ordered(low: float, high: float, name: str = "low") -> None:
    _in_range(name, low)
    _in_range("high", high)
    if low > high:
        raise ConfigError(f"`{name}`: {low:.15g} bytes is above `high`, {high:.15g}")


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
