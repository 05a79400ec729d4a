"""The `campaign` section: days and weeks of a training job, what fails, checkpoints, how it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from euston.errors import BadInput, at
from euston.scenario._base import (
    Count,
    Duration,
    Flag,
    Number,
    PositiveBandwidth,
    PositiveDuration,
    Section,
    Text,
    Whole,
    refuse,
)

if TYPE_CHECKING:
    from euston.scenario.model import Scenario

Component = Literal[
    "accelerator", "nic", "link", "switch", "host", "software", "storage", "silent", "flap", "straggler"
]


class FailureSection(Section):
    """One component that fails, in place of the named set's figure for it."""

    component: Component = Field(description="What fails; `straggler` is a host, `flap` a link.")
    mtbf: PositiveDuration = Field(description="Mean time to failure of one unit, e.g. 50000 h.")
    law: Literal["exponential", "weibull", "bathtub"] = Field(
        default="exponential", description="How lifetimes are distributed."
    )
    shape: Number | None = Field(
        default=None,
        gt=0,
        description="Of weibull: below 1 fails early, above 1 wears out. Of a bathtub's wear.",
    )
    weak_share: Number | None = Field(
        default=None, gt=0, lt=1, description="Of bathtub: share of units that fail early."
    )
    weak_mtbf: PositiveDuration | None = Field(default=None, description="Of bathtub: their mean lifetime.")
    weak_shape: Number = Field(default=0.5, gt=0, lt=1, description="Of bathtub: their shape, below 1.")
    age: Duration = Field(default=0.0, description="Age of all units at the start.")
    repair: Duration | None = Field(default=None, description="Until the host or NIC is back.")
    duration: Duration | None = Field(default=None, description="Of a flap or a straggler.")
    factor: Number | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of speed a straggler keeps, or of bandwidth a dual-ToR NIC.",
    )
    noticed: Duration | None = Field(
        default=None, description="Of silent corruption: mean time until it is noticed."
    )

    @model_validator(mode="after")
    def _law_is_whole(self) -> FailureSection:
        if self.law == "weibull" and self.shape is None:
            raise refuse("is missing; a weibull law needs its shape", "shape")
        if self.law == "bathtub" and (self.weak_share is None or self.weak_mtbf is None):
            missing = "weak_share" if self.weak_share is None else "weak_mtbf"
            raise refuse("is missing; a bathtub needs `weak_share` and `weak_mtbf`", missing)
        if self.law == "bathtub" and self.shape is not None and self.shape <= 1:
            raise refuse("of a bathtub's wear-out must be above 1", "shape")
        if self.component == "straggler" and (self.duration is None or self.factor is None):
            raise refuse("a straggler needs `factor` (share of speed) and `duration`")
        if self.component == "flap" and self.duration is None:
            raise refuse("is missing; a flap needs its duration", "duration")
        return self


class ReliabilitySection(Section):
    """What fails and how often."""

    rates: Text | None = Field(
        default=None, description="A set of the catalogue; `euston catalog list reliability`."
    )
    failures: tuple[FailureSection, ...] = Field(
        default=(), description="Components of one's own; they win over the set's."
    )
    dual_tor: Flag = Field(
        default=False,
        description="NICs on two switches: a lost NIC, link or switch halves bandwidth, no crash.",
    )
    repair: Duration = Field(default=86_400.0, description="Until a failed host or NIC is back.")

    @model_validator(mode="after")
    def _something_fails(self) -> ReliabilitySection:
        if self.rates is None and not self.failures:
            raise refuse("needs `rates` (a set of the catalogue) or `failures` of your own")
        seen = [f.component for f in self.failures]
        twice = next((c for i, c in enumerate(seen) if c in seen[:i]), None)
        if twice is not None:
            raise refuse(f"{twice} stands twice", "failures")
        return self


def _interval_form(value: Any) -> str:
    return "~word" if value in ("young", "daly") else "~time"


Interval = Annotated[
    Annotated[Literal["young", "daly"], Tag("~word")] | Annotated[PositiveDuration, Tag("~time")],
    Discriminator(_interval_form),
]


class CheckpointSection(Section):
    """How the job saves its state."""

    mode: Literal["sync", "async", "memory"] = Field(
        default="async",
        description="Wait for storage, for the copy to host memory, or for the copy to a peer's memory.",
    )
    interval: Interval = Field(
        default="daly", description="Work between checkpoints: a time, or young or daly from stall and rates."
    )
    bytes_per_parameter: Number = Field(
        default=14.0, gt=0, description="2 of the parameter and 12 of Adam's FP32 state."
    )
    rank_bandwidth: PositiveBandwidth = Field(default=2e9, description="Of one rank to storage.")
    file_system_bandwidth: PositiveBandwidth = Field(default=1e12, description="Of all ranks to storage.")
    copy_bandwidth: PositiveBandwidth = Field(default=25e9, description="Of an accelerator to host memory.")
    peer_bandwidth: PositiveBandwidth = Field(default=25e9, description="Of a rank to a peer's memory.")
    storage_every: Count = Field(
        default=10, description="Of memory: every so many checkpoints go to storage too."
    )
    stall: Duration | None = Field(default=None, description="Stall of a checkpoint, instead of its size's.")
    write: Duration | None = Field(default=None, description="Until it is safe, instead of its size's.")
    load: Duration | None = Field(default=None, description="To load it, instead of its size's.")


class RecoverySection(Section):
    """What happens after a failure."""

    detection: Duration = Field(default=600.0, description="Until a crash is noticed and understood.")
    queue: Duration = Field(default=0.0, description="In the scheduler's queue, per restart.")
    reschedule: Duration = Field(default=60.0, description="To place the job again.")
    warm_up: Duration = Field(default=120.0, description="From the loaded checkpoint to the usual speed.")
    spares: Whole = Field(default=0, description="Hosts that wait beside the job.")
    elastic: Literal["none", "batch", "keep"] = Field(
        default="none",
        description="Without a host: wait; drop replicas with their share of the batch; keep the batch.",
    )
    fails_during_restart: Flag = Field(
        default=True, description="Whether failures strike while the job is down."
    )


class CampaignSection(Section):
    """Weeks of one training job; `euston campaign FILE` runs them."""

    job: Text | None = Field(default=None, description="Name of a training job; the first unless said.")
    duration: PositiveDuration | None = Field(default=None, description="Wall-clock time, e.g. 7 d.")
    tokens: Number | None = Field(default=None, gt=0, description="End when so many tokens are kept.")
    repeat: Count = Field(default=1, description="Independent runs, for intervals of confidence.")
    reliability: ReliabilitySection = Field(description="What fails and how often.")
    checkpoint: CheckpointSection = Field(default_factory=CheckpointSection)
    recovery: RecoverySection = Field(default_factory=RecoverySection)

    @model_validator(mode="after")
    def _ends(self) -> CampaignSection:
        if self.duration is None and self.tokens is None:
            raise refuse("needs `duration` or `tokens`: when it ends")
        return self


def problems(section: CampaignSection, scenario: Scenario) -> Iterator[str]:
    """What only the whole scenario shows: a job that exists and trains, rates that exist."""
    from euston import catalog
    from euston.errors import unknown

    training = [job.name for job in scenario.jobs if job.kind == "training"]
    if section.job is not None and section.job not in training:
        yield at("campaign.job", unknown("training job", section.job, training))
    elif not training:
        yield at("campaign", "needs a training job")
    if section.reliability.rates is not None:
        try:
            catalog.entry("reliability", section.reliability.rates)
        except BadInput as error:
            yield at("campaign.reliability.rates", str(error))
