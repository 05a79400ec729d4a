"""Load balancing: how a flow between two endpoints uses the links between them."""

from euston.network.balancing.base import Balancing, Spread
from euston.registry import Registry

BALANCING = Registry(
    "network.balancing",
    {
        "spray": "euston.network.balancing.spray:Spray",
        "ecmp": "euston.network.balancing.ecmp:Ecmp",
    },
)

__all__ = ["BALANCING", "Balancing", "Spread"]
