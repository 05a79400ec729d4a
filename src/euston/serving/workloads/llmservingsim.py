"""LLMServingSim's traces: flat requests, with token ids or without, and agents' chains of calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from euston.errors import TraceError
from euston.serving.requests import Requests
from euston.serving.workloads._file import json_lines
from euston.serving.workloads._records import Record
from euston.serving.workloads.blocks import name_tokens

__all__ = ["AGENT_KEYS", "FLAT_KEYS", "read_agentic", "read_flat"]

FLAT_KEYS = ("input_toks", "output_toks", "arrival_time_ns")
_CALL = ("arrival_s", "in_tok", "out_tok", "session", "turn", "think_s")
AGENT_KEYS = ("session_id", "arrival_time_ns", "sub_requests")


def read_flat(path: str | Path, *, block_size: int = 16) -> Requests:
    """``input_toks, output_toks, arrival_time_ns`` and, where given, ``input_tok_ids, output_tok_ids``.

    Parameters
    ----------
    block_size : int
        Tokens per named block, where there are token ids: blocks are equal exactly where all tokens up to
        their end are. Answers' tokens are named too, so that a later turn finds them.

    Raises
    ------
    TraceError
        With line and key; ids for some requests only, or of another number than the tokens said.
    """
    name = Path(path).name
    rows: list[tuple[float, int, int]] = []
    sequences: list[list[int]] = []
    named: list[int] = []
    for number, values in json_lines(path):
        record = Record(f"{name}:{number}", values)
        prompt, answer = record.whole("input_toks", 1), record.whole("output_toks", 1)
        rows.append((record.number("arrival_time_ns"), prompt, answer))
        if "input_tok_ids" in values:
            ids = record.wholes("input_tok_ids")
            said = record.wholes("output_tok_ids") if "output_tok_ids" in values else []
            if len(ids) != prompt or len(said) not in (0, answer):
                raise record.error(
                    "input_tok_ids", f"{len(ids)} + {len(said)} ids for {prompt} + {answer} tokens"
                )
            sequences.append(ids + said)
            named.append(len(ids) + len(said))
    if sequences and len(sequences) != len(rows):
        raise TraceError(
            f"`{name}`: {len(sequences)} of {len(rows)} requests have token ids; all or none must"
        )
    time, prompts, answers = (np.asarray(column) for column in zip(*rows, strict=True)) if rows else (
        np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    )  # fmt: skip
    order = np.argsort(time, kind="stable")
    if not sequences:
        return Requests.of(
            (time[order] - time.min(initial=np.inf)) / 1e9 if rows else time,
            prompts[order], answers[order], meta={"format": "llmservingsim", "file": name},
        )  # fmt: skip
    ptr, ids_ = name_tokens([sequences[i] for i in order], block_size)
    return Requests.of(
        (time[order] - time.min()) / 1e9, prompts[order], answers[order],
        block_ids=ids_, blocks_ptr=ptr, block_size=block_size if ids_.size else 0,
        named_tok=np.asarray(named)[order] if ids_.size else prompts[order],
        meta={"format": "llmservingsim", "file": name},
    )  # fmt: skip


def read_agentic(path: str | Path) -> Requests:
    """``session_id, arrival_time_ns, sub_requests[{input_toks, output_toks, tool_duration_ns}]``.

    Each call is a request that waits for the one before it and for its tool.

    Raises
    ------
    TraceError
        With line and key.
    """
    name = Path(path).name
    sessions: list[tuple[float, list[tuple[int, int, float]]]] = []
    for number, values in json_lines(path):
        record = Record(f"{name}:{number}", values)
        if "session_id" not in values:
            raise record.error("session_id", "is missing")
        calls = []
        for call in record.records("sub_requests"):
            tool = call.number("tool_duration_ns") if "tool_duration_ns" in call.values else 0.0
            calls.append((call.whole("input_toks", 1), call.whole("output_toks", 1), tool / 1e9))
        sessions.append((record.number("arrival_time_ns") / 1e9, calls))
    sessions.sort(key=lambda session: session[0])
    start = sessions[0][0] if sessions else 0.0
    columns: dict[str, list[Any]] = {key: [] for key in _CALL}
    after: list[int] = []
    ptr = [0]
    for s, (begin, calls) in enumerate(sessions):
        tool_before = 0.0
        for k, (tokens, out, tool) in enumerate(calls):
            if k:
                after.append(len(ptr) - 2)
            ptr.append(len(after))
            for key, value in zip(_CALL, (begin - start, tokens, out, s, k, tool_before), strict=True):
                columns[key].append(value)
            tool_before = tool
    get = columns.__getitem__
    return Requests.of(
        get("arrival_s"), get("in_tok"), get("out_tok"), session=get("session"), turn=get("turn"),
        think_s=get("think_s"), after=after, after_ptr=ptr, meta={"format": "agentic", "file": name},
    )  # fmt: skip
