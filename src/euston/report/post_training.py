"""Charts of post-training: the split of the accelerators, staleness, and the updates one by one."""

from __future__ import annotations

import polars as pl

from euston.report.figures import Figure
from euston.report.network import PALETTE, Section
from euston.result import Result

__all__ = ["KIND", "sections"]

KIND = "post_training"


def sections(result: Result) -> list[Section]:
    """The charts that the tables allow, in the order of the page."""
    tables = result.tables
    found = []
    if "split" in tables:
        found.append(
            Section(
                "split_chart",
                "Who generates, who trains",
                "Trajectories per second (right axis) and the share of the time that each pool computes, by "
                "accelerators of the rollout pool. The best split keeps both at work.",
                _split(tables["split"]),
            )
        )
    found.append(
        Section(
            "staleness_chart",
            "Staleness",
            "Trajectories by how many updates the weights that began them are behind those that train.",
            _staleness(tables["staleness"]),
        )
    )
    found.append(
        Section(
            "steps_chart",
            "Updates",
            "Seconds from one update's end to the next, the update itself, and the longest answer of its "
            "batch in tokens (right axis).",
            _steps(tables["steps"]),
        )
    )
    return found


def _layout(x: str, y: str, other: str, height: int = 360) -> dict[str, object]:
    return {
        "height": height,
        "margin": {"l": 60, "r": 60, "t": 8, "b": 48},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        "xaxis": {"title": {"text": x}, "zeroline": False},
        "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
        "yaxis2": {
            "title": {"text": other}, "overlaying": "y", "side": "right", "rangemode": "tozero",
            "showgrid": False,
        },
    }  # fmt: skip


def _line(x: list[float], y: list[float], name: str, colour: str, axis: str, value: str) -> dict[str, object]:
    return {
        "type": "scatter", "mode": "lines+markers", "x": x, "y": y, "name": name, "yaxis": axis,
        "line": {"color": colour, "width": 2}, "hovertemplate": f"{name} %{{y:{value}}}<extra></extra>",
    }  # fmt: skip


def _split(table: pl.DataFrame) -> Figure:
    x = table["generating"].to_list()
    data = [
        _line(x, table["rollout_utilisation"].to_list(), "rollout pool at work", PALETTE[0], "y", ".1%"),
        _line(x, table["training_utilisation"].to_list(), "training at work", PALETTE[1], "y", ".1%"),
        _line(x, table["trajectories_per_second"].to_list(), "trajectories/s", PALETTE[2], "y2", ".4g"),
    ]
    layout = _layout("accelerators that generate", "share of the time", "trajectories per second")
    layout["yaxis"] = {"title": {"text": "share of the time"}, "range": [0, 1.02], "tickformat": ".0%"}
    return {"data": data, "layout": layout}


def _staleness(table: pl.DataFrame) -> Figure:
    bars = {
        "type": "bar", "x": table["updates_behind"].to_list(), "y": table["share"].to_list(),
        "customdata": table["trajectories"].to_list(), "marker": {"color": PALETTE[0]},
        "hovertemplate": "%{x} updates behind: %{y:.1%}, %{customdata} trajectories<extra></extra>",
    }  # fmt: skip
    layout = _layout("updates behind", "share of trajectories", "", 280)
    del layout["yaxis2"]
    layout["xaxis"] = {"title": {"text": "updates behind"}, "dtick": max(1, table.height // 12)}
    layout["yaxis"] = {"title": {"text": "share of trajectories"}, "tickformat": ".0%"}
    return {"data": [bars], "layout": layout}


def _steps(table: pl.DataFrame) -> Figure:
    ends = table["end"].to_list()
    took = [end - before for end, before in zip(ends, [0.0, *ends[:-1]], strict=True)]
    x = table["update"].to_list()
    data = [
        _line(x, took, "since the last update", PALETTE[0], "y", ".4g"),
        _line(x, (table["end"] - table["train"]).to_list(), "update", PALETTE[1], "y", ".4g"),
        _line(x, table["longest"].to_list(), "longest answer", PALETTE[2], "y2", ",.0f"),
    ]
    return {"data": data, "layout": _layout("update", "seconds", "tokens")}
