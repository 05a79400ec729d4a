"""The `Scenario`: sites, jobs, policies, faults and how to run them, from a file or from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, model_validator

from euston.scenario._base import Duration, Flag, Number, PositiveDuration, Section, Text, Whole, refuse
from euston.scenario._yaml import Document
from euston.scenario.allocation import AllocationSection
from euston.scenario.campaign import CampaignSection
from euston.scenario.engines import DecomposedSection, FluidSection, PacketSection
from euston.scenario.exchange import ExchangeSection
from euston.scenario.federated import FederatedSection
from euston.scenario.jobs import JOB_KINDS, TrainingSection
from euston.scenario.plan import PlanSection
from euston.scenario.policies import BalancingSection, TransportSection
from euston.scenario.post_training import PostTrainingSection
from euston.scenario.serving import ServingSection
from euston.scenario.sites import SiteSection
from euston.scenario.traffic import TrafficSection


def _job_form(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"~{kind}" if kind in JOB_KINDS else "~training"


JobSection = Annotated[
    Annotated[TrainingSection, Tag("~training")]
    | Annotated[TrafficSection, Tag("~traffic")]
    | Annotated[FederatedSection, Tag("~federated")]
    | Annotated[ServingSection, Tag("~serving")]
    | Annotated[PostTrainingSection, Tag("~post_training")]
    | Annotated[ExchangeSection, Tag("~exchange")],
    Discriminator(_job_form),
]
"""A job of any kind; one whose kind is missing or unknown is refused by the first."""


class PoliciesSection(Section):
    """Policies of the network."""

    balancing: BalancingSection = Field(
        default_factory=BalancingSection,
        description="How flows choose among equal paths: a name, or {kind: ecmp, qps: 4}.",
    )
    allocation: AllocationSection = Field(
        default_factory=AllocationSection,
        description="Queues of the links: a name, or {kind: per_job, weights: {a: 1, b: 3}}.",
    )
    transport: TransportSection = Field(
        default_factory=TransportSection,
        description="What senders do when the network answers, for packets: a name, or {kind: nscc, ...}.",
    )


class FaultSection(Section):
    """A slow or failed link or switch, or a slow host."""

    site: Text | None = Field(default=None, description="Name of a site; the first unless said.")
    link: Text | None = Field(default=None, description="Name of a link, e.g. nic_up/h3/n0.")
    switch: Text | None = Field(
        default=None, description="Name of a switch, e.g. tor/p0/t3: all its links, both ways."
    )
    factor: Number | None = Field(
        default=None, ge=0, le=1, description="Share of the links' capacity left; 0 is failed."
    )
    host: Whole | None = Field(default=None, description="Number of a host.")
    speed: Number | None = Field(default=None, gt=0, description="Speed of its accelerators, 1 as usual.")
    at: Duration = Field(default=0.0, description="When it begins.")
    until: Duration | None = Field(default=None, description="When it ends; never unless said.")

    @model_validator(mode="after")
    def _one_thing(self) -> FaultSection:
        if sum(name is not None for name in (self.link, self.switch, self.host)) != 1:
            raise refuse("needs one of `link` or `switch` with `factor`, or `host` with `speed`")
        if self.host is None and (self.factor is None or self.speed is not None):
            thing = "link" if self.switch is None else "switch"
            raise refuse(f"a {thing} needs `factor` (0 is failed, 0.5 is half its capacity)")
        if self.host is not None and (self.speed is None or self.factor is not None):
            raise refuse("a host needs `speed` (0.9 is ten per cent slower)")
        if self.until is not None and self.until <= self.at:
            raise refuse("must be later than `at`", "until")
        return self


class RunSection(Section):
    """How to find the truth: fidelity, seed, length."""

    compute: Literal["analytic", "des"] = Field(
        default="des", description="Closed form, or a schedule executed in time."
    )
    network: Literal["none", "fluid", "packet", "decomposed", "emulate"] = Field(
        default="fluid",
        description="No contention, fluid flows, packets, link by link, or Linux network namespaces.",
    )
    folding: Flag = Field(
        default=True, description="Treat equal replicas as one; changes speed, never results."
    )
    speeds: Literal["slowest", "each"] = Field(
        default="slowest",
        description="Equal accelerators differ a little: reckon with the slowest one's expected speed, "
        "or draw one for each (nothing folds then).",
    )
    seed: Whole = Field(default=0, description="Seed of everything random.")
    until: PositiveDuration | None = Field(
        default=None, description="Traffic ends here, finished or not; with its last flow unless said."
    )
    fluid: FluidSection = Field(default_factory=FluidSection, description="Settings of the fluid engine.")
    packet: PacketSection = Field(default_factory=PacketSection, description="Settings of the packet engine.")
    decomposed: DecomposedSection = Field(
        default_factory=DecomposedSection, description="Settings of runs link by link."
    )
    memory: Literal["refuse", "report"] = Field(
        default="refuse",
        description="A job that does not fit its accelerators: refuse it, or run it and report that.",
    )


class Scenario(Section):
    """One description of sites, jobs and policies.

    Build it from a file with `load`, or from Python with keyword arguments named as the keys of the file;
    numbers without a unit are then taken as SI (bytes/s, seconds, bytes).

    Raises
    ------
    pydantic.ValidationError
        A value that does not fit its key; `load`, `loads` and `from_data` raise `ScenarioError` instead.
    """

    version: Literal[1] = Field(default=1, description="Version of the format: 1.")
    name: Text = Field(default="scenario", description="A short name, used in reports.")
    title: Text | None = Field(default=None, description="A line for people.")
    sites: tuple[SiteSection, ...] = Field(min_length=1)
    jobs: tuple[JobSection, ...] = Field(min_length=1)
    policies: PoliciesSection = Field(default_factory=PoliciesSection)
    faults: tuple[FaultSection, ...] = ()
    run: RunSection = Field(default_factory=RunSection)
    plan: PlanSection | None = Field(
        default=None, description="What `euston plan` may choose for a training job."
    )
    campaign: CampaignSection | None = Field(
        default=None, description="Days and weeks of a training job on parts that fail; `euston campaign`."
    )

    _source: str = PrivateAttr("")
    _document: Document | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        # where it was read from is no part of what it says
        return isinstance(other, Scenario) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    @property
    def source(self) -> str:
        """Name of the file it was read from; empty when built from Python."""
        return self._source

    @property
    def folder(self) -> Path:
        """What relative paths of the scenario start from."""
        return Path(self._source).parent if self._source else Path()

    def site(self, name: str | None = None) -> SiteSection:
        """The site of that name; the first for None."""
        if name is None:
            return self.sites[0]
        return next(site for site in self.sites if site.name == name)

    @property
    def is_traffic(self) -> bool:
        """Whether all jobs are traffic: a study of the network by itself."""
        return all(isinstance(job, TrafficSection) for job in self.jobs)

    def training(self, job: int) -> TrainingSection:
        """Job number `job`, known to be a training job."""
        section = self.jobs[job]
        assert isinstance(section, TrainingSection)
        return section

    def hosts_of(self, job: int) -> tuple[int, ...]:
        """Hosts of the job's site that job number `job` occupies, in rank order.

        A job without `first_host` or `hosts` takes the hosts of its site after those of the jobs before it;
        jobs that share hosts, as traffic does, start from the first.
        """
        section = self.jobs[job]
        site = self.site(section.placement.site)
        first = 0
        if not section.shares_hosts and section.placement.first_host is None:
            for index, earlier in enumerate(self.jobs[:job]):
                if self.site(earlier.placement.site).name == site.name and not earlier.shares_hosts:
                    first = max(first, max(self.hosts_of(index)) + 1)
        return section.hosts(site, first)
