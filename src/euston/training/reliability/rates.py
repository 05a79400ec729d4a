"""Published failure rates by component, as lifetimes of one unit."""

from __future__ import annotations

from collections.abc import Mapping

from euston import catalog
from euston.errors import CatalogError
from euston.training.reliability.laws import Exponential, Law

__all__ = ["COMPONENTS", "mean_lifetimes", "named_laws"]

DAY = 86_400.0
MONTH = 365.25 / 12 * DAY

COMPONENTS: dict[str, str] = {
    "accelerator": "accelerator",
    "nic": "NIC",
    "link": "link from a NIC to its switch",
    "switch": "top-of-rack switch",
    "host": "host",
    "software": "host",
    "storage": "host",
    "silent": "accelerator",
    "flap": "link from a NIC to its switch",
    "straggler": "host",
}
"""Components that fail, and the unit that each rate is per."""


def mean_lifetimes(name: str) -> dict[str, float]:
    """Seconds to failure of one unit, by component, of a set of the catalogue.

    Raises
    ------
    CatalogError
        An unknown set or component, or counted events without units and days.
    """
    entry = catalog.entry("reliability", name)
    values: Mapping[str, Mapping[str, float]] = entry.values
    found = {c: 1000.0 * DAY / rate for c, rate in values.get("per_thousand_days", {}).items()}
    found |= {c: MONTH / rate for c, rate in values.get("per_month", {}).items()}
    for component, events in values.get("events", {}).items():
        units, days = values.get("units", {}).get(component), entry.values.get("days")
        if units is None or days is None:
            raise CatalogError(
                f"`reliability.{entry.name}.events.{component}`: needs `units.{component}` and `days`"
            )
        found[component] = float(units) * float(days) * DAY / events
    for component in found:
        if component not in COMPONENTS:
            raise CatalogError(
                f"`reliability.{entry.name}`: {component!r} is no component; they are {', '.join(COMPONENTS)}"
            )
    return found


def named_laws(name: str) -> dict[str, Law]:
    """The set as exponential lifetimes: what a rate alone says."""
    return {component: Exponential(mean) for component, mean in mean_lifetimes(name).items()}
