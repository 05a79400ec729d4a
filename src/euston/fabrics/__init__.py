"""Fabrics: topologies as flat arrays of links, with paths by number.

`clos` builds Clos fabrics of two or three tiers, with hosts or rails on the leaves; `leaf_spine`, `clos3`,
`rail_optimized` and `fat_tree` are its common shapes, `hpn` and `rail_only` its shapes in planes and without
a spine, `scale_up` the switch planes of scale-up domains. `dragonfly`, `slim_fly`, `hyperx`, `torus`,
`jellyfish` and `from_graph` (any list of cables) join switches directly; their options for hosts are
`HostOptions`, their rule for adaptive routing `ugal_route`. `ocs` joins them by circuits that come and go;
`wan` joins sites, and `compose` makes sites and their WAN one fabric. `FABRICS` has the builders by name.

A `Fabric` answers `route` (one live path per flow) and `spread` (ideal spraying over all of them), and names
its links.
"""

from euston.fabrics._host_side import HostOptions
from euston.fabrics.clos import clos, clos3, fat_tree, leaf_spine
from euston.fabrics.compose import compose
from euston.fabrics.dragonfly import dragonfly
from euston.fabrics.fabric import Fabric
from euston.fabrics.graph import from_graph
from euston.fabrics.hpn import hpn
from euston.fabrics.hyperx import hyperx
from euston.fabrics.jellyfish import jellyfish
from euston.fabrics.kinds import FABRICS
from euston.fabrics.ocs import Circuits, LinkChanges, ocs, round_robin
from euston.fabrics.rails import forwarded, rail_only, rail_optimized
from euston.fabrics.scale_up import scale_up
from euston.fabrics.slim_fly import slim_fly
from euston.fabrics.structure import LinkKind, Network, NodeKind, Spread, Structure
from euston.fabrics.torus import torus
from euston.fabrics.ugal import ugal_candidates, ugal_prefers_minimal, ugal_route
from euston.fabrics.wan import wan

__all__ = [
    "FABRICS",
    "Circuits",
    "Fabric",
    "HostOptions",
    "LinkChanges",
    "LinkKind",
    "Network",
    "NodeKind",
    "Spread",
    "Structure",
    "clos",
    "clos3",
    "compose",
    "dragonfly",
    "fat_tree",
    "forwarded",
    "from_graph",
    "hpn",
    "hyperx",
    "jellyfish",
    "leaf_spine",
    "ocs",
    "rail_only",
    "rail_optimized",
    "round_robin",
    "scale_up",
    "slim_fly",
    "torus",
    "ugal_candidates",
    "ugal_prefers_minimal",
    "ugal_route",
    "wan",
]
