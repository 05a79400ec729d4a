"""Runs of training jobs: what `simulate` does with a scenario of `kind: training`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from euston.assemble import conditions, device, other_accelerators, require_arithmetic, site
from euston.catalog import Accelerator
from euston.cluster import Placement, Site, place
from euston.devices import GPU
from euston.errors import ConfigError, at
from euston.result import Result
from euston.scenario import Scenario, build
from euston.scenario.jobs import TrainingSection
from euston.scenario.sites import SiteSection
from euston.training import (
    Conditions,
    Iteration,
    TrainingJob,
    Wiring,
    analyse,
    analytic_result,
    host_speeds,
    job_result,
    job_scalars,
    require_fit,
    run_iteration,
)

__all__ = ["Prepared", "add_facts", "iterate", "prepare", "run"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """What a run needs; nothing in it can be wrong any more.

    ``numbers``: of the jobs in the scenario.
    """

    scenario: Scenario
    site: Site
    section: SiteSection
    jobs: tuple[tuple[TrainingJob, Placement], ...]
    conditions: Conditions
    numbers: tuple[int, ...]

    @property
    def devices(self) -> list[GPU]:
        """What prices the operators of each job."""
        return [device(self.site.accelerator, job) for job, _ in self.jobs]


def prepare(s: Scenario) -> Prepared:
    """Build and check everything that a run of the training jobs of ``s`` needs.

    Raises
    ------
    BadInput
        With the place in the scenario: what this version does not simulate, layouts that do not divide, hosts
        or links that do not exist, memory that does not suffice (unless ``run.memory: report``).
    """
    _supported(s)
    home = s.site(s.jobs[0].placement.site)
    here = site(s, home, f"sites[{s.sites.index(home)}]")
    others = other_accelerators(home)
    jobs = []
    numbers = [i for i, job in enumerate(s.jobs) if job.kind == "training"]
    for i in numbers:
        job = build.training_job(s, i)
        job.check(where=f"jobs[{i}]")
        placement = place(job.parallel, here, hosts=s.hosts_of(i), where=f"jobs[{i}].placement")
        mine = {a.name: a for a in (others.get(host, here.accelerator) for host in s.hosts_of(i))}
        for accelerator in mine.values():
            require_arithmetic(accelerator, job.precision, f"jobs[{i}].precision")
        if s.run.memory == "refuse":
            used = (others.get(host, here.accelerator) for host in s.hosts_of(i))
            require_fit(job, min(used, key=lambda a: a.memory_bytes), where=f"jobs[{i}]")
        jobs.append((job, placement))
    around = conditions(s, here)
    if others:
        each = {i: job for i, (job, _) in zip(numbers, jobs, strict=True)}
        around = replace(around, host_speed=_host_speeds(s, here, others, each))
    return Prepared(s, here, home, tuple(jobs), around, tuple(numbers))


def _host_speeds(
    s: Scenario, here: Site, others: Mapping[int, Accelerator], jobs: Mapping[int, TrainingJob]
) -> tuple[float, ...]:
    """Speed of every host next to the site's accelerator, by the passes of the job that runs there."""
    speeds = np.ones(here.hosts)
    for i, job in jobs.items():
        mine = {host: device(others[host], job) for host in s.hosts_of(i) if host in others}
        found = host_speeds(job, here, device(here.accelerator, job), mine)
        speeds[list(mine)] = found[list(mine)]
    return tuple(speeds.tolist())


def _supported(s: Scenario) -> None:
    if s.run.network in ("packet", "decomposed", "emulate"):
        raise ConfigError(
            at("run.network", f"{s.run.network} is not in this version for training; use fluid or none")
        )
    if s.run.compute == "analytic":
        _closed_form(s)
    names = {s.site(job.placement.site).name for job in s.jobs}
    if len(names) > 1:
        raise ConfigError(
            at("jobs", f"jobs on {len(names)} sites in one run are not in this version; use one site")
        )


def _closed_form(s: Scenario) -> None:
    """What only an executed program knows."""
    if s.run.network != "none":
        raise ConfigError(at("run.network", "the closed form has no contention; use none, or compute: des"))
    if len(s.jobs) > 1:
        raise ConfigError(at("jobs", f"{len(s.jobs)} jobs never meet in the closed form; use compute: des"))
    if s.faults:
        raise ConfigError(at("faults", "the closed form knows none; use compute: des"))
    if s.run.speeds == "each":
        raise ConfigError(at("run.speeds", "the closed form reckons with the slowest; use compute: des"))
    if s.site(s.jobs[0].placement.site).others:
        raise ConfigError(at("sites", "the closed form has one kind of accelerator; use compute: des"))


def _analytic(ready: Prepared) -> Result:
    """The first job's step in closed form."""
    job, site = ready.jobs[0][0], ready.site
    spread = ready.conditions.speed_spread
    found = analyse(job, site, device(site.accelerator, job), speed_spread=spread)
    return analytic_result(job, site, found, spread)


def run(s: Scenario, tell: Progress) -> Result:
    """Execute one step of every training job of a scenario.

    Returns
    -------
    Result
        Scalars (SI), tables and the timeline of the first job. Further jobs run beside it and stand in the
        table ``jobs``.
    """
    tell("building the site and its jobs")
    ready = prepare(s)
    if s.run.compute == "analytic":
        result = _analytic(ready)
        add_facts(result, ready)
        _add_money(result, ready)
        _add_references(result, ready)
        return result
    tell(f"executing {', '.join(job.name for job, _ in ready.jobs)}")
    iteration = _iteration(ready, None)
    result = job_result(iteration, 0, ready.site)
    add_facts(result, ready)
    _add_money(result, ready)
    _add_tables(result, iteration, ready)
    spread = [*_alternatives(ready, result, iteration.wiring, tell)]
    if spread:
        keys = ("step_time", "tflops_per_accelerator", "mfu", "bubble_fraction", "memory_peak")
        result.tables["sweep"] = pl.DataFrame(
            [
                {"virtual": v, **{k: found[k] for k in keys}, "fits": bool(found["memory_fits"])}
                for v, found in spread
            ]
        )
    return result


