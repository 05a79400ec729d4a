"""The timeline chart: one lane per actor, computing in the upper part, communication in thin lines below it.

Thousands of passes do not fit a screen's pixels. Two levels are drawn instead. The overview joins neighbours
into runs; within a run every kind has the share of the height that it has of the time, so areas stay true.
The detail holds every interval; the page's script draws it as soon as the reader zooms in far enough.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from euston.report._words import KINDS, colours, kind_of, short_label
from euston.report.figures import Figure, escape
from euston.report.perfetto import natural

MAX_LANES = 64
MAX_DETAIL = 60_000
EXACT_PER_LANE = 260
"""Intervals of a lane up to which the overview shows every one (a lane is about 1,000 pixels long)."""

_USABLE = 0.86
"""Share of an actor's lane that is drawn on; the rest is the gap to the next."""
_COMPUTE = 0.62
"""Share of that which the compute stream takes where there are others."""
_MAIN = ("forward", "backward", "recompute", "compute", "optimizer")


def timeline(frame: pl.DataFrame) -> tuple[Figure, str]:
    """The chart and a sentence on how it was simplified (empty when it was not).

    Parameters
    ----------
    frame : polars.DataFrame
        Columns actor, stream, name, kind, start and end (s), optionally micro_batch and chunk.
    """
    notes = []
    frame = frame.filter(pl.col("end") > pl.col("start"))
    actors = _actors(frame)
    if len(actors) > MAX_LANES:
        notes.append(f"The first {MAX_LANES} of {len(actors)} actors are drawn.")
        actors = actors[:MAX_LANES]
        frame = frame.filter(pl.col("actor").is_in(actors))
    frame = _placed(frame, actors).sort("actor_row", "stream", "start")
    kinds = _kinds(frame)
    runs, joined = _overview(frame)
    figure: Figure = {"data": _traces(runs, kinds), "layout": _layout(actors, _span(frame))}
    if joined:
        notes.append(
            f"{frame.height:,} operations are too many for one picture: neighbours are drawn as one, split "
            "in height as they split the time."
        )
        if frame.height <= MAX_DETAIL:
            figure["detail"] = _detail(frame, actors, kinds)
            notes.append("Zoom in to see each of them.")
        else:
            notes.append("The Perfetto trace has each of them.")
    return figure, " ".join(notes)


def _actors(frame: pl.DataFrame) -> list[str]:
    """Actors that compute in natural order, then the others."""
    computing = set(frame.filter(pl.col("stream") == "compute")["actor"].to_list())
    return sorted(frame["actor"].unique().to_list(), key=lambda name: (name not in computing, natural(name)))


def _kinds(frame: pl.DataFrame) -> list[str]:
    order = {name: index for index, name in enumerate(KINDS)}
    return sorted(
        frame["kind"].unique().to_list(), key=lambda kind: (order.get(kind_of(kind), len(order)), kind)
    )


def _placed(frame: pl.DataFrame, actors: list[str]) -> pl.DataFrame:
    """The frame with each row's place: actor_row, top and height of its stream, in lanes."""
    computing = frame.filter(pl.col("stream") == "compute")["actor"].unique()
    shared = frame.filter(pl.col("actor").is_in(computing.implode()))["stream"].unique().to_list()
    others = sorted((name for name in shared if name != "compute"), key=natural)
    main = _USABLE * (_COMPUTE if others else 1.0)
    thin = (_USABLE - main) / max(len(others), 1)
    place = {"compute": (-_USABLE / 2, main)}
    for index, name in enumerate(others):
        place[name] = (-_USABLE / 2 + main + thin * (index + 0.15), thin * 0.8)
    alone = (-_USABLE / 4, _USABLE / 2)
    rows = {name: index for index, name in enumerate(actors)}
    spots = frame.select("actor", "stream").unique()
    in_lane = set(computing.to_list())
    table = [
        (actor, stream, rows[actor], *(place[stream] if actor in in_lane else alone))
        for actor, stream in spots.iter_rows()
    ]
    schema = {
        "actor": pl.String,
        "stream": pl.String,
        "actor_row": pl.Int64,
        "top": pl.Float64,
        "height": pl.Float64,
    }
    return frame.join(pl.DataFrame(table, schema=schema, orient="row"), on=["actor", "stream"])


