"""Charts of a campaign: the weeks day by day, where the time went, tokens over time, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from euston.report._words import colours, kind_of, label
from euston.report.figures import Figure, waterfall
from euston.report.network import Section
from euston.result import Result
from euston.units import format_seconds

__all__ = ["DRAWN", "KIND", "sections"]

KIND = "campaign"
"""The kind of results that have these charts."""

DRAWN = ("waterfall", "curve")
"""Tables that only the charts show."""

DAY = 86_400.0
LANES = 28
"""Days shown one lane each; longer campaigns get longer lanes."""
FAINT = 0.001
"""Intervals shorter than this share of a lane are drawn so long, or nobody would see them."""


def sections(result: Result) -> list[Section]:
    """The charts that the tables of a campaign allow, in the order of the page."""
    found = []
    if result.timeline is not None and result.timeline.height:
        lane = _lane(float(result.timeline["end"].max()))  # type: ignore[arg-type]
        found.append(
            Section(
                "weeks",
                "Day by day",
                f"One lane is {format_seconds(lane)}, from left to right. Checkpoints are too short to show; "
                "the first run where there are several.",
                _weeks(result.timeline, result.tables.get("events"), lane),
            )
        )
    if "waterfall" in result.tables:
        rows = result.tables["waterfall"].to_dicts()
        found.append(
            Section(
                "waterfall",
                "Where the time went",
                "All wall-clock time; what is productive, over all of it, is the ETTR.",
                _losses(rows),
            )
        )
    if "curve" in result.tables and result.tables["curve"].height > 1:
        found.append(
            Section(
                "curve",
                "Tokens kept",
                "Beside a cluster on which nothing fails; failures take back what no checkpoint holds.",
                _curve(result),
            )
        )
    return found


def _lane(length: float) -> float:
    days = max(1.0, length / DAY)
    return DAY * max(1, round(days / LANES + 0.499))


def _weeks(timeline: pl.DataFrame, events: pl.DataFrame | None, lane: float) -> Figure:
    pieces: dict[str, list[tuple[int, float, float, float]]] = {}
    for row in timeline.select("kind", "start", "end").iter_rows():
        kind, start, end = str(row[0]), float(row[1]), float(row[2])
        begin = start
        while begin < end - 1e-9:
            number = int(begin // lane)
            stop = min(end, (number + 1) * lane)
            if stop <= begin:  # rounding at a lane's edge
                number += 1
                stop = min(end, (number + 1) * lane)
            shown = (
                max(stop - begin, FAINT * lane) if kind not in ("productive", "degraded") else stop - begin
            )
            pieces.setdefault(kind, []).append((number, begin - number * lane, shown, end - start))
            begin = stop
    palette = colours(pieces)
    lanes = 1 + max(p[0] for found in pieces.values() for p in found)
    names = [_lane_name(i, lane) for i in range(lanes)]
    data: list[dict[str, Any]] = []
    order = ("productive", "degraded", "lost", "detection", "waiting", "queue", "restart")
    for kind in sorted(pieces, key=lambda k: order.index(k) if k in order else len(order)):
        found = pieces[kind]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(kind),
                "y": [names[p[0]] for p in found],
                "base": [p[1] / 3600 for p in found],
                "x": [p[2] / 3600 for p in found],
                "marker": {"color": palette[kind], "line": {"width": 0}},
                "hovertext": [format_seconds(p[3], 3) for p in found],
                "hovertemplate": label(kind) + "<br>%{y}, from hour %{base:.2f}, %{hovertext}<extra></extra>",
            }
        )
    if events is not None and events.height:
        data.append(_marks(events, names, lane))
    layout = {
        "height": 110 + 34 * lanes,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 40},
        "hovermode": "closest",
        "barmode": "overlay",
        "bargap": 0.35,
        "xaxis": {"title": {"text": "hours"}, "range": [0, lane / 3600], "zeroline": False},
        "yaxis": {
            "automargin": True, "ticklen": 6, "fixedrange": True, "showgrid": False, "autorange": "reversed",
            "categoryorder": "array", "categoryarray": names,
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _lane_name(number: int, lane: float) -> str:
    first = int(number * lane / DAY) + 1
    last = int((number + 1) * lane / DAY)
    return f"Day {first}" if last <= first else f"Days {first} to {last}"


def _marks(events: pl.DataFrame, names: Sequence[str], lane: float) -> dict[str, Any]:
    """A mark where something failed that did not stop the job."""
    quiet = events.filter(pl.col("effect").is_in(["flap", "slow", "degrade", "silent"]))
    time = quiet["time"].to_list()
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "Trouble that does not stop the job",
        "y": [names[min(len(names) - 1, int(t // lane))] for t in time],
        "x": [(t % lane) / 3600 for t in time],
        "marker": {
            "symbol": "diamond",
            "size": 8,
            "color": "#1d1d1d",
            "line": {"color": "#ffffff", "width": 1},
        },
        "hovertext": [
            f"{component}: {action}" for component, action in quiet.select("component", "action").iter_rows()
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _losses(rows: Sequence[dict[str, Any]]) -> Figure:
    """The waterfall in hours."""
    figure = waterfall(rows, None)
    bars = figure["data"][0]
    for key in ("x", "base"):
        bars[key] = [value / 3600 for value in bars[key]]
    figure["layout"]["xaxis"]["title"]["text"] = "hours"
    figure["layout"]["xaxis"]["range"] = [value / 3600 for value in figure["layout"]["xaxis"]["range"]]
    for note in figure["layout"]["annotations"]:
        note["x"] /= 3600
    return figure


def _curve(result: Result) -> Figure:
    curve = result.tables["curve"]
    days = (curve["time"] / DAY).to_list()
    share = result.scalars.get("goodput_share", 1.0)
    ideal = result.scalars.get("goodput_tokens", 0.0) / share if share else 0.0
    end = float(curve["time"].max())  # type: ignore[arg-type]
    palette = colours(("productive", "lost"))
    data = [
        {
            "type": "scatter", "mode": "lines", "name": "Without failures", "x": [0, end / DAY],
            "y": [0, ideal * end / 1e12], "line": {"color": "#94a0b0", "dash": "dot", "width": 2},
            "hovertemplate": "%{y:.3f} T tokens<extra></extra>",
        },
        {
            "type": "scatter", "mode": "lines", "name": "Kept", "x": days,
            "y": (curve["tokens"] / 1e12).to_list(),
            "line": {"color": palette[kind_of("productive")], "width": 2},
            "hovertemplate": "day %{x:.2f}: %{y:.3f} T tokens<extra></extra>",
        },
    ]  # fmt: skip
    layout = {
        "height": 340,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 40},
        "hovermode": "closest",
        "xaxis": {"title": {"text": "days"}, "range": [0, end / DAY], "zeroline": False},
        "yaxis": {"title": {"text": "trillion tokens"}, "automargin": True, "rangemode": "tozero"},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"},
    }
    return {"data": data, "layout": layout}
