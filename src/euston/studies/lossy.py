"""`reproduce lossy`: iteration times at one tail of the network predicted from those at another.

For each model the rows at its smallest tail are input, all others are predicted. Two numbers are fitted per
model, on the input rows alone: C, what no network changes, and M, the time of one transfer of the whole
gradient at the median rate. A scheme s on an ideal machine would take C + M f_s, where f_s comes from who
waits for whom in its algorithm (`euston.collectives.tail`), not from data. Software can only add to that:
(C, M) is the pair closest to the rows from below (a linear programme). What a scheme takes beyond C moves
with the network, so at another tail::

    T = C + (T_input - C) * f_s(tail) / f_s(tail of the input)

Beside it stand two predictions that need no model: no change, and one ratio for all rows of the other models
(which has seen the tail it predicts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from scipy.optimize import linprog

from euston.collectives.tail import Tail, scheme_time

from ._facts import DATA
from ._study import Study
from .score import Row, report
from .table import Layout, Line, read, read_all

__all__ = ["STUDY", "run"]

LAYOUT = Layout(
    "lossy_iteration_time.csv",
    ("model", "p99_over_p50", "scheme", "iteration_time_s"),
    ("conditions", "source", "suspect", "nodes"),
)
QUANTITY = "seconds per iteration"
NODES = 8
"""Where the data do not say: the cluster of the paper (Warraich et al., NSDI 2025) has eight nodes."""
OTHER_NODES = (4, 16)
"""Powers of two around it, for the range of a prediction."""
DRAWS = 20_000

SCHEMES = {
    "NCCL-Ring": "stream_ring",
    "NCCL-Tree": "stream_tree",
    "Gloo-Ring": "message_ring",
    "Gloo-BCube": "bcube",
    "TAR+TCP": "transpose",
    "OptiReduce": "bounded_transpose",
}
"""How each scheme of the data waits; NCCL streams slices, Gloo and transpose all-reduce send shards."""


@dataclass(frozen=True)
class _Case:
    line: Line
    model: str
    tail: float
    scheme: str
    seconds: float
    nodes: int


@cache
def _time(scheme: str, nodes: int, tail: float, seed: int) -> float:
    return scheme_time(SCHEMES[scheme], nodes, Tail(tail), seed=seed, draws=DRAWS)


def run(
    data: Path | None = None, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Predict every row that is not input.

    Parameters
    ----------
    data : Path, optional
        A CSV (or a directory of them) with the columns of the packaged one.
    seed : int
        Of the draws behind the schemes' factors.

    Raises
    ------
    ConfigError
        An unknown header or a malformed value.
    """
    if data is None:
        lines = read(DATA / LAYOUT.name, (LAYOUT,))
    else:
        lines = read_all(data, (LAYOUT,)) if data.is_dir() else read(data, (LAYOUT,))
    cases = [_case(line) for line in lines]
    progress(f"{len(cases)} rows")
    base = {c.model: min(o.tail for o in cases if o.model == c.model) for c in cases}
    good = [c for c in cases if not c.line.text("suspect")]
    inputs = {m: {c.scheme: c for c in good if c.model == m and c.tail == t} for m, t in base.items()}
    fitted = {m: _fit(list(given.values()), seed) for m, given in inputs.items()}
    rows = [_row(c, base[c.model], inputs[c.model], fitted[c.model], seed) for c in cases]
    found = report(rows)
    scored = [(c, r) for c, r in zip(cases, rows, strict=True) if r.role == "scored" and r.ours is not None]
    found["summary"] |= {
        "fitted": {m: {"C": f[0], "M": f[1]} for m, f in fitted.items() if f is not None},
        "order": _order(scored, found["summary"].get("median"), inputs),
        "beside": _beside(scored, inputs),
    }
    found["summary"]["remarks"] = _remarks(found["summary"])
    return found