def iterate(ready: Prepared) -> Iteration:
    """One step of all prepared jobs, executed."""
    return _iteration(ready, None)


def _iteration(ready: Prepared, wiring: Wiring | None) -> Iteration:
    return run_iteration(ready.jobs, ready.site, ready.devices, ready.conditions, wiring=wiring)


def add_facts(result: Result, ready: Prepared) -> None:
    """What a saved result must remember about where it came from."""
    s, site = ready.scenario, ready.site
    number = ready.numbers[0]
    section = s.training(number)
    result.meta |= {
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "name": s.name,
        "title": s.title or s.name,
        "seed": s.run.seed,
        "fidelity": {"compute": s.run.compute, "network": s.run.network},
        "folded": s.run.folding,
        "catalog": {
            "accelerator": site.accelerator.name,
            "fabric": site.fabric.name,
            "software": section.software,
        },
        "site": site.describe(),
    }
    stated = [
        {
            "where": f"jobs[{number}].{a.field}",
            "value": str(_lookup(section, a.field)),
            "why": a.why,
            "source": "the scenario file",
            "kind": "assumed",
        }
        for a in section.assumptions
    ]
    stated += [
        {
            "where": f"sites.others[{i}].accelerator",
            "value": other.accelerator,
            "why": "one ratio to the site's accelerator for all passes of a job, from prices of its kernels; "
            "energy is the site's accelerator's",
            "source": "the scenario file",
            "kind": "assumed",
        }
        for i, other in enumerate(ready.section.others)
    ]
    result.meta["assumptions"] = stated + result.meta["assumptions"]


def _lookup(section: TrainingSection, path: str) -> Any:
    value: Any = section
    for key in path.split("."):
        value = getattr(value, {"global": "global_batch"}.get(key, key), None)
    return value


def _add_money(result: Result, ready: Prepared) -> None:
    """Host power, PUE and prices of the site's section, where it gives them."""
    section, step = ready.section, result.scalars["step_time"]
    accelerators = result.scalars["accelerators"]
    if section.power is not None:
        hosts = accelerators / section.accelerators_per_host
        drawn = result.scalars["energy"] + (section.power.host or 0.0) * hosts * step
        result.scalars["facility_energy"] = drawn * (section.power.pue or 1.0)
        result.units["facility_energy"] = "J"
        if section.power.price is not None:
            result.scalars["energy_cost"] = result.scalars["facility_energy"] * section.power.price
            result.units["energy_cost"] = "USD"
    if section.price is not None:
        result.scalars["accelerator_cost"] = section.price * accelerators * step
        result.units["accelerator_cost"] = "USD"


def _add_references(result: Result, ready: Prepared) -> None:
    """Assumptions, and published figures beside ours."""
    result.tables["assumptions"] = pl.DataFrame(result.meta["assumptions"])
    rows = [
        {
            "quantity": r.quantity,
            "published": float(r.value),
            "ours": result.scalars[r.quantity],
            "error": result.scalars[r.quantity] / float(r.value) - 1,
            "source": r.source,
        }
        for r in ready.scenario.training(ready.numbers[0]).reference
        if r.quantity in result.scalars
    ]
    if rows:
        result.tables["reference"] = pl.DataFrame(rows)


def _add_tables(result: Result, iteration: Iteration, ready: Prepared) -> None:
    """Assumptions, published figures beside ours, the other jobs, links that carried nothing."""
    _add_references(result, ready)
    if len(ready.jobs) > 1:
        keys = ("step_time", "mfu", "tflops_per_accelerator", "exposed_communication_fraction")
        found = [job_scalars(iteration, i, ready.site) for i in range(len(ready.jobs))]
        result.tables["jobs"] = pl.DataFrame(
            [
                {"job": job.name, **{k: scalars[k] for k in keys}}
                for (job, _), scalars in zip(ready.jobs, found, strict=True)
            ]
        )
    idle = result.tables["links"].filter(pl.col("idle_links") > 0)
    if idle.height:
        result.tables["unused_links"] = idle.select("tier", pl.col("idle_links").alias("links"))


def _alternatives(
    ready: Prepared, result: Result, wiring: Wiring, tell: Progress
) -> Iterator[tuple[int, dict[str, float]]]:
    """The first job again with other virtual stages, when the file calls their number an assumption."""
    s = ready.scenario
    section = s.training(0)
    given = [a for a in section.assumptions if a.field == "parallel.virtual" and a.alternatives]
    for virtual in given[0].alternatives if given else ():
        if virtual == section.parallel.virtual:
            yield virtual, result.scalars
            continue
        tell(f"again with {virtual} virtual stages")
        parallel = section.parallel.model_copy(update={"virtual": virtual})
        changed = section.model_copy(update={"parallel": parallel, "schedule": None})
        job = build.training_job(s.model_copy(update={"jobs": (changed, *s.jobs[1:])}), 0)
        job.check(where="jobs[0]")
        other = replace(ready, jobs=((job, ready.jobs[0][1]), *ready.jobs[1:]))
        yield virtual, job_scalars(_iteration(other, wiring), 0, ready.site)
