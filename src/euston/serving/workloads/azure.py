"""Azure's inference traces: wall times with seven decimals, prompt and answer tokens, sometimes images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.serving.requests import Requests
from euston.serving.workloads._file import Table, table

__all__ = ["COLUMNS", "read_azure"]

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read_azure(path: str | Path) -> Requests:
    """Azure 2023, 2024 and multimodal 2025: ``TIMESTAMP, [NumImages,] ContextTokens, GeneratedTokens``.

    Time counts from the earliest request. Requests without a prompt or without an answer are refused.
    """
    rows = table(path, COLUMNS)
    seconds = _seconds(rows)
    images = rows.whole("NumImages", least=0) if "NumImages" in rows.frame.columns else 0
    order = np.argsort(seconds, kind="stable")
    return Requests.of(
        seconds[order],
        rows.whole("ContextTokens", least=1)[order],
        rows.whole("GeneratedTokens", least=1)[order],
        n_images=np.broadcast_to(images, seconds.shape)[order],
        meta={"format": "azure", "file": Path(path).name},
    )


def _seconds(rows: Table) -> NDArray[np.float64]:
    """Seconds since the earliest, exact to 100 ns."""
    text = rows.text("TIMESTAMP").str.strip_chars().str.replace("T", " ").str.replace(r"(\+00:00|Z)$", "")
    whole = text.str.slice(0, 19).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
    rest = text.str.slice(19)
    fraction = pl.select(pl.when(rest == "").then(pl.lit(".0")).otherwise(rest).alias("f"))["f"]
    parts = fraction.str.contains(r"^\.\d{1,9}$")
    bad = (whole.is_null() | ~parts).fill_null(True).arg_true()
    if bad.len():
        row = int(bad[0])
        given = rows.text("TIMESTAMP")[row]
        raise rows.error(row, "TIMESTAMP", f"{given!r} is no time like 2023-11-16 18:17:03.9799600")
    if not len(rows):
        return np.zeros(0)
    ticks = whole.to_numpy() * 10**9 + fraction.str.slice(1).str.pad_end(9, "0").cast(pl.Int64).to_numpy()
    return np.asarray((ticks - ticks.min()) / 1e9)
