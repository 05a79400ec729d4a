"""`Study`: what one reproduction brings to the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Progress", "Study"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """A reproduction: its name, one line about it, and what runs it as ``run(data, seed, progress)``."""

    name: str
    description: str
    run: Callable[[Path | None, int, Progress], dict[str, Any]]
