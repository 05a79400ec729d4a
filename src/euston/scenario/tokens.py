"""What the data do to a training job: how tokens fall on experts, how many images a sample has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from euston.scenario._base import Count, Flag, Number, Section, Whole

if TYPE_CHECKING:
    from euston.models import Balance, ImageMix, Transformer

__all__ = ["BalanceSection", "ImagesSection"]


class BalanceSection(Section):
    """How unevenly tokens are dealt to experts; all expert-parallel ranks wait for the fullest."""

    kind: Literal["uniform", "multinomial", "zipf", "trace"] = Field(
        default="uniform",
        description="Every expert its share; random counts; weights 1 / rank^alpha; tokens as measured.",
    )
    alpha: Number = Field(default=0.0, ge=0, description="Exponent of zipf.")
    trace: tuple[Number, ...] = Field(default=(), description="Of trace: tokens each expert got, any scale.")
    capacity_factor: Number = Field(
        default=0.0,
        ge=0,
        description="Experts take so many times their share and drop the rest; 0 drops none.",
    )
    pad: Flag = Field(default=False, description="With a capacity: every expert works on exactly that much.")
    seed: Whole = Field(default=0, description="Of the draws.")

    def make(self) -> Balance:
        """The room's object."""
        from euston.models import Balance

        return Balance(**self.model_dump())


class ImagesSection(Section):
    """Images of the samples, for a model with a vision encoder; they make micro-batches unequal."""

    size: Count = Field(description="Pixels of a side of an image.")
    counts: tuple[Whole, ...] = Field(default=(1,), min_length=1, description="Images a sample may have.")
    shares: tuple[Number, ...] = Field(
        default=(1.0,), min_length=1, description="How common each count is, any scale."
    )
    seed: Whole = Field(default=0, description="Of the draws.")

    def make(self, model: Transformer) -> ImageMix:
        """The room's object; ConfigError for a model without an encoder."""
        from euston.errors import ConfigError
        from euston.models import ImageMix

        if model.vision is None:
            raise ConfigError(f"`images`: {model.name} has no vision encoder")
        patches = model.vision.patches(self.size, self.size)
        return ImageMix(patches, self.counts, self.shares, self.seed)
