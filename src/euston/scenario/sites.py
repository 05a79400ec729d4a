"""The `sites` section: what stands in a data centre."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from euston import catalog
from euston.errors import BadInput
from euston.fabrics.kinds import usual_accelerators_per_host
from euston.scenario._base import (
    Count,
    EnergyPrice,
    MoneyRate,
    Number,
    PositivePower,
    Section,
    Text,
    Whole,
    refuse,
)
from euston.scenario._problems import undotted
from euston.scenario.fabrics import FabricSection, built, merged, misplaced

MOST_HOSTS, MOST_IN_A_HOST = 2**24, 2**16
"""Ten times what anybody has built; a number above is a slip."""


def _derived(schema: dict[str, Any]) -> None:
    schema.pop("default", None)  # 0 stands for "not said", and is filled in


class PowerSection(Section):
    """What a site draws beyond its accelerators, and what that costs."""

    pue: Number | None = Field(default=None, ge=1, description="Facility power over IT power.")
    host: PositivePower | None = Field(default=None, description="Power of a host without its accelerators.")
    price: EnergyPrice | None = Field(default=None, description="Price of electricity.")


class OtherHostsSection(Section):
    """Hosts whose accelerators are not the site's."""

    accelerator: Text = Field(description="An accelerator of the catalogue.")
    first_host: Whole = Field(default=0, description="The first of them.")
    hosts: Count = Field(description="How many, one after the other.")


class SiteSection(Section):
    """One data centre: hosts on one fabric, with equal accelerators but for `others`."""

    name: Text = Field(description="What jobs and faults call it.")
    accelerator: Text | None = Field(
        default=None,
        description="An accelerator of the catalogue; `euston catalog list accelerators`. "
        "Needed where a job computes.",
    )
    hosts: Count = Field(
        default=0,
        le=MOST_HOSTS,
        description="Number of hosts; those of the fabric where its kind or preset says how many.",
        json_schema_extra=_derived,
    )
    accelerators_per_host: Count = Field(
        default=0,
        le=MOST_IN_A_HOST,
        description="Accelerators of a host: its scale-up domain. The preset's or the kind's (8 of a Clos) "
        "unless said.",
        json_schema_extra=_derived,
    )
    fabric: FabricSection = Field(description="What joins the hosts.")
    speed_spread: Number | None = Field(
        default=None,
        ge=0,
        lt=0.2,
        description="Standard deviation of compute time between equal accelerators; 0.015 unless said.",
    )
    others: tuple[OtherHostsSection, ...] = Field(
        default=(), description="Runs of hosts with another accelerator; training prices their passes by it."
    )
    price: MoneyRate | None = Field(default=None, description="Price of an accelerator, e.g. 2.5 USD/h.")
    power: PowerSection | None = Field(default=None, description="Power beyond the accelerators.")

    @model_validator(mode="after")
    def _size(self) -> SiteSection:
        """Fill in how many hosts there are, and accelerators in each, from the fabric."""
        if self.hosts and self.accelerators_per_host:
            return self
        values = merged(self.fabric, self.hosts or None)
        each = self.accelerators_per_host or values.get("accelerators_per_host")
        each = each or usual_accelerators_per_host(str(values["kind"]))
        if not (self.hosts and each):
            try:
                fabric = built(values, self.hosts or None, each, scale_up=self.scale_up_bandwidth())
            except BadInput as error:
                place, message = misplaced(error, "")
                raise refuse(message, undotted(place)) from None
            self.__dict__["hosts"], each = fabric.hosts, fabric.accelerators_per_host
        self.__dict__["accelerators_per_host"] = int(each)
        return self

    def scale_up_bandwidth(self) -> float | None:
        """Bytes/s of the accelerator into its scale-up network; None where it is unknown."""
        if self.accelerator is None:
            return None
        try:
            return catalog.accelerator(self.accelerator).scale_up_bandwidth
        except BadInput:
            return None  # said where names are checked

    @property
    def accelerators(self) -> int:
        """Accelerators of the site."""
        return self.hosts * self.accelerators_per_host
