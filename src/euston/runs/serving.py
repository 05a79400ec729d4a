"""Runs of serving jobs: what `simulate` does with a scenario of `kind: serving`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston import __version__
from euston.assemble import site
from euston.clock.conductor import Component, Conductor, Message
from euston.cluster import Site
from euston.errors import ConfigError, at
from euston.models import Transformer
from euston.result import Result
from euston.runs import Progress
from euston.runs._serving_experts import experts
from euston.runs._serving_network import NETWORK, handovers, paths
from euston.runs._serving_parts import deployment, requests, slo
from euston.scenario import Scenario, build
from euston.scenario.serving import PoolSection, ServingSection
from euston.scenario.sites import SiteSection
from euston.serving import Autoscaler, Deployment, Replica, Requests, Scaling, Serving, ServingResult
from euston.serving.deployment import ROLES
from euston.serving.metrics import Slo, latencies, load_over_time, per_class, per_request, scalars
from euston.serving.network import Handovers
from euston.serving.result import Outcome

__all__ = [
    "PreparedServing",
    "Service",
    "components",
    "network",
    "numbers",
    "prepare",
    "run",
    "service",
    "simulate",
]

UNITS = {
    "makespan": "s", "requests_per_second": "1/s", "output_tokens_per_second": "1/s", "slo_goodput": "1/s",
    "slo_attainment": "share", "hit_share": "share", "tier_hit_share": "share", "kv_peak": "share",
    "busy_share": "share", "handed_bytes": "B", "joules": "J", "joules_per_token": "J", "cost": "USD",
    "cost_per_million_tokens": "USD",
    **{
        f"{metric}_{column}": "s"
        for metric in ("ttft", "itl", "tpot", "e2e")
        for column in ("mean", "p50", "p90", "p99")
    },
}  # fmt: skip
SHARE_OF_IDLE = 0.15
"""Idle power over the limit where the catalogue has none, as devices are priced."""
MOST_REQUESTS = 2_000_000
"""Rows of the table of requests."""


@dataclass(frozen=True)
class Service:
    """One serving job as objects; nothing in it can be wrong any more."""

    name: str
    section: ServingSection
    home: SiteSection
    here: Site
    model: Transformer
    requests: Requests
    deployment: Deployment
    slo: Slo
    scenario: Scenario
    index: int

    @property
    def sends(self) -> bool:
        """Whether it hands over across the site's fabric."""
        return self.deployment.transport.network == "fluid"

    @property
    def accelerators(self) -> int:
        """Those of all pools."""
        return self.section.accelerators(self.home)


@dataclass(frozen=True)
class PreparedServing:
    """What a run of serving jobs needs."""

    scenario: Scenario
    services: tuple[Service, ...]


def service(
    s: Scenario,
    index: int,
    deploy: Callable[[ServingSection, Transformer, Site, str, str], Deployment] = deployment,
) -> Service:
    """Build and check job number ``index``; ``deploy`` gives it another deployment than the file's.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    section = s.jobs[index]
    where = f"jobs[{index}]"
    if not isinstance(section, ServingSection):
        raise ConfigError(at(f"{where}.kind", f"{section.kind} serves nothing; this needs kind serving"))
    home = s.site(section.placement.site)
    here = site(s, home, f"sites[{s.sites.index(home)}]")
    model = build.transformer(s, index)
    return Service(
        section.name,
        section,
        home,
        here,
        model,
        requests(s, section, model, where),
        deploy(section, model, here, where, s.run.network),
        slo(section),
        s,
        index,
    )


def prepare(s: Scenario) -> PreparedServing:
    """Build and check everything that a run of the serving jobs of ``s`` needs.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    if s.faults:
        raise ConfigError(at("faults", "are of links and hosts; a service's are jobs[].failures"))
    return PreparedServing(s, tuple(service(s, index) for index in range(len(s.jobs))))


def run(s: Scenario, tell: Progress) -> Result:
    """Run the serving jobs of a scenario; the first makes the headline, the others stand beside it.

    Raises
    ------
    EustonError
        See `euston.simulate`.
    """
    tell("pricing steps and building requests")
    ready = prepare(s)
    until = math.inf if s.run.until is None else s.run.until
    done: dict[str, tuple[ServingResult, dict[int, Autoscaler]]] = {}
    for group in _groups(ready.services):
        count = sum(len(one.requests) for one in group)
        tell(f"serving {count:,} requests of {', '.join(one.name for one in group)}")
        found = _simulate(group, s.run.seed, until)
        done |= {one.name: each for one, each in zip(group, found, strict=True)}
    logs, scalers = zip(*(done[one.name] for one in ready.services), strict=True)
    return _result(ready, list(logs), list(scalers))


