"""A scenario becomes objects, runs, and comes back as a ``Result``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from euston import catalog, scenario as scenarios
from euston.catalog import Accelerator
from euston.cluster import Site, place
from euston.devices import GPU
from euston.devices.gpu import Generation
from euston.errors import ConfigError, EustonError, at
from euston.fabrics import Fabric, clos
from euston.network.balancing import BALANCING, Balancing
from euston.result import Result
from euston.scenario import Scenario, build
from euston.scenario.sites import SiteSection
from euston.training.skew import SPEED_SPREAD
from euston.training import (
    Conditions,
    HostFault,
    Iteration,
    LinkFault,
    TrainingJob,
    job_result,
    require_fit,
    run_iteration,
)

__all__ = ["conditions", "device", "fabric", "simulate", "site"]

Progress = Callable[[str], None]

# Switches where a description does not say: fewer, fatter links of the same capacity.
DEFAULT_AGGS_PER_POD = 8
DEFAULT_CORES_PER_AGG = 16


def simulate(
    source: Scenario | str | Path, *, seed: int | None = None, progress: Progress | None = None
) -> Result:
    """Run a scenario.

    Parameters
    ----------
    source : Scenario, str or Path
        A scenario, or the path of its file.
    seed : int, optional
        Wins over ``run.seed``.
    progress : callable, optional
        Told in a few words what is going on.

    Returns
    -------
    Result
        Scalars (SI), tables and the timeline; see ``euston.result.Result``.

    Raises
    ------
    EustonError
        ``BadInput`` for what the scenario gets wrong (nothing has run then), else what failed while running.

    Examples
    --------
    >>> import euston as eu
    >>> r = eu.simulate("examples/llama3-405b-16k.yaml")  # doctest: +SKIP
    """
    tell = progress or (lambda _: None)
    s = source if isinstance(source, Scenario) else scenarios.load(source)
    if seed is not None:
        s = s.model_copy(update={"run": s.run.model_copy(update={"seed": seed})})
    _supported(s)
    home = s.site(s.jobs[0].placement.site)
    where = f"sites[{s.sites.index(home)}]"
    tell(f"building {home.hosts:,} hosts")
    here = site(s, home, where)
    jobs = []
    for i in range(len(s.jobs)):
        job = build.training_job(s, i)
        hosts = s.hosts_of(i)
        job.check(where=f"jobs[{i}]")
        placement = place(job.parallel, here, hosts=hosts, where=f"jobs[{i}].placement")
        if s.run.memory == "refuse":
            require_fit(job, here.accelerator, where=f"jobs[{i}]")
        jobs.append((job, placement))
    around = conditions(s, here)
    tell(f"executing {', '.join(job.name for job, _ in jobs)}")
    iteration = run_iteration(jobs, here, device(here.accelerator, jobs[0][0]), around)
    result = _outcome(iteration, here, s, jobs)
    spread = list(_alternatives(s, here, around, jobs, tell))
    if spread:
        result.tables["sweep"] = _sweep_table(spread)
    return result


def _supported(s: Scenario) -> None:
    if s.run.network in ("packet", "emulate"):
        raise ConfigError(at("run.network", f"{s.run.network} is not in this version; use fluid or none"))
    if s.run.compute == "analytic":
        raise ConfigError(at("run.compute", "analytic is not in this version; use des"))
    names = {s.site(job.placement.site).name for job in s.jobs}
    if len(names) > 1:
        raise ConfigError(
            at("jobs", f"jobs on {len(names)} sites in one run are not in this version; use one site")
        )
    for i, job in enumerate(s.jobs):
        for key in ("context", "expert"):
            if getattr(job.parallel, key) > 1:
                raise ConfigError(
                    at(
                        f"jobs[{i}].parallel.{key}",
                        f"{key} parallelism is not simulated in this version; use 1",
                    )
                )


def fabric(values: dict[str, Any], section: SiteSection, accelerator: Accelerator) -> Fabric:
    """The fabric of a site from its (SI) values; sizes nobody gave are filled in."""
    nics = int(values.get("nics_per_host") or section.accelerators_per_host)
    ports = int(values.get("endpoints_per_tor") or 32)
    rail = values.get("kind") == "rail"
    per_tor = ports if rail else max(1, ports // nics)
    tors = -(-section.hosts // per_tor) * (nics if rail else 1)
    tors_per_pod = values.get("tors_per_pod")
    pods = 1 if tors_per_pod is None else -(-tors // int(tors_per_pod))
    latency = values.get("link_latency")
    optional = {
        "nic_latency": values.get("nic_latency", latency),
        "tor_latency": latency,
        "agg_latency": latency,
        "scale_up_latency": values.get("scale_up_latency"),
        "buffer": values.get("buffer"),
        "hosts_per_domain": values.get("hosts_per_domain"),
    }
    return clos(
        section.hosts,
        section.accelerators_per_host,
        nic=values["nic"],
        nics_per_host=nics,
        attach="rail" if rail else "host",
        hosts_per_tor=per_tor,
        tors_per_pod=None if tors_per_pod is None or pods == 1 else int(tors_per_pod),
        aggs_per_pod=int(values.get("aggs_per_pod") or (DEFAULT_AGGS_PER_POD if tors > 1 else 0)),
        cores_per_agg=int(values.get("cores_per_agg") or (DEFAULT_CORES_PER_AGG if pods > 1 else 0)),
        oversubscription=tuple(values.get("oversubscription") or (1.0, 1.0)),
        scale_up=values.get("scale_up") or accelerator.scale_up_bandwidth,
        name=str(values.get("name", section.fabric.preset or section.fabric.kind)),
        **{key: value for key, value in optional.items() if value is not None},
    )


def site(s: Scenario, section: SiteSection, where: str = "sites[0]") -> Site:
    """One site of a scenario as objects."""
    accelerator = catalog.accelerator(section.accelerator)
    values = build.fabric_values(section, where)
    try:
        built = fabric(values, section, accelerator)
    except EustonError as error:
        raise ConfigError(at(f"{where}.fabric", str(error))) from None
    return Site(section.name, accelerator, section.hosts, section.accelerators_per_host, built)


def device(accelerator: Accelerator, job: TrainingJob) -> GPU:
    """The pricer of a site's accelerator with the job's kernel generation."""
    generation = {"unfused": "best", "cudnn": "fa3"}.get(
        job.software.attention_kernel, job.software.attention_kernel
    )
    return GPU(accelerator, attention_kernel=cast(Generation, generation))


def conditions(s: Scenario, here: Site) -> Conditions:
    """Policies, faults and fidelity switches of a scenario on a site."""
    section = s.policies.balancing
    make: Callable[..., Balancing] = BALANCING.get(section.kind)
    seed = s.run.seed if section.seed is None else section.seed
    balancing = make(qps=section.qps, seed=seed) if section.kind == "ecmp" else make()
    links, hosts = [], []
    for i, fault in enumerate(s.faults):
        if s.site(fault.site).name != here.name:
            continue
        until = math.inf if fault.until is None else fault.until
        if fault.link is not None:
            try:
                link = here.fabric.link_index(fault.link)
            except EustonError as error:
                raise ConfigError(at(f"faults[{i}].link", str(error))) from None
            links.append(LinkFault(link, float(fault.factor or 0.0), fault.at, until))
        else:
            assert fault.host is not None and fault.speed is not None
            if fault.host >= here.hosts:
                raise ConfigError(
                    at(
                        f"faults[{i}].host",
                        f"host {fault.host} does not exist; site {here.name!r} has {here.hosts}",
                    )
                )
            hosts.append(HostFault(fault.host, fault.speed, fault.at, until))
    spread = s.site(here.name).speed_spread
    return Conditions(
        balancing,
        tuple(links),
        tuple(hosts),
        folding=s.run.folding,
        contention=s.run.network == "fluid",
        speed_spread=SPEED_SPREAD if spread is None else spread,
    )


def _outcome(iteration: Iteration, here: Site, s: Scenario, jobs: list[Any]) -> Result:
    """The first job's result with the scenario's facts; further jobs' numbers as a table."""
    import polars as pl

    result = job_result(iteration, 0, here)
    section = s.jobs[0]
    result.meta |= {
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "name": s.name,
        "title": s.title or s.name,
        "seed": s.run.seed,
        "fidelity": {"compute": s.run.compute, "network": s.run.network},
        "folded": s.run.folding,
        "catalog": {
            "accelerator": here.accelerator.name,
            "fabric": here.fabric.name,
            "software": section.software,
        },
        "site": here.describe(),
    }
    stated = [
        {
            "where": f"jobs[0].{a.field}",
            "value": str(_lookup(section, a.field)),
            "why": a.why,
            "source": "the scenario file",
            "kind": "assumed",
        }
        for a in section.assumptions
    ]
    result.meta["assumptions"] = stated + result.meta["assumptions"]
    result.tables["assumptions"] = pl.DataFrame(result.meta["assumptions"])
    if section.reference:
        rows = [
            {
                "quantity": r.quantity,
                "published": float(r.value),
                "ours": result.scalars[r.quantity],
                "source": r.source,
            }
            for r in section.reference
            if r.quantity in result.scalars
        ]
        result.tables["reference"] = pl.DataFrame(rows).with_columns(
            (pl.col("ours") / pl.col("published") - 1).alias("error")
        )
    if len(jobs) > 1:
        others = [job_result(iteration, i, here) for i in range(len(jobs))]
        keys = (
            "step_time",
            "mfu",
            "tflops_per_accelerator",
            "bubble_fraction",
            "exposed_communication_fraction",
        )
        result.tables["jobs"] = pl.DataFrame(
            [{"job": r.meta["job"], **{k: r.scalars[k] for k in keys}} for r in others]
        )
    links = result.tables["links"]
    unused = links.filter(pl.col("idle_links") > 0).select("tier", pl.col("idle_links").alias("links"))
    if unused.height:
        result.tables["unused_links"] = unused
    return result


