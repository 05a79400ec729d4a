"""Vidur's traces: arrival in seconds, prefill and decode tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from euston.serving.requests import Requests
from euston.serving.workloads._file import table

__all__ = ["COLUMNS", "read_vidur"]

COLUMNS = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")


def read_vidur(path: str | Path) -> Requests:
    """``arrived_at`` in seconds, ``num_prefill_tokens``, ``num_decode_tokens``; other columns are ignored."""
    rows = table(path, COLUMNS)
    seconds = rows.number("arrived_at")
    order = np.argsort(seconds, kind="stable")
    return Requests.of(
        seconds[order],
        rows.whole("num_prefill_tokens", least=1)[order],
        rows.whole("num_decode_tokens", least=1)[order],
        meta={"format": "vidur", "file": Path(path).name},
    )
