"""Executable reproductions: published figures beside what euston says, one row each, and a summary.

``names()``, ``describe(name)`` and ``run(name, data=None, seed=0)``; a plug-in adds a study as an entry point
of the group ``euston.studies`` that names a `Study`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from euston.registry import Registry

from ._study import Progress, Study
from .score import Row, nearest_rank, report, summarise

__all__ = ["Row", "Study", "describe", "names", "nearest_rank", "report", "run", "summarise"]

_STUDIES = Registry(
    "studies",
    {
        "training": "euston.studies.training:STUDY",
        "network": "euston.studies.network:STUDY",
        "kernels": "euston.studies.kernels:STUDY",
        "lossy": "euston.studies.lossy:STUDY",
        "reliability": "euston.studies.reliability:STUDY",
        "photon": "euston.studies.photon:STUDY",
        "serving-vllm": "euston.studies.serving_vllm:STUDY",
        "serving-deepseek": "euston.studies.serving_deepseek:STUDY",
        "serving-silicon": "euston.studies.serving_silicon:STUDY",
    },
    kind="reproduction",
)


def names() -> list[str]:
    """Names of the reproductions there are."""
    return _STUDIES.names()


def describe(name: str) -> str:
    """One line on what a reproduction compares.

    Raises
    ------
    ConfigError
        For an unknown name (the nearest is offered).
    """
    return _study(name).description


def run(
    name: str, data: str | Path | None = None, seed: int = 0, progress: Progress | None = None
) -> dict[str, Any]:
    """Run a reproduction.

    Parameters
    ----------
    name : str
    data : path, optional
        A CSV file, or a directory of them, in place of the packaged figures.
    seed : int
        Seed of everything random; the same seed gives the same numbers.
    progress : callable, optional
        Told in a few words what is going on.

    Returns
    -------
    dict
        ``{"rows": [...], "summary": {...}}`` as plain JSON data; see `euston.studies.report`.

    Raises
    ------
    ConfigError
        Unknown name, or data that cannot be used: which line and column, and what would be right.
    """
    return _study(name).run(None if data is None else Path(data), seed, progress or (lambda _: None))


def _study(name: str) -> Study:
    found: Study = _STUDIES.get(name)
    return found
