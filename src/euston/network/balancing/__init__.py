"""Load balancing: how a flow between two endpoints uses the links between them."""

from euston.network.balancing.base import (
    Balancing,
    Candidates,
    ChoosesAtStart,
    PathChoice,
    PathMode,
    Spread,
    StartRule,
    delivered,
)
from euston.registry import Registry

_HERE = "euston.network.balancing"

BALANCING = Registry(
    "network.balancing",
    {
        "spray": f"{_HERE}.spray:Spray",
        "oblivious": f"{_HERE}.oblivious:Oblivious",
        "drb": f"{_HERE}.drb:Drb",
        "ecmp": f"{_HERE}.ecmp:Ecmp",
        "wcmp": f"{_HERE}.wcmp:Wcmp",
        "flowlet": f"{_HERE}.flowlet:Flowlet",
        "adaptive": f"{_HERE}.adaptive:Adaptive",
        "reps": f"{_HERE}.reps:Reps",
        "bitmap": f"{_HERE}.bitmap:Bitmap",
        "mixed": f"{_HERE}.mixed:Mixed",
    },
    kind="balancing policy",
)

__all__ = [
    "BALANCING",
    "Balancing",
    "Candidates",
    "ChoosesAtStart",
    "PathChoice",
    "PathMode",
    "Spread",
    "StartRule",
    "delivered",
]
