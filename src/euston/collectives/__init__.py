"""Collective algorithms as programs of transfers."""

from euston.collectives.all_to_all import AllToAll, all_to_all
from euston.collectives.base import Algorithm, Group, Hop, group_of
from euston.collectives.hierarchical import Stage, hierarchical_all_reduce
from euston.collectives.planned import Collective, collective, write_collective
from euston.collectives.ring import ring, ring_edges, ring_in_steps
from euston.collectives.volume import ring_bytes, ring_steps
from euston.collectives.write import write_messages, write_ring_in_steps, write_stages
from euston.registry import Registry

_HERE = "euston.collectives"

ALGORITHMS = Registry(
    "collectives",
    {
        "ring": f"{_HERE}.rings:Ring",
        "halving-doubling": f"{_HERE}.halving_doubling:HalvingDoubling",
        "tree": f"{_HERE}.double_binary_tree:DoubleBinaryTree",
        "hierarchical": f"{_HERE}.dimensions:Hierarchical",
        "blueconnect": f"{_HERE}.dimensions:BlueConnect",
        "torus": f"{_HERE}.dimensions:Torus",
        "in-network": f"{_HERE}.in_network:InNetwork",
        "pairwise": f"{_HERE}.exchange:Pairwise",
        "direct": f"{_HERE}.exchange:Direct",
        "two-level": f"{_HERE}.exchange:TwoLevel",
    },
    kind="collective algorithm",
)

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AllToAll",
    "Collective",
    "Group",
    "Hop",
    "Stage",
    "all_to_all",
    "collective",
    "group_of",
    "hierarchical_all_reduce",
    "ring",
    "ring_bytes",
    "ring_edges",
    "ring_in_steps",
    "ring_steps",
    "write_collective",
    "write_messages",
    "write_ring_in_steps",
    "write_stages",
]
