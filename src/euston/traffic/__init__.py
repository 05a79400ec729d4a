"""Traffic: who sends how much to whom and when, as flows; and what became of them, as metrics.

Generators hand over `Traffic`: matrices with sizes (`burst`, `open_loop`) and AI programs (`on_off`,
`pipeline`, `ProgramWriter`); `read_flows` reads a file. `flow_result_to_result` turns what an engine answers
into a `Result`.
"""

from euston.traffic.arrivals import ARRIVALS
from euston.traffic.bounds import Bounds, bounds
from euston.traffic.cdf import PUBLISHED, SizeCdf, published, read_cdf
from euston.traffic.columns import COLUMNS
from euston.traffic.decomposition import DecomposedSettings, run_decomposed
from euston.traffic.htsim import read_connections, write_connections
from euston.traffic.ideal import ideal_completion, wire_bytes
from euston.traffic.io import FORMATS, read_flows, write_flows
from euston.traffic.jobs import on_off, pipeline
from euston.traffic.load import burst, injection_capacity, link_load, open_loop, poisson_flows
from euston.traffic.matrices import MATRICES, Matrix, matrix, racks
from euston.traffic.metrics import (
    by_size,
    collective_table,
    flow_table,
    goodput,
    link_table,
    steady_goodput,
    tier_table,
)
from euston.traffic.programs import ProgramWriter
from euston.traffic.simgrid import write_simgrid
from euston.traffic.sizes import (
    BoundedPareto,
    Fixed,
    LogNormal,
    SizeDistribution,
    Uniform,
    size_distribution,
    sizes,
)
from euston.traffic.summary import flow_result_to_result
from euston.traffic.traffic import Collective, Traffic

__all__ = [
    "DecomposedSettings",
    "ARRIVALS",
    "COLUMNS",
    "FORMATS",
    "MATRICES",
    "PUBLISHED",
    "BoundedPareto",
    "Bounds",
    "Collective",
    "Fixed",
    "LogNormal",
    "Matrix",
    "ProgramWriter",
    "SizeCdf",
    "SizeDistribution",
    "Traffic",
    "Uniform",
    "bounds",
    "burst",
    "by_size",
    "collective_table",
    "flow_result_to_result",
    "flow_table",
    "goodput",
    "ideal_completion",
    "injection_capacity",
    "link_load",
    "link_table",
    "matrix",
    "on_off",
    "open_loop",
    "pipeline",
    "poisson_flows",
    "published",
    "racks",
    "read_cdf",
    "read_connections",
    "read_flows",
    "run_decomposed",
    "size_distribution",
    "sizes",
    "steady_goodput",
    "tier_table",
    "wire_bytes",
    "write_connections",
    "write_flows",
    "write_simgrid",
]
