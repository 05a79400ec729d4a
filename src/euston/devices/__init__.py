"""Devices price operators: seconds, joules, and where the price comes from.

>>> from euston.catalog import accelerator
>>> gpu = GPU(accelerator("h100-sxm"))          # doctest: +SKIP
>>> gpu.price(operator).seconds                 # doctest: +SKIP
"""

from __future__ import annotations

from euston.devices.base import PROVENANCES, Device, Price, Provenance, least_sure
from euston.devices.gpu import GPU
from euston.devices.interconnect import ScaleUp, scale_up_collective

__all__ = [
    "GPU",
    "PROVENANCES",
    "Device",
    "Price",
    "Provenance",
    "ScaleUp",
    "least_sure",
    "scale_up_collective",
]
