"""Straggler policies: whom a step waits for. Plain objects, used by the runtime and by the simulator."""

from euston.collectives.stragglers.base import History, StepOutcome, StragglerPolicy
from euston.collectives.stragglers.drop_compute import best_threshold
from euston.registry import Registry

_HERE = "euston.collectives.stragglers"

STRAGGLERS = Registry(
    "collectives.stragglers",
    {
        "wait": f"{_HERE}.wait:Wait",
        "k_of_n": f"{_HERE}.k_of_n:KOfN",
        "deadline": f"{_HERE}.deadline:Deadline",
        "drop_compute": f"{_HERE}.drop_compute:DropCompute",
    },
    kind="straggler policy",
)

__all__ = ["STRAGGLERS", "History", "StepOutcome", "StragglerPolicy", "best_threshold"]
