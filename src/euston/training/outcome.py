"""An executed iteration as a ``Result``: headline numbers, where the time goes, memory, links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston import __version__
from euston.clock import Kind
from euston.cluster import Site
from euston.fabrics import Fabric
from euston.result import Result
from euston.training.assumptions import assumptions
from euston.training.attribution import CATEGORIES, attribute
from euston.training.iteration import Iteration, JobRun, compute_streams, stage_starts
from euston.training.job import TrainingJob
from euston.training.memory import memory

__all__ = ["UNITS", "job_result", "job_scalars", "link_table", "model_flops"]

UNITS = {
    "step_time": "s", "mfu": "1", "hfu": "1", "tflops_per_accelerator": "TFLOP/s", "tokens_per_second": "1/s",
    "tokens_per_second_per_accelerator": "1/s", "bubble_fraction": "1", "exposed_communication_fraction": "1",
    "memory_peak": "B", "memory_fits": "1", "energy": "J", "accelerators": "1",
}  # fmt: skip


# Order of the breakdown: what computes, what is exposed, what idles.
BREAKDOWN = (
    "forward", "backward", "recompute", "optimizer", "tensor", "context", "expert", "pipeline", "data",
    "bubble",
)  # fmt: skip


def model_flops(job: TrainingJob) -> float:
    """Model FLOPs of one step, causal attention counted once, no recomputation."""
    return job.model.flops_per_token(job.sequence, convention="causal") * job.tokens_per_step


@dataclass(frozen=True)
class _Account:
    """Where one job's time went: scalars, seconds by [stage, category] and of the breakdown, memory."""

    scalars: dict[str, float]
    by_stage: NDArray[np.float64]
    breakdown: dict[str, float]
    held: pl.DataFrame


def job_scalars(iteration: Iteration, number: int, site: Site) -> dict[str, float]:
    """The headline numbers of job ``number`` of an iteration, without tables and timeline."""
    return _account(iteration, number, site).scalars


def _account(iteration: Iteration, number: int, site: Site) -> _Account:
    part = iteration.jobs[number]
    job, run = part.job, iteration.run
    world = job.parallel.world
    step = part.step_time
    streams = compute_streams(run.program, part.template, part.index)
    classes, stages = streams.shape
    begin = stage_starts(run.start, part.template, part.index)
    seconds = attribute(run, streams.ravel(), step, begin.ravel()).reshape(classes, stages, len(CATEGORIES))
    weight = part.replicas / part.replicas.sum()
    by_stage = np.einsum("k,ksc->sc", weight, seconds)
    mean = by_stage.mean(axis=0)
    held = memory(job, site.accelerator)
    flops = model_flops(job)
    dtype = "bf16" if job.precision == "fp8" else job.precision
    peak = site.accelerator.peak.get(dtype, site.accelerator.peak.get("bf16", np.nan))
    category = dict(zip(CATEGORIES, mean, strict=True))
    # Recomputation runs inside the backward pass: show it apart.
    again = job.micro_batches * float(np.mean([sum(c.recompute for c in row) for row in part.cost.chunks]))
    category["recompute"] = min(again, category["backward"])
    category["backward"] -= category["recompute"]
    exposed = sum(category[name] for name in ("tensor", "context", "expert", "pipeline", "data"))
    # What the accelerators draw while they compute comes from the prices; while they wait, their idle power.
    idle = site.accelerator.idle_power or 0.0
    waiting = max(0.0, step - mean[:2].sum() - category["optimizer"])
    scalars = {
        "step_time": step,
        "mfu": flops / (step * world * peak),
        "hfu": part.cost.flops_per_step / (step * world * peak),
        "tflops_per_accelerator": flops / (step * world) / 1e12,
        "tokens_per_second": job.tokens_per_step / step,
        "tokens_per_second_per_accelerator": job.tokens_per_step / step / world,
        "bubble_fraction": category["bubble"] / step,
        "exposed_communication_fraction": exposed / step,
        "memory_peak": float((held["peak"] + held["allocator"]).max()),  # type: ignore[arg-type]
        "memory_fits": float(bool(held["fits"].all())),
        "energy": part.cost.energy_per_step + waiting * idle * world,
        "accelerators": float(world),
    }
    return _Account(scalars, by_stage, category, held)


