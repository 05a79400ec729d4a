"""A step in closed form as a ``Result``: the headline numbers of an executed one, without its timeline."""

from __future__ import annotations

import polars as pl

from euston import __version__
from euston.cluster import Site
from euston.result import Result
from euston.training.analytic import Analysis
from euston.training.assumptions import assumptions
from euston.training.job import TrainingJob
from euston.training.memory import memory
from euston.training.outcome import UNITS, model_flops

__all__ = ["analytic_result", "analytic_scalars"]


def analytic_scalars(job: TrainingJob, site: Site, found: Analysis, held: pl.DataFrame) -> dict[str, float]:
    """Step time, MFU, tokens, memory, energy; names and units of an executed run's."""
    e, world = found.estimate, job.parallel.world
    flops = model_flops(job)
    dtype = "bf16" if job.precision == "fp8" else job.precision
    peak = site.accelerator.peak.get(dtype, site.accelerator.peak.get("bf16", float("nan")))
    waiting = max(0.0, e.step_time - e.compute - e.optimizer)
    return {
        "step_time": e.step_time,
        "mfu": flops / (e.step_time * world * peak),
        "hfu": found.costs.flops_per_step / (e.step_time * world * peak),
        "tflops_per_accelerator": flops / (e.step_time * world) / 1e12,
        "tokens_per_second": job.tokens_per_step / e.step_time,
        "tokens_per_second_per_accelerator": job.tokens_per_step / e.step_time / world,
        "bubble_fraction": e.bubble / e.step_time,
        "exposed_communication_fraction": (e.communication + e.data) / e.step_time,
        "memory_peak": float((held["peak"] + held["allocator"]).max()),  # type: ignore[arg-type]
        "memory_fits": float(bool(held["fits"].all())),
        "energy": found.costs.energy_per_step + waiting * (site.accelerator.idle_power or 0.0) * world,
        "accelerators": float(world),
    }


def analytic_result(job: TrainingJob, site: Site, found: Analysis, speed_spread: float) -> Result:
    """A job's closed-form step; the caller adds the scenario's own facts to ``meta``."""
    held = memory(job, site.accelerator)
    e = found.estimate
    parts = {
        "compute": e.compute, "optimizer": e.optimizer, "communication": e.communication, "data": e.data,
        "bubble": e.bubble,
    }  # fmt: skip
    return Result(
        kind="training",
        scalars=analytic_scalars(job, site, found, held),
        units=dict(UNITS),
        tables={
            "breakdown": pl.DataFrame(
                {
                    "kind": list(parts),
                    "seconds": list(parts.values()),
                    "share": [seconds / e.step_time for seconds in parts.values()],
                }
            ),
            "memory": held,
            "operators": found.costs.operators,
        },
        meta={
            "package_version": __version__,
            "job": job.name,
            "placement": found.stages.describe(),
            "assumptions": assumptions(job, site, speed_spread),
        },
    )
