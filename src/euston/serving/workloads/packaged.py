"""Traces that come with the package, each with its source and licence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from euston.errors import ConfigError, unknown
from euston.serving.requests import Requests

__all__ = ["PACKAGED", "packaged"]

DATA = Path(__file__).parent / "data"

PACKAGED = (
    "azure_2023_code",
    "azure_2023_conversation",
    "mooncake_conversation",
    "mooncake_synthetic",
    "sharegpt_300_llama31",
    "sharegpt_300_qwen3",
)
"""Names of the traces: two services of Azure (Splitwise), Mooncake's conversations and synthetic requests
(FAST 2025), and the 300 ShareGPT requests that a real vLLM was measured with, for two tokenizers."""


def packaged(name: str) -> Requests:
    """A trace of the package; ``meta["source"]`` says where it is from and under what licence.

    Raises
    ------
    ConfigError
        An unknown name; the nearest is offered.
    """
    if name not in PACKAGED:
        raise ConfigError(f"`trace`: {unknown('packaged trace', name, PACKAGED)}")
    path = DATA / f"{name}.parquet"
    frame, about = pl.read_parquet(path), pl.read_parquet_metadata(path)
    meta = {"trace": name, "source": about["source"]}
    if "arrival_100ns" in frame.columns:
        return Requests.of(
            frame["arrival_100ns"].to_numpy() / 1e7, frame["in_tok"], frame["out_tok"], meta=meta
        )
    steps = frame["block_steps"]
    ptr = np.concatenate(([0], np.cumsum(steps.list.len().to_numpy().astype(np.int64))))
    ids = np.cumsum(steps.explode().to_numpy().astype(np.int64))
    # every request counts from -1 again
    before = np.concatenate(([0], ids))[ptr[:-1]]
    ids -= np.repeat(before + 1, np.diff(ptr))
    return Requests.of(
        frame["arrival_ms"].to_numpy() / 1e3 - float(frame["arrival_ms"][0]) / 1e3,
        frame["in_tok"],
        frame["out_tok"],
        block_ids=ids,
        blocks_ptr=ptr,
        block_size=int(about["block_size"]),
        meta=meta,
    )
