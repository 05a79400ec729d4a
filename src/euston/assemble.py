"""Parts of a scenario as objects that every kind of job needs: sites, fabrics, devices, conditions."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from euston import catalog
from euston.catalog import Accelerator
from euston.cluster import Site
from euston.devices import GPU
from euston.devices.gpu import EAGER_LAUNCH
from euston.devices.kernels import GemmSource, Generation
from euston.errors import BadInput, ConfigError, EustonError, at, unknown
from euston.fabrics import Fabric
from euston.models.recipes import recipe
from euston.scenario import Scenario, build
from euston.scenario.fabrics import built, misplaced
from euston.scenario.sites import SiteSection
from euston.training import Conditions, HostFault, LinkFault, TrainingJob
from euston.training.skew import SPEED_SPREAD

__all__ = [
    "conditions",
    "device",
    "fabric",
    "link_faults",
    "link_index",
    "other_accelerators",
    "require_arithmetic",
    "site",
    "site_fabric",
]

#: Time from one kernel to the next when a recorded graph is replayed (NVIDIA, Constant time launch for
#: straight-line CUDA graphs, 2024: about 1 us).
GRAPH_LAUNCH = 1e-6


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


def other_accelerators(section: SiteSection) -> dict[int, Accelerator]:
    """Host -> accelerator, for the hosts of a site that have another one than the site's."""
    return {
        host: catalog.accelerator(other.accelerator)
        for other in section.others
        for host in range(other.first_host, other.first_host + other.hosts)
    }


def device(accelerator: Accelerator, job: TrainingJob, *, gemm_source: str = "table+cap") -> GPU:
    """The pricer of a site's accelerator with the job's kernels; `gemm_source` as `GPU` takes it."""
    generation = {"unfused": "best", "cudnn": "fa3"}.get(
        job.software.attention_kernel, job.software.attention_kernel
    )
    launch = GRAPH_LAUNCH if job.software.cuda_graphs == "full" else EAGER_LAUNCH
    return GPU(
        accelerator, gemm_source=cast(GemmSource, gemm_source), attention_kernel=cast(Generation, generation),
        launch_floor=launch, experts="library", casts="apart",
    )  # fmt: skip


def require_arithmetic(accelerator: Accelerator, precision: str, where: str) -> None:
    """Raise ConfigError at ``where`` when the accelerator cannot multiply in a precision's type."""
    found = recipe(precision)
    try:
        GPU(accelerator).kernels.power.peak(precision if found is None else found.gemm)
    except BadInput as error:
        raise ConfigError(at(where, str(error))) from None


def link_index(fabric: Fabric, name: str, where: str) -> int:
    """Number of a link by its name; ConfigError at ``where`` for one that does not exist."""
    try:
        return fabric.link_index(name)
    except EustonError as error:
        raise ConfigError(at(where, str(error))) from None


def link_faults(s: Scenario, site: str, fabric: Fabric) -> tuple[LinkFault, ...]:
    """Slow and failed links of one site, those of its slow and failed switches among them."""
    found = []
    for i, fault in enumerate(s.faults):
        if fault.host is not None or s.site(fault.site).name != site:
            continue
        if fault.link is not None:
            links = [link_index(fabric, fault.link, f"faults[{i}].link")]
        else:
            links = _links_of(fabric, str(fault.switch), f"faults[{i}].switch")
        until = math.inf if fault.until is None else fault.until
        found += [LinkFault(link, float(fault.factor or 0.0), fault.at, until) for link in links]
    return tuple(found)


def _links_of(fabric: Fabric, switch: str, where: str) -> list[int]:
    """Links into and out of a switch by its name."""
    nodes = {fabric.node_name(n): n for n in range(fabric.endpoints, fabric.node_kind.size)}
    if switch not in nodes:
        raise ConfigError(at(where, unknown("switch", switch, nodes)))
    node = nodes[switch]
    return [int(link) for link in np.flatnonzero((fabric.link_src == node) | (fabric.link_dst == node))]


def conditions(s: Scenario, here: Site) -> Conditions:
    """Policies, faults and fidelity switches of a scenario on a site."""
    balancing = s.policies.balancing.make(s.run.seed)
    if hasattr(balancing, "check"):
        balancing.check(here.fabric, where="policies.balancing")
    hosts = []
    for i, fault in enumerate(s.faults):
        if s.site(fault.site).name == here.name and fault.host is not None:
            until = math.inf if fault.until is None else fault.until
            assert fault.speed is not None
            if fault.host >= here.hosts:
                raise ConfigError(
                    at(
                        f"faults[{i}].host",
                        f"host {fault.host} does not exist; site {here.name!r} has {here.hosts}",
                    )
                )
            hosts.append(HostFault(fault.host, fault.speed, fault.at, until))
    given = s.site(here.name).speed_spread
    spread = SPEED_SPREAD if given is None else given
    return Conditions(
        balancing,
        link_faults(s, here.name, here.fabric),
        tuple(hosts),
        folding=s.run.folding,
        contention=s.run.network == "fluid",
        allocation=s.policies.allocation.make() if s.policies.allocation.kind != "max_min" else None,
        speed_spread=spread,
        jitter=spread if s.run.speeds == "each" else 0.0,
        seed=s.run.seed,
    )
