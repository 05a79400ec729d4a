"""A trace file of any known format, told apart by its header or its first line."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from euston.errors import TraceError, unknown
from euston.serving.requests import Requests
from euston.serving.workloads import azure, burstgpt, llmservingsim, mooncake, vidur
from euston.serving.workloads._file import json_lines, read_bytes

__all__ = ["FORMATS", "read"]

_READERS: dict[str, tuple[tuple[str, ...], Callable[..., Requests]]] = {
    "azure": (azure.COLUMNS, azure.read_azure),
    "burstgpt": (burstgpt.COLUMNS, burstgpt.read_burstgpt),
    "vidur": (vidur.COLUMNS, vidur.read_vidur),
    "mooncake": (mooncake.KEYS, mooncake.read_mooncake),
    "llmservingsim": (llmservingsim.FLAT_KEYS, llmservingsim.read_flat),
    "agentic": (llmservingsim.AGENT_KEYS, llmservingsim.read_agentic),
}

FORMATS = tuple(_READERS)
"""Formats of traces."""


def read(path: str | Path, format: str = "auto", **options: Any) -> Requests:
    """Requests of a trace file, plain or ``.gz``.

    Parameters
    ----------
    format : str
        One of `FORMATS`, or "auto": by the header of a CSV file or the keys of the first JSON line.
    options
        Of the format's reader: ``block_size`` (mooncake, llmservingsim), ``failures`` (burstgpt).

    Raises
    ------
    TraceError
        With line and column; an unknown format (the layouts are listed).
    """
    if format == "auto":
        format = _recognise(Path(path))
    if format not in _READERS:
        raise TraceError(f"`format`: {unknown('format of traces', format, FORMATS)}")
    try:
        return _READERS[format][1](path, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        wrong = str(error).rpartition("argument ")[2]
        raise TraceError(f"`{Path(path).name}`: format {format} has no option {wrong}") from None


def _recognise(path: Path) -> str:
    content = read_bytes(path)
    if content.lstrip()[:1] == b"{":
        keys = set(next(json_lines(path))[1])
    else:
        line = content.split(b"\n", 1)[0].decode("utf-8-sig", "replace")
        keys = {cell.strip() for cell in next(csv.reader([line]), [])}
    for name, (needed, _) in _READERS.items():
        if set(needed) <= keys:
            return name
    layouts = "; ".join(f"{name}: {', '.join(needed)}" for name, (needed, _) in _READERS.items())
    given = ", ".join(sorted(keys)) or "nothing"
    raise TraceError(f"`{path.name}:1`: has {given:.200}, which is no known trace. Layouts: {layouts}")
