"""Allocation: which switch queue a transfer goes to, and what share of a link each queue has."""

from euston.network.allocation.base import (
    AllocationPolicy,
    Allocator,
    Assignment,
    Place,
    QueuePlan,
    Static,
    TransferInfo,
    assign,
    assign_flows,
)
from euston.registry import Registry

_HERE = "euston.network.allocation"

ALLOCATION = Registry(
    "network.allocation",
    {
        "max_min": f"{_HERE}.max_min:MaxMin",
        "weighted": f"{_HERE}.weighted:Weighted",
        "per_job": f"{_HERE}.per_job:PerJob",
        "strict_priority": f"{_HERE}.strict_priority:StrictPriority",
        "static_queues": f"{_HERE}.static_queues:StaticQueues",
    },
    kind="allocation policy",
)

__all__ = [
    "ALLOCATION",
    "AllocationPolicy",
    "Allocator",
    "Assignment",
    "Place",
    "QueuePlan",
    "Static",
    "TransferInfo",
    "assign",
    "assign_flows",
]
