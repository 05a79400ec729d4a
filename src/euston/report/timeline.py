"""The timeline chart: one lane per actor, compute in the upper part, communication in thin lines below it.

Drawn as horizontal bars, one trace per kind. Where there are more intervals than a page shows smoothly,
neighbours of one kind that lie closer than the chart's resolution become one bar, and the page says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.report._words import colours, short_label
from euston.report.figures import Figure, escape
from euston.report.perfetto import natural

MAX_BARS = 9_000
MAX_LANES = 64
_COMPUTE = 0.56
"""Share of a lane's height that the compute stream takes."""


def timeline(frame: pl.DataFrame) -> tuple[Figure, str]:
    """The chart and a sentence on what it leaves out (empty when nothing).

    Parameters
    ----------
    frame : polars.DataFrame
        Columns actor, stream, name, kind, start and end (s), optionally micro_batch and chunk.
    """
    notes = []
    actors = sorted(frame["actor"].unique().to_list(), key=natural)
    if len(actors) > MAX_LANES:
        notes.append(f"the first {MAX_LANES} of {len(actors)} actors are drawn")
        actors = actors[:MAX_LANES]
        frame = frame.filter(pl.col("actor").is_in(actors))
    frame = frame.filter(pl.col("end") > pl.col("start"))
    before = frame.height
    frame = _coarsened(frame)
    if frame.height < before:
        notes.append(
            f"{before:,} intervals are drawn as {frame.height:,} bars: neighbours of one kind too close to tell "
            "apart are joined (the Perfetto trace has every one)"
        )
    streams = sorted(frame["stream"].unique().to_list(), key=lambda name: (name != "compute", natural(name)))
    centre, height = _lanes(streams)
    actor_row = {name: index for index, name in enumerate(actors)}
    kinds = frame.group_by("kind").agg(pl.col("start").min()).sort("start")["kind"].to_list()
    palette = colours(kinds)
    data: list[dict[str, Any]] = []
    for kind in kinds:
        part = frame.filter(pl.col("kind") == kind)
        row = np.array([actor_row[name] for name in part["actor"]], dtype=float)
        offset = np.array([centre[name] for name in part["stream"]])
        start = part["start"].to_numpy()
        length = part["end"].to_numpy() - start
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": escape(short_label(kind)),
                "y": _rounded(row + offset),
                "x": _rounded(length),
                "base": _rounded(start),
                "width": _rounded(np.array([height[name] for name in part["stream"]])),
                "marker": {"color": palette[kind], "line": {"width": 0}},
                "hovertext": _hover(part),
                "hovertemplate": "%{hovertext}<extra></extra>",
                "textposition": "none",
            }
        )
    layout = {
        "height": 110 + max(26, min(44, 900 // max(len(actors), 1))) * len(actors),
        "margin": {"l": 8, "r": 16, "t": 8, "b": 40},
        "barmode": "overlay",
        "hovermode": "closest",
        "dragmode": "zoom",
        "xaxis": {
            "title": {"text": "seconds"},
            "zeroline": False,
            "range": [0, _span(frame)],
        },
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
    sentence = "; ".join(notes)
    return {"data": data, "layout": layout}, sentence[:1].upper() + sentence[1:] + "." if sentence else ""


def _lanes(streams: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Centre and height of every stream within a lane of height 1, which has a small gap to the next."""
    others = [name for name in streams if name != "compute"]
    usable, top = 0.86, -0.43
    if not others:
        return {"compute": 0.0}, {"compute": usable}
    main = _COMPUTE if "compute" in streams else 0.0
    thin = (usable - main) / len(others)
    centre, height = {"compute": top + main / 2}, {"compute": main}
    for index, name in enumerate(others):
        centre[name] = top + main + thin * (index + 0.5)
        height[name] = thin * 0.86
    return centre, height


def _coarsened(frame: pl.DataFrame) -> pl.DataFrame:
    """Join neighbours of one kind on one lane until at most `MAX_BARS` are left."""
    if frame.height <= MAX_BARS:
        return frame
    span = _span(frame)
    for bins in (4000, 1500, 500, 150, 50):
        gap = span / bins
        lanes = frame.sort("actor", "stream", "start").with_columns(
            (
                (pl.col("kind") != pl.col("kind").shift())
                | (pl.col("actor") != pl.col("actor").shift())
                | (pl.col("stream") != pl.col("stream").shift())
                | (pl.col("start") - pl.col("end").shift() > gap)
                # bars that can be told apart stay apart
                | (
                    (pl.col("end") - pl.col("start") > 4 * gap)
                    & (pl.col("end").shift() - pl.col("start").shift() > 4 * gap)
                )
            )
            .fill_null(True)
            .cum_sum()
            .alias("group")
        )
        joined = (
            lanes.group_by("group", maintain_order=True)
            .agg(
                pl.col("actor", "stream", "kind").first(),
                pl.when(pl.len() == 1)
                .then(pl.col("name").first())
                .otherwise(pl.format("{} x {}", pl.len(), pl.col("kind").first()))
                .first()
                .alias("name"),
                pl.col("start").min(),
                pl.col("end").max(),
                *(
                    pl.when(pl.len() == 1).then(pl.col(key).first()).otherwise(-1).first().alias(key)
                    for key in ("micro_batch", "chunk")
                    if key in frame.columns
                ),
            )
            .drop("group")
        )
        if joined.height <= MAX_BARS:
            break
    return joined.sort("start").head(4 * MAX_BARS)


def _span(frame: pl.DataFrame) -> float:
    """When the last interval ends; 1 for an empty chart."""
    return max(frame["end"].to_list(), default=1.0)


def _rounded(values: NDArray[np.float64]) -> list[float]:
    """Seven digits: enough for a screen, a third of the bytes."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def _hover(part: pl.DataFrame) -> list[str]:
    texts = []
    for row in part.iter_rows(named=True):
        text = f"<b>{escape(row['name'])}</b><br>{escape(row['actor'])} · {escape(row['stream'])}"
        if (row.get("micro_batch") or 0) >= 0 and row.get("micro_batch") is not None:
            text += f"<br>micro-batch {row['micro_batch']}"
            if row.get("chunk") is not None and row["chunk"] >= 0:
                text += f", chunk {row['chunk']}"
        length = (row["end"] - row["start"]) * 1e3
        texts.append(f"{text}<br>{row['start'] * 1e3:,.2f} ms + {length:,.3g} ms")
    return texts
