"""BurstGPT: seconds, model, prompt and answer tokens, kind of log; failures have no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from euston.errors import TraceError, unknown
from euston.serving.requests import Requests
from euston.serving.workloads._file import table
from euston.serving.workloads.blocks import renumber

__all__ = ["COLUMNS", "read_burstgpt"]

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")


def read_burstgpt(path: str | Path, *, failures: str = "drop") -> Requests:
    """BurstGPT (Wang et al., arXiv:2401.17644); newer files have a session id, which is kept.

    Parameters
    ----------
    failures : "drop" | "keep"
        Lines with 0 answer tokens are failed requests: drop them, or keep them with an answer of one token
        (the prompt was computed).

    Raises
    ------
    TraceError
        With line and column.
    """
    if failures not in ("drop", "keep"):
        raise TraceError(f"`failures`: {unknown('choice', failures, ('drop', 'keep'))}")
    rows = table(path, COLUMNS)
    seconds = rows.number("Timestamp")
    prompt, answer = (rows.whole(name, least=0) for name in ("Request tokens", "Response tokens"))
    models = rows.text("Model").fill_null("")
    klass = renumber(models.to_numpy()) if len(rows) else np.zeros(0, np.int64)
    if klass.max(initial=0) > 255:
        raise TraceError(f"`{Path(path).name}`: has more than 256 models; split it")
    failed = answer == 0
    empty = np.flatnonzero((prompt == 0) & ~failed)
    if empty.size:
        raise rows.error(int(empty[0]), "Request tokens", "0 tokens cannot have been answered")
    kept = (~failed | (failures == "keep")) & (prompt > 0)
    order = np.flatnonzero(kept)[np.argsort(seconds[kept], kind="stable")]
    session = np.arange(order.size)
    if "Session ID" in rows.frame.columns:
        session = renumber(rows.text("Session ID").fill_null("").to_numpy()[order])
    start = seconds[order[0]] if order.size else 0.0
    return Requests.of(
        seconds[order] - start,
        prompt[order],
        np.maximum(answer[order], 1),
        klass=klass[order],
        session=session,
        meta={
            "format": "burstgpt",
            "file": Path(path).name,
            "failures": int(failed.sum()),
            "models": list(dict.fromkeys(models.to_list())),
        },
    )
