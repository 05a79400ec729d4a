"""`reproduce photon`: the bandwidth that reaches a compute utilisation, by method (Streaming DiLoCo's table).

Each cell is worked out from layers, step time, parameters (by the model's name), H and method alone: 16
bits per parameter (4 under fp4), one third of a step forward and two thirds backward, each layer's exchange
behind those before it on the link, an overlap of one step. The published values stand on a grid (50 values
from 0.1 to 1000 Gbit/s, evenly in the logarithm: a step of 1.207); ours are put on it too, downwards. The
paper gives neither the direction nor, in this table, the overlap; both are read off the table and said so
in ``guessed``; the need before rounding stands in ``extra``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from euston.federated.utilisation import Exchange, required_bandwidth

from ._facts import DATA
from ._study import Study
from .score import Role, Row, report
from .table import Layout, Line, read, read_all

__all__ = ["STEP", "STUDY", "run"]

LAYOUT = Layout(
    "photon_streaming_diloco_bandwidth.csv",
    ("model", "layers", "step_time_s", "H", "method", "compute_utilisation_pct", "bandwidth_gbit_s"),
    ("layers_per_fragment", "parameters", "overlap_steps", "bits", "source", "suspect"),
)
QUANTITY = "Gbit/s"
STEP = 10 ** (4 / 49)
"""Ratio of neighbours on the published grid: 50 values over four decades."""
LOWEST = 0.1
ALLOWED = 1.21
METHODS = ("data_parallel", "diloco", "streaming", "streaming_overlap", "streaming_overlap_fp4")


def run(
    data: Path | None = None, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Work out every cell.

    Parameters
    ----------
    data : Path, optional
        A CSV (or a directory of them) with the columns of the packaged one; ``parameters``,
        ``overlap_steps`` and ``bits`` (per parameter) may be added.
    seed : int
        Nothing is random here.

    Raises
    ------
    ConfigError
        An unknown header or a malformed value.
    """
    source = DATA / LAYOUT.name if data is None else data
    lines = read_all(source, (LAYOUT,)) if source.is_dir() else read(source, (LAYOUT,))
    progress(f"{len(lines)} cells")
    rows = [_row(line) for line in lines]
    found = report(rows)
    scored = [row for row in rows if row.role == "scored" and row.ours is not None]
    ratios = [row.extra["steps_apart"] for row in scored]
    inside = sum(1 / ALLOWED <= _ratio(row) <= ALLOWED for row in scored)
    found["summary"] |= {
        "within_one_step": inside / len(scored) if scored else None,
        "same_grid_value": sum(r == 0 for r in ratios) / len(scored) if scored else None,
        "same_if_rounded_to_nearest": _nearest_share(scored),
        "grid_step": STEP,
    }
    if scored:
        found["summary"]["remarks"] = [
            f"within one step of the grid (factor {ALLOWED}): {inside} of {len(scored)}",
            f"same value on the grid of step {STEP:.3f}: {sum(r == 0 for r in ratios)} of {len(scored)} "
            f"(rounded down, as the table's data-parallel rows suggest; to the nearest: "
            f"{found['summary']['same_if_rounded_to_nearest']:.0%})",
        ]
    return found


def _place(gbit: float) -> float:
    """Where a bandwidth stands on the grid: 0 for the lowest value, 1 a step above."""
    return math.log(gbit / LOWEST) / math.log(STEP)


def _ratio(row: Row) -> float:
    return STEP ** row.extra["steps_apart"]


def _nearest_share(rows: Sequence[Row]) -> float | None:
    if not rows:
        return None
    hits = [round(_place(r.extra["needed_gbit_s"])) == round(_place(r.published or LOWEST)) for r in rows]
    return sum(hits) / len(hits)


def _parameters(line: Line) -> float | None:
    """From the column, or the name: "1B" is 1e9."""
    given = line.number_in("parameters")
    if given is not None:
        return given
    name = line.text("model").upper()
    scale = {"M": 1e6, "B": 1e9, "T": 1e12}.get(name[-1:])
    try:
        return float(name[:-1]) * scale if scale else None
    except ValueError:
        return None


def _row(line: Line) -> Row:
    method = line.text("method")
    if method not in METHODS:
        raise line.error("method", f"{method!r}; known: {', '.join(METHODS)}")
    layers, period, step = line.whole("layers"), line.whole("H"), line.number_in("step_time_s")
    target, published = line.number_in("compute_utilisation_pct"), line.number_in("bandwidth_gbit_s")
    for column, value in (("layers", layers), ("H", period), ("step_time_s", step),
                          ("compute_utilisation_pct", target), ("bandwidth_gbit_s", published)):  # fmt: skip
        if value is None:
            raise line.error(column, "is empty")
    assert layers and period and step and target and published
    if target >= 100:
        raise line.error("compute_utilisation_pct", f"{target:g} must be below 100")
    streaming, overlapped = "streaming" in method, "overlap" in method
    guessed = ["rounding"]
    overlap = line.whole("overlap_steps")
    if overlapped and overlap is None:
        guessed.append("overlap_steps")
        overlap = 1
    bits = line.number_in("bits") or (4.0 if method.endswith("fp4") else 16.0)
    row_id, size = f"{Path(line.file).stem}:{line.number}", _parameters(line)
    case = f"{line.text('model')} {method} {target:g} %"
    role: Role = "suspect" if line.text("suspect") else "scored"
    if size is None:
        return Row(row_id, QUANTITY, published, None, line.text("source"), role=role,
                   reason="the model's name does not tell its parameters; add a column parameters",
                   extra={"case": case})  # fmt: skip
    per = line.whole("layers_per_fragment") or layers
    exchange = Exchange(
        layers, step, bits * size,
        period=1 if method == "data_parallel" else period,
        fragments=min(max(1, layers // per), period) if streaming else 1,
        overlap=(overlap or 0) if overlapped else 0,
    )  # fmt: skip
    needed = required_bandwidth(exchange, target / 100.0) / 1e9
    on_grid = math.floor(_place(needed) + 1e-9)
    return Row(
        row_id, QUANTITY, published, LOWEST * STEP**on_grid, line.text("source"), tuple(guessed), role,
        extra={"case": case, "needed_gbit_s": needed, "steps_apart": on_grid - round(_place(published))},
    )  # fmt: skip


STUDY = Study("photon", "bandwidth for a compute utilisation across sites (Streaming DiLoCo's table)", run)
