"""What only the whole scenario shows of a training job: its model, its layout, the site it runs on."""

from __future__ import annotations

from collections.abc import Iterator

from euston.errors import BadInput, at, unknown
from euston.scenario import build
from euston.scenario._base import Section
from euston.scenario._problems import undotted
from euston.scenario.jobs import TrainingSection
from euston.scenario.model import Scenario


def problems(section: TrainingSection, scenario: Scenario, index: int) -> Iterator[str]:
    """Sentences "`jobs[0].parallel.tensor`: ...", one per contradiction."""
    where = f"jobs[{index}]"
    site = scenario.site(section.placement.site)
    if site.accelerator is None:
        at_site = f"sites[{scenario.sites.index(site)}].accelerator"
        yield at(at_site, f"is missing; job {section.name!r} trains on this site")
        return
    world = section.parallel.world
    message = ""
    try:
        build.training_job(scenario, index).check(world, where=where)
    except BadInput as error:
        message = str(error)
    if message:
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
