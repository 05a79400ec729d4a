"""Federated pre-training: one language model, several sites that keep their text (Photon, DiLoCo,
Streaming DiLoCo).

Configuration, data and arithmetic need only the base; torch and Flower are imported when training starts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from euston.errors import MissingExtra
from euston.federated.config import (
    FaultConfig,
    FederationConfig,
    LocalConfig,
    OuterConfig,
    PartitionConfig,
    PrivacyConfig,
    SyncConfig,
)

if TYPE_CHECKING:
    from euston.federated.dataset import DataSet, build, builtin
    from euston.federated.decoder import Decoder
    from euston.federated.evaluate import Evaluator
    from euston.federated.layout import Flat
    from euston.federated.run import load_config, load_parameters, train, train_centralised
    from euston.federated.simulated import Client, simulate_federation
    from euston.federated.strategy import NesterovOuter
    from euston.federated.volume import per_step_bytes, round_bytes
    from euston.federated.walltime import WallTime, ring_order, wall_time
    from euston.federated.wan import Wan

__all__ = [
    "Client",
    "DataSet",
    "Decoder",
    "Evaluator",
    "FaultConfig",
    "FederationConfig",
    "Flat",
    "LocalConfig",
    "NesterovOuter",
    "OuterConfig",
    "PartitionConfig",
    "PrivacyConfig",
    "SyncConfig",
    "WallTime",
    "Wan",
    "build",
    "builtin",
    "load_config",
    "load_parameters",
    "per_step_bytes",
    "ring_order",
    "round_bytes",
    "simulate_federation",
    "train",
    "train_centralised",
    "wall_time",
]

_WHERE = {
    "dataset": ("DataSet", "build", "builtin"),
    "decoder": ("Decoder",),
    "evaluate": ("Evaluator",),
    "layout": ("Flat",),
    "run": ("load_config", "load_parameters", "train", "train_centralised"),
    "simulated": ("Client", "simulate_federation"),
    "strategy": ("NesterovOuter",),
    "volume": ("per_step_bytes", "round_bytes"),
    "walltime": ("WallTime", "ring_order", "wall_time"),
    "wan": ("Wan",),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
_EXTRAS = {"torch": "train", "flwr": "train", "tokenizers": "train", "ray": "scale"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"euston.federated.{_MODULE[name]}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _EXTRAS:
            raise MissingExtra(package, _EXTRAS[package]) from error
        raise
