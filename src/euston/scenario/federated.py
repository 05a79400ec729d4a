"""Jobs of `kind: federated`: one model trained across sites on a WAN, as `euston photon` trains it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from euston.errors import BadInput, at, unknown
from euston.scenario._base import (
    Count,
    Number,
    PositiveBandwidth,
    PositiveDuration,
    Section,
    Text,
    refuse,
)
from euston.scenario.jobs import JobBase, ParallelSection, PlacementSection

if TYPE_CHECKING:
    from euston.federated import FederationConfig
    from euston.scenario.model import Scenario
    from euston.scenario.sites import SiteSection

__all__ = ["CableSection", "FederatedSection", "MemberSection", "WanSection"]


class CableSection(Section):
    """What joins two places of the WAN."""

    between: tuple[Text, Text] = Field(description="Two sites, or places without accelerators.")
    bandwidth: PositiveBandwidth = Field(description="Each way, for payload.")
    round_trip: PositiveDuration = Field(description="Time there and back.")


class WanSection(Section):
    """The network between sites."""

    cables: tuple[CableSection, ...] = Field(min_length=1)
    tunnels: Count = Field(default=1, description="Paths over which a transfer is spread, shortest first.")


class MemberSection(Section):
    """Clients of the federation at one site, and how each of them trains there."""

    site: Text = Field(description="Name of a site.")
    clients: Count = Field(default=1, description="Clients there; they share its hosts equally.")
    parallel: ParallelSection | None = Field(
        default=None, description="Layout of a client (of an island); replicas of all unless said."
    )
    micro_batch: Count = Field(default=1, description="Sequences of one pass.")
    recompute: Literal["none", "selective", "full"] = "none"
    software: Text | None = Field(default=None, description="A profile of the catalogue.")
    steps_per_second: Number | None = Field(
        default=None, gt=0, description="Local steps per second; from its accelerators unless said."
    )


class FederatedSection(JobBase):
    """Federated pre-training across sites: the rounds of `euston photon train` in simulated time."""

    shares_hosts: ClassVar[bool] = True

    kind: Literal["federated"] = Field(description="federated")
    federation: Text | dict[str, Any] = Field(
        description="A file as `euston photon train` takes it, relative to the scenario, or its keys."
    )
    members: tuple[MemberSection, ...] = Field(
        default=(), description="Who trains where; one client at each site unless said."
    )
    wan: WanSection = Field(description="The network between the sites.")
    aggregator: Text | None = Field(
        default=None, description="Its place on the WAN; the first member's site unless said."
    )
    additions_per_second: Number | None = Field(
        default=None,
        gt=0,
        description="Parameters that the aggregator folds in a second; no time unless said.",
    )
    bandwidths: tuple[PositiveBandwidth, ...] = Field(
        default=(12.5e6, 125e6, 1.25e9, 12.5e9),
        description="What if every cable had this: topologies and data parallelism are compared on each.",
    )

    @model_validator(mode="after")
    def _no_placement(self) -> FederatedSection:
        if self.placement != PlacementSection():
            raise refuse("a federation is placed by `members`", "placement")
        return self

    def members_of(self, scenario: Scenario) -> tuple[MemberSection, ...]:
        """Members, with the default filled in."""
        return self.members or tuple(MemberSection(site=site.name) for site in scenario.sites)

    def config(self, scenario: Scenario, where: str) -> FederationConfig:
        """The federation.

        Raises
        ------
        ConfigError
            A file that cannot be read, a key that does not fit.
        """
        from euston.federated import FederationConfig
        from euston.federated.file import read_values
        from euston.federated.layout import check_model

        if isinstance(self.federation, str):
            file = scenario.folder / self.federation
            config = FederationConfig.from_values(read_values(file), file.name)
        else:
            config = FederationConfig.from_values(self.federation, f"{where}.federation")
        check_model(config.model)
        return config

    def accelerators(self, site: SiteSection) -> int:
        """All of a site."""
        return site.accelerators

    def hosts(self, site: SiteSection, first: int) -> tuple[int, ...]:
        """All of a site."""
        return tuple(range(site.hosts))

    def problems(self, scenario: Scenario, index: int) -> Iterator[str]:
        """A federation that cannot be read, sites that are not there, clients that do not add up."""
        where = f"jobs[{index}]"
        try:
            config = self.config(scenario, where)
        except BadInput as error:
            message = str(error)
            yield message if message.startswith(f"`{where}") else at(f"{where}.federation", message)
            return
        sites = {site.name: site for site in scenario.sites}
        places = {end for cable in self.wan.cables for end in cable.between}
        members = self.members_of(scenario)
        for i, member in enumerate(members):
            here = f"{where}.members[{i}]"
            if member.site not in sites:
                yield at(f"{here}.site", unknown("site", member.site, sites))
            elif member.site not in places and len(members) > 1:
                yield at(f"{where}.wan.cables", f"site {member.site!r} is joined to nothing")
            elif sites[member.site].hosts % member.clients:
                yield at(
                    f"{here}.clients",
                    f"{member.clients} do not divide the {sites[member.site].hosts} hosts of the site",
                )
        names = [member.site for member in members]
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            yield at(f"{where}.members", f"site {twice!r} stands twice; write its clients in one of them")
        count = sum(member.clients for member in members)
        if count != config.clients:
            yield at(f"{where}.members", f"{count} clients; the federation has clients: {config.clients}")
        if self.aggregator is not None and self.aggregator not in places:
            yield at(f"{where}.aggregator", unknown("place of the WAN", self.aggregator, places))
