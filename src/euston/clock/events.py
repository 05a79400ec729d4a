"""What changes at known times while a program runs: capacities of links, speeds of streams, routes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CapacityEvent", "Event", "RouteEvent", "SpeedEvent"]


@dataclass(frozen=True)
class CapacityEvent:
    """At ``time`` seconds the capacity of ``row`` becomes ``capacity`` bytes/s (0: the link is dead)."""

    time: float
    row: int
    capacity: float


@dataclass(frozen=True)
class SpeedEvent:
    """At ``time`` seconds stream ``stream`` runs at ``speed`` (1 = nominal)."""

    time: float
    stream: int
    speed: float


@dataclass(frozen=True)
class RouteEvent:
    """At ``time`` seconds routes number ``routes`` of the transfers' `Choices` begin to hold."""

    time: float
    routes: int


Event = CapacityEvent | SpeedEvent | RouteEvent