STUDY = Study(
    "lossy",
    "iteration times of six all-reduce schemes when the network's tail grows (OptiReduce's table)",
    run,
)


def _case(line: Line) -> _Case:
    for column in ("model", "scheme"):
        if not line.text(column):
            raise line.error(column, "is empty")
    tail, seconds = line.number_in("p99_over_p50"), line.number_in("iteration_time_s")
    if tail is None or tail < 1:
        raise line.error("p99_over_p50", "must be a number of 1 or more")
    if seconds is None:
        raise line.error("iteration_time_s", "is empty")
    nodes = line.whole("nodes") or NODES
    if nodes < 2:
        raise line.error("nodes", "an all-reduce needs 2")
    return _Case(line, line.text("model"), tail, line.text("scheme"), seconds, nodes)


def _factor(c: _Case, tail: float, seed: int, nodes: int | None = None) -> float:
    n = nodes or c.nodes
    # BCube of Gloo pads to a power of two
    return _time(c.scheme, 1 << (n - 1).bit_length() if c.scheme == "Gloo-BCube" else n, tail, seed)


def _fit(given: Sequence[_Case], seed: int, nodes: int | None = None) -> tuple[float, float] | None:
    """(C, M) >= 0 below all rows, C + M f <= T, with the least total distance; None without known schemes."""
    known = [c for c in given if c.scheme in SCHEMES]
    if not known:
        return None
    f = np.array([_factor(c, c.tail, seed, nodes) for c in known])
    took = np.array([c.seconds for c in known])
    best = linprog([-float(f.size), -float(f.sum())], A_ub=np.c_[np.ones(f.size), f], b_ub=took)
    return float(best.x[0]), float(best.x[1])


def _predict(
    c: _Case, given: dict[str, _Case], fitted: tuple[float, float], seed: int, nodes: int | None = None
) -> float:
    constant, transfer = fitted
    before = given.get(c.scheme)
    if before is None:
        return constant + transfer * _factor(c, c.tail, seed, nodes)
    grown = _factor(c, c.tail, seed, nodes) / _factor(c, before.tail, seed, nodes)
    return constant + (before.seconds - constant) * grown


def _row(
    c: _Case, base: float, given: dict[str, _Case], fitted: tuple[float, float] | None, seed: int
) -> Row:
    identity = f"{Path(c.line.file).stem}:{c.line.number}"
    case = f"{c.model}, {c.scheme}, tail {c.tail:g}"
    extra: dict[str, Any] = {
        "case": case, "model": c.model, "scheme": c.scheme, "p99_over_p50": c.tail, "nodes": c.nodes
    }  # fmt: skip
    source = c.line.text("source") or c.line.file
    if c.line.text("suspect"):
        return Row(identity, QUANTITY, c.seconds, None, source, role="suspect", reason="suspect", extra=extra)
    if c.tail == base:
        return Row(identity, QUANTITY, c.seconds, None, source, role="input", reason="input", extra=extra)
    if c.scheme not in SCHEMES or fitted is None:
        reason = f"{c.scheme} is not modelled; known are {', '.join(SCHEMES)}"
        return Row(identity, QUANTITY, c.seconds, None, source, reason=reason, extra=extra)
    ours = _predict(c, given, fitted, seed)
    around = [ours]
    for nodes in OTHER_NODES:
        other = _fit(list(given.values()), seed, nodes)
        assert other is not None
        around.append(_predict(c, given, other, seed, nodes))
    extra["ours_range"] = [min(around), max(around)]
    reason = "" if c.scheme in given else "no input row of this scheme: its software's overhead is missing"
    return Row(identity, QUANTITY, c.seconds, ours, source, reason=reason, extra=extra)


