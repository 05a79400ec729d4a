"""Mooncake's traces: JSON lines with one name per block of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from euston.errors import TraceError
from euston.serving.requests import Requests
from euston.serving.workloads._file import json_lines
from euston.serving.workloads._records import Record
from euston.serving.workloads.blocks import renumber

__all__ = ["KEYS", "read_mooncake"]

KEYS = ("timestamp", "input_length", "output_length", "hash_ids")


def read_mooncake(path: str | Path, *, block_size: int = 512) -> Requests:
    """``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids`` (Qin et al., FAST 2025).

    Parameters
    ----------
    block_size : int
        Tokens that one id names; the last block of a request may be partial.

    Raises
    ------
    TraceError
        With line and key; a request whose ids do not cover its prompt.
    """
    if block_size < 1:
        raise TraceError(f"`block_size`: {block_size} must be 1 or more")
    name = Path(path).name
    time, tokens, answers, ids, counts = [], [], [], [], []
    for number, values in json_lines(path):
        record = Record(f"{name}:{number}", values)
        time.append(record.number("timestamp"))
        tokens.append(record.whole("input_length", 1))
        answers.append(record.whole("output_length", 1))
        found = record.wholes("hash_ids")
        if len(found) < tokens[-1] // block_size or len(found) > -(-tokens[-1] // block_size):
            raise record.error(
                "hash_ids",
                f"{len(found)} ids for {tokens[-1]} tokens; blocks of {block_size} tokens need "
                f"{-(-tokens[-1] // block_size)} (say the trace's block size)",
            )
        ids += found
        counts.append(len(found))
    order = np.argsort(np.asarray(time), kind="stable")
    ptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    named = renumber(np.asarray(ids)) if ids else np.zeros(0, np.int64)
    pieces = [named[ptr[i] : ptr[i + 1]] for i in order]
    return Requests.of(
        (np.asarray(time)[order] - min(time, default=0.0)) / 1e3,
        np.asarray(tokens, np.int64)[order],
        np.asarray(answers, np.int64)[order],
        block_ids=np.concatenate(pieces) if pieces else named,
        blocks_ptr=np.concatenate(([0], np.cumsum(np.asarray(counts, np.int64)[order]))),
        block_size=block_size if ids else 0,
        meta={"format": "mooncake", "file": name},
    )
