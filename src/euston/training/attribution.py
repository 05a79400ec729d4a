"""Where the time goes: every gap of a compute stream is charged to what the stream waited for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from euston.clock import Execution, Kind

__all__ = ["CATEGORIES", "attribute"]

CATEGORIES = (
    "forward", "backward", "tensor", "context", "expert", "pipeline", "data", "optimizer", "bubble",
)  # fmt: skip

# Labels of the program -> category; anything that is waited for and is no transfer of our own is bubble.
_OF_LABEL = {name: CATEGORIES.index(category) for name, category in {
    "forward": "forward", "backward": "backward", "weight gradient": "backward", "tensor": "tensor",
    "context": "context", "expert": "expert", "pipeline": "pipeline", "parameters": "data",
    "gradients": "data", "embedding": "data", "gradient norm": "data", "optimizer": "optimizer",
}.items()}  # fmt: skip
_BUBBLE = CATEGORIES.index("bubble")


def attribute(
    run: Execution,
    streams: NDArray[np.int64],
    step_time: float,
    begin: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Seconds per category on each of S streams, float64[S, len(CATEGORIES)]; rows sum to the step.

    A running operation counts as its own category (a collective on the compute stream is exposed). A gap
    before an operation is charged to the transfer that ended it for as long as that transfer ran, then to
    what the transfer waited for while that was a transfer too, and else to the bubble. ``begin``, float64[S]:
    when the step of each stream begins, 0 by default.
    """
    program = run.program
    category = np.array([_OF_LABEL.get(name, _BUBBLE) for name in program.labels])[program.label]
    moving = (program.kind == Kind.TRANSFER) | (program.kind == Kind.WAIT) | (program.kind == Kind.JOIN)
    place = np.full(len(program.streams), -1)
    place[streams] = np.arange(len(streams))
    mine = np.flatnonzero((program.stream >= 0) & (place[program.stream] >= 0))
    mine = mine[np.argsort(program.stream[mine], kind="stable")]
    line = place[program.stream[mine]]
    out = np.zeros((len(streams), len(CATEGORIES)))
    start, end = run.start[mine], run.end[mine]
    np.add.at(out, (line, category[mine]), end - start)
    before = np.concatenate(([0.0], end[:-1]))
    first = np.concatenate(([True], line[1:] != line[:-1]))[: line.size]
    before[first] = 0.0 if begin is None else begin[line[first]]
    # Walk back from each gap's end along the chain of blockers as long as they are transfers.
    until, cause, low = start.copy(), run.blocker[mine].astype(np.int64), before
    active = until > low
    while active.any():
        ok = active & (cause >= 0)
        ok[ok] = moving[cause[ok]]
        out_of_reach = active & ~ok
        np.add.at(out[:, _BUBBLE], line[out_of_reach], (until - low)[out_of_reach])
        if not ok.any():
            break
        since = np.maximum(run.start[cause[ok]], low[ok])
        since = np.minimum(since, until[ok])
        np.add.at(out, (line[ok], category[cause[ok]]), until[ok] - since)
        until[ok] = since
        cause[ok] = run.blocker[cause[ok]]
        active = ok & (until > low)
    out[:, _BUBBLE] += np.maximum(0.0, step_time - out.sum(axis=1))
    return out
