"""What a run is worth: latency percentiles, goodput under an SLO, cache hits, load over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.serving.result import Outcome, ServingResult

__all__ = ["QUANTILES", "Slo", "kept", "latencies", "load_over_time", "per_class", "per_request", "scalars"]

QUANTILES = (0.5, 0.9, 0.95, 0.99)
_F = NDArray[np.float64]


@dataclass(frozen=True)
class Slo:
    """Latencies that a request must keep, in seconds (inf: any), and the ``share`` that must keep them.

    ``ttft`` time to first token, ``tpot`` mean time per output token after it, ``itl`` longest gap between
    two tokens, ``e2e`` time to the last token.
    """

    ttft: float = np.inf
    tpot: float = np.inf
    itl: float = np.inf
    e2e: float = np.inf
    share: float = 0.9


def kept(result: ServingResult, slo: Slo) -> NDArray[np.bool_]:
    """Requests that were served within all latencies of the SLO; an answer of one token has no TPOT."""
    with np.errstate(invalid="ignore"):
        good = result.done & (result.ttft <= slo.ttft) & (result.e2e <= slo.e2e)
        good &= np.isnan(result.tpot) | (result.tpot <= slo.tpot)
        return np.asarray(good & ~(result.worst_gap > slo.itl))


def _quantiles(values: _F) -> list[float]:
    found = values[np.isfinite(values)]
    if not found.size:
        return [np.nan] * (len(QUANTILES) + 2)
    return [float(found.mean()), *np.quantile(found, QUANTILES).tolist(), float(found.max())]


def latencies(result: ServingResult) -> pl.DataFrame:
    """Mean, percentiles and maximum of each latency in seconds.

    Returns
    -------
    polars.DataFrame
        Columns metric, mean, p50, p90, p95, p99, max; rows queue (arrival to first scheduled), ttft, itl
        (every gap between two tokens, to 0.27 %), tpot, e2e and normalised (E2E over output tokens).
    """
    names = ("mean", *(f"p{q * 100:g}" for q in QUANTILES), "max")
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = result.e2e / result.tokens
    rows = {"queue": _quantiles(result.scheduled - result.arrival), "ttft": _quantiles(result.ttft)}
    gaps = int(result.gap_counts.sum())
    if gaps:
        through = float(np.nansum(np.where(result.done, result.last - result.first, 0.0)))
        tokens = int(np.maximum(result.tokens[result.done] - 1, 0).sum())
        worst = float(np.nanmax(result.worst_gap))
        # of the histogram's middle, never beyond the worst gap that was seen
        quantiles = np.minimum(result.gap_quantile(QUANTILES), worst).tolist()
        rows["itl"] = [through / tokens if tokens else np.nan, *quantiles, worst]
    rows |= {
        "tpot": _quantiles(result.tpot),
        "e2e": _quantiles(result.e2e),
        "normalised": _quantiles(normalised),
    }
    return pl.DataFrame(
        [(metric, *values) for metric, values in rows.items()],
        schema={"metric": pl.String, **dict.fromkeys(names, pl.Float64)},
        orient="row",
    )


def scalars(result: ServingResult, slo: Slo) -> dict[str, float]:
    """Headline numbers of a run, SI."""
    came = np.isfinite(result.arrival)
    n, done = int(came.sum()), int(result.done.sum())
    begin = float(result.arrival[came].min()) if n else 0.0
    span = max(result.end - begin, 0.0)
    good = kept(result, slo)
    prompt = int(result.requests.in_tok[np.isfinite(result.scheduled)].sum())
    table = {row["metric"]: row for row in latencies(result).to_dicts()}
    found = {
        "requests": float(n),
        "done": float(done),
        "refused": float((result.outcome > Outcome.DONE).sum()),
        "makespan": span,
        "requests_per_second": _over(done, span),
        "output_tokens_per_second": _over(float(result.tokens.sum()), span),
        "slo_goodput": _over(float(good.sum()), span),
        "slo_attainment": _over(float(good.sum()), n),
    }
    for metric in ("ttft", "itl", "tpot", "e2e"):
        for column in ("mean", "p50", "p90", "p99"):
            if metric in table:
                found[f"{metric}_{column}"] = table[metric][column]
    return found | {
        "hit_share": _over(float(result.hits.sum()), prompt),
        "tier_hit_share": _over(float(result.tier_hits.sum()), prompt),
        "preemptions": float(result.preemptions.sum()),
        "kv_peak": float(np.max(result.ranks["peak_blocks"] / np.maximum(result.ranks["blocks"], 1))),
        "busy_share": _over(float(result.busy.mean()), result.end),
        "handed_bytes": result.handed_bytes,
    }


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0


def per_class(result: ServingResult, names: Sequence[str]) -> pl.DataFrame:
    """One row per class of requests: times in seconds; ``on_time`` had their first token when it was due."""
    requests, queue = result.requests, result.scheduled - result.arrival
    rows = []
    for number, name in enumerate(names):
        mine = (requests.klass == number) & np.isfinite(result.arrival)
        on_time = result.ttft[mine] <= requests.deadline_s[mine]
        rows.append(
            {
                "class": name,
                "requests": int(mine.sum()),
                "done": int((mine & result.done).sum()),
                "queue_mean": _quantiles(queue[mine])[0],
                "ttft_mean": _quantiles(result.ttft[mine])[0],
                "ttft_p99": _quantiles(result.ttft[mine])[1 + QUANTILES.index(0.99)],
                "tpot_mean": _quantiles(result.tpot[mine])[0],
                "e2e_mean": _quantiles(result.e2e[mine])[0],
                "on_time": _over(float(on_time.sum()), on_time.size),
            }
        )
    return pl.DataFrame(rows).fill_nan(None)


def per_request(result: ServingResult) -> pl.DataFrame:
    """One row per request: times in seconds, tokens, hits, where it ended and how."""
    names = [outcome.name.lower() for outcome in Outcome]
    return pl.DataFrame(
        {
            "arrival": result.arrival,
            "queue": result.scheduled - result.arrival,
            "ttft": result.ttft,
            "tpot": result.tpot,
            "e2e": result.e2e,
            "worst_gap": result.worst_gap,
            "prompt": result.requests.in_tok,
            "tokens": result.tokens,
            "hits": result.hits,
            "tier_hits": result.tier_hits,
            "preemptions": result.preemptions,
            "rank": result.rank,
            "class": result.requests.klass,
            "outcome": pl.Series(names).gather(pl.Series(result.outcome.astype(np.uint32))),
        }
    ).fill_nan(None)


def load_over_time(result: ServingResult, points: int = 400) -> pl.DataFrame:
    """Requests that wait and that run, and the tokens of their contexts, at ``points`` moments.

    Taken from each request's times: a context holds the prompt from when it is first scheduled and grows
    evenly to its last token; what a preemption threw out in between is not subtracted.

    Returns
    -------
    polars.DataFrame
        Columns time (s), waiting, running, context_tokens.
    """
    came = np.isfinite(result.arrival)
    end = max(result.end, 1e-9)
    time = np.linspace(0.0, end, points)
    last = np.where(np.isfinite(result.last), result.last, end)
    start = np.where(np.isfinite(result.scheduled), result.scheduled, last)
    first = np.where(np.isfinite(result.first), result.first, last)

    def under_way(begin: _F, until: _F) -> NDArray[np.int64]:
        starts, ends = np.sort(begin[came]), np.sort(until[came])
        return np.searchsorted(starts, time, "right") - np.searchsorted(ends, time, "right")

    def weighed(at: _F, weight: _F) -> _F:
        order = np.argsort(at[came], kind="stable")
        total = np.concatenate(([0.0], np.cumsum(weight[came][order])))
        return np.asarray(total[np.searchsorted(at[came][order], time, "right")])

    prompt = result.requests.in_tok.astype(np.float64)
    answered = (last > first) & (result.tokens > 1)
    slope = np.where(answered, result.tokens / np.where(answered, last - first, 1.0), 0.0)
    tokens = weighed(start, prompt) - weighed(last, prompt)
    # sum over requests under way of slope (t - first): linear in t, by running sums of slope and slope first
    for at, sign in ((first, 1.0), (last, -1.0)):
        tokens = tokens + sign * (time * weighed(at, slope) - weighed(at, slope * first))
    return pl.DataFrame(
        {
            "time": time,
            "waiting": under_way(result.arrival, start),
            "running": under_way(start, last),
            "context_tokens": np.maximum(tokens, 0.0),
        }
    )