def _overview(frame: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """Bars of the overview, and whether neighbours were joined.

    Columns actor_row, stream, kind, start, length, y, width, text.
    """
    lanes = max(frame.select("actor_row", "stream").n_unique(), 1)
    busiest = max(frame.group_by("actor_row", "stream").len()["len"].to_list(), default=0)
    span = _span(frame)
    if busiest <= EXACT_PER_LANE:
        return _bars(frame.with_columns(run=pl.int_range(pl.len()))), False
    for by_chunk, by_phase, gap in ((True, True, span / 800), (False, True, span / 200), (False, False, 0.0)):
        runs = _runs(frame, span, by_chunk, by_phase, gap)
        if runs["run"].n_unique() <= EXACT_PER_LANE * lanes:
            break
    return _bars(runs), True


def _runs(frame: pl.DataFrame, span: float, by_chunk: bool, by_phase: bool, gap: float) -> pl.DataFrame:
    """The frame with the number of the run each row belongs to; without a gap, runs are columns of time."""
    lane = pl.struct("actor_row", "stream")
    if gap == 0.0:
        column = (pl.col("start") * (EXACT_PER_LANE / span)).floor().cast(pl.Int64)
        return frame.with_columns(run=pl.struct("actor_row", "stream", column.alias("column")).rank("dense"))
    phase = pl.when(pl.col("kind").is_in(_MAIN)).then(pl.col("kind")).forward_fill().backward_fill()
    frame = frame.with_columns(phase=phase.over("actor_row", "stream"))
    new = (lane != lane.shift()) | (pl.col("start") - pl.col("end").shift() > gap)
    if by_phase:
        new |= pl.col("phase").ne_missing(pl.col("phase").shift())
    if by_chunk and "chunk" in frame.columns:
        new |= pl.col("chunk") != pl.col("chunk").shift()
    return frame.with_columns(run=new.fill_null(True).cum_sum())


def _bars(runs: pl.DataFrame) -> pl.DataFrame:
    """One bar per run and kind; kinds of a run lie over each other, as high as their shares."""
    seconds = (pl.col("end") - pl.col("start")).sum()
    if "chunk" not in runs.columns:
        runs = runs.with_columns(chunk=pl.lit(-1))
    whole = runs.group_by("run").agg(
        begin=pl.col("start").min(),
        finish=pl.col("end").max(),
        busy=seconds,
        least_chunk=pl.col("chunk").min(),
        most_chunk=pl.col("chunk").max(),
    )
    order = pl.col("kind").is_in(_MAIN).not_()
    return (
        runs.group_by("run", "kind")
        .agg(
            pl.col("actor", "actor_row", "stream", "top", "height", "name").first(),
            seconds=seconds,
            count=pl.len(),
        )
        .join(whole, on="run")
        .sort("run", order, "kind")
        .with_columns(share=pl.col("seconds") / pl.col("busy"))
        .with_columns(before=pl.col("share").cum_sum().over("run") - pl.col("share"))
        .with_columns(
            start=pl.col("begin"),
            length=pl.col("finish") - pl.col("begin"),
            width=pl.col("height") * pl.col("share"),
            y=pl.col("actor_row")
            + pl.col("top")
            + pl.col("height") * (pl.col("before") + pl.col("share") / 2),
        )
    )


def _traces(bars: pl.DataFrame, kinds: list[str]) -> list[dict[str, Any]]:
    palette = colours(kinds)
    traces = []
    for kind in kinds:
        part = bars.filter(pl.col("kind") == kind)
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": escape(short_label(kind)),
                "y": _rounded(part["y"]),
                "x": _rounded(part["length"]),
                "base": _rounded(part["start"]),
                "width": _rounded(part["width"]),
                "marker": {"color": palette[kind], "line": {"width": 0}},
                "hovertext": [_hover(row) for row in part.iter_rows(named=True)],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "textposition": "none",
            }
        )
    return traces


def _hover(row: dict[str, Any]) -> str:
    what = row["name"] if row["count"] == 1 else f"{row['count']} x {row['kind']}"
    text = f"<b>{escape(what)}</b><br>{escape(row['actor'])} · {escape(row['stream'])}"
    if row["least_chunk"] is not None and row["least_chunk"] == row["most_chunk"] >= 0:
        text += f" · chunk {row['least_chunk']}"
    text += f"<br>from {row['start'] * 1e3:,.1f} ms, {row['length'] * 1e3:,.3g} ms long"
    return text if row["share"] > 0.9995 else f"{text}, {row['share'] * 100:.0f} % of it"


def _detail(frame: pl.DataFrame, actors: list[str], kinds: list[str]) -> dict[str, Any]:
    """Every interval as columns: the script builds the bars of the part in view. Strings are indices."""
    names, streams = (frame[key].unique(maintain_order=True).to_list() for key in ("name", "stream"))
    ordered = frame.sort("start")
    data: dict[str, Any] = {
        "names": [escape(name) for name in names],
        "actors": [escape(name) for name in actors],
        "streams": [escape(name) for name in streams],
        "name": _indices(ordered["name"], names),
        "stream": _indices(ordered["stream"], streams),
        "kind": _indices(ordered["kind"], kinds),
        "actor": ordered["actor_row"].to_list(),
        "start": _rounded(ordered["start"]),
        "length": _rounded(ordered["end"] - ordered["start"]),
        "y": _rounded(ordered["actor_row"] + ordered["top"] + ordered["height"] / 2, 4),
        "width": _rounded(ordered["height"], 3),
    }
    for key in ("micro_batch", "chunk"):
        if key in ordered.columns:
            data[key] = ordered[key].to_list()
    return data


def _indices(column: pl.Series, values: list[str]) -> list[int]:
    index = {value: number for number, value in enumerate(values)}
    return [index[value] for value in column.to_list()]


def _layout(actors: list[str], span: float) -> dict[str, Any]:
    return {
        "height": 110 + max(28, min(46, 900 // max(len(actors), 1))) * len(actors),
        "margin": {"l": 8, "r": 16, "t": 8, "b": 40},
        "barmode": "overlay",
        "hovermode": "closest",
        "dragmode": "zoom",
        "uirevision": "keep",
        "xaxis": {"title": {"text": "seconds"}, "zeroline": False, "range": [0, span]},
        "yaxis": {
            "tickmode": "array",
            "tickvals": list(range(len(actors))),
            "ticktext": [escape(name) for name in actors],
            "range": [len(actors) - 0.45, -0.55],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"},
    }


def _span(frame: pl.DataFrame) -> float:
    """When the last interval ends; 1 for an empty chart."""
    return max(frame["end"].to_list(), default=1.0)


def _rounded(values: pl.Series, digits: int = 7) -> list[float]:
    """Seven digits are enough for a screen, and a third of the bytes."""
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, dtype=float).tolist()]
