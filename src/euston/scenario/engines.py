"""`run.fluid`, `run.packet`, `run.decomposed`: what network engines assume when they run traffic jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from euston.errors import BadInput
from euston.scenario._base import (
    Count,
    DataSize,
    Duration,
    Flag,
    Number,
    PositiveDataSize,
    PositiveDuration,
    Section,
    Text,
    refuse,
)

if TYPE_CHECKING:  # the engines are imported when they run: most scenarios need one of them, or none
    from euston.network.packet import PacketSettings
    from euston.network.transport import Transport
    from euston.traffic.decomposition import DecomposedSettings
    from euston.traffic.fluid import FluidSettings

__all__ = ["DecomposedSection", "FluidSection", "PacketSection"]

Portion = Annotated[Number, Field(ge=0, le=1)]


class FluidSection(Section):
    """The fluid engine. Its packets and headers are the transport's: both engines move the same bytes."""

    tol: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Relative change of a link's fair share that is let pass; 0 is exact."
    )
    window: Duration = Field(default=1e-9, description="Events within it are one moment.")
    host_latency: Duration = Field(default=0.0, description="What the hosts add to every flow.")
    reconvergence: Duration = Field(default=0.0, description="From a failure until routes avoid it.")
    utilisation: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=1.0, description="Share of a link that congestion control fills (HPCC 0.95)."
    )
    queue_delay: Duration = Field(default=0.0, description="Standing queue, added to a flow's latency.")
    lag: Duration = Field(default=0.0, description="Time constant with which a rate climbs; 0: at once.")

    def make(self, transport: Transport, folding: bool) -> FluidSettings:
        """The settings under a transport's framing."""
        from euston.traffic.fluid import FluidSettings
        from euston.traffic.run import framing

        frame = framing(transport)
        return FluidSettings(mtu=frame.mtu, header=frame.header, folding=folding, **self.model_dump())


class DecomposedSection(Section):
    """Tails link by link (Parsimon): hashed flows that do not wait for each other, one queue per link."""

    standing_queue: DataSize = Field(
        default=0,
        description="Bytes that congestion control leaves in the queue of a link that several flows fill.",
    )
    cluster: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Links that differ by at most this share are simulated once; 0: each."
    )

    def make(self, transport: Transport) -> DecomposedSettings:
        """The settings under a transport's framing."""
        from euston.traffic.decomposition import DecomposedSettings

        return DecomposedSettings(transport.mtu, transport.header, float(self.standing_queue), self.cluster)


class PacketSection(Section):
    """The packet engine: queues, marks, pauses, timers. The defaults are those of uet-htsim."""

    trimming: Flag = Field(default=True, description="A full queue cuts packets to their header.")
    queue: PositiveDataSize | None = Field(
        default=None,
        description="Bytes of a queue; the fabric's buffer, else the bandwidth-delay product (5 of them "
        "without trimming), unless said.",
    )
    ecn: tuple[Portion, Portion] | None = Field(
        default=None,
        description="Marks begin and are certain at these parts of the bandwidth-delay product; what the "
        "transport asks for, or [0.2, 0.8], unless said.",
    )
    marks: Flag = Field(default=True, description="Whether switches mark packets at all.")
    control_queue: Annotated[Number, Field(gt=0)] = Field(
        default=2.0, description="Queue of control packets, in data queues."
    )
    rto: PositiveDuration | None = Field(
        default=None,
        description="Retransmission timeout; 15 us and the time to drain six queues unless said.",
    )
    retries: Count = Field(default=50, description="Timeouts in a row after which a flow is given up.")
    shared_buffer: DataSize = Field(default=0.0, description="Buffer that all queues of a switch share.")
    alpha: Annotated[Number, Field(gt=0, le=1024)] = Field(
        default=1.0, description="A queue may hold this many times what is free of the shared buffer."
    )
    pfc: DataSize = Field(default=0.0, description="Bytes of an incoming link that pause it; 0: no pauses.")
    pfc_headroom: DataSize | None = Field(
        default=None,
        description="Bytes beyond `pfc` until a pause takes effect; what is under way unless said.",
    )
    pfc_resume: DataSize | None = Field(
        default=None, description="Bytes at which it goes on; two packets less unless said."
    )
    reconvergence: Duration = Field(default=0.0, description="From a failure until routes avoid it.")
    sample: Duration = Field(default=0.0, description="Time between samples of `sampled`; 0: none.")
    sampled: tuple[Text, ...] = Field(default=(), description="Links whose queues are sampled.")

    @model_validator(mode="after")
    def _possible(self) -> PacketSection:
        if not self.model_fields_set:
            return self
        try:
            self.make()
        except BadInput as error:
            place, _, words = str(error).removeprefix("`settings.").partition("`: ")
            raise refuse(words or str(error), place if words else None) from None
        if self.sample and not self.sampled:
            raise refuse("is missing beside `sample`; name links, e.g. [tor_up/p0/t0/a0]", "sampled")
        return self

    def make(self) -> PacketSettings:
        """The settings."""
        from euston.network.packet import PacketSettings

        values = self.model_dump(exclude={"marks"})
        return PacketSettings(**values | {"ecn": (self.ecn or "transport") if self.marks else None})
