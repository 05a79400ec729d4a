"""A scenario runs and comes back as a ``Result``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from euston import scenario as scenarios
from euston.assemble import Prepared, PreparedTraffic, device, prepare, prepare_traffic
from euston.result import Result
from euston.scenario import Scenario, build
from euston.scenario.jobs import TrainingSection
from euston.training import Iteration, Wiring, job_result, job_scalars, run_iteration

if TYPE_CHECKING:
    from euston.network import FlowResult

__all__ = ["compare_traffic", "simulate", "simulate_traffic", "traffic_result"]

Progress = Callable[[str], None]


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
        Scalars (SI), tables and the timeline of the first job; see ``euston.result.Result``. Further jobs of
        the scenario run beside it and stand in the table ``jobs``.

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
    if s.is_traffic:
        return simulate_traffic(s, progress=tell)
    tell("building the site and its jobs")
    ready = prepare(s)
    tell(f"executing {', '.join(job.name for job, _ in ready.jobs)}")
    iteration = _run(ready, None)
    result = job_result(iteration, 0, ready.site)
    _add_facts(result, ready)
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


def _run(ready: Prepared, wiring: Wiring | None) -> Iteration:
    devices = [device(ready.site.accelerator, job) for job, _ in ready.jobs]
    return run_iteration(ready.jobs, ready.site, devices, ready.conditions, wiring=wiring)


def _add_facts(result: Result, ready: Prepared) -> None:
    """What a saved result must remember about where it came from."""
    s, site = ready.scenario, ready.site
    section = s.training(0)
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
            "where": f"jobs[0].{a.field}",
            "value": str(_lookup(section, a.field)),
            "why": a.why,
            "source": "the scenario file",
            "kind": "assumed",
        }
        for a in section.assumptions
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


def _add_tables(result: Result, iteration: Iteration, ready: Prepared) -> None:
    """Assumptions, published figures beside ours, the other jobs, links that carried nothing."""
    result.tables["assumptions"] = pl.DataFrame(result.meta["assumptions"])
    rows = [
        {
            "quantity": r.quantity,
            "published": float(r.value),
            "ours": result.scalars[r.quantity],
            "error": result.scalars[r.quantity] / float(r.value) - 1,
            "source": r.source,
        }
        for r in ready.scenario.training(0).reference
        if r.quantity in result.scalars
    ]
    if rows:
        result.tables["reference"] = pl.DataFrame(rows)
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
        yield virtual, job_scalars(_run(other, wiring), 0, ready.site)


# ---- traffic -----------------------------------------------------------------------------------------------


def simulate_traffic(
    source: Scenario | str | Path,
    *,
    network: str | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run the traffic jobs of a scenario.

    Parameters
    ----------
    network : "fluid" | "packet", optional
        Wins over ``run.network``.
    seed, progress
        See `simulate`.

    Raises
    ------
    EustonError
        See `simulate`.
    """
    tell = progress or (lambda _: None)
    ready = _traffic(source, seed, tell)
    chosen = ready.scenario.run.network if network is None else network
    tell(f"running {len(ready.flows.traffic):,} flows, {chosen}")
    return traffic_result(ready, ready.run(chosen, tell))


def compare_traffic(
    source: Scenario | str | Path, *, seed: int | None = None, progress: Progress | None = None
) -> Result:
    """Run the traffic jobs of a scenario on both network engines; see `euston.traffic.compare`.

    Where flows keep to hashed paths both engines take the packet engine's.
    """
    from euston.traffic.compare import compare_networks
    from euston.traffic.packet_paths import on_packet_paths

    tell = progress or (lambda _: None)
    ready = _traffic(source, seed, tell)
    flows = ready.flows.traffic.flows
    paths = on_packet_paths(ready.balancing, flows, ready.scenario.run.seed)
    tell(f"running {len(flows):,} flows, fluid")
    fluid = replace(ready, balancing=paths).run("fluid")
    tell(f"running {len(flows):,} flows, packet")
    packet = ready.run("packet", tell)
    result = compare_networks(fluid, packet, ready.fabric, header=ready.transport.header)
    result.meta |= _traffic_facts(ready)
    return result


def _traffic(source: Scenario | str | Path, seed: int | None, tell: Progress) -> PreparedTraffic:
    s = source if isinstance(source, Scenario) else scenarios.load(source)
    if seed is not None:
        s = s.model_copy(update={"run": s.run.model_copy(update={"seed": seed})})
    tell("building the fabric and its traffic")
    return prepare_traffic(s)


SPRAYING = ("spray", "oblivious", "drb", "reps", "bitmap", "mixed")
"""Balancing under which one flow uses all its paths at once."""


def traffic_result(ready: PreparedTraffic, run: FlowResult) -> Result:
    """One run of prepared traffic with its metrics."""
    from euston.traffic.metrics import by_size
    from euston.traffic.summary import flow_result_to_result

    result = flow_result_to_result(
        run,
        ready.fabric,
        traffic=ready.flows.traffic,
        mtu=ready.transport.mtu,
        header=ready.transport.header,
        sprayed=ready.balancing.name in SPRAYING,
        meta=_traffic_facts(ready),
    )
    jobs = ready.flows.jobs
    if len(jobs) > 1:
        names = pl.Series("job", list(jobs)).gather(ready.flows.job)
        table = result.tables["flows"].with_columns(names.alias("job"))
        parts = [
            by_size(table.filter(pl.col("job") == job)).tail(1).with_columns(pl.lit(job).alias("bucket"))
            for job in jobs
        ]
        result.tables |= {"flows": table, "by_job": pl.concat(parts).rename({"bucket": "job"})}
    return result


def _traffic_facts(ready: PreparedTraffic) -> dict[str, Any]:
    s = ready.scenario
    return {
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "name": s.name,
        "title": s.title or s.name,
        "fabric": ready.fabric.name,
        "site": ready.fabric.describe(),
    }
