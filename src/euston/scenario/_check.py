"""What only the whole scenario shows: catalogue names, layouts that fit, placements that do not collide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from euston import catalog
from euston.errors import BadInput, ConfigError, at, unknown
from euston.scenario import campaign
from euston.scenario.model import JobSection, Scenario
from euston.scenario.sites import SiteSection


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
        taken: set[int] = set()
        for i, other in enumerate(site.others):
            place = f"{where}.others[{i}]"
            try:
                catalog.accelerator(other.accelerator)
            except BadInput as error:
                yield at(f"{place}.accelerator", str(error))
            run = range(other.first_host, other.first_host + other.hosts)
            if run.stop > site.hosts:
                yield at(place, f"host {run.stop - 1} does not exist; the site has {site.hosts} hosts")
            elif not taken.isdisjoint(run):
                yield at(place, f"host {min(taken & set(run))} is in two of them")
            else:
                taken |= set(run)


def _jobs(scenario: Scenario) -> Iterator[str]:
    for index, section in enumerate(scenario.jobs):
        yield from section.problems(scenario, index)


def _first(check: Callable[[], None]) -> str | None:
    try:
        check()
    except BadInput as error:
        return str(error)
    return None


def _placements(scenario: Scenario) -> Iterator[str]:
    taken: dict[tuple[str, int], int] = {}
    for index, section in enumerate(scenario.jobs):
        where = f"jobs[{index}].placement"
        site = scenario.site(section.placement.site)
        hosts = scenario.hosts_of(index)
        needed = -(-section.accelerators(site) // site.accelerators_per_host)
        if section.placement.hosts is not None and len(hosts) != needed:
            yield at(
                f"{where}.hosts",
                f"{len(hosts)} hosts are listed; the job's {section.accelerators(site)} ranks need {needed}",
            )
        elif not hosts or max(hosts) >= site.hosts:
            if section.accelerators(site) <= site.accelerators:  # else the job says it
                span = f"{min(hosts)} to {max(hosts)}" if hosts else "beyond the last"
                yield at(where, f"needs hosts {span}; site {site.name!r} has hosts 0 to {site.hosts - 1}")
        elif not section.shares_hosts:
            clash = next((host for host in hosts if (site.name, host) in taken), None)
            if clash is not None:
                other = scenario.jobs[taken[site.name, clash]].name
                yield at(where, f"host {clash} of site {site.name!r} is used by job {other!r} already")
            taken |= {(site.name, host): index for host in hosts if (site.name, host) not in taken}


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
    if scenario.campaign is not None:
        yield from campaign.problems(scenario.campaign, scenario)


def check(scenario: Scenario) -> None:
    """Raise ConfigError with the first contradiction, for a scenario built from Python."""
    found = problems(scenario)
    if found:
        raise ConfigError(found[0])
