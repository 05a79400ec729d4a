"""Charts of a service: latencies, load over time, a search for capacity and for the best deployment."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.report.figures import Figure, escape
from euston.report.network import PALETTE, Section
from euston.result import Result

__all__ = ["DRAWN", "KIND", "KINDS", "axes", "sections"]

KIND = "serving"
KINDS = (KIND, "capacity", "serving_search")
DRAWN = ("load", "requests", "replicas")
"""Tables that only the charts show; saved results have them."""

POINTS = 300
METRICS = (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "E2E"), ("queue", "Queue"))


def sections(result: Result) -> list[Section]:
    """The charts that the tables allow, in the order of the page."""
    found = []
    tables = result.tables
    if "requests" in tables and tables["requests"]["ttft"].count():
        found.append(
            Section(
                "latency_cdf",
                "Latency of requests",
                "Share of requests at or below a latency; dotted: the SLO. E2E is to the last token, TPOT "
                "the mean time per output token after the first.",
                _cdf(tables["requests"], result.meta.get("slo") or {}),
            )
        )
        found.append(
            Section(
                "by_prompt",
                "Time to first token by prompt length",
                "A sample of the requests; late ones with short prompts waited behind others.",
                _by_prompt(tables["requests"]),
            )
        )
    if "load" in tables and tables["load"].height:
        found.append(
            Section(
                "load_chart",
                "Load over time",
                "Requests that wait and that run, and the tokens of the contexts under way (right axis).",
                _load(tables["load"]),
            )
        )
    if "replicas" in tables and tables["replicas"].height:
        found.append(
            Section(
                "replicas_chart",
                "Replicas over time",
                "At every look of the autoscaler: those that serve, those wished for.",
                _replicas(tables["replicas"]),
            )
        )
    if "points" in tables and tables["points"].height:
        found.append(
            Section(
                "capacity_chart",
                "Attainment against load",
                "Every point that was run; what keeps the SLO is blue.",
                _points(tables["points"], str(result.meta.get("axis", "rate")), result.meta.get("share")),
            )
        )
    if "candidates" in tables and tables["candidates"].height:
        found.append(
            Section(
                "pareto_chart",
                "Load within the SLO against latency",
                "The finalists at the largest rate that they bear; in red those that no other beats in rate "
                "per accelerator, TTFT and TPOT.",
                _pareto(tables["candidates"]),
            )
        )
    return found


def _positions(n: int) -> NDArray[np.int64]:
    """Positions of at most `POINTS` of n sorted values: even, and denser towards the tail."""
    if n <= POINTS:
        return np.arange(n)
    share = np.concatenate((np.linspace(0, 1, POINTS // 2), 1 - np.geomspace(0.5, 1 / n, POINTS // 2)))
    return np.unique(np.rint(share * (n - 1)).astype(np.int64))


def axes(height: int, x: str, y: str, **more: Any) -> dict[str, Any]:
    """Of a chart with two named axes and its legend above."""
    return {
        "height": height,
        "margin": {"l": 60, "r": 60, "t": 8, "b": 48},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        "xaxis": {"title": {"text": x}, "zeroline": False},
        "yaxis": {"title": {"text": y}, "zeroline": False, "rangemode": "tozero"},
        **more,
    }


def _cdf(requests: pl.DataFrame, slo: dict[str, Any]) -> Figure:
    data: list[dict[str, Any]] = []
    for i, (name, label) in enumerate(METRICS):
        values = np.sort(requests[name].drop_nulls().to_numpy())
        values = values[values > 0]
        if not values.size:
            continue
        at = _positions(values.size)
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": label, "line": {"color": PALETTE[i], "width": 2},
                "x": values[at].tolist(), "y": ((at + 1) / values.size).tolist(),
                "hovertemplate": f"{label} %{{x:.4g}} s: %{{y:.2%}}<extra></extra>",
            }
        )  # fmt: skip
        if slo.get(name) is not None:
            data.append(
                {
                    "type": "scatter", "mode": "lines", "showlegend": False, "x": [slo[name]] * 2,
                    "y": [0, 1], "line": {"color": PALETTE[i], "width": 1, "dash": "dot"},
                    "hovertemplate": f"{label} at most {slo[name]:g} s<extra></extra>",
                }
            )  # fmt: skip
    least = min((line["x"][0] for line in data if line.get("name", "Queue") != "Queue"), default=1e-3)
    layout = axes(380, "seconds", "share of requests")
    layout["xaxis"] |= {"type": "log", "range": [np.log10(least / 2), np.log10(_most(requests) * 1.3)]}
    layout["yaxis"] |= {"range": [0, 1.01], "tickformat": ".0%"}
    return {"data": data, "layout": layout}


def _most(requests: pl.DataFrame) -> float:
    return float(requests["e2e"].max() or 1.0)  # type: ignore[arg-type]


def _by_prompt(requests: pl.DataFrame) -> Figure:
    rows = requests.filter(requests["ttft"].is_not_null())
    step = max(1, rows.height // 1500)
    rows = rows.gather_every(step)
    cached = (rows["hits"] / rows["prompt"]).to_numpy()
    data = [
        {
            "type": "scatter", "mode": "markers", "x": rows["prompt"].to_list(), "y": rows["ttft"].to_list(),
            "marker": {
                "size": 5, "opacity": 0.6, "color": cached.tolist(), "cmin": 0, "cmax": 1,
                "colorscale": [[0, "#4477aa"], [1, "#e8a33d"]],
            },
            "customdata": cached.tolist(),
            "hovertemplate": "%{x} tokens: %{y:.4g} s, %{customdata:.0%} from the cache<extra></extra>",
        }
    ]  # fmt: skip
    layout = axes(340, "tokens of the prompt", "seconds to the first token")
    return {"data": data, "layout": layout}


def _load(load: pl.DataFrame) -> Figure:
    time = load["time"].to_list()
    data = [
        {
            "type": "scatter", "mode": "lines", "name": name.capitalize(), "x": time,
            "y": load[name].to_list(), "line": {"color": colour, "width": 2},
        }
        for name, colour in (("running", PALETTE[0]), ("waiting", PALETTE[3]))
    ]  # fmt: skip
    data.append(
        {
            "type": "scatter", "mode": "lines", "name": "Tokens of contexts", "x": time, "yaxis": "y2",
            "y": load["context_tokens"].to_list(), "line": {"color": PALETTE[1], "width": 1},
        }
    )  # fmt: skip
    side = {"overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False}
    return {
        "data": data,
        "layout": axes(340, "seconds", "requests", yaxis2={"title": {"text": "tokens"}, **side}),
    }


def _replicas(looks: pl.DataFrame) -> Figure:
    data = []
    for (pool,), rows in looks.group_by("pool", maintain_order=True):
        for name, colour, width in (("serving", PALETTE[0], 2), ("wished", PALETTE[3], 1)):
            text = name if looks["pool"].n_unique() == 1 else f"pool {pool}: {name}"
            data.append(
                {
                    "type": "scatter", "mode": "lines", "name": text.capitalize(),
                    "x": rows["time"].to_list(), "y": rows[name].to_list(),
                    "line": {"color": colour, "width": width, "shape": "hv"},
                }
            )  # fmt: skip
    return {"data": data, "layout": axes(280, "seconds", "replicas")}


def _points(points: pl.DataFrame, axis: str, share: Any) -> Figure:
    rows = points.sort("value").to_dicts()
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "name": name,
            "x": [row["value"] for row in rows if row["meets"] == meets],
            "y": [row["attainment"] for row in rows if row["meets"] == meets],
            "marker": {"color": colour, "size": 9},
            "hovertemplate": "%{x:.4g}: %{y:.2%}<extra></extra>",
        }
        for meets, name, colour in ((True, "keeps the SLO", PALETTE[0]), (False, "does not", PALETTE[3]))
    ]  # fmt: skip
    if isinstance(share, int | float) and rows:
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": "wanted",
                "x": [rows[0]["value"], rows[-1]["value"]], "y": [share, share],
                "line": {"color": "#7d6a5c", "width": 1, "dash": "dot"},
            }
        )  # fmt: skip
    words = {"rate": "requests per second", "replicas": "replicas"}
    layout = axes(340, words.get(axis, axis), "requests that keep the SLO")
    layout["yaxis"] |= {"tickformat": ".0%"}
    return {"data": data, "layout": layout}


def _pareto(candidates: pl.DataFrame) -> Figure:
    data = []
    for front, name, colour, size in (
        (False, "Other deployments", "#a9c8e6", 7),
        (True, "On the front", "#c8506b", 10),
    ):
        best = candidates.filter((pl.col("front") == front) & pl.col("max_rate").is_not_null())
        rows = best.to_dicts()
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": name,
                "x": [row["ttft_p90"] for row in rows], "y": [row["rate_per_accelerator"] for row in rows],
                "marker": {"color": colour, "size": size},
                "hovertext": [
                    escape(f"{row['deployment']}: {row['max_rate']:.4g} req/s, {row['attainment']:.1%}")
                    for row in rows
                ],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )  # fmt: skip
    return {
        "data": data,
        "layout": axes(400, "seconds to the first token, P90", "requests per second and accelerator"),
    }
