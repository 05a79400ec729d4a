"""Devices price operators: seconds, joules, and where the price comes from.

>>> from euston.catalog import accelerator
>>> gpu = GPU(accelerator("h100-sxm"))          # doctest: +SKIP
>>> gpu.price(operator).seconds                 # doctest: +SKIP
"""

from __future__ import annotations

from euston.devices.base import PROVENANCES, Device, Price, Provenance, least_sure
from euston.devices.exchange import Exchange, exchange
from euston.devices.gpu import GPU
from euston.devices.interconnect import ScaleUp, scale_up_collective
from euston.devices.kernels import Kernels

__all__ = [
    "GPU",
    "PROVENANCES",
    "Device",
    "Exchange",
    "Kernels",
    "Price",
    "Provenance",
    "ScaleUp",
    "exchange",
    "least_sure",
    "scale_up_collective",
]
