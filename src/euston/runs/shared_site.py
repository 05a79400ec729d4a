"""Training and services on one site: steps repeat while requests are served, and their transfers share links.

Every job also runs without the other kind, so that what they cost each other can be said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston import __version__
from euston.clock import Component, Conductor, Execution, Executor, ProgramBuilder
from euston.errors import ConfigError, SimulationError, at
from euston.result import Result
from euston.runs import Progress
from euston.runs import serving as services
from euston.runs import training as trainings
from euston.runs._serving_network import NETWORK, Paths, paths, slots
from euston.runs.serving import Service
from euston.scenario import Scenario
from euston.serving import ServingResult
from euston.serving.metrics import latencies, load_over_time, per_request
from euston.serving.network import Handovers
from euston.training import Composed, compose, link_table, model_flops

__all__ = ["KIND", "PreparedSite", "prepare", "run"]

KIND = "shared"
UNITS = {
    "step_time": "s", "step_time_alone": "s", "step_slowdown": "error", "steps": "", "mfu": "1",
    "handover_mean": "s", "handover_mean_alone": "s", "handover_slowdown": "error",
    **services.UNITS,
}  # fmt: skip
SHOWN = (0.5, 0.9, 0.99)
POINTS = 400
"""Points of a distribution of hand-overs that a result keeps."""


@dataclass(frozen=True)
class PreparedSite:
    """What a run needs; nothing in it can be wrong any more.

    Attributes
    ----------
    paths : dict of str to Paths
        Of the services that hand over KV across the fabric, by name.
    composed : Composed
        One step of every training job, and the hand-overs' transfers.
    """

    scenario: Scenario
    training: trainings.Prepared
    services: tuple[Service, ...]
    paths: dict[str, Paths]
    composed: Composed


@dataclass
class _Steps:
    """Steps of every training job that have ended: begin and seconds."""

    made: Composed
    executor: Executor
    left: Sequence[Any]
    log: list[list[tuple[float, float]]]
    served: list[int]
    begun: NDArray[np.float64]

    @classmethod
    def of(cls, made: Composed, executor: Executor, left: Sequence[Any]) -> _Steps:
        n = len(made.jobs)
        return cls(made, executor, left, [[] for _ in range(n)], [0] * n, np.zeros(n))

    def ended(self, time: float, op: int) -> None:
        """The last operation of a job's step has ended: note it; another begins while requests are left."""
        job = int(np.searchsorted(self.made.first, op, side="right")) - 1
        start, end = self.executor.when - self.begun[job]
        self.log[job].append((float(self.begun[job]), self.made.step_time(job, start, end)))
        if any(engine.left for engine in self.left):
            self.served[job] += 1
            self.begun[job] = time
            self.executor.again(int(self.made.first[job]), int(self.made.first[job + 1]))

    def counted(self, job: int) -> list[float]:
        """Seconds of the steps that ended while requests were left; of the first if none did."""
        return [seconds for _, seconds in self.log[job]][: max(self.served[job], 1)]


@dataclass(frozen=True)
class _Served:
    """A run of the services."""

    logs: list[ServingResult]
    scalers: list[dict[int, Any]]
    seconds: list[NDArray[np.float64]]
    bytes: float
    steps: _Steps | None
    carried: Execution | None


