"""The report's charts as Plotly figures: plain dicts of `data` and `layout`, without colours of text or page.

Figures are written as the JSON that plotly.js reads; building them so needs no import of the Python package,
which keeps the command line quick. Text from users is escaped: plotly.js reads a subset of HTML in labels.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from euston.report._words import Row, colours, kind_of, label, percent, short_label
from euston.units import format_bytes, format_seconds

Figure = dict[str, Any]


def escape(text: Any) -> str:
    """Text that plotly.js shows as it is."""
    return html.escape(str(text), quote=True)


def _layout(height: int, **more: Any) -> dict[str, Any]:
    return {"height": height, "margin": {"l": 8, "r": 16, "t": 8, "b": 40}, "hovermode": "closest", **more}


def _legend() -> dict[str, Any]:
    return {
        "orientation": "h",
        "x": 0,
        "y": 1.0,
        "yanchor": "bottom",
        "xanchor": "left",
        "traceorder": "normal",
    }


def waterfall(rows: Sequence[Row], total: float | None) -> Figure:
    """The step from left to right: every kind begins where the one above it ends."""
    shown = [row for row in rows if float(row["seconds"]) > 0]
    whole = total or sum(float(row["seconds"]) for row in shown)
    palette = colours(str(row["kind"]) for row in shown)
    starts, position = [], 0.0
    for row in shown:
        starts.append(position)
        position += float(row["seconds"])
    names = [escape(label(str(row["kind"]))) for row in shown]
    seconds = [float(row["seconds"]) for row in shown]
    texts = [f"{format_seconds(s, 3)}  ·  {percent(s / whole if whole else 0.0)}" for s in seconds]
    # text goes to the right of short or early bars, to the left of those that end near the edge
    late = [start + s > 0.72 * position for start, s in zip(starts, seconds, strict=True)]
    wide = [s > 0.3 * position for s in seconds]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": seconds,
        "base": starts,
        "marker": {"color": [palette[str(row["kind"])] for row in shown]},
        "text": [text if big else "" for text, big in zip(texts, wide, strict=True)],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "insidetextfont": {"color": "#ffffff"},
        "hovertext": texts,
        "hovertemplate": "%{y}<br>%{hovertext}<extra></extra>",
        "showlegend": False,
    }
    annotations = []
    for name, text, start, s, is_late, is_wide in zip(names, texts, starts, seconds, late, wide, strict=True):
        if is_wide:
            continue
        annotations.append(
            {
                "x": start if is_late else start + s,
                "y": name,
                "text": text,
                "showarrow": False,
                "xanchor": "right" if is_late else "left",
                "xshift": -6 if is_late else 6,
            }
        )
    layout = _layout(
        70 + 38 * len(shown),
        xaxis={
            "title": {"text": "seconds"},
            "range": [0, position * 1.02],
            "zeroline": False,
            "fixedrange": True,
        },
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "ticklen": 6,
            "fixedrange": True,
            "showgrid": False,
        },
        annotations=annotations,
        bargap=0.28,
    )
    return {"data": [bars], "layout": layout}


_STAGE_PARTS = (
    "compute", "recompute", "tensor", "context", "expert", "pipeline", "data", "optimizer", "overhead",
    "other", "bubble",
)  # fmt: skip


def stages(rows: Sequence[Row]) -> Figure:
    """Where each pipeline stage spends the step, one stacked bar per stage."""
    columns = [key for key in _STAGE_PARTS if any(float(row.get(key) or 0) > 0 for row in rows)]
    palette = colours(columns)
    x = [str(row["stage"]) for row in rows]
    layers = [f"{row['layers']} layers" if row.get("layers") is not None else "" for row in rows]
    data = []
    for key in columns:
        seconds = [float(row.get(key) or 0) for row in rows]
        data.append(
            {
                "type": "bar",
                "name": escape(label(key)),
                "x": x,
                "y": seconds,
                "marker": {"color": palette[key]},
                "customdata": [[format_seconds(s, 3), t] for s, t in zip(seconds, layers, strict=True)],
                "hovertemplate": f"{escape(label(key))}: %{{customdata[0]}}<br>"
                "stage %{x}, %{customdata[1]}<extra></extra>",
            }
        )
    layout = _layout(
        380,
        barmode="stack",
        xaxis={
            "title": {"text": "pipeline stage"},
            "type": "category",
            "fixedrange": True,
            "showgrid": False,
        },
        yaxis={"title": {"text": "seconds"}, "automargin": True, "fixedrange": True},
        legend=_legend(),
        bargap=0.25,
    )
    return {"data": data, "layout": layout}


def links(rows: Sequence[Row]) -> Figure:
    """Mean and busiest-link utilisation over the step, by tier."""
    names = [escape(str(row["tier"]).replace("_", " ")) for row in rows]
    mean = [100 * float(row["mean_utilisation"]) for row in rows]
    most = [100 * float(row["max_utilisation"]) for row in rows]
    hover = [
        f"{int(row['links']):,} links, {format_bytes(float(row['bytes']))}" if "bytes" in row else ""
        for row in rows
    ]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "mean of the tier",
            "y": names,
            "x": mean,
            "marker": {"color": "#4477aa"},
            "customdata": hover,
            "hovertemplate": "%{y}: %{x:.3g} % on average<br>%{customdata}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "busiest link",
            "y": names,
            "x": most,
            "marker": {"color": "#c8506b", "size": 11, "symbol": "diamond"},
            "hovertemplate": "%{y}: %{x:.3g} % on the busiest link<extra></extra>",
        },
    ]
    top = max([*most, *mean, 1e-9])
    layout = _layout(
        110 + 32 * len(rows),
        xaxis={
            "title": {"text": "utilisation over the step, %"},
            "range": [0, min(100.0, top * 1.12) if top > 50 else top * 1.12],
            "fixedrange": True,
            "zeroline": False,
        },
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "ticklen": 6,
            "fixedrange": True,
            "showgrid": False,
        },
        legend=_legend(),
        bargap=0.4,
    )
    return {"data": data, "layout": layout}


_MEMORY_PARTS = ("parameters", "gradients", "optimizer", "activations", "temporary", "allocator")


def memory(rows: Sequence[Row]) -> Figure:
    """Memory of one accelerator by stage, stacked, with the capacity as a line."""
    columns = [key for key in _MEMORY_PARTS if any(float(row.get(key) or 0) > 0 for row in rows)]
    palette = colours(columns)
    x = [str(row["stage"]) for row in rows]
    gib = float(2**30)
    data: list[dict[str, Any]] = []
    for key in columns:
        name = "Optimiser states" if kind_of(key) == "optimizer" else label(key)
        data.append(
            {
                "type": "bar",
                "name": escape(name),
                "x": x,
                "y": [float(row.get(key) or 0) / gib for row in rows],
                "marker": {"color": palette[key]},
                "hovertemplate": f"{escape(name)}: %{{y:.4g}} GiB<br>stage %{{x}}<extra></extra>",
            }
        )
    capacities = [float(row["capacity"]) / gib for row in rows if row.get("capacity")]
    if len(capacities) == len(rows) and rows:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "Capacity",
                "x": x,
                "y": capacities,
                "line": {"color": "#c8506b", "width": 2, "dash": "dash"},
                "hovertemplate": "Capacity: %{y:.4g} GiB<extra></extra>",
            }
        )
    layout = _layout(
        360,
        barmode="stack",
        xaxis={
            "title": {"text": "pipeline stage"},
            "type": "category",
            "fixedrange": True,
            "showgrid": False,
        },
        yaxis={
            "title": {"text": "GiB per accelerator"},
            "automargin": True,
            "fixedrange": True,
            "rangemode": "tozero",
        },
        legend=_legend(),
        bargap=0.25,
    )
    return {"data": data, "layout": layout}


def sweep(rows: Sequence[Row]) -> Figure:
    """Step time over the number of virtual stages; layouts that do not fit are hollow."""
    x = [str(row["virtual"]) for row in rows]
    fits = [bool(row.get("fits", True)) for row in rows]
    seconds = [float(row["step_time"]) if row.get("step_time") is not None else None for row in rows]
    notes = []
    for row in rows:
        rate = row.get("tflops_per_accelerator", row.get("tflops"))
        known = row.get("mfu") is not None and rate is not None
        notes.append(f"MFU {percent(float(row['mfu']))}, {float(rate or 0):.4g} TFLOP/s" if known else "")
    data = [
        {
            "type": "bar",
            "x": x,
            "y": seconds,
            "marker": {
                "color": ["#4477aa" if ok else "rgba(68,119,170,0.25)" for ok in fits],
                "line": {"color": "#4477aa", "width": 1},
            },
            "text": [
                (format_seconds(s, 3) if s is not None else "") + ("" if ok else "<br>does not fit")
                for s, ok in zip(seconds, fits, strict=True)
            ],
            "textposition": "outside",
            "cliponaxis": False,
            "customdata": notes,
            "hovertemplate": "%{x} virtual stages: %{y:.4g} s<br>%{customdata}<extra></extra>",
            "showlegend": False,
        }
    ]
    layout = _layout(
        300,
        xaxis={
            "title": {"text": "virtual stages"},
            "type": "category",
            "fixedrange": True,
            "showgrid": False,
        },
        yaxis={
            "title": {"text": "seconds per step"},
            "automargin": True,
            "fixedrange": True,
            "rangemode": "tozero",
        },
        bargap=0.5,
    )
    layout["margin"]["t"] = 30
    return {"data": data, "layout": layout}


__all__ = ["escape", "links", "memory", "short_label", "stages", "sweep", "waterfall"]
