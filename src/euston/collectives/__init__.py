"""Collective algorithms as programs of transfers."""

from euston.collectives.all_to_all import AllToAll, all_to_all
from euston.collectives.hierarchical import Stage, hierarchical_all_reduce
from euston.collectives.ring import ring, ring_edges, ring_in_steps
from euston.collectives.volume import ring_bytes, ring_steps
from euston.collectives.write import write_ring_in_steps, write_stages

__all__ = [
    "AllToAll",
    "Stage",
    "all_to_all",
    "hierarchical_all_reduce",
    "ring",
    "ring_bytes",
    "ring_edges",
    "ring_in_steps",
    "ring_steps",
    "write_ring_in_steps",
    "write_stages",
]