def _groups(services: Sequence[Service]) -> list[list[Service]]:
    """Services that meet on a fabric, together; the others each by itself."""
    found: dict[tuple[str, str], list[Service]] = {}
    for one in services:
        found.setdefault((one.home.name, "" if one.sends else one.name), []).append(one)
    return list(found.values())


def simulate(one: Service, *, seed: int = 0, until: float = math.inf) -> ServingResult:
    """One service by itself, with its failures and autoscaling, up to ``until`` seconds."""
    return _simulate([one], seed, until)[0][0]


def network(services: Sequence[Service]) -> Handovers:
    """What carries the hand-overs of services over the fabric of their site, with nothing under way.

    Raises
    ------
    ConfigError
        More pairs of ranks than can be worked out, ranks without a live path.
    """
    first = services[0]
    s = first.scenario
    return handovers(
        {
            one.name: paths(
                one.section, one.deployment, one.here, one.section.hosts(one.home, s.hosts_of(one.index)[0])
            )
            for one in services
        },
        first.here,
        s.policies.balancing.make(s.run.seed),
        sum(len(one.requests) for one in services),
    )


def _simulate(
    services: Sequence[Service], seed: int, until: float
) -> list[tuple[ServingResult, dict[int, Autoscaler]]]:
    """Of services that meet, each one's result and its autoscalers by pool of the section."""
    made = [components(one, seed, one.name) for one in services]
    beside: list[Component] = [scaler for _, scalers in made for scaler in scalers.values()]
    if services[0].sends:
        beside.insert(0, network(services))
    if beside:
        Conductor([*(engine for engine, _ in made), *beside]).run(until)
    for engine, _ in made:
        while engine.next_time() <= until and engine.next_time() < math.inf:
            engine.advance(until)
    return [(engine.result(), scalers) for engine, scalers in made]


def components(one: Service, seed: int, name: str) -> tuple[Serving, dict[int, Autoscaler]]:
    """A service on the clock: the engine with its failures, and the autoscalers by pool of the section."""
    begin = _first_ranks(one)
    scaled = {
        number: (_ranks(one, number, begin), _scaling(pool))
        for number, pool in enumerate(one.section.pools)
        if pool.autoscale is not None
    }
    down = [int(r[0]) for ranks, scaling in scaled.values() for r in ranks[scaling.first :]]
    engine = Serving(
        one.requests,
        one.deployment,
        seed=seed,
        record_tokens=one.section.per_token,
        name=name,
        network=NETWORK,
        down=down,
    )
    scalers = {
        number: Autoscaler(engine, ranks, scaling, name=f"{name} autoscaler {number}")
        for number, (ranks, scaling) in scaled.items()
    }
    engine.advance(0.0, [Message(time, engine.name, change) for time, change in _failures(one)])
    return engine, scalers


def _scaling(pool: PoolSection) -> Scaling:
    auto = pool.autoscale
    assert auto is not None
    return Scaling(
        auto.metric, auto.target, auto.least, auto.first or auto.least, auto.interval, auto.window,
        auto.start, auto.tolerance, auto.quantile, auto.early, auto.smoothing, auto.trend,
    )  # fmt: skip


def _first_ranks(one: Service) -> dict[int, int]:
    """First rank of every pool of the section; pools stand in the deployment by role."""
    order = ROLES
    begin, rank = {}, 0
    for number in sorted(range(len(one.section.pools)), key=lambda i: order.index(one.section.pools[i].role)):
        begin[number] = rank
        rank += one.section.pools[number].replicas * one.section.pools[number].data
    return begin


def _ranks(one: Service, number: int, begin: dict[int, int]) -> NDArray[np.int64]:
    """Ranks of a pool's replicas, int64[replicas, ranks of a replica]."""
    pool = one.section.pools[number]
    return begin[number] + np.arange(pool.replicas * pool.data).reshape(pool.replicas, pool.data)


