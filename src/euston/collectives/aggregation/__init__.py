"""Aggregation rules: the mean of many gradients when packets are missing, for runtime and simulator."""

from euston.collectives.aggregation.aggregator import Aggregate, Aggregator, Inclusion
from euston.collectives.aggregation.base import AggregationRule, Fill
from euston.registry import Registry

_HERE = "euston.collectives.aggregation"

AGGREGATION = Registry(
    "collectives.aggregation",
    {
        "count": f"{_HERE}.count:Count",
        "ht": f"{_HERE}.horvitz_thompson:HorvitzThompson",
        "zero": f"{_HERE}.zero:Zero",
        "stale": f"{_HERE}.stale:Stale",
        "local": f"{_HERE}.local:Local",
    },
    kind="aggregation rule",
)

__all__ = ["AGGREGATION", "Aggregate", "AggregationRule", "Aggregator", "Fill", "Inclusion"]
