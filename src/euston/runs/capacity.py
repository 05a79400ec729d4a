"""Capacity of a service: what `euston capacity` does with a scenario's serving job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import polars as pl

from euston import __version__
from euston import scenario as scenarios
from euston.errors import ConfigError, at
from euston.result import Result
from euston.runs import Progress
from euston.runs.serving import UNITS, Service, numbers, service, simulate
from euston.scenario import Scenario
from euston.scenario.serving import ServingSection, SloSection
from euston.serving import Requests, ServingResult
from euston.serving.capacity import Capacity, Point, fewest, largest

__all__ = ["arrival_rate", "at_rate", "find_capacity", "parse_slo", "serving_job", "with_slo"]

Find = Literal["rate", "replicas"]
ENOUGH = 1000
"""Requests below which an answer carries a note (attainment of 1,000 is known to a few per cent)."""


def parse_slo(text: str) -> dict[str, Any]:
    """``"ttft=1s,tpot=50ms,share=0.95"`` as the keys of a scenario's `slo`.

    Raises
    ------
    ConfigError
        For a part that is no ``key=value``.
    """
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value:
            raise ConfigError(
                at("--slo", f"{part!r} is no key=value; write e.g. ttft=1s,tpot=50ms,share=0.9")
            )
        if key == "share":
            try:
                found[key] = float(value)
            except ValueError:
                raise ConfigError(at("--slo", f"share {value!r} is no number")) from None
        else:
            found[key] = value
    return found


def serving_job(s: Scenario, name: str | None = None) -> int:
    """Number of the serving job of that name; the first for None."""
    jobs = {job.name: i for i, job in reversed(list(enumerate(s.jobs))) if job.kind == "serving"}
    if not jobs:
        raise ConfigError(at("jobs", "none of them serves; this needs a job of kind serving"))
    if name is not None and name not in jobs:
        raise ConfigError(at("jobs", f"no serving job is called {name!r}; there are {', '.join(jobs)}"))
    return jobs[name] if name is not None else min(jobs.values())


def with_slo(s: Scenario, index: int, text: str | None) -> Scenario:
    """The scenario with another SLO in job number ``index``."""
    if text is None:
        return s
    from pydantic import ValidationError

    job = s.jobs[index]
    assert isinstance(job, ServingSection)
    try:
        changed = SloSection.model_validate(parse_slo(text), context={"from_file": True})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(at(f"--slo{'.' + where if where else ''}", first["msg"])) from None
    jobs = (*s.jobs[:index], job.model_copy(update={"slo": changed}), *s.jobs[index + 1 :])
    return s.model_copy(update={"jobs": jobs})


def arrival_rate(requests: Requests) -> float:
    """Mean requests per second of an open workload; ConfigError for a closed one."""
    span = float(requests.arrival_s[-1] - requests.arrival_s[0])
    if requests.concurrency or span <= 0:
        raise ConfigError(
            at("workload", "has no rate to change (a closed loop, or all at once); find replicas instead")
        )
    return (len(requests) - 1) / span


def at_rate(one: Service, rate: float) -> Service:
    """The same requests at another rate: arrivals move together, users think as long as before."""
    first = one.requests.arrival_s[0]
    moved = (one.requests.arrival_s - first) * (arrival_rate(one.requests) / rate)
    return replace(one, requests=replace(one.requests, arrival_s=moved))


def find_capacity(
    source: Scenario | str,
    *,
    find: Find = "rate",
    job: str | None = None,
    pool: int = 0,
    slo: str | None = None,
    tolerance: float = 0.02,
    progress: Progress | None = None,
) -> Result:
    """The largest rate, or the fewest replicas of a pool, with which a service keeps its SLO.

    Parameters
    ----------
    find : "rate" | "replicas"
    pool : int
        Whose replicas; all other pools stay as they are.
    slo : str, optional
        As `parse_slo` takes it, in place of the file's.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    tell = progress or (lambda _: None)
    s = source if isinstance(source, Scenario) else scenarios.load(source)
    index = serving_job(s, job)
    s = with_slo(s, index, slo)
    one = service(s, index)
    seed = s.run.seed
    if find == "rate":
        found = largest(
            lambda rate: simulate(at_rate(one, rate), seed=seed),
            one.slo,
            arrival_rate(one.requests),
            tolerance=tolerance,
            tell=tell,
        )
    else:
        found = fewest(
            lambda count: simulate(_sized(one, pool, count), seed=seed), one.slo, _most(one, pool), tell=tell
        )
    judged = int(0.9 * len(one.requests))
    if judged < ENOUGH:
        found.notes.append(f"{judged} requests are few; 1,000 or more make a steadier answer")
    best = found.best
    final = None
    if best is not None:
        tell("running the answer again")
        final = at_rate(one, best.value) if find == "rate" else _sized(one, pool, int(best.value))
    return _result(s, one, find, found, final, simulate(final, seed=seed) if final else None)


def _sized(one: Service, pool: int, count: int) -> Service:
    section = one.section
    changed = section.pools[pool].model_copy(update={"replicas": count})
    pools = (*section.pools[:pool], changed, *section.pools[pool + 1 :])
    role = changed.role
    return replace(
        one,
        section=section.model_copy(update={"pools": pools}),
        deployment=replace(
            one.deployment,
            pools=tuple(
                replace(p, replicas=count * p.lockstep) if p.role == role else p for p in one.deployment.pools
            ),
        ),
    )


def _most(one: Service, pool: int) -> int:
    if pool >= len(one.section.pools):
        raise ConfigError(at("--pool", f"{pool} does not exist; there are {len(one.section.pools)} pools"))
    mine = one.section.pools[pool]
    others = sum(p.accelerators for i, p in enumerate(one.section.pools) if i != pool)
    return max(1, (one.home.accelerators - others) // (mine.accelerators // mine.replicas))


def _result(
    s: Scenario,
    one: Service,
    find: Find,
    found: Capacity,
    final: Service | None,
    log: ServingResult | None,
) -> Result:
    best = found.best
    scalars: dict[str, float] = {
        ("max_rate" if find == "rate" else "replicas"): best.value if best else 0.0,
    }
    units = {"max_rate": "1/s", "max_rate_low": "1/s", "max_rate_high": "1/s"}
    if find == "rate":
        scalars |= {"max_rate_low": found.low, "max_rate_high": found.high}
    if final is not None and log is not None:
        values = numbers(final, log)
        wanted = (
            "slo_attainment", "slo_goodput", "ttft_p90", "tpot_p90", "busy_share", "kv_peak", "hit_share",
            "joules_per_token", "cost_per_million_tokens",
        )  # fmt: skip
        scalars |= {key: values[key] for key in wanted if key in values}
        scalars["accelerators"] = float(final.accelerators)
    points = pl.DataFrame(sorted(found.points), schema=list(Point._fields), orient="row")
    meta: dict[str, Any] = {
        "package_version": __version__,
        "name": s.name,
        "title": s.title or s.name,
        "seed": s.run.seed,
        "axis": find,
        "share": one.slo.share,
        "slo": {k: v for k, v in one.section.slo.model_dump().items() if v is not None},
        "notes": found.notes,
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    if not found.finished:
        meta["interrupted"] = f"after {len(found.points)} runs"
    units |= {k: u for k, u in UNITS.items() if k in scalars}
    return Result("capacity", scalars, {k: u for k, u in units.items() if k in scalars}, {"points": points},
                  meta=meta)  # fmt: skip