def job_result(iteration: Iteration, number: int, site: Site) -> Result:
    """Job ``number`` of an iteration as a Result; the caller adds the scenario's own facts to ``meta``."""
    part, run = iteration.jobs[number], iteration.run
    job, step = part.job, part.step_time
    account = _account(iteration, number, site)
    return Result(
        kind="training",
        scalars=account.scalars,
        units=dict(UNITS),
        tables={
            "breakdown": pl.DataFrame(
                {
                    "kind": list(BREAKDOWN),
                    "seconds": [account.breakdown[k] for k in BREAKDOWN],
                    "share": [account.breakdown[k] / step for k in BREAKDOWN],
                }
            ),
            "stages": _stages(part, account.by_stage),
            "memory": account.held,
            "links": link_table(site.fabric, iteration.row_bytes, run.makespan),
            "operators": part.cost.operators,
        },
        timeline=_timeline(iteration, part),
        meta={
            "package_version": __version__,
            "job": job.name,
            "placement": part.stages.describe(),
            "folding": {
                "columns": iteration.columns, "classes": iteration.classes,
                "replicas": int(part.replicas.sum()), "replica_classes": int(part.replicas.size),
            },
            "engine": {"events": run.events, "solves": run.solves, "operations": len(run.program)},
            "tolerances": {"max_min": "exact", "simultaneous": 1e-13},
            "assumptions": assumptions(job, site, iteration.conditions.speed_spread),
        },
    )  # fmt: skip


def _stages(part: JobRun, by_stage: NDArray[np.float64]) -> pl.DataFrame:
    p = part.stages.pipeline
    columns: dict[str, Any] = {
        "stage": list(range(p)),
        "layers": [part.stages.stage_layers(s) for s in range(p)],
        "chunks": [" + ".join(str(n) for n in part.stages.layers[s]) for s in range(p)],
        "parameters_per_rank": [sum(c.parameters for c in part.cost.chunks[s]) for s in range(p)],
        "compute": by_stage[:, 0] + by_stage[:, 1],
    }
    for i, name in enumerate(CATEGORIES[2:], start=2):
        columns[name] = by_stage[:, i]
    return pl.DataFrame(columns)


def link_table(fabric: Fabric, row_bytes: NDArray[np.float64], seconds: float) -> pl.DataFrame:
    """Links by tier: bytes of all jobs, mean and largest utilisation over ``seconds``."""
    carried = fabric.link_load(row_bytes)
    rows = []
    for tier, links in fabric.tier_links().items():
        if links.size == 0:
            continue
        use = carried[links] / (fabric.capacity[links] * seconds)
        rows.append(
            {
                "tier": tier,
                "links": int(links.size),
                "idle_links": int((carried[links] <= 0).sum()),
                "capacity": float(fabric.capacity[links].sum()),
                "bytes": float(carried[links].sum()),
                "mean_utilisation": float(use.mean()),
                "max_utilisation": float(use.max()),
            }
        )
    return pl.DataFrame(rows)


def _timeline(iteration: Iteration, part: JobRun) -> pl.DataFrame:
    """Operations of the first replica class."""
    run = iteration.run
    program = run.program
    where = part.index[0]
    where = where[program.kind[where] != Kind.JOIN]
    stream = program.stream[where]
    prefix = f"{part.job.name} replica {part.representative[0]} "
    names = [
        program.streams[s].removeprefix(prefix) if s >= 0 else "all step"
        for s in range(-1, len(program.streams))
    ]
    words = [name.split() for name in names]
    kinds = [_KIND.get(name, name) for name in program.labels]
    table = iteration.table
    moved = np.zeros(where.size)
    sends = program.transfer[where] >= 0
    carried = np.add.reduceat(table.size, table.ptr[:-1])  # bytes of one member of each flow
    moved[sends] = carried[program.transfer[where[sends]]] * program.work[where[sends]]
    return pl.DataFrame(
        {
            "actor": pl.Series([" ".join(w[:2]) for w in words]).gather(stream + 1),
            "stream": pl.Series([" ".join(w[2:]) or "step" for w in words]).gather(stream + 1),
            "name": pl.Series(program.labels, dtype=pl.String).gather(program.label[where]),
            "kind": pl.Series(kinds, dtype=pl.String).gather(program.label[where]),
            "start": run.start[where],
            "end": run.end[where],
            "micro_batch": program.micro_batch[where],
            "chunk": program.chunk[where],
            "bytes": moved,
            "count": np.full(where.size, int(part.replicas[0]), np.int64),
        }
    ).sort("start", maintain_order=True)


_KIND = {
    "parameters": "data", "gradients": "data", "gradient norm": "data", "embedding": "data",
    "weight gradient": "backward",
}  # fmt: skip
