"""Charts of exchanges: the distribution of their times, what was delivered, whom the means were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from euston.report.figures import Figure
from euston.report.network import PALETTE, Section
from euston.result import Result
from euston.units import format_seconds

__all__ = ["DRAWN", "KIND", "sections"]

KIND = "exchange"
DRAWN = ("exchanges",)
"""Tables that only the charts show."""
POINTS = 400


def sections(result: Result) -> list[Section]:
    """The charts in the order of the page."""
    table = result.tables["exchanges"]
    found = [
        Section(
            "completion_chart",
            "Completion times",
            "Share of the exchanges that were over so soon: from the start of the computation, and of the "
            "transfer alone.",
            _times(table),
        ),
        Section(
            "delivered_chart",
            "What was delivered",
            "Share of the exchanges in which so much of the gradients, or less, got into the means; and of "
            "the results, to those who wait for them.",
            _curves(
                table, (("delivered", "gradients"), ("results", "results")), "share of packets", ".2%", None
            ),
        ),
    ]
    if result.tables["workers"]["included"].n_unique() > 1:
        found.append(
            Section(
                "workers_chart",
                "Whom the means were made of",
                "Mean share of each worker's gradients that got into the means. Where workers differ, "
                "dividing by how many came is biased towards the fast ones.",
                _workers(result.tables["workers"]),
            )
        )
    return found


def _times(table: pl.DataFrame) -> Figure:
    chosen = [("seconds", "computation and exchange"), ("transfer", "transfer")]
    if float(table["waiting"].max()) == 0.0:  # type: ignore[arg-type]
        chosen = chosen[:1]
    return _curves(table, tuple(chosen), "time, ms", None, 1e3)


def _curves(
    table: pl.DataFrame,
    columns: tuple[tuple[str, str], ...],
    title: str,
    form: str | None,
    scale: float | None,
) -> Figure:
    data: list[dict[str, Any]] = []
    for k, (column, name) in enumerate(columns):
        values = np.sort(table[column].to_numpy())
        keep = np.unique(np.linspace(0, values.size - 1, min(values.size, POINTS)).astype(np.int64))
        at = values[keep]
        text = [format_seconds(v, 4) if scale else f"{v:.2%}" for v in at.tolist()]
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": name, "x": (at * (scale or 1.0)).tolist(),
                "y": (100.0 * (keep + 1) / values.size).tolist(), "customdata": text,
                "line": {"color": PALETTE[k], "width": 2, "shape": "hv"},
                "hovertemplate": f"{name}: %{{y:.4g}} % within %{{customdata}}<extra></extra>",
            }
        )  # fmt: skip
    x: dict[str, Any] = {"title": {"text": title}, "zeroline": False}
    layout = {
        "height": 320,
        "margin": {"l": 60, "r": 16, "t": 8, "b": 48},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        "xaxis": x | ({"tickformat": form} if form else {}),
        "yaxis": {"title": {"text": "exchanges, %"}, "range": [0, 101]},
    }
    return {"data": data, "layout": layout}


def _workers(table: pl.DataFrame) -> Figure:
    bars = {
        "type": "bar", "x": table["worker"].to_list(), "y": table["included"].to_list(),
        "marker": {"color": PALETTE[0]}, "hovertemplate": "worker %{x}: %{y:.2%}<extra></extra>",
    }  # fmt: skip
    layout = {
        "height": 280,
        "margin": {"l": 60, "r": 16, "t": 8, "b": 48},
        "xaxis": {"title": {"text": "worker"}},
        "yaxis": {"title": {"text": "included"}, "tickformat": ".0%", "range": [0, 1.02]},
    }
    return {"data": [bars], "layout": layout}
