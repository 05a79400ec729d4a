"""Workloads: requests from traces or made up. `read` a file, take a `packaged` trace, or generate some."""

from euston.serving.workloads.arrivals import ARRIVALS, arrival_times
from euston.serving.workloads.attributes import (
    with_classes,
    with_image_names,
    with_images,
    with_predictions,
)
from euston.serving.workloads.blocks import PrefixHits, name_tokens, prefix_hits, with_block_size
from euston.serving.workloads.generate import (
    Arrivals,
    agents,
    closed_loop,
    conversations,
    independent,
    shared_prefix,
)
from euston.serving.workloads.lengths import LENGTHS, Empirical
from euston.serving.workloads.packaged import PACKAGED, packaged
from euston.serving.workloads.read import FORMATS, read

__all__ = [
    "ARRIVALS", "FORMATS", "LENGTHS", "PACKAGED", "Arrivals", "Empirical", "PrefixHits", "agents",
    "arrival_times", "closed_loop", "conversations", "independent", "name_tokens", "packaged", "prefix_hits",
    "read", "shared_prefix", "with_block_size", "with_classes", "with_image_names", "with_images",
    "with_predictions",
]  # fmt: skip
