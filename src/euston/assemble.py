"""A scenario as objects: its site, its jobs on their accelerators, the conditions; every check."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from euston import catalog
from euston.catalog import Accelerator
from euston.cluster import Placement, Site, place
from euston.devices import GPU
from euston.devices.gpu import Generation
from euston.errors import BadInput, ConfigError, EustonError, at
from euston.fabrics import Fabric
from euston.scenario import Scenario, build
from euston.scenario.fabrics import built, misplaced
from euston.scenario.sites import SiteSection
from euston.scenario.traffic import TrafficSection
from euston.training import Conditions, HostFault, LinkFault, TrainingJob, require_fit
from euston.training.skew import SPEED_SPREAD

if TYPE_CHECKING:  # imported when a traffic job is there: training needs neither engine of flow lists
    from euston.network import FlowResult
    from euston.network.allocation import AllocationPolicy
    from euston.network.balancing import Balancing
    from euston.network.transport import Transport
    from euston.scenario.flows import JobTraffic

__all__ = [
    "Prepared",
    "PreparedTraffic",
    "conditions",
    "device",
    "fabric",
    "prepare",
    "prepare_traffic",
    "site",
    "site_fabric",
]


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
    mixed = next((i for i, job in enumerate(s.jobs) if isinstance(job, TrafficSection)), None)
    if mixed is not None:
        raise ConfigError(
            at(
                f"jobs[{mixed}].kind",
                "traffic beside training in one run is not in this version; use two files",
            )
        )
    if s.run.network in ("packet", "emulate"):
        raise ConfigError(
            at("run.network", f"{s.run.network} is not in this version for training; use fluid or none")
        )
    if s.policies.allocation.kind != "max_min":
        raise ConfigError(
            at(
                "policies.allocation",
                f"{s.policies.allocation.kind} holds for traffic jobs (`euston net run`) in this version; "
                "training jobs share links by max_min",
            )
        )
    if s.run.compute == "analytic":
        raise ConfigError(at("run.compute", "analytic is not in this version; use des"))
    names = {s.site(job.placement.site).name for job in s.jobs}
    if len(names) > 1:
        raise ConfigError(
            at("jobs", f"jobs on {len(names)} sites in one run are not in this version; use one site")
        )
    for i in range(len(s.jobs)):
        for key in ("context", "expert"):
            if getattr(s.training(i).parallel, key) > 1:
                raise ConfigError(
                    at(
                        f"jobs[{i}].parallel.{key}",
                        f"{key} parallelism is not simulated in this version; use 1",
                    )
                )


def fabric(values: dict[str, Any], section: SiteSection, accelerator: Accelerator | None = None) -> Fabric:
    """The fabric of a site from its (SI) values; sizes nobody gave are filled in.

    Raises
    ------
    FabricError, UnitError
        As "`key`: ...".
    """
    return built(
        values,
        section.hosts,
        section.accelerators_per_host,
        scale_up=None if accelerator is None else accelerator.scale_up_bandwidth,
        name=str(section.fabric.preset or section.fabric.kind),
    )


def site_fabric(section: SiteSection, where: str = "sites[0]") -> Fabric:
    """The fabric of a site, which need not have an accelerator.

    Raises
    ------
    ConfigError
        With the place in the scenario.
    """
    accelerator = None if section.accelerator is None else catalog.accelerator(section.accelerator)
    try:
        return fabric(build.fabric_values(section, where), section, accelerator)
    except BadInput as error:
        raise ConfigError(at(*misplaced(error, where))) from None


def site(s: Scenario, section: SiteSection, where: str = "sites[0]") -> Site:
    """One site of a scenario as objects.

    Raises
    ------
    ConfigError
        With the place in the scenario; also for a site without an accelerator.
    """
    if section.accelerator is None:
        raise ConfigError(
            at(f"{where}.accelerator", "is missing; a job that computes needs one of the catalogue's")
        )
    accelerator = catalog.accelerator(section.accelerator)
    return Site(
        section.name, accelerator, section.hosts, section.accelerators_per_host, site_fabric(section, where)
    )


def device(accelerator: Accelerator, job: TrainingJob) -> GPU:
    """The pricer of a site's accelerator with the job's kernel generation."""
    generation = {"unfused": "best", "cudnn": "fa3"}.get(
        job.software.attention_kernel, job.software.attention_kernel
    )
    return GPU(accelerator, attention_kernel=cast(Generation, generation))


@dataclass(frozen=True)
class PreparedTraffic:
    """What a run of traffic jobs needs; nothing in it can be wrong any more.

    Attributes
    ----------
    settings : dict
        Engine settings by network.
    """

    scenario: Scenario
    fabric: Fabric
    flows: JobTraffic
    balancing: Balancing
    transport: Transport
    allocation: AllocationPolicy
    faults: tuple[LinkFault, ...]
    settings: dict[str, Any]

    def run(self, network: str, progress: Callable[[str], None] | None = None) -> FlowResult:
        """The flows on one of the two engines."""
        from euston.traffic.run import run_flows

        s = self.scenario
        return run_flows(
            self.flows.traffic.flows,
            self.fabric,
            network=network,
            balancing=self.balancing,
            transport=self.transport,
            allocation=self.allocation,
            jobs=self.flows.jobs,
            job=self.flows.job,
            faults=self.faults,
            settings=self.settings[network],
            seed=s.run.seed,
            until=math.inf if s.run.until is None else s.run.until,
            progress=progress,
        )


def prepare_traffic(s: Scenario) -> PreparedTraffic:
    """Build and check everything that a run of the traffic jobs of ``s`` needs.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    from euston.scenario.flows import traffic_of

    if not s.is_traffic:
        raise ConfigError(at("jobs", "a study of the network has jobs of kind traffic only"))
    if s.run.network not in ("fluid", "packet"):
        raise ConfigError(
            at("run.network", f"{s.run.network} moves no traffic in this version; use fluid or packet")
        )
    names = {s.site(job.placement.site).name for job in s.jobs}
    if len(names) > 1:
        raise ConfigError(at("jobs", f"traffic on {len(names)} sites in one run; use one site"))
    home = s.site(s.jobs[0].placement.site)
    built = site_fabric(home, f"sites[{s.sites.index(home)}]")
    balancing = s.policies.balancing.make(s.run.seed)
    if hasattr(balancing, "check"):
        balancing.check(built, where="policies.balancing")
    transport = s.policies.transport.make()
    s.policies.allocation.begin(built, [job.name for job in s.jobs], ())
    for i, fault in enumerate(s.faults):
        if fault.host is not None:
            raise ConfigError(at(f"faults[{i}].host", "traffic computes nothing; name a link"))
    packet = s.run.packet.make()
    for i, name in enumerate(s.run.packet.sampled):
        _link(built, name, f"run.packet.sampled[{i}]")
    return PreparedTraffic(
        s,
        built,
        traffic_of(s, built),
        balancing,
        transport,
        s.policies.allocation.make(),
        _link_faults(s, home.name, built),
        {"fluid": s.run.fluid.make(transport, s.run.folding), "packet": packet},
    )


