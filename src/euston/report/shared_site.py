"""Charts of training beside services: steps and hand-overs, each next to what it is alone."""

from __future__ import annotations

from typing import Any

import polars as pl

from euston.report import serving
from euston.report.figures import Figure
from euston.report.network import PALETTE, Section
from euston.result import Result

__all__ = ["DRAWN", "KIND", "sections"]

KIND = "shared"
DRAWN = ("handovers", "steps")
"""Tables that only the charts show; saved results have them."""


def sections(result: Result) -> list[Section]:
    """The charts that the tables allow, in the order of the page."""
    found = []
    tables = result.tables
    if "steps" in tables:
        found.append(
            Section(
                "steps_chart",
                "Steps of training beside the service",
                "Seconds of every step, at the time when it began; dotted: the step without services.",
                _steps(tables["steps"]),
            )
        )
    if "handovers" in tables:
        found.append(
            Section(
                "handovers_chart",
                "Hand-overs of KV",
                "Share of hand-overs that took at most so long; dotted: without training.",
                _handovers(tables["handovers"]),
            )
        )
    return found + serving.sections(result)


def _steps(steps: pl.DataFrame) -> Figure:
    data: list[dict[str, Any]] = []
    for i, ((job,), rows) in enumerate(steps.group_by("job", maintain_order=True)):
        colour = PALETTE[i % len(PALETTE)]
        start = rows["start"].to_list()
        data += [
            {
                "type": "scatter", "mode": "lines+markers", "name": str(job), "x": start,
                "y": rows["seconds"].to_list(), "line": {"color": colour, "width": 1}, "marker": {"size": 5},
                "hovertemplate": "step at %{x:.4g} s: %{y:.5g} s<extra></extra>",
            },
            {
                "type": "scatter", "mode": "lines", "showlegend": False, "x": [start[0], start[-1]],
                "y": [rows["alone"][0]] * 2, "line": {"color": colour, "width": 1, "dash": "dot"},
                "hovertemplate": "alone: %{y:.5g} s<extra></extra>",
            },
        ]  # fmt: skip
    return {"data": data, "layout": serving.axes(320, "seconds", "seconds of a step")}


def _handovers(handovers: pl.DataFrame) -> Figure:
    data: list[dict[str, Any]] = []
    jobs = handovers["job"].unique(maintain_order=True).to_list()
    for (job, run), rows in handovers.group_by("job", "run", maintain_order=True):
        beside = run == "together"
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": str(job), "showlegend": beside,
                "x": rows["seconds"].to_list(), "y": rows["share"].to_list(),
                "line": {
                    "color": PALETTE[jobs.index(job) % len(PALETTE)], "width": 2 if beside else 1,
                    "dash": "solid" if beside else "dot",
                },
                "hovertemplate": f"{run}: %{{x:.4g}} s: %{{y:.1%}}<extra></extra>",
            }
        )  # fmt: skip
    layout = serving.axes(320, "seconds of a hand-over", "share of hand-overs")
    layout["xaxis"]["type"] = "log"
    layout["yaxis"] |= {"range": [0, 1.01], "tickformat": ".0%"}
    return {"data": data, "layout": layout}
