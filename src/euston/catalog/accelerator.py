"""`Accelerator`: what the device models need to know about a GPU, TPU or NPU, as a frozen dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from euston.catalog._store import entry
from euston.catalog.entry import Entry

__all__ = ["Accelerator", "accelerator", "from_entry"]


@dataclass(frozen=True)
class Accelerator:
    """One accelerator. Everything is SI and per accelerator.

    Attributes
    ----------
    name, vendor : str
    peak : mapping of str to float
        Dense (never sparse) peak, FLOP/s, by dtype: ``bf16``, ``fp16``, ``fp8``, ``fp4``, ``int8``, ...
    memory_bytes : float
        Device memory, bytes (vendors' GB are 1e9).
    memory_bandwidth : float
        Peak memory bandwidth, bytes/s.
    multiprocessors : int
        Units a GEMM's tiles are dealt to: SMs, compute units, TPU tensor cores, Ascend cube cores.
    scale_up_bandwidth : float
        NVLink, ICI, UB or xGMI, bytes/s per direction, all links of one accelerator together.
    scale_up_domain : int
        Accelerators joined by it.
    power_limit : float
        Board power limit, W; NaN where the vendor publishes none.
    idle_power : float or None
        W, None where no source is known.
    sustained : mapping of str to (value, low, high)
        GEMM rate that lasts under the power limit with random data, FLOP/s by dtype; empty where unknown.
    clock_derate : float
        Factor on the peak from a cited clock measurement; 1.0 where there is none.
    clock_derate_source : str
        Its source, or the words that say there is none.
    sources : mapping of str to str
        Citation of each catalogue field (``peak.bf16``, ``memory``, ...).
    """

    name: str
    vendor: str
    peak: Mapping[str, float] = field(hash=False)
    memory_bytes: float
    memory_bandwidth: float
    multiprocessors: int
    scale_up_bandwidth: float
    scale_up_domain: int
    power_limit: float = math.nan
    idle_power: float | None = None
    sustained: Mapping[str, tuple[float, float, float]] = field(default_factory=dict, hash=False)
    clock_derate: float = 1.0
    clock_derate_source: str = "assumed: no cited measurement"
    sources: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)


def accelerator(name: str) -> Accelerator:
    """Get an accelerator of the catalogue by its name or an alias such as ``"A100-SXM-80GB"``.

    Raises
    ------
    CatalogError
        For an unknown name; the nearest is offered.
    """
    return from_entry(entry("accelerators", name))


def from_entry(item: Entry) -> Accelerator:
    """Build an `Accelerator` from its catalogue entry."""
    values = item.values
    sustained = {}
    for dtype, rate in values.get("sustained", {}).items():
        low, high = item.ranges.get(f"sustained.{dtype}", (rate, rate))
        sustained[dtype] = (rate, low, high)
    given = {}
    if "clock_derate" in values:
        status = item.status.get("clock_derate", "sourced")
        source = item.sources.get("clock_derate", "")
        given = {
            "clock_derate_source": source if status == "sourced" else f"{status}: {source}".removesuffix(": ")
        }
    return Accelerator(
        name=item.name,
        vendor=values["vendor"],
        peak=dict(values["peak"]),
        memory_bytes=values["memory"],
        memory_bandwidth=values["memory_bandwidth"],
        multiprocessors=values["multiprocessors"],
        scale_up_bandwidth=values["scale_up_bandwidth"],
        scale_up_domain=values["scale_up_domain"],
        power_limit=values.get("power_limit", math.nan),
        idle_power=values.get("idle_power"),
        sustained=sustained,
        clock_derate=values.get("clock_derate", 1.0),
        sources=dict(item.sources),
        **given,
    )
