"""Jobs of `kind: post_training`: a rollout pool, rewards, updates, and the push of new weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from euston.errors import BadInput, at
from euston.scenario._base import Count, Duration, Flag, Number, Section, Text, Whole, refuse
from euston.scenario.jobs import JobBase, Model, ParallelSection, RecomputeModule, ScheduleName
from euston.scenario.serving import PoolSection

if TYPE_CHECKING:
    from euston.scenario.model import Scenario
    from euston.scenario.sites import SiteSection

__all__ = [
    "PostTrainingSection",
    "PushSection",
    "RewardSection",
    "RolloutSection",
    "TrajectorySection",
    "UpdateSection",
]

LENGTH = "A number, or a distribution, e.g. {kind: lognormal, p50: 800, p99: 9000}."


class TrajectorySection(Section):
    """What is sampled: prompts, answers, and turns of an agent with its tools."""

    prompt: Any = Field(description=f"Tokens of a prompt. {LENGTH}")
    response: Any = Field(description=f"Tokens of the answer of one turn. {LENGTH}")
    samples: Count = Field(default=1, description="Samples of each prompt, which share its KV (GRPO).")
    turns: Any = Field(default=1, description=f"Turns of an agent. {LENGTH}")
    observation: Any = Field(default=None, description=f"Tokens that a tool gives back. {LENGTH}")
    tool: Duration = Field(default=0.0, description="Mean latency of a tool call, exponential.")
    longest: Count = Field(default=32768, ge=2, description="Longest context; what is longer is cut there.")


class RolloutSection(PoolSection):
    """The pool that generates: replicas as in serving."""

    precision: Text = Field(default="bf16", description="Of the layers' products, e.g. bf16, fp8.")
    kv_precision: Literal["bf16", "fp8"] = Field(default="bf16", description="Of the KV cache.")
    software: Text = Field(default="vllm", description="Host times: an engine of the catalogue, or none.")
    step_times: Literal["tables", "roofline"] = Field(
        default="tables", description="Kernel tables where there are any, or formulas everywhere."
    )
    concurrency: Whole = Field(default=0, description="Most requests in the pool; 0: all that are let in.")

    @model_validator(mode="after")
    def _one_role(self) -> RolloutSection:
        if self.role != "both":
            raise refuse("is of services with hand-overs; a rollout pool does both", "role")
        return self


class RewardSection(Section):
    """Verifiers or reward models, by their time."""

    time: Duration = Field(default=0.0, description="Of one trajectory.")
    workers: Whole = Field(default=0, description="How many work at once; 0: one for each trajectory.")


class UpdateSection(Section):
    """The training of a batch."""

    parallel: ParallelSection = Field(default_factory=ParallelSection)
    micro: Count = Field(default=1, description="Packed rows of one pass.")
    sequence: Count | None = Field(
        default=None, description="Tokens of a packed row; trajectories.longest unless said."
    )
    precision: Literal["bf16", "fp16", "fp8", "fp8-current", "fp8-block", "mxfp8", "nvfp4"] = "bf16"
    schedule: ScheduleName | None = None
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_modules: tuple[RecomputeModule, ...] = Field(default=("core_attn",), min_length=1)
    software: Text | None = Field(default=None, description="A profile of the catalogue.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Software settings of one's own.")


class PushSection(Section):
    """How new weights come to the rollout pool."""

    how: Literal["direct", "chain"] = Field(
        default="direct",
        description="Every replica takes its own copy from those that train, or passes it on to the next.",
    )
    overhead: Duration = Field(default=0.0, description="Time besides the transfer: pause, reshard, resume.")


class PostTrainingSection(JobBase):
    """Agent or RL post-training."""

    kind: Literal["post_training"] = Field(description="post_training")
    model: Model = Field(description="A model of the catalogue, a shape, or {hf_config: path}.")
    mode: Literal["synchronous", "one_step_off", "asynchronous"] = Field(
        default="synchronous",
        description="Generate and train in turns; train on the batch before; never stop but for a push.",
    )
    staleness: Whole = Field(
        default=1, description="Asynchronous: most updates that generation runs ahead of training."
    )
    drop_late: Flag = Field(
        default=False,
        description="Asynchronous: drop what was begun more updates ago, and begin another; long ones are "
        "trained on when they end unless said.",
    )
    colocated: Flag = Field(
        default=False, description="Both take turns on the same accelerators; of synchronous."
    )
    switch: Duration = Field(
        default=0.0, description="Colocated: from generating to training, and again back."
    )
    prompts: Count = Field(description="Prompts of one update; with samples each.")
    steps: Count = Field(default=20, le=100_000, description="Updates that are run.")
    warm_up: Whole | None = Field(
        default=None, description="First updates that rates leave out; a fifth unless said."
    )
    oversample: Number = Field(
        default=1.0,
        ge=1,
        le=16,
        description="So many times a batch is under way; the first to end make it, the rest is carried over.",
    )
    trajectories: TrajectorySection
    rollout: RolloutSection = Field(default_factory=RolloutSection)
    reward: RewardSection = Field(default_factory=RewardSection)
    update: UpdateSection = Field(default_factory=UpdateSection)
    push: PushSection = Field(default_factory=PushSection)
    split: tuple[Count, ...] = Field(
        default=(),
        description="Accelerators of the rollout pool to run too, of the same total; the rest trains.",
    )

    @model_validator(mode="after")
    def _fits(self) -> PostTrainingSection:
        if self.colocated and self.mode != "synchronous":
            raise refuse(f"{self.mode} generates and trains at the same time; set false", "colocated")
        if self.colocated and self.split:
            raise refuse("colocated pools have nothing to split", "split")
        if self.switch and not self.colocated:
            raise refuse("is of colocated pools; set `colocated: true`", "switch")
        if self.drop_late and self.mode != "asynchronous":
            raise refuse("is of asynchronous; batches have their lag by themselves", "drop_late")
        if self.oversample > 1 and self.mode == "asynchronous":
            raise refuse("is of batches; asynchronous has `staleness`", "oversample")
        if self.warm_up is not None and self.warm_up >= self.steps:
            raise refuse(f"leaves nothing of {self.steps} steps", "warm_up")
        return self

    @property
    def batch(self) -> int:
        """Trajectories of one update."""
        return self.prompts * self.trajectories.samples

    def accelerators(self, site: SiteSection) -> int:
        """Both pools', or the larger where they take turns."""
        both = (self.update.parallel.world, self.rollout.accelerators)
        return max(both) if self.colocated else sum(both)

    def problems(self, scenario: Scenario, index: int) -> Iterator[str]:
        """A model that is unknown, sites without accelerators or too small, splits that do not divide."""
        from euston.scenario.build import transformer

        where = f"jobs[{index}]"
        site = scenario.site(self.placement.site)
        needed = self.accelerators(site)
        if site.accelerator is None:
            yield at(f"sites[{scenario.sites.index(site)}].accelerator", "is missing; this job computes")
        if needed > site.accelerators:
            yield at(where, f"needs {needed} accelerators; site {site.name!r} has {site.accelerators}")
        if self.rollout.tensor > site.accelerators_per_host:
            yield at(
                f"{where}.rollout.tensor",
                f"{self.rollout.tensor} accelerators are more than a host's {site.accelerators_per_host}",
            )
        try:
            model = transformer(scenario, index)
        except BadInput as error:
            yield str(error)
            return
        if self.rollout.data > 1 and model.moe is None:
            yield at(f"{where}.rollout.data", f"{model.name} has no experts to share; use `replicas`")
        p, r = self.update.parallel, self.rollout
        trainer, replica = p.tensor * p.context * p.pipeline, r.data * r.tensor * r.pipeline
        for i, generating in enumerate(self.split):
            if generating % replica or (needed - generating) % trainer or not 0 < generating < needed:
                yield at(
                    f"{where}.split[{i}]",
                    f"{generating} of {needed} accelerators: the rollout pool takes a multiple of {replica}, "
                    f"and what is left must be a multiple of {trainer}",
                )
