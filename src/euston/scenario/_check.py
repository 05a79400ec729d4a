"""What only the whole scenario shows: catalogue names, layouts that fit, placements that do not collide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from euston import catalog
from euston.errors import BadInput, ConfigError, at, unknown
from euston.scenario import build
from euston.scenario._base import Section
from euston.scenario._problems import undotted
from euston.scenario.jobs import TrainingSection
from euston.scenario.model import JobSection, Scenario
from euston.scenario.sites import SiteSection
from euston.scenario.traffic import TrafficSection


def problems(scenario: Scenario) -> list[str]:
    """Every contradiction as a sentence "`jobs[0].parallel.tensor`: ..."; empty when there is none."""
    found = [*_names(scenario), *_sites(scenario)]
    if found:  # what follows would only repeat them
        return found
    return [*_jobs(scenario), *_placements(scenario), *_faults(scenario), *_policies(scenario)]


def _names(scenario: Scenario) -> Iterator[str]:
    groups: list[tuple[str, Sequence[SiteSection | JobSection]]]
    groups = [("sites", scenario.sites), ("jobs", scenario.jobs)]
    for key, sections in groups:
        seen: dict[str, int] = {}
        for index, section in enumerate(sections):
            if section.name in seen:
                yield at(
                    f"{key}[{index}].name",
                    f"{section.name!r} is the name of {key}[{seen[section.name]}] already",
                )
            seen.setdefault(section.name, index)
    sites = [site.name for site in scenario.sites]
    for index, job in enumerate(scenario.jobs):
        yield from _site_known(job.placement.site, sites, f"jobs[{index}].placement.site")
    for index, fault in enumerate(scenario.faults):
        yield from _site_known(fault.site, sites, f"faults[{index}].site")


def _site_known(name: str | None, sites: Sequence[str], where: str) -> Iterator[str]:
    if name is not None and name not in sites:
        yield at(where, unknown("site", name, sites))


def _sites(scenario: Scenario) -> Iterator[str]:
    for index, site in enumerate(scenario.sites):
        where = f"sites[{index}]"
        if site.accelerator is not None:
            try:
                catalog.accelerator(site.accelerator)
            except BadInput as error:
                yield at(f"{where}.accelerator", str(error))


def _jobs(scenario: Scenario) -> Iterator[str]:
    for index, section in enumerate(scenario.jobs):
        where = f"jobs[{index}]"
        site = scenario.site(section.placement.site)
        if isinstance(section, TrafficSection):
            continue
        if site.accelerator is None:
            at_site = f"sites[{scenario.sites.index(site)}].accelerator"
            yield at(at_site, f"is missing; job {section.name!r} trains on this site")
            continue
        world = section.parallel.world

        def check(index: int = index, where: str = where, world: int = world) -> None:
            build.training_job(scenario, index).check(world, where=where)

        message = _first(check)
        if message is not None:
            yield _under(message, where)
        elif world > site.accelerators:
            p = section.parallel
            context = f" x context {p.context}" if p.context > 1 else ""
            yield at(
                f"{where}.parallel",
                f"tensor {p.tensor}{context} x pipeline {p.pipeline} x data {p.data} needs {world} "
                f"accelerators; site {site.name!r} has {site.accelerators}",
            )
        elif world > site.accelerators_per_host and world % site.accelerators_per_host:
            yield at(
                f"{where}.parallel",
                f"{world} ranks do not divide into hosts of {site.accelerators_per_host} accelerators; "
                f"nearest {world // site.accelerators_per_host * site.accelerators_per_host}",
            )
        yield from _assumptions(section, where)


def _first(check: Callable[[], None]) -> str | None:
    try:
        check()
    except BadInput as error:
        return str(error)
    return None


def _under(message: str, where: str) -> str:
    """The message with its place under `where`: rooms below name only "`parallel.tensor`" or "`tensor`"."""
    if not message.startswith("`"):
        return at(where, message)
    place, _, rest = message[1:].partition("`")
    if place.startswith(where):
        return message
    if place.split(".")[0] not in TrainingSection.model_fields:
        place = f"parallel.{place}"
    return f"`{where}.{place}`{rest}"


def _assumptions(section: TrainingSection, where: str) -> Iterator[str]:
    for index, assumption in enumerate(section.assumptions):
        value: object = section
        for step in undotted(assumption.field):
            step = "global_batch" if step == "global" else step
            if not (isinstance(value, Section) and step in type(value).model_fields):
                known = type(value).keys() if isinstance(value, Section) else []
                yield at(f"{where}.assumptions[{index}].field", unknown("key", assumption.field, known))
                break
            value = getattr(value, step)


def _placements(scenario: Scenario) -> Iterator[str]:
    taken: dict[tuple[str, int], int] = {}
    for index, section in enumerate(scenario.jobs):
        where = f"jobs[{index}].placement"
        site = scenario.site(section.placement.site)
        hosts = scenario.hosts_of(index)
        if isinstance(section, TrafficSection):
            yield from _traffic_hosts(hosts, site, where)
            continue
        needed = -(-section.parallel.world // site.accelerators_per_host)
        if section.placement.hosts is not None and len(hosts) != needed:
            yield at(
                f"{where}.hosts",
                f"{len(hosts)} hosts are listed; the job's {section.parallel.world} ranks need {needed}",
            )
            continue
        if max(hosts) >= site.hosts:
            if section.parallel.world <= site.accelerators:  # else it is said already
                yield at(
                    where,
                    f"needs hosts {min(hosts)} to {max(hosts)}; "
                    f"site {site.name!r} has hosts 0 to {site.hosts - 1}",
                )
            continue
        clash = next((host for host in hosts if (site.name, host) in taken), None)
        if clash is not None:
            other = scenario.jobs[taken[site.name, clash]].name
            yield at(where, f"host {clash} of site {site.name!r} is used by job {other!r} already")
        taken |= {(site.name, host): index for host in hosts if (site.name, host) not in taken}


def _traffic_hosts(hosts: Sequence[int], site: SiteSection, where: str) -> Iterator[str]:
    if not hosts or max(hosts) >= site.hosts:
        span = f"{hosts[0]} to {max(hosts)}" if hosts else "beyond the last"
        yield at(where, f"needs hosts {span}; site {site.name!r} has hosts 0 to {site.hosts - 1}")
    elif len(hosts) * site.accelerators_per_host < 2:
        yield at(where, "has one accelerator; traffic needs 2 or more")


def _faults(scenario: Scenario) -> Iterator[str]:
    for index, fault in enumerate(scenario.faults):
        site = scenario.site(fault.site)
        if fault.host is not None and fault.host >= site.hosts:
            yield at(
                f"faults[{index}].host",
                f"{fault.host} does not exist; site {site.name!r} has hosts 0 to {site.hosts - 1}",
            )


def _policies(scenario: Scenario) -> Iterator[str]:
    names = [job.name for job in scenario.jobs]
    wrong = _first(lambda: scenario.policies.allocation.check(names))
    if wrong:
        yield wrong


def check(scenario: Scenario) -> None:
    """Raise ConfigError with the first contradiction, for a scenario built from Python."""
    found = problems(scenario)
    if found:
        raise ConfigError(found[0])