def _failures(one: Service) -> list[tuple[float, Replica]]:
    """Changes of ranks in order of time."""
    begin = _first_ranks(one)
    changes = []
    for failure in one.section.failures:
        first = begin[failure.pool] + failure.replica * one.section.pools[failure.pool].data
        changes.append((failure.at, Replica(first, "down")))
        if failure.until is not None:
            changes.append((failure.until, Replica(first, "up")))
    return sorted(changes, key=lambda change: change[0])


def _result(
    ready: PreparedServing, found: list[ServingResult], scalers: list[dict[int, Autoscaler]]
) -> Result:
    s = ready.scenario
    first, log = ready.services[0], found[0]
    values = [numbers(*each) for each in zip(ready.services, found, scalers, strict=True)]
    headline = values[0]
    tables = {
        "latency": latencies(log),
        "pools": _pools(first, log),
        "load": load_over_time(log),
        "requests": per_request(log).head(MOST_REQUESTS),
    }
    if first.section.workload.classes:
        tables["classes"] = per_class(log, [one.name for one in first.section.workload.classes])
    dealt = _experts(first, log)
    if dealt.height:
        tables["experts"] = dealt
    if scalers[0]:
        tables["replicas"] = pl.DataFrame(
            [
                {"time": t, "pool": number, "serving": up, "starting": coming, "wished": wish}
                for number, one in scalers[0].items()
                for t, up, coming, wish in one.log
            ],
            schema={
                "time": pl.Float64, "pool": pl.Int64, "serving": pl.Int64, "starting": pl.Int64,
                "wished": pl.Int64,
            },
        )  # fmt: skip
    if len(values) > 1:
        keys = ("slo_attainment", "slo_goodput", "ttft_p90", "tpot_p90", "hit_share", "joules")
        tables["jobs"] = pl.DataFrame(
            [
                {"job": one.name, **{k: row.get(k) for k in keys}}
                for one, row in zip(ready.services, values, strict=True)
            ]
        )
    meta: dict[str, Any] = {
        "package_version": __version__,
        "name": s.name,
        "title": s.title or s.name,
        "seed": s.run.seed,
        "slo": {k: v for k, v in first.section.slo.model_dump().items() if v is not None},
        "workload": ", ".join(f"{k} {v}" for k, v in first.requests.meta.items()),
        "steps_priced": [
            f"{pool.role}: {', '.join(pool.step.provenance) or 'by formulas'}"
            for pool in first.deployment.pools
        ],
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "catalog": {"accelerator": first.here.accelerator.name, "fabric": first.here.fabric.name},
        "assumptions": _assumptions(first),
        "warnings": [
            sentence
            for one, log in zip(ready.services, found, strict=True)
            for sentence in _warnings(one, log)
        ],
    }
    return Result("serving", headline, {k: u for k, u in UNITS.items() if k in headline}, tables, meta=meta)


def _warnings(one: Service, log: ServingResult) -> list[str]:
    """Requests that were not served, and why, where that is no policy of the service."""
    found = []
    count = np.bincount(log.outcome, minlength=len(Outcome))
    size = log.requests.in_tok + log.requests.out_tok
    large = log.outcome == Outcome.TOO_LARGE
    if large.any():
        sizes = "exceed what a rank holds"
        blocks = [
            p.engine.num_blocks * p.engine.block_size for p in one.deployment.pools if p.role != "encode"
        ]
        if int(size[large].max()) > min(blocks):
            sizes = f"with up to {size[large].max():,} tokens, exceed the {min(blocks):,} that a rank holds"
        found.append(f"{count[Outcome.TOO_LARGE]:,} of {len(log.outcome):,} requests, {sizes}: refused")
    if count[Outcome.TOO_LONG]:
        found.append(
            f"{count[Outcome.TOO_LONG]:,} of {len(log.outcome):,} requests exceed max_model_len: refused"
        )
    waiting = int(((log.outcome == Outcome.OPEN) & np.isfinite(log.arrival)).sum())
    if waiting and one.scenario.run.until is None:
        found.append(
            f"{waiting:,} of {len(log.outcome):,} requests came and were never served: no replica was up"
        )
    return [f"{one.section.name}: {sentence}" for sentence in found]