def _link(fabric: Fabric, name: str, where: str) -> int:
    try:
        return fabric.link_index(name)
    except EustonError as error:
        raise ConfigError(at(where, str(error))) from None


def _link_faults(s: Scenario, site: str, fabric: Fabric) -> tuple[LinkFault, ...]:
    """Slow and failed links of one site."""
    return tuple(
        LinkFault(
            _link(fabric, fault.link, f"faults[{i}].link"),
            float(fault.factor or 0.0),
            fault.at,
            math.inf if fault.until is None else fault.until,
        )
        for i, fault in enumerate(s.faults)
        if fault.link is not None and s.site(fault.site).name == site
    )


def conditions(s: Scenario, here: Site) -> Conditions:
    """Policies, faults and fidelity switches of a scenario on a site."""
    balancing = s.policies.balancing.make(s.run.seed)
    if hasattr(balancing, "check"):
        balancing.check(here.fabric, where="policies.balancing")
    hosts = []
    for i, fault in enumerate(s.faults):
        if s.site(fault.site).name == here.name and fault.link is None:
            until = math.inf if fault.until is None else fault.until
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
        _link_faults(s, here.name, here.fabric),
        tuple(hosts),
        folding=s.run.folding,
        contention=s.run.network == "fluid",
        speed_spread=SPEED_SPREAD if spread is None else spread,
    )
