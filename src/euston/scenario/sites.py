"""The `sites` section: what stands in a data centre."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from euston.scenario._base import (
    Count,
    Duration,
    EnergyPrice,
    MoneyRate,
    Number,
    PositiveBandwidth,
    PositiveDataSize,
    PositivePower,
    Section,
    Text,
    refuse,
)

Ratio = Annotated[Number, Field(gt=0)]
FABRIC_KINDS = ("clos", "rail")


class FabricSection(Section):
    """A fabric: a preset of the catalogue, a kind with its sizes, or a preset with values changed."""

    preset: Text | None = Field(
        default=None, description="A fabric of the catalogue; `euston catalog list fabrics`."
    )
    kind: Text | None = Field(default=None, description="clos or rail; a preset brings its own.")
    nic: PositiveBandwidth | None = Field(default=None, description="Rate of one NIC, per direction.")
    nics_per_host: Count | None = Field(
        default=None, description="NICs of a host; one per accelerator unless said."
    )
    endpoints_per_tor: Count | None = Field(
        default=None, description="NIC ports below one top-of-rack switch."
    )
    tors_per_pod: Count | None = Field(default=None, description="Top-of-rack switches of a pod.")
    aggs_per_pod: Count | None = Field(default=None, description="Aggregation switches of a pod.")
    cores_per_agg: Count | None = Field(
        default=None, description="Core switches above each aggregation switch."
    )
    oversubscription: tuple[Ratio, Ratio] | None = Field(
        default=None,
        description="Down over up capacity of the ToRs and of the aggregation switches, e.g. [1, 7].",
    )
    scale_up: PositiveBandwidth | None = Field(
        default=None,
        description="Scale-up rate of an accelerator per direction; the accelerator's own unless said.",
    )
    hosts_per_domain: Count | None = Field(
        default=None, description="Hosts that share one scale-up domain; 1 unless said."
    )
    link_latency: Duration | None = Field(
        default=None, description="Latency of one switch hop with its cable."
    )
    nic_latency: Duration | None = Field(default=None, description="Time a NIC takes to send or receive.")
    scale_up_latency: Duration | None = Field(default=None, description="Latency of a scale-up link.")
    buffer: PositiveDataSize | None = Field(default=None, description="Buffer of a switch port.")

    @model_validator(mode="after")
    def _something(self) -> FabricSection:
        if self.preset is None and self.kind is None:
            raise refuse("needs a `preset` (see `euston catalog list fabrics`) or a `kind` with `nic`")
        if self.preset is None and self.nic is None:
            raise refuse('is missing; write e.g. "400 Gb/s"', "nic")
        return self

    def values(self) -> dict[str, Any]:
        """The values given here (SI), without those left out; they win over the preset's."""
        return {
            name: value
            for name in type(self).model_fields
            if name != "preset" and (value := getattr(self, name)) is not None
        }


class PowerSection(Section):
    """What a site draws beyond its accelerators, and what that costs."""

    pue: Number | None = Field(default=None, ge=1, description="Facility power over IT power.")
    host: PositivePower | None = Field(default=None, description="Power of a host without its accelerators.")
    price: EnergyPrice | None = Field(default=None, description="Price of electricity.")


class SiteSection(Section):
    """One data centre of equal hosts on one fabric."""

    name: Text = Field(description="What jobs and faults call it.")
    accelerator: Text = Field(
        description="An accelerator of the catalogue; `euston catalog list accelerators`."
    )
    hosts: Count = Field(description="Number of hosts.")
    accelerators_per_host: Count = Field(
        default=8, description="Accelerators of a host: its scale-up domain."
    )
    fabric: FabricSection = Field(description="What joins the hosts.")
    speed_spread: Number | None = Field(
        default=None,
        ge=0,
        lt=0.2,
        description="Standard deviation of compute time between equal accelerators; 0.015 unless said.",
    )
    price: MoneyRate | None = Field(default=None, description="Price of an accelerator, e.g. 2.5 USD/h.")
    power: PowerSection | None = Field(default=None, description="Power beyond the accelerators.")

    @property
    def accelerators(self) -> int:
        """Accelerators of the site."""
        return self.hosts * self.accelerators_per_host
