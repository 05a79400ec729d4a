"""The largest load, or the fewest replicas, that keep an SLO: bisection over runs with the same requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from euston.serving.metrics import Slo, kept
from euston.serving.result import ServingResult

__all__ = ["Capacity", "Point", "fewest", "judge", "largest"]

BATCHES = 20
"""Batches of consecutive requests, whose means are taken for independent (Student's t with 19 degrees)."""
STUDENT = 2.093
SKIPPED = 0.1
"""Share of the first requests that find an empty service and do not count."""
DRIFT = 0.05
"""Growth of the waiting time from the third to the last quarter that is no growth, over the TTFT limit."""
MOST_DOUBLINGS = 24


class Point(NamedTuple):
    """One run: its load or size, the share of requests that kept the SLO and its 95 % interval.

    ``stable`` is false where waiting times still grew at the end: a queue without bound, which a longer
    workload would show.
    """

    value: float
    attainment: float
    low: float
    high: float
    stable: bool
    goodput: float
    ttft_p90: float
    tpot_p90: float
    meets: bool


@dataclass
class Capacity:
    """What a search found.

    Attributes
    ----------
    best : Point or None
        The largest load (fewest replicas) that meets the SLO; None where nothing does.
    low, high : float
        For a load: certainly kept up to ``low``, certainly not from ``high`` on (95 % each).
    points : list of Point
    notes : list of str
        Points that contradict each other, few requests, an end that was not reached.
    finished : bool
        False after Ctrl-C: the best until then.
    """

    best: Point | None = None
    low: float = 0.0
    high: float = np.inf
    points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    finished: bool = True


def judge(result: ServingResult, slo: Slo, value: float) -> Point:
    """One run against an SLO, without the first tenth of its requests."""
    first = int(SKIPPED * len(result.requests))
    good = kept(result, slo)[first:].astype(np.float64)
    n = good.size
    parts = np.array_split(good, min(BATCHES, max(n, 1)))
    means = np.array([part.mean() for part in parts]) if n else np.zeros(1)
    share = float(good.mean()) if n else 0.0
    spread = STUDENT * float(means.std(ddof=1)) / np.sqrt(means.size) if means.size > 1 else 1.0
    # where all or none kept it: the rule of three
    spread = max(spread, 3.0 / max(n, 1) if share in (0.0, 1.0) else 0.0)
    stable = _stable(result, slo)
    came = result.arrival[np.isfinite(result.arrival)]
    span = float(came.max() - came.min()) if came.size > 1 else 0.0
    with np.errstate(invalid="ignore"):
        ttft, tpot = (v[first:][np.isfinite(v[first:])] for v in (result.ttft, result.tpot))
    return Point(
        value,
        share,
        max(0.0, share - spread),
        min(1.0, share + spread),
        stable,
        share * (len(result.requests) / span if span else 0.0),
        float(np.quantile(ttft, 0.9)) if ttft.size else np.nan,
        float(np.quantile(tpot, 0.9)) if tpot.size else np.nan,
        share >= slo.share and stable,
    )


def _stable(result: ServingResult, slo: Slo) -> bool:
    """Whether waiting did not grow from the third to the last quarter, beyond chance and `DRIFT`."""
    wait = result.scheduled - result.arrival
    wait = np.where(np.isfinite(wait), wait, result.end - result.arrival)[np.isfinite(result.arrival)]
    quarter = wait.size // 4
    if quarter < 50:
        return True  # too few to tell
    third, last = wait[2 * quarter : 3 * quarter], wait[3 * quarter :]
    means = [np.array([part.mean() for part in np.array_split(q, 10)]) for q in (third, last)]
    error = np.sqrt(sum(m.var(ddof=1) / m.size for m in means))
    growth = float(means[1].mean() - means[0].mean())
    limit = slo.ttft if np.isfinite(slo.ttft) else float(np.nanmean(result.e2e))
    return bool(growth <= max(2.1 * error, DRIFT * limit))


def largest(
    run: Callable[[float], ServingResult],
    slo: Slo,
    start: float,
    *,
    tolerance: float = 0.02,
    tell: Callable[[str], None] = lambda _: None,
) -> Capacity:
    """The largest load that keeps the SLO.

    Parameters
    ----------
    run : callable
        The service under a load; the same requests each time, so that runs differ by the load alone.
    start : float
        Where to begin; doubled while kept, halved while not.
    tolerance : float
        Of the answer, relative.
    """
    found = Capacity()

    def at(value: float) -> Point:
        tell(f"load {value:.4g}")
        point = judge(run(value), slo, value)
        found.points.append(point)
        return point

    try:
        _bracket(found, at, start, tolerance)
    except KeyboardInterrupt:
        found.finished = False
    points = sorted(found.points)
    failing = [p.value for p in points if not p.meets]
    passing = [p for p in points if p.meets and p.value < min(failing, default=np.inf)]
    if passing:
        found.best = passing[-1]
    sure = [p.value for p in passing if p.low >= slo.share]
    found.low = max(sure, default=0.0)
    wrong = [p.value for p in points if not p.stable or p.high < slo.share]
    found.high = min((v for v in wrong if v > found.low), default=np.inf)
    beyond = [p.value for p in points if p.meets and p.value > min(failing, default=np.inf)]
    if beyond:
        found.notes.append(
            f"not monotone: {min(failing):.4g} fails, {max(beyond):.4g} passes; the smaller one counts"
        )
    return found


def _bracket(found: Capacity, at: Callable[[float], Point], start: float, tolerance: float) -> None:
    point = at(start)
    low, high = (start, np.inf) if point.meets else (0.0, start)
    for _ in range(MOST_DOUBLINGS):
        if low and high < np.inf:
            break
        value = 2 * low if low else high / 2
        if at(value).meets:
            low = value
        else:
            high = value
    if not low:
        found.notes.append("even a lone request misses the SLO")
        return
    if high == np.inf:
        found.notes.append(f"kept even at {low:.4g}; the workload is too short to show the limit")
        return
    while high / low > 1 + tolerance:
        value = float(np.sqrt(low * high))
        if at(value).meets:
            low = value
        else:
            high = value


def fewest(
    run: Callable[[int], ServingResult],
    slo: Slo,
    most: int,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> Capacity:
    """The fewest replicas, 1 to ``most``, that keep the SLO."""
    found = Capacity()

    def meets(count: int) -> bool:
        tell(f"{count} replicas")
        found.points.append(judge(run(count), slo, float(count)))
        return found.points[-1].meets

    try:
        low, high = 0, 1
        while not meets(high):
            low = high
            if high == most:
                found.notes.append(f"not even {most} replicas keep the SLO")
                return found
            high = min(2 * high, most)
        while high - low > 1:
            middle = (low + high) // 2
            if meets(middle):
                high = middle
            else:
                low = middle
    except KeyboardInterrupt:
        found.finished = False
    passing = [p for p in sorted(found.points) if p.meets]
    if passing:
        found.best = passing[0]
        found.low = found.high = passing[0].value
    return found