def prepare(s: Scenario) -> PreparedSite:
    """Build and check everything that a run of training jobs and services on one site needs.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    if s.run.compute == "analytic":
        raise ConfigError(at("run.compute", "analytic knows no time in which jobs could meet; use des"))
    trained = trainings.prepare(s)
    served = tuple(services.service(s, i) for i, job in enumerate(s.jobs) if job.kind == "serving")
    found = {
        one.name: paths(one.section, one.deployment, one.here, _hosts(s, one))
        for one in served
        if one.deployment.transport.network == "fluid"
    }
    made = compose(
        trained.jobs,
        trained.site,
        trained.devices,
        trained.conditions,
        guests=[(name, one.transfers) for name, one in found.items()],
        ends=True,
    )
    if made.wiring.failing:
        link = trained.site.fabric.link_name(made.wiring.failing[0].link)
        raise ConfigError(
            at(
                "faults",
                f"{link} fails while flows use it that have other paths, and nothing re-routes them in the "
                "middle of a run of training; let it fail at 0 s, or keep a factor above 0",
            )
        )
    return PreparedSite(s, trained, served, found, made)


def _hosts(s: Scenario, one: Service) -> tuple[int, ...]:
    return one.section.hosts(one.home, s.hosts_of(one.index)[0])


def run(s: Scenario, tell: Progress) -> Result:
    """Run training jobs and services of a scenario on the site that they share.

    Raises
    ------
    EustonError
        See `euston.simulate`.
    """
    tell("building the site, its jobs and its services")
    ready = prepare(s)
    meets = bool(ready.paths)
    tell(f"training without services: {', '.join(job.name for job, _ in ready.training.jobs)}")
    steps = _step_alone(ready)
    tell(f"services without training: {', '.join(one.name for one in ready.services)}")
    apart = _serve(ready, False)
    together = apart
    if meets:
        tell("all of them together")
        together = _serve(ready, True)
    return _result(ready, steps, apart, together)


def _executor(ready: PreparedSite, training: bool) -> Executor:
    made = ready.composed
    guests = slots(sum(len(one.requests) for one in ready.services if one.name in ready.paths))
    if training:
        return Executor(
            made.program, made.table, made.wiring.capacity, events=made.events, speed=made.speed,
            guests=guests if ready.paths else 0,
        )  # fmt: skip
    return Executor(
        ProgramBuilder().build(), made.table, made.wiring.capacity, events=made.wiring.events, guests=guests
    )


def _step_alone(ready: PreparedSite) -> list[float]:
    """Seconds of a step of every training job when no service runs."""
    made = ready.composed
    executor = Executor(made.program, made.table, made.wiring.capacity, events=made.events, speed=made.speed)
    while not executor.done and executor.next_time() < math.inf:
        executor.run(math.inf)
    found = executor.result()
    return [made.step_time(j, found.start, found.end) for j in range(len(made.jobs))]


def _serve(ready: PreparedSite, training: bool) -> _Served:
    """Run the services on one network, with the steps of training repeating beside them or without."""
    s, made = ready.scenario, ready.composed
    engines, scalers = zip(
        *(services.components(one, s.run.seed, one.name) for one in ready.services), strict=True
    )
    steps, network = None, None
    beside: list[Component] = [scaler for one in scalers for scaler in one.values()]
    if ready.paths:
        executor = _executor(ready, training)
        steps = _Steps.of(made, executor, engines) if training else None
        first, tables = made.first_guest, {}
        for name, one in ready.paths.items():
            tables[name] = np.where(one.number >= 0, one.number + first, -1)
            first += len(one.transfers)
        network = Handovers(
            executor,
            tables,
            parts={name: one.parts for name, one in ready.paths.items()},
            ended=None if steps is None else steps.ended,
            name=NETWORK,
        )
        beside.insert(0, network)
    until = math.inf if s.run.until is None else s.run.until
    Conductor([*engines, *beside]).run(until)
    if steps is not None and until == math.inf and any(not log for log in steps.log):
        raise SimulationError("a step of training never ends: no capacity is left on a link that it needs")
    return _Served(
        [engine.result() for engine in engines],
        list(scalers),
        [np.array(network.seconds.get(one.name, ()) if network else ()) for one in ready.services],
        network.bytes if network else 0.0,
        steps,
        network.executor.result() if network else None,
    )


def _steps_of(together: _Served, job: int, alone: float) -> list[float]:
    """Seconds of the counted steps of a job."""
    found = together.steps.counted(job) if together.steps is not None else []
    return found or [alone]


def _result(ready: PreparedSite, steps: list[float], apart: _Served, together: _Served) -> Result:
    first = ready.services[0]
    job = ready.composed.jobs[0]
    took = float(np.mean(_steps_of(together, 0, steps[0])))
    peak = ready.training.site.accelerator.peak
    dtype = "bf16" if job.precision == "fp8" else job.precision
    scalars = {
        "step_time": took,
        "step_time_alone": steps[0],
        "step_slowdown": took / steps[0] - 1,
        "steps": float(len(_steps_of(together, 0, steps[0]))),
        "mfu": model_flops(job) / (took * job.parallel.world * peak.get(dtype, peak.get("bf16", math.nan))),
    }
    seconds = next((pair for pair in zip(apart.seconds, together.seconds, strict=True) if pair[1].size), None)
    if seconds is not None and seconds[0].size:
        alone, mean = float(seconds[0].mean()), float(seconds[1].mean())
        scalars |= {
            "handover_mean": mean,
            "handover_mean_alone": alone,
            "handover_slowdown": mean / alone - 1 if alone else 0.0,
        }
    scalars |= services.numbers(first, together.logs[0], together.scalers[0])
    s = ready.scenario
    tables = {
        "contention": _contention(ready, steps, apart, together),
        "latency": latencies(together.logs[0]),
        "load": load_over_time(together.logs[0]),
        "requests": per_request(together.logs[0]).head(services.MOST_REQUESTS),
        "steps": _step_table(ready, steps, together),
        "handovers": _handovers(ready, apart, together),
        "links": _links(ready, together),
    }
    result = Result(
        KIND,
        scalars,
        {k: u for k, u in UNITS.items() if k in scalars},
        {name: table for name, table in tables.items() if table.height},
        meta={
            "package_version": __version__,
            "slo": {k: v for k, v in first.section.slo.model_dump().items() if v is not None},
            "assumptions": [],
        },
    )
    trainings.add_facts(result, ready.training)
    result.meta["scenario"] = s.model_dump(mode="json", by_alias=True, exclude_none=True)
    result.meta["assumptions"] += _assumptions(ready)
    result.tables["assumptions"] = pl.DataFrame(result.meta["assumptions"])
    return result


def _contention(ready: PreparedSite, steps: list[float], apart: _Served, together: _Served) -> pl.DataFrame:
    """What each job does without the other kind, and beside it."""
    rows: list[dict[str, Any]] = []

    def row(job: str, quantity: str, alone: float, beside: float) -> None:
        if math.isfinite(alone) and math.isfinite(beside) and alone > 0:
            rows.append(
                {
                    "job": job, "quantity": quantity, "alone": alone, "together": beside,
                    "error": beside / alone - 1,
                }
            )  # fmt: skip

    for j, job in enumerate(ready.composed.jobs):
        found = _steps_of(together, j, steps[j])
        row(job.name, "step, mean", steps[j], float(np.mean(found)))
        row(job.name, "step, longest", steps[j], max(found))
    for i, one in enumerate(ready.services):
        both = [
            {line["metric"]: line for line in latencies(run.logs[i]).to_dicts()} for run in (apart, together)
        ]
        for metric in ("ttft", "tpot", "e2e"):
            for column, word in (("mean", "mean"), ("p50", "median"), ("p99", "P99")):
                values = [float(b[metric][column] or math.nan) if metric in b else math.nan for b in both]
                row(one.name, f"{metric.upper()}, {word}", *values)
        spent = apart.seconds[i], together.seconds[i]
        if all(values.size for values in spent):
            row(one.name, "hand-over, mean", *(float(v.mean()) for v in spent))
            row(one.name, "hand-over, P99", *(float(np.quantile(v, 0.99)) for v in spent))
    return pl.DataFrame(rows)


def _step_table(ready: PreparedSite, steps: list[float], together: _Served) -> pl.DataFrame:
    if together.steps is None:
        return pl.DataFrame()
    return pl.DataFrame(
        [
            {"job": job.name, "step": n, "start": begin, "seconds": seconds, "alone": steps[j]}
            for j, job in enumerate(ready.composed.jobs)
            for n, (begin, seconds) in enumerate(together.steps.log[j])
        ]
    )


def _handovers(ready: PreparedSite, apart: _Served, together: _Served) -> pl.DataFrame:
    """Quantiles of the seconds of hand-overs, alone and beside training."""
    share = np.linspace(0, 1, POINTS)
    return pl.concat(
        [
            pl.DataFrame(
                {"job": one.name, "run": name, "share": share, "seconds": np.quantile(run.seconds[i], share)}
            )
            for i, one in enumerate(ready.services)
            for name, run in (("alone", apart), ("together", together))
            if run.seconds[i].size
        ]
        or [pl.DataFrame()]
    )


def _links(ready: PreparedSite, together: _Served) -> pl.DataFrame:
    """Links by tier, training and services together."""
    if together.carried is None:
        return pl.DataFrame()
    wiring, fabric = ready.composed.wiring, ready.training.site.fabric
    low = wiring.lowered
    rows = low.columns.load(together.carried.column_bytes[wiring.column_of])
    span = max(float(np.nanmax(together.carried.end, initial=0.0)), *(log.end for log in together.logs))
    return link_table(fabric, rows, span)


def _assumptions(ready: PreparedSite) -> list[dict[str, str]]:
    """What this run takes for granted."""
    source = "euston.runs.shared_site"
    found = [
        {
            "where": "jobs", "value": "steps repeat without a pause", "kind": "assumed", "source": source,
            "why": "a job's next step begins when the last has ended everywhere, while requests are left",
        },
        {
            "where": "run.network", "value": "a NIC gives hand-overs what it gives collectives",
            "kind": "assumed", "source": "euston.collectives.network_rates", "why": "it is the same wire",
        },
        {
            "where": "jobs", "value": "collectives inside a step of serving are priced, not sent",
            "kind": "assumed", "source": source, "why": "only hand-overs of KV meet training on the fabric",
        },
    ]  # fmt: skip
    if not ready.paths:
        found.append(
            {
                "where": "jobs", "value": "nothing meets", "kind": "assumed", "source": source,
                "why": "no service hands KV over the fabric: its replicas are in one pool, or run.network is "
                "none",
            }
        )  # fmt: skip
    return found
