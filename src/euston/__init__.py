"""euston: a wind tunnel for AI data centres.

Describe sites, fabrics, accelerators, jobs and policies once; then simulate them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from euston.report import write
    from euston.result import Result
    from euston.scenario import Scenario, load
    from euston.simulate import simulate

__version__ = "0.1.0.dev0"

__all__ = ["Result", "Scenario", "__version__", "load", "simulate", "write"]

_LAZY = {
    "Result": "euston.result",
    "Scenario": "euston.scenario",
    "load": "euston.scenario",
    "simulate": "euston.simulate",
    "write": "euston.report",
}


def __getattr__(name: str) -> Any:
    """Rooms are imported on first use, so that ``euston --help`` is quick."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'euston' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


class _Package(ModuleType):
    """Importing the module `euston.simulate` leaves `euston.simulate` the function it is."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
