"""Campaigns: what `euston campaign` does with a scenario's `campaign` section."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from euston import catalog
from euston import scenario as scenarios
from euston.assemble import device
from euston.cluster import Placement, Site
from euston.errors import BadInput, ConfigError, at
from euston.result import Result
from euston.runs import Progress
from euston.runs.training import prepare
from euston.scenario import Scenario
from euston.scenario.campaign import CampaignSection, FailureSection, ReliabilitySection
from euston.training.reliability import (
    Campaign,
    Checkpoint,
    Exponential,
    Law,
    Mode,
    Outcome,
    Population,
    Recovery,
    SimulatedSteps,
    State,
    Weibull,
    bathtub,
    campaign_result,
    effect_of,
    named_laws,
    run_repeats,
)

__all__ = ["plan_campaign", "run_campaigns", "simulate_campaign"]


def simulate_campaign(
    source: Scenario | str,
    *,
    seed: int | None = None,
    repeat: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run the campaign of a scenario; ``seed`` and ``repeat`` win over the file's.

    An interruption (Ctrl-C) after the first run keeps the finished ones: ``meta["interrupted"]`` says so.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    tell = progress or (lambda _: None)
    s = source if isinstance(source, Scenario) else scenarios.load(source)
    if seed is not None:
        s = s.model_copy(update={"run": s.run.model_copy(update={"seed": seed})})
    if s.campaign is None:
        raise ConfigError(at("campaign", "is missing; say what fails and for how long, or use simulate"))
    tell("building the site and its job")
    plan, site = plan_campaign(s, tell)
    outcomes, wanted = list[Outcome](), repeat or s.campaign.repeat
    interrupted = False
    try:
        for outcome in run_repeats(plan, wanted):
            outcomes.append(outcome)
            tell(f"{len(outcomes)} of {wanted} runs: ETTR {outcome.ettr:.3f}")
    except KeyboardInterrupt:
        if not outcomes:
            raise
        interrupted = True
    result = campaign_result(plan, outcomes)
    _add_facts(result, s, plan, site)
    _add_money(result, s, plan, site, outcomes)
    if interrupted:
        result.meta["interrupted"] = f"after {len(outcomes)} of {wanted} runs"
    return result


def run_campaigns(plan: Campaign, repeat: int) -> Iterator[Outcome]:
    """The runs of a plan, one by one."""
    return run_repeats(plan, repeat)


def plan_campaign(s: Scenario, tell: Progress) -> tuple[Campaign, Site]:
    """The campaign of a scenario as objects; its healthy step is simulated when first asked for."""
    section = s.campaign
    assert section is not None
    name = section.job or next(job.name for job in s.jobs if job.kind == "training")
    index = next(i for i, job in enumerate(s.jobs) if job.name == name)
    alone = s.model_copy(update={"jobs": (s.jobs[index],), "campaign": None})
    if s.jobs[index].placement.first_host is None and s.jobs[index].placement.hosts is None:
        kept = s.jobs[index].placement.model_copy(update={"first_host": s.hosts_of(index)[0]})
        alone = alone.model_copy(update={"jobs": (s.jobs[index].model_copy(update={"placement": kept}),)})
    ready = prepare(alone)
    job, placement = ready.jobs[0]
    steps = SimulatedSteps(
        job, placement, ready.site, device(ready.site.accelerator, job), ready.conditions,
        keep_batch=section.recovery.elastic == "keep", tell=tell,
    )  # fmt: skip
    population = _population(placement, ready.site)
    checkpoint = Checkpoint(**section.checkpoint.model_dump())
    try:
        plan = Campaign(
            steps, _modes(section.reliability), population, checkpoint,
            Recovery(**section.recovery.model_dump()), float(job.model.parameters()), job.parallel.world,
            section.duration or math.inf, section.tokens or math.inf, s.run.seed,
        )  # fmt: skip
        checkpoint.seconds_between(plan.cost, plan.failure_rate)
    except BadInput as error:
        message = str(error)
        raise ConfigError(message.replace("`checkpoint.", "`campaign.checkpoint.")) from None
    return plan, ready.site


def _population(placement: Placement, site: Site) -> Population:
    """Units of the job: its hosts' accelerators and NIC ports, and the switches those hang on."""
    each = site.accelerators_per_host
    fabric = site.fabric
    order = list(dict.fromkeys((placement.endpoint // each).tolist()))
    slot = {host: i for i, host in enumerate(order)}
    up = np.asarray(fabric.tier_links().get("NIC up", np.zeros(0, np.int32)))
    switches: dict[int, list[tuple[int, int]]] = {}
    links = 0
    nics: set[int] = set()
    for link, endpoint in zip(up.tolist(), fabric.link_src[up].tolist(), strict=True):
        host = endpoint // each
        if endpoint < fabric.endpoints and host in slot:
            switches.setdefault(int(fabric.link_dst[link]), []).append((slot[host], endpoint % each))
            links += 1
            nics.add(endpoint)
    hosts = len(order)
    per_host = {"accelerator": each, "silent": each}
    per_host |= dict.fromkeys(("nic",), max(1, len(nics) // hosts))
    per_host |= dict.fromkeys(("link", "flap"), max(1, links // hosts))
    return Population(hosts, per_host, tuple(tuple(p) for p in switches.values()))


def _modes(section: ReliabilitySection) -> tuple[Mode, ...]:
    laws: dict[str, Law] = dict(named_laws(section.rates)) if section.rates is not None else {}
    own = {f.component: f for f in section.failures}
    laws |= {component: _law(f) for component, f in own.items()}
    found = []
    for component, law in laws.items():
        values: dict[str, Any] = {"repair": section.repair}
        if component in own:
            given = own[component].model_dump(include={"repair", "duration", "factor", "noticed", "age"})
            values |= {key: value for key, value in given.items() if value is not None}
        found.append(Mode(component, law, effect_of(component, section.dual_tor), **values))
    return tuple(found)


def _law(f: FailureSection) -> Law:
    if f.law == "weibull":
        assert f.shape is not None
        return Weibull.with_mean(f.mtbf, f.shape)
    if f.law == "bathtub":
        assert f.weak_share is not None and f.weak_mtbf is not None
        return bathtub(f.mtbf, f.weak_share, f.weak_mtbf, weak_shape=f.weak_shape, wear_shape=f.shape or 3.0)
    return Exponential(f.mtbf)


def _add_facts(result: Result, s: Scenario, plan: Campaign, site: Site) -> None:
    section = s.campaign
    assert section is not None
    result.meta |= {
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "name": s.name,
        "title": s.title or s.name,
        "fidelity": {"compute": s.run.compute, "network": s.run.network},
        "catalog": {"accelerator": site.accelerator.name, "reliability": section.reliability.rates or ""},
        "site": site.describe(),
    }
    result.tables["modes"] = pl.DataFrame(
        [
            {
                "component": m.component,
                "effect": str(m.effect),
                "units": plan.population.count(m.component),
                "mtbf_of_a_unit": m.law.mean,
                "mtbf_of_the_job": 1.0 / r if (r := m.rate(plan.population)) > 0 else None,
            }
            for m in plan.modes
        ]
    )
    result.meta["assumptions"] = [*_stated(s), *_rates(section), *_defaults(section)]
    result.tables["assumptions"] = pl.DataFrame(result.meta["assumptions"])


def _stated(s: Scenario) -> list[dict[str, str]]:
    """Assumptions that the file's training jobs state themselves."""
    return [
        {
            "where": f"jobs[{i}].{a.field}", "value": _value(job, a.field), "why": a.why,
            "source": "the scenario file", "kind": "assumed",
        }
        for i, job in enumerate(s.jobs)
        for a in getattr(job, "assumptions", ())
    ]  # fmt: skip


def _value(job: Any, path: str) -> str:
    for key in path.split("."):
        job = getattr(job, {"global": "global_batch"}.get(key, key), None)
    return str(job)


def _rates(section: CampaignSection) -> list[dict[str, str]]:
    """Rates are another cluster's: that is an assumption of every campaign that takes them."""
    if section.reliability.rates is None:
        return []
    entry = catalog.entry("reliability", section.reliability.rates)
    return [
        {
            "where": "campaign.reliability.rates",
            "value": entry.name,
            "why": f"rates of another cluster: {entry.values.get('description', '')}",
            "source": next(iter(entry.sources.values()), ""),
            "kind": "transferred",
        }
    ]


_WHY = {
    "recovery.detection": "MegaScale detects and diagnoses in under 10 minutes (arXiv:2402.15627)",
    "checkpoint.bytes_per_parameter": "16-bit parameter and Adam's FP32 master copy and moments",
}


def _defaults(section: CampaignSection) -> list[dict[str, str]]:
    """Settings that the file leaves open."""
    found = []
    for key in ("checkpoint", "recovery"):
        part = getattr(section, key)
        written = part.model_dump(mode="json")
        for name in type(part).model_fields:
            if name in part.model_fields_set or written[name] is None:
                continue
            if key == "checkpoint" and name in ("peer_bandwidth", "storage_every") and part.mode != "memory":
                continue
            where = f"{key}.{name}"
            found.append(
                {
                    "where": f"campaign.{where}", "value": str(written[name]),
                    "why": _WHY.get(where, "not given"), "source": "", "kind": "default",
                }
            )  # fmt: skip
    return found


def _add_money(result: Result, s: Scenario, plan: Campaign, site: Site, outcomes: list[Outcome]) -> None:
    """Energy and cost: the site's own figures, else the catalogue's where it has them."""
    section = s.site(site.name)
    each = site.accelerators_per_host
    hosts = plan.population.hosts
    wall = result.scalars["wall_time"]
    idle = site.accelerator.idle_power or 0.0
    mean = math.fsum(
        o.step_energy + idle * each * (hosts * (o.wall - o.stepping) + plan.recovery.spares * o.wall)
        for o in outcomes
    ) / len(outcomes)  # fmt: skip
    everything = (hosts + plan.recovery.spares) * each
    _scalar(result, "accelerators", float(hosts * each), "1")
    _scalar(result, "accelerator_energy", mean, "J")
    power, values = section.power, _profile("power", "hyperscale")
    overhead = _profile("power", f"host-{site.accelerator.name.split('-')[0]}").get("host_overhead", 0.0)
    if power is not None and power.host is not None:
        overhead = power.host
    pue = power.pue if power is not None and power.pue is not None else values.get("pue", 1.0)
    drawn = (mean + overhead * (hosts + plan.recovery.spares) * wall) * pue
    _scalar(result, "facility_energy", drawn, "J")
    price = power.price if power is not None and power.price is not None else values.get("energy_price")
    if price is not None:
        _scalar(result, "energy_cost", drawn * price, "USD")
    rent = section.price
    if rent is None:
        rent = _profile("prices", site.accelerator.name).get("price")
    if rent is not None:
        cost = rent * everything * wall
        _scalar(result, "cost", cost, "USD")
        healthy = plan.steps.step(State())
        if result.scalars["tokens"] > 0:
            _scalar(result, "cost_per_trillion_tokens", cost / (result.scalars["tokens"] / 1e12), "USD")
        ideal = rent * hosts * each * healthy.seconds / healthy.tokens * 1e12
        _scalar(result, "cost_per_trillion_tokens_without_failures", ideal, "USD")


def _scalar(result: Result, name: str, value: float, unit: str) -> None:
    result.scalars[name] = float(value)
    result.units[name] = unit


def _profile(kind: str, name: str) -> dict[str, Any]:
    """Values of a catalogue entry; empty where there is none."""
    try:
        return dict(catalog.entry(kind, name).values)
    except BadInput:
        return {}
