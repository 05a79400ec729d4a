"""Fabrics: topologies as flat arrays of links, with paths by number.

`clos` builds Clos fabrics of two or three tiers, with hosts or rails on the leaves; `leaf_spine`, `clos3`,
`rail_optimized` and `fat_tree` are its common shapes. `dragonfly`, `slim_fly`, `hyperx`, `torus`, `jellyfish`
and `from_graph` (any list of cables) join switches directly; their options for hosts are `HostOptions`, their
rule for adaptive routing `ugal_route`. A `Fabric` answers `route` (one live path per flow) and
`spread` (ideal spraying over all of them), and names its links.
"""

from euston.fabrics._host_side import HostOptions
from euston.fabrics.clos import clos, clos3, fat_tree, leaf_spine
from euston.fabrics.dragonfly import dragonfly
from euston.fabrics.fabric import Fabric
from euston.fabrics.graph import from_graph
from euston.fabrics.hyperx import hyperx
from euston.fabrics.jellyfish import jellyfish
from euston.fabrics.rails import rail_optimized
from euston.fabrics.slim_fly import slim_fly
from euston.fabrics.structure import LinkKind, Network, NodeKind, Spread, Structure
from euston.fabrics.torus import torus
from euston.fabrics.ugal import ugal_candidates, ugal_prefers_minimal, ugal_route

__all__ = [
    "Fabric",
    "HostOptions",
    "LinkKind",
    "Network",
    "NodeKind",
    "Spread",
    "Structure",
    "clos",
    "clos3",
    "dragonfly",
    "fat_tree",
    "from_graph",
    "hyperx",
    "jellyfish",
    "leaf_spine",
    "rail_optimized",
    "slim_fly",
    "torus",
    "ugal_candidates",
    "ugal_prefers_minimal",
    "ugal_route",
]
