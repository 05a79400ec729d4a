"""Everything that moves bytes: transfers, the fluid engine, and the policies that steer them."""

from euston.network.columns import Columns, ColumnsBuilder
from euston.network.flows import FlowResult, Flows
from euston.network.fluid import Allocation, max_min
from euston.network.folding import Folding, fold
from euston.network.hierarchical import QueueAllocation, hierarchical_max_min
from euston.network.incremental import Incremental
from euston.network.lowering import Lowered, lower
from euston.network.transfer import Tag, Transfer, Transfers

__all__ = [
    "Allocation",
    "Columns",
    "ColumnsBuilder",
    "FlowResult",
    "Flows",
    "Folding",
    "Incremental",
    "Lowered",
    "QueueAllocation",
    "Tag",
    "Transfer",
    "Transfers",
    "fold",
    "hierarchical_max_min",
    "lower",
    "max_min",
]
