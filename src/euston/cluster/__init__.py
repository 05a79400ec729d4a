"""Clusters: where jobs run and how they are cut.

`Site` and `Cluster` say what there is, `Parallel` how a job is cut over accelerators, `Placement` which
endpoint each rank sits on and which endpoints talk to each other.
"""

from euston.cluster.parallel import ModelShape, Parallel, Sharding
from euston.cluster.placement import Placement, place
from euston.cluster.site import Cluster, Site, WanLink

__all__ = ["Cluster", "ModelShape", "Parallel", "Placement", "Sharding", "Site", "WanLink", "place"]
