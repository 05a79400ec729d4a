"""What a device is to the rest of the package: something that prices an operator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from euston.models.operator import Operator

Provenance = Literal["measured", "interpolated", "transferred", "roofline"]

#: From most to least sure; a sum of prices is as sure as its least sure part.
PROVENANCES: tuple[Provenance, ...] = ("measured", "interpolated", "transferred", "roofline")


@dataclass(frozen=True, slots=True)
class Price:
    """What one operator (all its calls) costs on a device.

    Attributes
    ----------
    seconds, joules
        Time on the accelerator and energy drawn by it.
    provenance
        ``measured``: a point of a packaged kernel table. ``interpolated``: inside a table's hull.
        ``transferred``: another device's table, scaled. ``roofline``: a formula whose constants are fitted or
        assumed, away from any table point.
    """

    seconds: float
    joules: float
    provenance: Provenance


@runtime_checkable
class Device(Protocol):
    """Prices operators; pricing has no side effects other than a cache."""

    @property
    def name(self) -> str:
        """The name people know the device by."""

    def price(self, operator: Operator) -> Price:
        """Seconds, joules and provenance of one operator, all its calls included."""

    def price_many(self, operators: Iterable[Operator]) -> list[Price]:
        """Prices in the order of the operators."""


def least_sure(provenances: Iterable[Provenance]) -> Provenance:
    """The weakest of several provenances (``measured`` for none)."""
    return max(provenances, key=PROVENANCES.index, default="measured")