def _remarks(summary: dict[str, Any]) -> list[str]:
    order = summary["order"]
    lines = [f"{order['right']} of {order['pairs']} pairs of schemes stand in the published order"]
    if order["apart"]:
        lines.append(
            f"{order['apart_right']} of the {order['apart']} whose published times differ by more than the "
            f"median error of {summary['median'] * 100:.1f} %; the others are too close for this study"
        )
    if order["pairs"]:
        lines.append(
            f"{order['no_change']} of {order['pairs']} by no change; {order['ratio_per_scheme']} by a ratio "
            "per scheme of the other models, which has seen this tail"
        )
    lines += [f"not in order: {pair}" for pair in order["wrong"]]
    lines += [f"median error of {name}: {error * 100:.1f} %" for name, error in summary["beside"].items()]
    return [*lines, f"{NODES} nodes where the data do not say; with 4 or 16 see ours_range (--json)"]


def _order(
    scored: Sequence[tuple[_Case, Row]], error: float | None, inputs: dict[str, dict[str, _Case]]
) -> dict[str, Any]:
    """Pairs of schemes of one model and tail that stand in the published order; equal ones do not count.

    ``apart``: those that differ by more than ``error``, the study's own. Beside it: the order that no change
    gives, and that of each scheme's mean ratio over the other models, which has seen the tail in question.
    """
    found: dict[str, Any] = {"pairs": 0, "right": 0, "apart": 0, "apart_right": 0}
    found |= {"no_change": 0, "ratio_per_scheme": 0}
    wrong = []
    for (a, ra), (b, rb) in combinations(scored, 2):
        if (a.model, a.tail) != (b.model, b.tail) or a.seconds == b.seconds:
            continue
        assert ra.ours is not None and rb.ours is not None
        good = (ra.ours - rb.ours) * (a.seconds - b.seconds) > 0
        gap = abs(a.seconds - b.seconds) / max(a.seconds, b.seconds)
        apart = error is not None and gap > error
        found["pairs"] += 1
        found["right"] += good
        found["apart"] += apart
        found["apart_right"] += apart and good
        same = [inputs[o.model].get(o.scheme) for o in (a, b)]
        if same[0] is not None and same[1] is not None:
            before = [one.seconds for one in same if one is not None]
            found["no_change"] += (before[0] - before[1]) * (a.seconds - b.seconds) > 0
            seen = [t * _seen(scored, inputs, o) for t, o in zip(before, (a, b), strict=True)]
            found["ratio_per_scheme"] += (seen[0] - seen[1]) * (a.seconds - b.seconds) > 0
        if not good:
            words = f"{a.model}: {a.scheme} {a.seconds:g} s and {b.scheme} {b.seconds:g} s"
            wrong.append(f"{words}, published {gap * 100:.1f} % apart")
    return found | {"wrong": wrong}


def _seen(scored: Sequence[tuple[_Case, Row]], inputs: dict[str, dict[str, _Case]], c: _Case) -> float:
    """Mean ratio of a scheme's times at this tail and at the input's, over other models; 1 without any."""
    ratios = [
        o.seconds / inputs[o.model][o.scheme].seconds
        for o, _ in scored
        if o.model != c.model and (o.scheme, o.tail) == (c.scheme, c.tail) and o.scheme in inputs[o.model]
    ]
    return mean(ratios) if ratios else 1.0


def _beside(scored: Sequence[tuple[_Case, Row]], inputs: dict[str, dict[str, _Case]]) -> dict[str, Any]:
    """Median errors of predictions without a model."""
    pairs = [(c, inputs[c.model][c.scheme].seconds) for c, _ in scored if c.scheme in inputs[c.model]]
    if not pairs:
        return {}
    same = [abs(before / c.seconds - 1) for c, before in pairs]
    ratio = []
    for c, before in pairs:
        seen = [o.seconds / b for o, b in pairs if o.model != c.model and o.tail == c.tail]
        if seen:
            ratio.append(abs(before * mean(seen) / c.seconds - 1))
    found = {"no change": median(same)}
    return found | ({"one ratio, from the other models": median(ratio)} if ratio else {})
