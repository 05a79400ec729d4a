"""Numbers of the transfers that a unit's program names."""

from __future__ import annotations

from dataclasses import dataclass

from euston.training.routes import OWN

__all__ = ["UNIT", "Slots"]

UNIT = tuple(kind for kind in OWN if kind != "expert_inside")
"""Kinds of a unit's own transfers; an expert all-to-all is one transfer of two flows."""


@dataclass(frozen=True)
class Slots:
    """Numbers of the transfers that a unit's program names.

    First each unit's own, one per stage and kind; then those that all units share, one per (stage, chunk):
    parameters gathered, gradients reduced, the same of experts, and gradients reduced over copies (HSDP).
    """

    pipeline: int
    virtual: int

    def own_of(self, kind: str, stage: int) -> int:
        """A stage's transfer of one kind of ``OWN``."""
        return UNIT.index(kind) * self.pipeline + stage

    def tensor(self, stage: int) -> int:
        """A stage's tensor-parallel collective."""
        return self.own_of("tensor", stage)

    def forward(self, stage: int) -> int:
        """To the next stage."""
        return self.own_of("forward", stage)

    def backward(self, stage: int) -> int:
        """To the stage before."""
        return self.own_of("backward", stage)

    def tied(self, stage: int) -> int:
        """Gradients of a tied embedding, between a stage and its opposite."""
        return self.own_of("tied", stage)

    @property
    def own(self) -> int:
        """How many belong to each unit."""
        return len(UNIT) * self.pipeline

    def _shared(self, kind: int, stage: int, chunk: int) -> int:
        return self.own + (kind * self.pipeline + stage) * self.virtual + chunk

    def gather(self, stage: int, chunk: int) -> int:
        """Parameters of a chunk, all-gathered."""
        return self._shared(0, stage, chunk)

    def scatter(self, stage: int, chunk: int) -> int:
        """Gradients of a chunk, reduced."""
        return self._shared(1, stage, chunk)

    def copy(self, stage: int, chunk: int) -> int:
        """Shards of gradients, all-reduced over their copies."""
        return self._shared(2, stage, chunk)

    def expert_gather(self, stage: int, chunk: int) -> int:
        """Parameters of a chunk's experts, all-gathered."""
        return self._shared(3, stage, chunk)

    def expert_scatter(self, stage: int, chunk: int) -> int:
        """Gradients of a chunk's experts, reduced."""
        return self._shared(4, stage, chunk)

    @property
    def total(self) -> int:
        """How many numbers there are."""
        return self.own + 5 * self.pipeline * self.virtual
