"""How many images a sample has: a distribution, so that micro-batches differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from euston.errors import ConfigError

from ._settings import positive

__all__ = ["ImageMix"]


@dataclass(frozen=True)
class ImageMix:
    """Images per sample of a multimodal job.

    Attributes
    ----------
    patches : int
        Patches of one image, see `VisionEncoder.patches`.
    counts : tuple of int
        Numbers of images a sample may have.
    shares : tuple of float
        How common each number is (any scale), as long as `counts`.
    seed : int
        Of the draws.
    """

    patches: int
    counts: tuple[int, ...] = (1,)
    shares: tuple[float, ...] = (1.0,)
    seed: int = 0

    def check(self, *, where: str = "images") -> None:
        """Refuse what is no distribution."""
        positive("patches", self.patches)
        if not self.counts or len(self.counts) != len(self.shares):
            raise ConfigError(
                f"`{where}.shares`: {len(self.shares)} for {len(self.counts)} counts; one for each"
            )
        if min(self.counts) < 0 or any(not isinstance(n, int) or isinstance(n, bool) for n in self.counts):
            raise ConfigError(f"`{where}.counts`: {self.counts} must be whole numbers of at least 0")
        total = sum(self.shares)
        if min(self.shares) < 0 or not 0 < total < math.inf:
            raise ConfigError(f"`{where}.shares`: {self.shares} must be at least 0 and not all 0")

    @property
    def mean(self) -> float:
        """Images per sample, expected."""
        return sum(n * s for n, s in zip(self.counts, self.shares, strict=True)) / sum(self.shares)

    def draw(self, micro_batches: int, micro_batch: int) -> tuple[int, ...]:
        """Images in each of the micro-batches of one replica, drawn sample by sample with the seed."""
        rng = np.random.Generator(np.random.Philox(self.seed))
        share = np.asarray(self.shares) / sum(self.shares)
        drawn = rng.choice(np.asarray(self.counts), size=(micro_batches, micro_batch), p=share)
        return tuple(int(n) for n in drawn.sum(axis=1))

    def work(
        self, micro_batches: int, micro_batch: int, sequence: int, tokens_per_image: int
    ) -> tuple[float, ...]:
        """Tokens of each micro-batch over their mean: `sequence` is text and the mean number of image tokens.

        Raises
        ------
        ConfigError
            Where the images alone have more tokens than the sequence.
        """
        text = sequence - self.mean * tokens_per_image
        if text < 0:
            raise ConfigError(
                f"`images`: {self.mean:g} images of {tokens_per_image} tokens do not fit a "
                f"sequence of {sequence}"
            )
        tokens = [text * micro_batch + n * tokens_per_image for n in self.draw(micro_batches, micro_batch)]
        mean = sequence * micro_batch
        return tuple(max(t, 1.0) / mean for t in tokens)
