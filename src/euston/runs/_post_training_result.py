"""What came of post-training as a `Result`: rates, utilisation of both pools, staleness, the split."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from euston.post_training import Run
from euston.result import TIMELINE, Result
from euston.scenario.post_training import PostTrainingSection

if TYPE_CHECKING:
    from euston.runs.post_training import Layout

__all__ = ["summary"]

UNITS = {
    "step_time": "s", "trajectories_per_second": "1/s", "sampled_tokens_per_second": "1/s",
    "rollout_utilisation": "share", "training_utilisation": "share", "rollout_time": "s", "update_time": "s",
    "push_time": "s", "waiting_time": "s", "staleness_mean": "1", "staleness_largest": "1",
    "response_mean": "1", "response_p99": "1", "cut_share": "share", "accelerators": "1", "wall_time": "s",
    "trajectories_per_second_per_accelerator": "1/s",
}  # fmt: skip


def _numbers(section: PostTrainingSection, layout: Layout, run: Run, warm_up: int | None) -> dict[str, float]:
    """Scalars of one split; rates leave the first updates out."""
    records = run.records
    skip = min(len(records) - 1, len(records) // 5 if warm_up is None else warm_up)
    begin = records[skip - 1].end if skip else 0.0
    kept = records[skip:]
    span = records[-1].end - begin
    trained = [one for record in kept for one in record.trajectories]
    stale = np.array([s for record in kept for s in record.staleness])
    answers = np.array([sum(one.outputs) for one in trained])
    total = layout.training if section.colocated else layout.training + layout.generating
    each = np.diff([begin, *(record.end for record in kept)])
    update = np.array([record.end - record.train for record in kept])
    whole = max(run.end, 1e-300)
    return {
        "step_time": float(each.mean()),
        "trajectories_per_second": len(trained) / span,
        "sampled_tokens_per_second": float(answers.sum()) / span,
        "rollout_utilisation": run.rollout_busy / (layout.ranks * whole),
        "training_utilisation": run.trained / whole,
        "rollout_time": float(np.mean([record.ready - record.begin for record in kept])),
        "update_time": float(update.mean()),
        "waiting_time": float(np.mean(each - update)),
        "push_time": layout.push,
        "staleness_mean": float(stale.mean()),
        "staleness_largest": float(stale.max()),
        "response_mean": float(answers.mean()),
        "response_p99": float(np.quantile(answers, 0.99)),
        "cut_share": float(np.mean([one.cut for one in trained])),
        "accelerators": float(total),
        "trajectories_per_second_per_accelerator": len(trained) / span / total,
        "wall_time": run.end,
    }  # fmt: skip


def summary(section: PostTrainingSection, found: list[tuple[Layout, Run]], warm_up: int | None) -> Result:
    """The first split as the headline; all of them in the table ``split``."""
    numbers = [_numbers(section, layout, run, warm_up) for layout, run in found]
    layout, run = found[0]
    tables = {"steps": _steps(run), "staleness": _staleness(run), "pools": _pools(section, layout, run)}
    if len(found) > 1:
        keys = (
            "step_time", "trajectories_per_second", "sampled_tokens_per_second", "rollout_utilisation",
            "training_utilisation", "staleness_mean", "staleness_largest", "push_time",
        )  # fmt: skip
        rows: list[dict[str, Any]] = [
            {"generating": one.generating, "training": one.training, **{key: values[key] for key in keys}}
            for (one, _), values in zip(found, numbers, strict=True)
        ]
        tables["split"] = pl.DataFrame(sorted(rows, key=lambda row: int(row["generating"])))
    return Result("post_training", numbers[0], dict(UNITS), tables, _timeline(section, run))


def _steps(run: Run) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "update": k,
                "begin": record.begin,
                "ready": record.ready,
                "train": record.train,
                "end": record.end,
                "tokens": sum(one.tokens for one in record.trajectories),
                "longest": max(sum(one.outputs) for one in record.trajectories),
                "staleness": float(np.mean(record.staleness)),
            }
            for k, record in enumerate(run.records)
        ]
    )


def _staleness(run: Run) -> pl.DataFrame:
    counted = Counter(s for record in run.records for s in record.staleness)
    total = sum(counted.values())
    return pl.DataFrame(
        [
            {"updates_behind": s, "trajectories": counted[s], "share": counted[s] / total}
            for s in range(max(counted) + 1)
        ]
    )


def _pools(section: PostTrainingSection, layout: Layout, run: Run) -> pl.DataFrame:
    whole = max(run.end, 1e-300)
    return pl.DataFrame(
        [
            {
                "pool": "rollout",
                "accelerators": layout.generating,
                "busy": run.rollout_busy / (layout.ranks * whole),
                "tokens": run.sampled,
                "left_over": len(run.left),
                "dropped": len(run.dropped),
            },
            {
                "pool": "training",
                "accelerators": layout.training,
                "busy": run.trained / whole,
                "tokens": sum(one.tokens for record in run.records for one in record.trajectories),
                "left_over": 0,
                "dropped": 0,
            },
        ]
    )


def _timeline(section: PostTrainingSection, run: Run) -> pl.DataFrame:
    """Generation of every batch and the updates; asynchronously the pool runs between pushes."""
    rows: list[dict[str, Any]] = []

    def add(actor: str, name: str, kind: str, start: float, end: float, k: int) -> None:
        if end > start:
            rows.append(
                {
                    "actor": actor, "stream": "compute", "name": f"{name} {k}", "kind": kind, "start": start,
                    "end": end, "micro_batch": k, "chunk": -1, "bytes": 0.0, "count": 1,
                }
            )  # fmt: skip

    for k, record in enumerate(run.records):
        ready = record.end if section.mode == "asynchronous" else record.ready
        add("rollout", "generate", "rollout", record.begin, ready, k)
        add("training", "update", "update", record.train, record.end, k)
    return pl.DataFrame(rows, schema=TIMELINE).sort("start")
