"""Charts of a search for plans: time against cost or memory, with the front, and why others fell out."""

from __future__ import annotations

import polars as pl

from euston.report.figures import Figure, escape
from euston.report.network import Section
from euston.result import Result
from euston.units import format_seconds

__all__ = ["DRAWN", "KIND", "sections"]

KIND = "plan"
DRAWN = ("rejected",)
"""Tables that are too long for a page; saved results have them."""

MOST = 1500
"""Points drawn; the fastest ones."""


def sections(result: Result) -> list[Section]:
    """The charts, in the order of the page."""
    plans = result.tables["plans"].head(MOST)
    found = [
        Section(
            "pareto",
            "Time against memory",
            "Every plan that fits; in red those that no other beats in time, cost and energy.",
            _scatter(plans, "memory", "GiB of the fullest stage", 2.0**30),
        ),
        Section(
            "energy",
            "Time against energy",
            "Joules of a step: what kernels draw, and the idle power of what waits.",
            _scatter(plans, "energy", "MJ per step", 1e6),
        ),
    ]
    if result.tables["reasons"].height:
        found.append(
            Section(
                "reasons_chart",
                "Why the others fell out",
                "Plans by reason.",
                _reasons(result.tables["reasons"]),
            )
        )
    return found


def _text(row: dict[str, object]) -> str:
    return (
        f"TP {row['tensor']} PP {row['pipeline']} x{row['virtual']} DP {row['data']} EP {row['expert']}, "
        f"micro {row['micro']}, {row['recompute']}, {row['sharding']}, {row['schedule']}"
    )


def _scatter(plans: pl.DataFrame, column: str, axis: str, unit: float) -> Figure:
    groups = ((False, "Other plans", "#a9c8e6", 6), (True, "On the front", "#c8506b", 9))
    data = []
    for front, name, colour, size in groups:
        rows = plans.filter(pl.col("front") == front).to_dicts()
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [row["step_time"] for row in rows],
                "y": [row[column] / unit for row in rows],
                "marker": {"color": colour, "size": size},
                "hovertext": [escape(f"{_text(row)}: {format_seconds(row['step_time'], 4)}") for row in rows],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )
    layout = {
        "height": 420,
        "margin": {"l": 60, "r": 16, "t": 8, "b": 48},
        "hovermode": "closest",
        "xaxis": {"title": {"text": "seconds per step"}},
        "yaxis": {"title": {"text": axis}},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    }
    return {"data": data, "layout": layout}


def _reasons(table: pl.DataFrame) -> Figure:
    rows = table.to_dicts()[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [escape(row["kind"]) for row in rows],
        "x": [row["plans"] for row in rows],
        "marker": {"color": "#6ba3d6"},
        "hovertext": [escape(row["example"]) for row in rows],
        "hovertemplate": "%{x} plans; e.g. %{hovertext}<extra></extra>",
    }
    layout = {
        "height": 120 + 34 * len(rows),
        "margin": {"l": 90, "r": 16, "t": 8, "b": 40},
        "xaxis": {"title": {"text": "plans"}},
    }
    return {"data": [bars], "layout": layout}
