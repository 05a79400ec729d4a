"""Finished campaigns as a ``Result``: ETTR, goodput, cost, energy, events and the weeks as a timeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from euston import __version__
from euston.result import TIMELINE, Result
from euston.statistics import bootstrap
from euston.training.reliability.campaign import Campaign
from euston.training.reliability.record import KINDS, Outcome
from euston.training.reliability.states import HEALTHY

__all__ = ["UNITS", "campaign_result"]

UNITS = {
    "ettr": "1", "ettr_low": "1", "ettr_high": "1", "goodput_tokens": "1/s", "goodput_share": "1",
    "wall_time": "s", "tokens": "1", "steps": "1", "interruptions": "1", "mttf": "s", "mttf_expected": "s",
    "interruptions_expected": "1", "lost_time": "s", "lost_per_interruption": "s", "healthy_step_time": "s",
    "checkpoint_interval": "s", "checkpoint_stall": "s", "checkpoint_write": "s", "checkpoint_bytes": "B",
    "restart_time": "s", "finished": "1", "repeats": "1",
}  # fmt: skip


def campaign_result(plan: Campaign, outcomes: Sequence[Outcome], **meta: Any) -> Result:
    """The first run in detail; headline numbers are means over all of them.

    Returns
    -------
    Result
        ``ettr`` (with a 95 % bootstrap interval over repetitions), ``goodput_tokens`` (kept, per second);
        tables ``waterfall`` (kind, seconds, share), ``events``, ``causes``, ``states``, ``curve``,
        ``repeats``; the timeline has one line per interval.
    """
    first = outcomes[0]
    healthy, cost = plan.steps.step(HEALTHY), plan.cost
    ideal = healthy.tokens / healthy.seconds
    rate = plan.failure_rate

    def mean(values: Sequence[float]) -> float:
        return math.fsum(values) / len(values)

    interruptions = mean([o.interruptions for o in outcomes])
    exposed, wall = mean([o.exposure for o in outcomes]), mean([o.wall for o in outcomes])
    lost = mean([o.seconds["lost"] for o in outcomes])
    spread = bootstrap([o.ettr for o in outcomes], np.mean, seed=plan.seed)
    goodput = mean([o.tokens for o in outcomes]) / wall
    scalars = {
        "ettr": spread.value,
        **({"ettr_low": spread.low, "ettr_high": spread.high} if len(outcomes) > 1 else {}),
        "goodput_tokens": goodput,
        "goodput_share": goodput / ideal,
        "wall_time": wall,
        "tokens": mean([o.tokens for o in outcomes]),
        "steps": mean([o.steps for o in outcomes]),
        "interruptions": interruptions,
        "interruptions_expected": rate * exposed,
        "mttf": exposed / interruptions if interruptions else math.inf,
        "mttf_expected": 1.0 / rate if rate > 0 else math.inf,
        "lost_time": lost,
        "lost_per_interruption": lost / interruptions if interruptions else 0.0,
        "healthy_step_time": healthy.seconds,
        "checkpoint_interval": plan.steps_between * healthy.seconds,
        "checkpoint_stall": cost.stall,
        "checkpoint_write": cost.write,
        "checkpoint_bytes": cost.bytes,
        "restart_time": plan.recovery.restart(cost.load),
        "finished": float(all(o.finished for o in outcomes)) if math.isfinite(plan.tokens) else 1.0,
        "repeats": float(len(outcomes)),
    }
    result = Result("campaign", scalars, {name: UNITS[name] for name in scalars})
    result.tables = _tables(first, outcomes)
    result.timeline = _timeline(first)
    result.meta = {"package_version": __version__, "seed": plan.seed, **meta}
    return result


def _tables(first: Outcome, outcomes: Sequence[Outcome]) -> dict[str, pl.DataFrame]:
    rows = [
        (e.time, e.component, e.host, str(e.effect), e.lost_seconds, e.lost_tokens, e.down_seconds, e.action)
        for e in first.events
    ]
    events = pl.DataFrame(
        rows,
        {
            "time": pl.Float64, "component": pl.String, "host": pl.Int64, "effect": pl.String,
            "lost_seconds": pl.Float64, "lost_tokens": pl.Float64, "down_seconds": pl.Float64,
            "action": pl.String,
        },
        orient="row",
    )  # fmt: skip
    causes = (
        events.filter(pl.col("component") != "")
        .group_by("component", "effect", maintain_order=True)
        .agg(pl.len().alias("events"), pl.col("lost_seconds", "down_seconds").sum())
        .sort(["events", "component"], descending=[True, False])
    )
    tables = {
        "waterfall": pl.DataFrame(
            {
                "kind": list(KINDS),
                "seconds": [first.seconds[k] for k in KINDS],
                "share": [first.seconds[k] / first.wall for k in KINDS],
            }
        ),
        "causes": causes,
        "events": events,
        "states": pl.DataFrame(
            [
                {"missing_replicas": m, "faults": f, "step_time": s, "seconds": spent}
                for m, f, s, spent in first.states
            ]
        ),
        "curve": pl.DataFrame(first.curve, {"time": pl.Float64, "tokens": pl.Float64}, orient="row").unique(
            maintain_order=True
        ),
    }
    if len(outcomes) > 1:
        tables["repeats"] = pl.DataFrame(
            [
                {
                    "run": i, "ettr": o.ettr, "tokens": o.tokens, "wall_time": o.wall,
                    "interruptions": o.interruptions, "lost_seconds": o.seconds["lost"],
                }
                for i, o in enumerate(outcomes)
            ]
        )  # fmt: skip
    return tables


def _timeline(outcome: Outcome) -> pl.DataFrame:
    found = outcome.intervals
    columns: dict[str, Any] = {
        "actor": ["job"] * len(found),
        "stream": ["campaign"] * len(found),
        "name": [i.kind for i in found],
        "kind": [i.kind for i in found],
        "start": [i.start for i in found],
        "end": [i.end for i in found],
        "micro_batch": [-1] * len(found),
        "chunk": [-1] * len(found),
        "bytes": [0.0] * len(found),
        "count": [1] * len(found),
    }
    return pl.DataFrame(columns, schema=TIMELINE)
