"""The `plan` section: what `euston plan` may choose for a training job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from euston.scenario._base import Count, Section, Text

if TYPE_CHECKING:
    from euston.training.plan import Choices

__all__ = ["PlanSection"]


class PlanSection(Section):
    """Choices of a search; what is left out has every value that divides."""

    job: Text | None = Field(default=None, description="Name of a training job; the first unless said.")
    accelerators: Count | None = Field(default=None, description="How many; as the job has unless said.")
    tensor: tuple[Count, ...] = Field(default=(), description="All that divide, up to a scale-up domain.")
    context: tuple[Count, ...] = Field(default=(1,), min_length=1, description="Context-parallel degrees.")
    expert: tuple[Count, ...] = Field(default=(), description="All that divide the experts.")
    micro: tuple[Count, ...] = Field(default=(1, 2, 4, 8), min_length=1, description="Micro-batches.")
    virtual: Count = Field(default=16, description="Most chunks per stage.")
    recompute: tuple[Literal["none", "selective", "full"], ...] = Field(
        default=("none", "selective", "full"), min_length=1
    )
    sharding: tuple[Literal["none", "zero1", "zero2", "zero3"], ...] = Field(
        default=("none", "zero1", "zero2", "zero3"), min_length=1
    )
    schedules: tuple[Literal["1f1b", "gpipe", "zb-h1", "zb-h2", "dualpipe"], ...] = Field(
        default=("1f1b",), min_length=1, description="Of one chunk per stage; several are interleaved."
    )

    def make(self) -> Choices:
        """The room's object."""
        from euston.training.plan import Choices

        return Choices(
            self.tensor, self.context, self.expert, self.micro, self.virtual, self.recompute, self.sharding,
            self.schedules,
        )  # fmt: skip
