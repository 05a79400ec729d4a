"""Plans for a job: what `euston plan` does with a scenario's training job and its `plan` section."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import polars as pl

from euston import __version__
from euston import scenario as scenarios
from euston.assemble import conditions, device, site
from euston.cluster import Site, place
from euston.errors import ConfigError, EustonError, at, unknown
from euston.result import Result
from euston.runs import Progress
from euston.scenario import Scenario, build
from euston.scenario.plan import PlanSection
from euston.scenario.sites import SiteSection
from euston.training import Conditions, job_scalars, run_iteration
from euston.training.plan import Book, Plan, Search, search

__all__ = ["find_plans", "with_best"]

UNITS = {
    "looked_at": "1", "fit": "1", "front": "1", "step_time": "s", "tokens_per_second": "1/s", "mfu": "1",
    "memory": "B", "cost": "USD", "energy": "J", "executed_step_time": "s", "accelerators": "1",
}  # fmt: skip
MOST_REJECTED = 200_000
"""Rows of the table of rejected plans; the counts by reason are of all."""


def find_plans(source: Scenario | str, *, confirm: int = 3, progress: Progress | None = None) -> Result:
    """Look at every plan of a scenario's training job; execute the best of the ``confirm`` fastest degrees.

    Returns
    -------
    Result
        Scalars of the fastest plan, in time as executed where it was; tables ``plans`` (fastest first),
        ``reasons`` and ``rejected``. ``meta["interrupted"]`` after Ctrl-C.

    Raises
    ------
    BadInput
        With the place in the scenario; also where nothing fits.
    """
    tell = progress or (lambda _: None)
    s = source if isinstance(source, Scenario) else scenarios.load(source)
    section = s.plan or PlanSection()
    index = _job(s, section)
    home = s.site(s.jobs[index].placement.site)
    here = site(s, home, f"sites[{s.sites.index(home)}]")
    job = build.training_job(s, index)
    world = section.accelerators or job.parallel.world
    if world > here.accelerators:
        raise ConfigError(
            at("plan.accelerators", f"{world} are more than site {here.name!r} has: {here.accelerators}")
        )
    around = conditions(s, here)
    book = Book(job, here, device(here.accelerator, job), world, around.speed_spread)
    host = home.power.host if home.power and home.power.host else 0.0
    pue = home.power.pue if home.power and home.power.pue else 1.0
    price = home.price or 0.0
    found = search(
        job,
        book,
        section.make(),
        price=price,
        host_power=host / here.accelerators_per_host,
        pue=pue,
        tell=tell,
    )
    if not found.plans:
        raise _nothing(found)
    executed = {} if not found.finished else _execute(s, here, book, found, around, confirm, tell)
    return _result(s, home, here, book, found, executed, price)


def with_best(s: Scenario, result: Result) -> Scenario:
    """The scenario with its training job under the best plan that was found (the fastest executed one)."""
    rows = result.tables["plans"]
    executed = rows.filter(pl.col("executed").is_not_null()).sort("executed")
    best = (executed if executed.height else rows).row(0, named=True)
    index = _job(s, s.plan or PlanSection())
    job = s.training(index)
    degrees = {k: best[k] for k in ("tensor", "context", "expert", "pipeline", "virtual", "data", "sharding")}
    degrees |= {"sequence": best["tensor"] > 1, "shard": 0}
    degrees["expert_tensor"] = 1 if best["expert"] > 1 and best["tensor"] > 1 else 0
    changed = job.model_copy(
        update={
            "parallel": job.parallel.model_copy(update=degrees),
            "batch": job.batch.model_copy(update={"micro": best["micro"]}),
            "schedule": best["schedule"],
            "recompute": best["recompute"],
            "stages": None,
            "assumptions": (),
        }
    )
    return s.model_copy(update={"jobs": (*s.jobs[:index], changed, *s.jobs[index + 1 :])})


def _job(s: Scenario, section: PlanSection) -> int:
    names = [job.name for job in s.jobs if job.kind == "training"]
    if not names:
        raise ConfigError(at("jobs", "none of them trains; a plan is for a training job"))
    wanted = section.job or names[0]
    if wanted not in names:
        raise ConfigError(at("plan.job", unknown("training job", wanted, names)))
    return next(i for i, job in enumerate(s.jobs) if job.name == wanted)


def _nothing(found: Search) -> ConfigError:
    short = [r for r in found.rejected if r.memory]
    if not short:
        return ConfigError(
            at("plan", f"none of {found.looked_at} plans is possible: {found.rejected[0].reason}")
        )
    least = min(short, key=lambda r: r.memory)
    return ConfigError(
        at(
            "plan",
            f"none of {found.looked_at} plans fits; the nearest is {least.layout.text()}: {least.reason}",
        )
    )


def _execute(
    s: Scenario, here: Site, book: Book, found: Search, around: Conditions, confirm: int, tell: Progress
) -> dict[int, float]:
    """Step times, as the clock executes them, of the best plan of each of the fastest degrees."""
    executed: dict[int, float] = {}
    around = replace(around, contention=s.run.network != "none")
    try:
        best: dict[tuple[int, ...], int] = {}
        for number, plan in enumerate(found.plans):
            one = plan.layout
            best.setdefault((one.tensor, one.context, one.expert, one.pipeline, one.micro), number)
        for number in list(best.values())[:confirm]:
            plan = found.plans[number]
            tell(f"executing plan {number + 1}: {plan.layout.text()}")
            job = book.job(plan.layout)
            placement = place(job.parallel, here)
            try:
                run = run_iteration([(job, placement)], here, [book.device], around)
            except EustonError as error:
                raise ConfigError(f"{plan.layout.text()}: {error}") from error
            executed[number] = job_scalars(run, 0, here)["step_time"]
    except KeyboardInterrupt:
        found.finished = False
    return executed


def _row(plan: Plan) -> dict[str, Any]:
    return {**plan.layout._asdict(), **{k: getattr(plan, k) for k in Plan._fields if k != "layout"}}


def _result(
    s: Scenario,
    home: SiteSection,
    here: Site,
    book: Book,
    found: Search,
    executed: dict[int, float],
    price: float,
) -> Result:
    table = pl.DataFrame([_row(plan) for plan in found.plans], infer_schema_length=None)
    front = set(found.front)
    table = table.with_columns(
        pl.Series("front", [i in front for i in range(table.height)]),
        pl.Series("executed", [executed.get(i) for i in range(table.height)], dtype=pl.Float64),
    )
    best = min(executed, key=lambda i: executed[i]) if executed else 0
    plan = found.plans[best]
    seconds = executed.get(best, plan.step_time)
    job = book.job(plan.layout)
    rejected = [{**r.layout._asdict(), "reason": r.reason, "memory": r.memory} for r in found.rejected]
    kinds = Counter(r.reason.partition(":")[0] for r in found.rejected)
    first = {r.reason.partition(":")[0]: r for r in reversed(found.rejected)}
    reasons = [
        {"kind": kind, "plans": count, "example": f"{first[kind].layout.text()}: {first[kind].reason}"}
        for kind, count in kinds.most_common()
    ]
    from euston.training import model_flops

    peak = here.accelerator.peak.get("bf16" if job.precision == "fp8" else job.precision, float("nan"))
    scalars = {
        "step_time": seconds,
        "tokens_per_second": job.tokens_per_step / seconds,
        "mfu": model_flops(job) / (seconds * book.accelerators * peak),
        "memory": plan.memory,
        "energy": plan.energy,
        "looked_at": float(found.looked_at),
        "fit": float(len(found.plans)),
        "front": float(len(found.front)),
        "accelerators": float(book.accelerators),
    }
    if price:
        scalars["cost"] = price * book.accelerators * seconds
    kept = {"kind": pl.String, "plans": pl.Int64, "example": pl.String}
    tables = {"plans": table, "reasons": pl.DataFrame(reasons, schema=kept)}
    if rejected:
        tables["rejected"] = pl.DataFrame(rejected[:MOST_REJECTED], infer_schema_length=None)
    meta: dict[str, Any] = {
        "package_version": __version__,
        "name": s.name,
        "title": s.title or s.name,
        "best": plan.layout.text(),
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "catalog": {"accelerator": here.accelerator.name, "fabric": here.fabric.name},
        "assumptions": [
            {
                "where": "plan", "value": "closed form", "kind": "assumed",
                "source": "euston.training.analytic",
                "why": "every plan's time; nothing contends. The fastest were executed on the fabric."
                if executed else "every plan's time; nothing contends.",
            }
        ],
    }  # fmt: skip
    if not found.finished:
        meta["interrupted"] = f"after {found.looked_at} plans"
    return Result("plan", scalars, {k: u for k, u in UNITS.items() if k in scalars}, tables, meta=meta)
