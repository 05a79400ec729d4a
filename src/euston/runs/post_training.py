"""Runs of post-training jobs: what `simulate` does with a scenario of `kind: post_training`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from euston import __version__
from euston.assemble import conditions, device, require_arithmetic, site
from euston.cluster import Placement, Site, place
from euston.errors import BadInput, ConfigError, at
from euston.models import Transformer
from euston.post_training import Plan, Reward, Run, Shape, Trajectory, draw, post_train, push_seconds
from euston.result import Result
from euston.runs import Progress
from euston.runs._post_training_result import summary
from euston.runs._serving_parts import _lengths as lengths
from euston.runs._serving_parts import joined, pool
from euston.scenario import Scenario, build
from euston.scenario.post_training import PostTrainingSection
from euston.scenario.serving import ServingSection
from euston.seeds import stream
from euston.serving import Deployment
from euston.training import TrainingJob, analyse, require_fit, run_iteration

__all__ = ["Layout", "PreparedPostTraining", "Updates", "prepare", "run"]

_BYTES = {"fp8": 1.0, "fp8-current": 1.0, "fp8-block": 1.0, "mxfp8": 1.0, "int8": 1.0, "nvfp4": 0.5}


@dataclass(frozen=True)
class Layout:
    """One split of the accelerators: who trains, who generates, and what a push takes.

    Attributes
    ----------
    generating, training : int
        Accelerators of both pools.
    ranks : int
        Units of the pool that step by themselves.
    """

    job: TrainingJob
    placement: Placement
    deployment: Deployment
    generating: int
    training: int
    ranks: int
    push: float


@dataclass(frozen=True)
class PreparedPostTraining:
    """What a run needs; nothing in it can be wrong any more."""

    scenario: Scenario
    section: PostTrainingSection
    here: Site
    model: Transformer
    shape: Shape
    layouts: tuple[Layout, ...]


def prepare(s: Scenario) -> PreparedPostTraining:
    """Build and check everything that a run of ``s`` needs.

    Raises
    ------
    BadInput
        With the place in the scenario.
    """
    section = s.jobs[0]
    if len(s.jobs) > 1:
        raise ConfigError(at("jobs[1]", "a run has one post-training job; use two files"))
    assert isinstance(section, PostTrainingSection)
    if s.faults:
        raise ConfigError(at("faults", "post-training knows none in this version; leave them out"))
    if s.run.network not in ("fluid", "none"):
        raise ConfigError(at("run.network", f"{s.run.network} moves no weights here; use fluid or none"))
    if s.run.compute == "analytic" and s.run.network != "none":
        raise ConfigError(at("run.network", "the closed form has no contention; use none, or compute: des"))
    home = s.site(section.placement.site)
    here = site(s, home, f"sites[{s.sites.index(home)}]")
    model = build.transformer(s, 0)
    base = section.rollout.accelerators
    sizes = [base, *(n for n in section.split if n != base)]
    return PreparedPostTraining(
        s,
        section,
        here,
        model,
        _shape(section),
        tuple(_layout(s, section, here, model, n) for n in sizes),
    )


def _shape(section: PostTrainingSection) -> Shape:
    t, where = section.trajectories, "jobs[0].trajectories"
    try:
        found = Shape(
            lengths(t.prompt, f"{where}.prompt"),
            lengths(t.response, f"{where}.response"),
            t.samples,
            None if t.turns == 1 else lengths(t.turns, f"{where}.turns"),
            None if t.observation is None else lengths(t.observation, f"{where}.observation"),
            t.tool,
            t.longest,
        )
    except BadInput as error:
        message = str(error)
        raise (error if message.startswith("`jobs") else ConfigError(at(where, message))) from None
    middle = int(np.median(found.prompt.draw(1001, stream(0, "prompts' median"))))
    if middle >= t.longest:
        raise ConfigError(
            at(f"{where}.longest", f"{t.longest} leaves half of the prompts no answer; more than {middle}")
        )
    return found


def _layout(
    s: Scenario, section: PostTrainingSection, here: Site, model: Transformer, generating: int
) -> Layout:
    u, r = section.update, section.rollout
    total = u.parallel.world + r.accelerators
    replica = r.data * r.tensor * r.pipeline
    training = u.parallel.world if section.colocated else total - generating
    parallel = build.parallel(u.parallel)
    parallel = replace(parallel, data=training // (parallel.tensor * parallel.context * parallel.pipeline))
    where = "jobs[0].update"
    job = TrainingJob(
        model,
        parallel,
        global_batch=parallel.data * u.micro * max(1, parallel.pipeline),
        sequence=u.sequence or section.trajectories.longest,
        micro_batch=u.micro,
        precision=u.precision,
        schedule=u.schedule or ("1f1b" if parallel.virtual == 1 else "interleaved"),
        recompute=u.recompute,
        recompute_modules=u.recompute_modules,
        software=build.software_of(u.software, u.overrides, where),
        name=section.name,
    )
    try:
        job.check(where=where)
        require_arithmetic(here.accelerator, job.precision, f"{where}.precision")
        if s.run.memory == "refuse":
            require_fit(job, here.accelerator, where=where)
    except BadInput as error:
        raise type(error)(str(error).replace(f"{where}.batch.", f"{where}.")) from None
    hosts = s.hosts_of(0)
    each = here.accelerators_per_host
    placement = place(parallel, here, hosts=hosts[: -(-training // each)], where="jobs[0].placement")
    endpoints = (np.asarray(hosts)[:, None] * each + np.arange(each)).ravel()
    mine = endpoints[:generating] if section.colocated else endpoints[training : training + generating]
    deployment = _deployment(section, model, here, generating // replica)
    push = section.push.overhead + _push(s, section, here, model, placement, mine.reshape(-1, replica))
    return Layout(job, placement, deployment, generating, training, generating // replica, push)


def _push(
    s: Scenario,
    section: PostTrainingSection,
    here: Site,
    model: Transformer,
    placement: Placement,
    target: NDArray[np.int64],
) -> float:
    size = model.parameters() * _BYTES.get(section.rollout.precision, 2.0)
    source = np.asarray(placement.endpoint, np.int64)
    if section.colocated:  # the parts are laid out anew: each comes from another accelerator
        source = np.roll(source, 1)
    return push_seconds(
        here.fabric,
        s.policies.balancing.make(s.run.seed),
        source,
        target,
        size,
        chain=section.push.how == "chain",
    )


def _deployment(section: PostTrainingSection, model: Transformer, here: Site, replicas: int) -> Deployment:
    """The rollout pool as a service without requests of its own."""
    r = section.rollout.model_copy(update={"replicas": replicas})
    service = ServingSection.model_validate(
        {
            "name": section.name,
            "kind": "serving",
            "model": section.model,
            "precision": r.precision,
            "kv_precision": r.kv_precision,
            "software": r.software,
            "step_times": r.step_times,
            "workload": {"generator": "independent", "requests": 1, "rate": 1.0},
        }
    ).model_copy(update={"pools": (r,)})
    made = pool(service, r, model, here.accelerator, "jobs[0].rollout")
    return joined(service, [made], here, "jobs[0].rollout", "none")


class Updates:
    """Seconds of one update, by the tokens of its trajectories packed into rows; steps are priced once.

    Parameters
    ----------
    ready : PreparedPostTraining
    layout : Layout
    """

    def __init__(self, ready: PreparedPostTraining, layout: Layout) -> None:
        self.ready, self.layout = ready, layout
        self.found: dict[int, float] = {}

    def rows(self, batch: Sequence[Trajectory]) -> int:
        """Packed rows: enough for all tokens, and as many for each replica."""
        job = self.layout.job
        needed = math.ceil(sum(one.tokens for one in batch) / job.sequence)
        least = job.parallel.data * job.micro_batch
        if job.schedule == "interleaved" and job.parallel.pipeline > 1:
            least *= job.parallel.pipeline
        return max(1, math.ceil(needed / least)) * least

    def __call__(self, batch: Sequence[Trajectory]) -> float:
        """Seconds of the update on a batch."""
        rows = self.rows(batch)
        if rows not in self.found:
            self.found[rows] = self._priced(replace(self.layout.job, global_batch=rows))
        return self.found[rows]

    def _priced(self, job: TrainingJob) -> float:
        here, s = self.ready.here, self.ready.scenario
        around = conditions(s, here)
        pricer = device(here.accelerator, job)
        if s.run.compute == "analytic":
            return float(analyse(job, here, pricer, speed_spread=around.speed_spread).estimate.step_time)
        return run_iteration([(job, self.layout.placement)], here, [pricer], around).jobs[0].step_time


def run(s: Scenario, tell: Progress) -> Result:
    """Run a post-training job, and the other splits of its accelerators that it names."""
    tell("pricing the pools")
    ready = prepare(s)
    found: list[tuple[Layout, Run]] = []
    for layout in ready.layouts:
        tell(f"{layout.generating} accelerators generate, {layout.training} train")
        found.append((layout, _loop(ready, layout)))
    result = summary(ready.section, found, ready.section.warm_up)
    result.meta |= _facts(ready)
    return result


def _loop(ready: PreparedPostTraining, layout: Layout) -> Run:
    section, seed = ready.section, ready.scenario.run.seed
    plan = Plan(
        section.mode,
        section.batch,
        section.steps,
        section.staleness if section.mode == "asynchronous" else 0,
        layout.push,
        section.switch,
        section.colocated,
        section.oversample,
        section.rollout.concurrency,
        section.drop_late,
        seed,
    )
    source = draw(ready.shape, seed)
    try:
        return post_train(
            plan,
            source,
            layout.deployment,
            Updates(ready, layout),
            Reward(section.reward.time, section.reward.workers),
        )
    except BadInput as error:
        raise ConfigError(at("jobs[0].rollout", str(error))) from None


def _facts(ready: PreparedPostTraining) -> dict[str, Any]:
    s, section = ready.scenario, ready.section
    steps = ready.layouts[0].deployment.pools[0].step
    packed = section.update.sequence or section.trajectories.longest
    return {
        "scenario": s.model_dump(mode="json", by_alias=True, exclude_none=True),
        "name": s.name,
        "title": s.title or s.name,
        "package_version": __version__,
        "seed": s.run.seed,
        "fidelity": {"compute": s.run.compute, "network": s.run.network},
        "catalog": {"accelerator": ready.here.accelerator.name, "fabric": ready.here.fabric.name},
        "site": ready.here.describe(),
        "mode": section.mode,
        "step_times": list(steps.provenance),
        "assumptions": [
            {
                "where": "jobs[0].update",
                "value": f"rows of {packed} tokens",
                "why": "trajectories are packed without gaps; attention is priced as of one sequence a row",
                "source": "euston",
                "kind": "default",
            },
            {
                "where": "jobs[0].push",
                "value": section.push.how,
                "why": "the pool waits for all of a push; caches are empty after it",
                "source": "euston",
                "kind": "default",
            },
        ],
    }
