"""The catalogue: accelerators, models, fabrics, software, prices and power, every number with its source.

``catalog.accelerator("h100-sxm").peak["bf16"]`` is 989e12 FLOP/s; ``catalog.entry("fabrics", "selene-hdr")``
shows values, sources and what is recalled or transferred; `add_directory` puts a user's files first.
"""

from __future__ import annotations

from euston.catalog._check import check
from euston.catalog._store import add_directory, entries, entry, hashes, kinds, names, reset
from euston.catalog.accelerator import Accelerator, accelerator
from euston.catalog.entry import Entry

__all__ = [
    "Accelerator",
    "Entry",
    "accelerator",
    "add_directory",
    "check",
    "entries",
    "entry",
    "hashes",
    "kinds",
    "names",
    "reset",
]