def _lookup(section: Any, path: str) -> Any:
    value = section
    for key in path.split("."):
        value = getattr(value, {"global": "global_batch"}.get(key, key), None)
    return value


def _alternatives(
    s: Scenario, here: Site, around: Conditions, jobs: list[Any], tell: Progress
) -> Iterator[tuple[int, Result]]:
    """The first job again with other virtual stages, when the file calls their number an assumption."""
    section = s.jobs[0]
    given = [a for a in section.assumptions if a.field == "parallel.virtual" and a.alternatives]
    if not given:
        return
    for virtual in given[0].alternatives:
        parallel = section.parallel.model_copy(update={"virtual": int(virtual)})
        other = s.model_copy(
            update={
                "jobs": (section.model_copy(update={"parallel": parallel, "schedule": None}), *s.jobs[1:])
            }
        )
        job = build.training_job(other, 0)
        job.check(where="jobs[0]")
        tell(f"again with {virtual} virtual stages")
        iteration = run_iteration([(job, jobs[0][1]), *jobs[1:]], here, device(here.accelerator, job), around)
        yield int(virtual), job_result(iteration, 0, here)


def _sweep_table(spread: list[tuple[int, Result]]) -> Any:
    import polars as pl

    return pl.DataFrame(
        {
            "virtual": [v for v, _ in spread],
            "step_time": [r.scalars["step_time"] for _, r in spread],
            "tflops_per_accelerator": [r.scalars["tflops_per_accelerator"] for _, r in spread],
            "mfu": [r.scalars["mfu"] for _, r in spread],
            "bubble_fraction": [r.scalars["bubble_fraction"] for _, r in spread],
            "memory_peak": [r.scalars["memory_peak"] for _, r in spread],
            "fits": [bool(r.scalars["memory_fits"]) for _, r in spread],
        }
    )
