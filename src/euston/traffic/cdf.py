"""Flow sizes given as points of a cumulative distribution: the published workloads and the user's files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston.errors import ConfigError, TraceError
from euston.network.flows import MAX_FLOW_BYTES
from euston.traffic._files import read_text

__all__ = ["PUBLISHED", "SizeCdf", "published", "read_cdf"]

PUBLISHED = ("websearch", "fb_hadoop", "alistorage2019", "google_rpc2008", "datamining")
"""Workloads whose flow sizes come with the package."""

_MAX_POINTS = 1_000_000


@dataclass(frozen=True, eq=False)
class SizeCdf:
    """Points (size, cdf) joined by straight lines, in size and not in its logarithm.

    The mean of a heavy tail depends on how points are joined (data mining ends in a point at 1 GB), so the
    result says which was used.

    Attributes
    ----------
    name : str
    size : float64[P]
        Bytes, not falling.
    cdf : float64[P]
        Share of flows up to that size, not falling, ends in 1. A share at the first point is a share of
        flows of just that size.
    source : str
    """

    name: str
    size: NDArray[np.float64]
    cdf: NDArray[np.float64]
    source: str = ""

    def __post_init__(self) -> None:
        s, c = self.size, self.cdf
        if s.ndim != 1 or s.shape != c.shape or s.size < 1:
            raise ConfigError(f"`{self.name}`: needs as many shares as sizes, at least one of each")
        bad = ~((s >= 0) & (s <= MAX_FLOW_BYTES)) | ~((c >= 0) & (c <= 1))
        bad[1:] |= (np.diff(s) < 0) | (np.diff(c) < 0)
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise ConfigError(
                f"`{self.name}`: point {i} ({s[i]:.15g}, {c[i]:.15g}); sizes go from 0 to 2^40 and shares "
                "from 0 to 1, and neither falls"
            )
        if c[-1] != 1.0:
            raise ConfigError(f"`{self.name}`: the last share is {c[-1]:.15g}; it must be 1")
        s.flags.writeable = False
        c.flags.writeable = False

    @property
    def mean(self) -> float:
        """Expected bytes of the interpolated distribution: every piece counts its midpoint."""
        middle = (self.size[1:] + self.size[:-1]) / 2
        return float(self.cdf[0] * self.size[0] + np.dot(np.diff(self.cdf), middle))

    def share(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of flows of at most ``size`` bytes."""
        at = np.interp(size, self.size, self.cdf, left=0.0, right=1.0)
        return np.asarray(at, np.float64)

    def quantile(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `SizeDistribution.quantile`."""
        return np.asarray(np.interp(share, self.cdf, self.size), np.float64)

    def about(self) -> dict[str, Any]:
        """See `SizeDistribution.about`."""
        return {
            "distribution": self.name,
            "mean_bytes": self.mean,
            "largest_bytes": float(self.size[-1]),
            "interpolation": "linear in size",
            "source": self.source,
        }


@cache
def published(name: str) -> SizeCdf:
    """A published workload's distribution by name (`PUBLISHED`)."""
    text = resources.files("euston.traffic").joinpath("data/flow_size_cdf.csv").read_text("utf-8")
    lines = text.splitlines()
    source = next(line[2:].partition(": ")[2] for line in lines if line.startswith(f"# {name}: "))
    points = [line.split(",")[1:] for line in lines if line.startswith(f"{name},")]
    table = np.array(points, np.float64)
    return SizeCdf(name, table[:, 0].copy(), table[:, 1].copy(), source)


def read_cdf(path: str | Path) -> SizeCdf:
    """Read points from a text file: a size in bytes and a share per line.

    Separated by comma, semicolon, tab or blanks; a header line, empty lines and lines that start with ``#``
    are passed over. Shares go to 1, or to 100 as in the files of traffic generators.

    Raises
    ------
    TraceError
        With the line, for anything that is no such point.
    """
    name, text = read_text(path, 64 * 2**20, "a flow-size distribution")
    sizes: list[float] = []
    shares: list[float] = []
    numbers: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell for cell in re.split(r"[,;\s]+", line.strip()) if cell]
        if not cells or cells[0].startswith("#"):
            continue
        try:
            size, share = (float(cell) for cell in cells)
        except ValueError:
            if not sizes and not any(character.isdigit() for character in cells[-1]):
                continue  # the header
            raise TraceError(
                f"`{name}:{number}`: {line.strip()[:60]!r} is not a size in bytes and a share"
            ) from None
        if not (0 <= size <= MAX_FLOW_BYTES and share >= 0):
            raise TraceError(f"`{name}:{number}`: {size:.15g}, {share:.15g}; sizes go from 0 to 2^40")
        if sizes and (size < sizes[-1] or share < shares[-1]):
            raise TraceError(f"`{name}:{number}`: falls below the line before; sizes and shares only rise")
        sizes.append(size)
        shares.append(share)
        numbers.append(number)
        if len(sizes) > _MAX_POINTS:
            raise TraceError(f"`{name}:{number}`: more than {_MAX_POINTS:,} points; thin them out")
    if not sizes:
        raise TraceError(f"`{name}`: holds no point; write a size in bytes and a share per line")
    top = shares[-1]
    if top not in (1.0, 100.0):
        raise TraceError(f"`{name}:{numbers[-1]}`: the last share is {top:.15g}; it must be 1 (or 100)")
    return SizeCdf(name, np.array(sizes), np.array(shares) / top, str(path))
