"""The timeline as Chrome trace JSON, gzipped: open it at ui.perfetto.dev or in chrome://tracing.

Actors are processes, streams are threads; arrows follow a micro-batch from stage to stage.
"""

from __future__ import annotations

import gzip
import json
import re
from itertools import pairwise
from typing import Any

from euston.errors import ResultError
from euston.result import Result

_MAX_EVENTS = 2_000_000
_NUMBER = re.compile(r"(\d+)")


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which ``stage 10`` comes after ``stage 9``."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in _NUMBER.split(text) if part
    )


def events(result: Result) -> list[dict[str, Any]]:
    """Trace events: names (``M``), intervals (``X``, microseconds) and arrows (``s``, ``f``).

    Raises
    ------
    ResultError
        The result has no timeline, or one too long to look at.
    """
    if result.timeline is None or result.timeline.height == 0:
        raise ResultError("the result has no timeline; run it with `run.compute: des`")
    if result.timeline.height > _MAX_EVENTS:
        raise ResultError(
            f"the timeline has {result.timeline.height:,} intervals; a trace holds {_MAX_EVENTS:,}"
        )
    rows = result.timeline.sort("start").to_dicts()
    actors = sorted({row["actor"] for row in rows}, key=natural)
    streams = sorted({row["stream"] for row in rows}, key=lambda name: (name != "compute", natural(name)))
    process = {name: number for number, name in enumerate(actors)}
    thread = {name: number for number, name in enumerate(streams)}
    out: list[dict[str, Any]] = []
    for name, pid in process.items():
        out.append(_named("process_name", pid, 0, name))
        out.append(
            {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
        )
    for actor, stream in sorted({(row["actor"], row["stream"]) for row in rows}):
        out.append(_named("thread_name", process[actor], thread[stream], stream))
    for row in rows:
        out.append(
            {
                "ph": "X",
                "name": row["name"],
                "cat": row["kind"],
                "pid": process[row["actor"]],
                "tid": thread[row["stream"]],
                "ts": row["start"] * 1e6,
                "dur": max(row["end"] - row["start"], 0.0) * 1e6,
                "args": _arguments(row),
            }
        )
    return out + _arrows(rows, process, thread)


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _arguments(row: dict[str, Any]) -> dict[str, Any]:
    arguments = {}
    for key, none in (("bytes", 0), ("micro_batch", -1), ("chunk", -1), ("count", 1)):
        value = row.get(key)
        if value is not None and value > none:
            arguments[key] = value
    return arguments


def _arrows(
    rows: list[dict[str, Any]], process: dict[str, int], thread: dict[str, int]
) -> list[dict[str, Any]]:
    """Arrows along each micro-batch's passes: a pass on another stage that begins after one ends."""
    passes: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] in ("forward", "backward") and (row.get("micro_batch") or 0) >= 0:
            passes.setdefault((row["kind"], row.get("micro_batch") or 0), []).append(row)
    out: list[dict[str, Any]] = []
    number = 0
    for (kind, _), chain in sorted(passes.items(), key=lambda item: item[0]):
        for before, after in pairwise(chain):
            if before["actor"] == after["actor"] or after["start"] < before["end"] - 1e-12:
                continue
            number += 1
            common = {"name": kind, "cat": "micro-batch", "id": number}
            out.append(
                {
                    **common,
                    "ph": "s",
                    "pid": process[before["actor"]],
                    "tid": thread[before["stream"]],
                    "ts": before["start"] * 1e6 + (before["end"] - before["start"]) * 1e6,
                }
            )
            out.append(
                {
                    **common,
                    "ph": "f",
                    "bp": "e",
                    "pid": process[after["actor"]],
                    "tid": thread[after["stream"]],
                    "ts": after["start"] * 1e6,
                }
            )
    return out


def render(result: Result) -> bytes:
    """The file's bytes: gzipped JSON. The same result gives the same bytes."""
    trace = {
        "traceEvents": events(result),
        "displayTimeUnit": "ms",
        "otherData": {"euston": str(result.meta.get("package_version", "")), "kind": result.kind},
    }
    return gzip.compress(json.dumps(trace, allow_nan=False).encode(), compresslevel=6, mtime=0)