def numbers(
    one: Service, log: ServingResult, scalers: dict[int, Autoscaler] | None = None
) -> dict[str, float]:
    """Headline numbers of a service with energy and cost; replicas that are not there cost nothing."""
    found = scalars(log, one.slo)
    tokens = float(log.tokens.sum())
    paid = {
        number: float(scalers[number].close(log.end).sum())
        if scalers and number in scalers
        else pool.replicas * log.end
        for number, pool in enumerate(one.section.pools)
    }
    joules = _energy(one, log, paid)
    seconds = sum(paid[i] * pool.accelerators / pool.replicas for i, pool in enumerate(one.section.pools))
    if scalers:
        found["replicas_mean"] = sum(paid[number] for number in scalers) / log.end if log.end else 0.0
    power = one.home.power
    pue = power.pue if power and power.pue else 1.0
    if math.isfinite(joules):
        found["joules"] = joules * pue
        found["joules_per_token"] = joules * pue / tokens if tokens else math.nan
    if one.home.price:
        cost = one.home.price * seconds
        if power and power.price and math.isfinite(joules):
            cost += power.price * joules * pue
        found["cost"] = cost
        found["cost_per_million_tokens"] = cost / tokens * 1e6 if tokens else math.nan
    return found


def _energy(one: Service, log: ServingResult, paid: dict[int, float]) -> float:
    """Joules of the accelerators, and of their share of the hosts: the limit in a step, idle between."""
    accelerator = one.here.accelerator
    limit = accelerator.power_limit
    idle = accelerator.idle_power if accelerator.idle_power is not None else SHARE_OF_IDLE * limit
    joules, unit = 0.0, 0
    pools = list(enumerate(one.section.pools))
    for number, pool in sorted(pools, key=lambda p: ROLES.index(p[1].role)):
        busy = log.busy[unit : unit + pool.replicas]
        unit += pool.replicas
        each = pool.accelerators / pool.replicas
        joules += each * (idle * paid[number] + (limit - idle) * float(np.minimum(busy, log.end).sum()))
    host = one.home.power.host if one.home.power and one.home.power.host else 0.0
    return joules + host / one.here.accelerators_per_host * one.accelerators * log.end


def _pools(one: Service, log: ServingResult) -> pl.DataFrame:
    """One row per pool: what it is and what it did."""
    rows = []
    rank = unit = 0
    for pool in one.deployment.pools:
        ranks, units = slice(rank, rank + pool.replicas), slice(unit, unit + pool.replicas // pool.lockstep)
        rank, unit = ranks.stop, units.stop
        count = {key: int(values[ranks].sum()) for key, values in log.ranks.items()}
        prompt = count["prefill_tokens"] + count["hit_tokens"]
        rows.append(
            {
                "role": pool.role, "ranks": pool.replicas, "blocks": pool.engine.num_blocks,
                "steps": count["steps"], "prefill_tokens": count["prefill_tokens"],
                "decode_tokens": count["decode_tokens"],
                "hit_share": count["hit_tokens"] / prompt if prompt else 0.0,
                "preemptions": count["preemptions"], "recomputed_tokens": count["recomputed_tokens"],
                "kv_peak": float((log.ranks["peak_blocks"][ranks] / log.ranks["blocks"][ranks]).max()),
                "busy": float(log.busy[units].mean()) / log.end if log.end else 0.0,
            }
        )  # fmt: skip
    return pl.DataFrame(rows)


def _experts(one: Service, log: ServingResult) -> pl.DataFrame:
    """Experts' share of a mean step of each pool, by how tokens are dealt to them."""
    did, rank = {}, 0
    for pool in one.deployment.pools:
        mine = slice(rank, rank + pool.replicas)
        rank = mine.stop
        steps = log.ranks["steps"][mine].reshape(-1, pool.lockstep).max(axis=1).sum() * pool.lockstep
        tokens = log.ranks["prefill_tokens"][mine].sum() + log.ranks["decode_tokens"][mine].sum()
        did[pool.role] = {"tokens": int(tokens), "steps": int(steps)}
    return experts(one.section, one.model, one.here.accelerator, [did[p.role] for p in one.section.pools])


def _assumptions(one: Service) -> list[dict[str, str]]:
    alone = one.deployment.transport.network == "none"
    found = [
        {
            "where": "energy", "value": "the power limit in a step, idle between", "kind": "assumed",
            "source": "euston.runs.serving", "why": "an upper bound of what a step draws",
        },
        {
            "where": "handover", "value": "alone on its links", "kind": "assumed",
            "source": "euston.serving", "why": "every sender shares its own bandwidth among its transfers",
        },
    ]  # fmt: skip
    return found[: 1 + (len(one.deployment.pools) > 1 and alone)]
