"""A scenario as objects: its site, its jobs on their accelerators, the conditions; every check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from euston import catalog
from euston.catalog import Accelerator
from euston.cluster import Placement, Site, place
from euston.devices import GPU
from euston.devices.gpu import Generation
from euston.errors import ConfigError, EustonError, at
from euston.fabrics import Fabric, clos
from euston.scenario import Scenario, build
from euston.scenario.sites import SiteSection
from euston.training import Conditions, HostFault, LinkFault, TrainingJob, require_fit
from euston.training.skew import SPEED_SPREAD

__all__ = ["Prepared", "conditions", "device", "fabric", "prepare", "site"]

# Switches where a description does not say: fewer, fatter links of the same capacity.
DEFAULT_AGGS_PER_POD = 8
DEFAULT_CORES_PER_AGG = 16


@dataclass(frozen=True)
class Prepared:
    """What a run needs; nothing in it can be wrong any more."""

    scenario: Scenario
    site: Site
    section: SiteSection
    jobs: tuple[tuple[TrainingJob, Placement], ...]
    conditions: Conditions


def prepare(s: Scenario) -> Prepared:
    """Build and check everything that a run of ``s`` needs.

    Raises
    ------
    BadInput
        With the place in the scenario: what this version does not simulate, layouts that do not divide, hosts
        or links that do not exist, memory that does not suffice (unless ``run.memory: report``).
    """
    _supported(s)
    home = s.site(s.jobs[0].placement.site)
    here = site(s, home, f"sites[{s.sites.index(home)}]")
    jobs = []
    for i in range(len(s.jobs)):
        job = build.training_job(s, i)
        job.check(where=f"jobs[{i}]")
        placement = place(job.parallel, here, hosts=s.hosts_of(i), where=f"jobs[{i}].placement")
        if s.run.memory == "refuse":
            require_fit(job, here.accelerator, where=f"jobs[{i}]")
        jobs.append((job, placement))
    return Prepared(s, here, home, tuple(jobs), conditions(s, here))


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
    balancing = s.policies.balancing.make(s.run.seed)
    if hasattr(balancing, "check"):
        balancing.check(here.fabric, where="policies.balancing")
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
