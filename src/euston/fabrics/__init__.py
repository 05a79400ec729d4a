"""Fabrics: topologies as flat arrays of links, with paths in closed form.

`clos` builds Clos fabrics of two or three tiers, with hosts or rails on the leaves; `leaf_spine`, `clos3`,
`rail_optimized` and `fat_tree` are its common shapes. A `Fabric` answers `route` (one live path per flow) and
`spread` (ideal spraying over all of them), and names its links.
"""

from euston.fabrics.clos import clos, clos3, fat_tree, leaf_spine, rail_optimized
from euston.fabrics.fabric import Fabric
from euston.fabrics.structure import LinkKind, Network, NodeKind, Spread, Structure

__all__ = [
    "Fabric",
    "LinkKind",
    "Network",
    "NodeKind",
    "Spread",
    "Structure",
    "clos",
    "clos3",
    "fat_tree",
    "leaf_spine",
    "rail_optimized",
]
