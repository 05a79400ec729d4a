"""Charts of network results: completion times by size, links on the topology, queues, two engines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.report.figures import Figure, escape
from euston.result import Result
from euston.units import format_bytes, format_seconds

__all__ = ["DRAWN", "KINDS", "Section", "sections", "worst_first"]

KINDS = ("traffic", "comparison")
"""Kinds of results that have these charts."""

DRAWN = ("links", "series")
"""Tables that only the charts show."""

POINTS = 400  # of one curve
CELLS = (48, 64)  # rows and columns of one tier's heat map at most
PALETTE = ("#4477aa", "#2f9c8a", "#e8a33d", "#c8506b", "#8a63b5", "#7d6a5c", "#5a9e6f", "#5c7fa3")


class Section(NamedTuple):
    """One chart with its heading."""

    name: str
    title: str
    lead: str
    figure: Figure


def sections(result: Result) -> list[Section]:
    """The charts that the tables of a network result allow, in the order of the page."""
    found = []
    tables = result.tables
    if result.kind == "comparison":
        if "flows" in tables and tables["flows"]["packet"].count():
            found.append(_against(tables["flows"]))
        return found
    if "flows" in tables and tables["flows"]["completion"].count():
        found.append(_distribution(tables["flows"], "completion", "completion", "from start to end"))
        found.append(_distribution(tables["flows"], "slowdown", "slowdown", "times the flow alone"))
    if "links" in tables and tables["links"].height:
        found.append(_heat(tables["links"], tables.get("tiers")))
    if "series" in tables and tables["series"].height:
        found.append(_series(tables["series"]))
    if "queues" in tables and tables["queues"].height:
        found.append(_queues(tables["queues"]))
    return found


def worst_first(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """A table of a network result in the order of the page: flows by slowdown, unfinished ones last."""
    if name != "flows" or "slowdown" not in table.columns:
        return table
    return table.sort("slowdown", descending=True, nulls_last=True, maintain_order=True)


def _layout(height: int, **more: Any) -> dict[str, Any]:
    legend = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"}
    margin = {"l": 8, "r": 16, "t": 8, "b": 40}
    return {"height": height, "margin": margin, "hovermode": "closest", "legend": legend, **more}


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "automargin": True, "fixedrange": True, "zeroline": False, **more}


def _thin(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of at most `POINTS` of sorted values, both ends among them and the tail denser."""
    n = values.size
    if n <= POINTS:
        return np.arange(n)
    even = np.linspace(0, n - 1, POINTS // 2)
    tail = n - np.geomspace(n, 1, POINTS // 2)
    return np.unique(np.clip(np.concatenate((even, tail)).astype(np.int64), 0, n - 1))


def _buckets(flows: pl.DataFrame) -> list[str]:
    """Size buckets that occur, small ones first."""
    return (
        flows.group_by("bucket").agg(pl.col("bytes").min()).sort("bytes")["bucket"].cast(pl.String).to_list()
    )


def _distribution(flows: pl.DataFrame, column: str, name: str, title: str) -> Section:
    """Share of the finished flows of every size bucket that took so long or less."""
    data = []
    scale = 1.0
    if column == "completion":
        unit, scale = _time_unit(float(np.median(flows[column].drop_nulls().to_numpy())))
        title = f"{title}, {unit}"
    for number, bucket in enumerate(_buckets(flows)):
        part = flows.filter(pl.col("bucket") == bucket)[column].drop_nulls().sort().to_numpy()
        if not part.size:
            continue
        keep = _thin(part)
        at = part[keep] * scale
        text = [format_seconds(v, 4) if column == "completion" else f"{v:.3g}x" for v in part[keep].tolist()]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{escape(bucket)} ({part.size:,} flows)",
                "x": at.tolist(),
                "y": (100.0 * (keep + 1) / part.size).tolist(),
                "line": {"color": PALETTE[number % len(PALETTE)], "width": 2, "shape": "hv"},
                "customdata": text,
                "hovertemplate": f"{escape(bucket)}: %{{y:.4g}} % within %{{customdata}}<extra></extra>",
            }
        )
    layout = _layout(
        340,
        xaxis=_axis(title, type="log", exponentformat="none"),
        yaxis=_axis("finished flows, %", range=[0, 101]),
    )
    what = "Completion times" if column == "completion" else "Slowdown"
    lead = (
        "Every curve is one range of flow sizes; unfinished flows are counted, not drawn."
        if column == "completion"
        else "Completion time over what the flow would take alone: 1 is perfect."
    )
    return Section(name, what, lead, {"data": data, "layout": layout})


def _time_unit(typical: float) -> tuple[str, float]:
    """The unit for an axis around ``typical`` seconds, and how many of it a second has."""
    return ("us", 1e6) if typical < 1e-3 else ("ms", 1e3) if typical < 1.0 else ("s", 1.0)


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _grid(
    names: Sequence[str], load: Sequence[float]
) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Rows (switches), columns (ports) and loads of one tier's links, halved until they fit the page.

    A link is called ``tier/switch.../port``; tiers with one port per device are wrapped into lines.
    """
    places = [(("/".join(parts[1:-1]) or parts[0]), parts[-1]) for parts in (n.split("/") for n in names)]
    rows = sorted({row for row, _ in places}, key=_natural)
    columns = sorted({column for _, column in places}, key=_natural)
    at_row, at_column = ({name: i for i, name in enumerate(group)} for group in (rows, columns))
    cells = np.full((len(rows), len(columns)), np.nan)
    for (row, column), value in zip(places, load, strict=True):
        cells[at_row[row], at_column[column]] = value
    if len(columns) == 1 and len(rows) > 4:
        width = min(CELLS[1], 1 << int(np.ceil(np.log2(np.sqrt(4.0 * len(rows))))))
        lines = -(-len(rows) // width)
        padded = np.full(lines * width, np.nan)
        padded[: len(rows)] = cells[:, 0]
        cells = padded.reshape(lines, width)
        rows = [f"{rows[k * width]} ..." for k in range(lines)]
        columns = [f"+{k}" for k in range(width)]
    for axis, most in ((0, CELLS[0]), (1, CELLS[1])):
        while cells.shape[axis] > most:
            names_ = rows if axis == 0 else columns
            half = -(-cells.shape[axis] // 2)
            joined = np.full((half, cells.shape[1]) if axis == 0 else (cells.shape[0], half), np.nan)
            for k in range(half):
                part = np.take(cells, range(2 * k, min(2 * k + 2, cells.shape[axis])), axis)
                best = np.fmax.reduce(part, axis=axis)
                joined[(k, slice(None)) if axis == 0 else (slice(None), k)] = best
            cells, kept = joined, [names_[2 * k].removesuffix(" ...") + " ..." for k in range(half)]
            rows, columns = (kept, columns) if axis == 0 else (rows, kept)
    return rows, columns, [[None if v != v else 100.0 * v for v in line] for line in cells.tolist()]


def _heat(links: pl.DataFrame, tiers: pl.DataFrame | None) -> Section:
    """Utilisation of every link, one map per tier, the hosts at the bottom as in a drawing of the network."""
    order = tiers["tier"].to_list() if tiers is not None else links["tier"].unique().to_list()
    shown = [tier for tier in order if (links["tier"] == tier).any()][::-1]
    grids = []
    for tier in shown:
        part = links.filter(pl.col("tier") == tier)
        grids.append((tier, *_grid(part["name"].to_list(), part["utilisation"].to_list())))
    heights = [26 + 15 * min(max(len(rows), 2), CELLS[0]) for _, rows, _, _ in grids]
    total = sum(heights) + 34 * len(grids)
    layout = _layout(70 + total)
    data, top = [], 1.0
    for number, ((tier, rows, columns, cells), height) in enumerate(zip(grids, heights, strict=True)):
        suffix = "" if number == 0 else str(number + 1)
        bottom = top - height / total
        layout[f"yaxis{suffix}"] = {
            "domain": [max(0.0, bottom), top], "anchor": f"x{suffix}", "autorange": "reversed",
            "automargin": True, "fixedrange": True, "showgrid": False, "type": "category",
            "title": {"text": escape(tier)}, "nticks": 8,
        }  # fmt: skip
        layout[f"xaxis{suffix}"] = {
            "anchor": f"y{suffix}", "domain": [0, 1], "fixedrange": True, "showgrid": False,
            "type": "category", "showticklabels": len(columns) <= CELLS[1] // 2, "nticks": 16,
        }  # fmt: skip
        top = bottom - 34 / total
        data.append(
            {
                "type": "heatmap",
                "x": [escape(c) for c in columns],
                "y": [escape(r) for r in rows],
                "z": cells,
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "zmin": 0,
                "zmax": 100,
                "xgap": 1,
                "ygap": 1,
                "colorscale": [[0, "#eef1f5"], [0.5, "#e8c468"], [0.8, "#d9762f"], [1, "#a8204e"]],
                "showscale": number == 0,
                "colorbar": {"title": {"text": "%"}, "thickness": 12, "len": min(1.0, 220 / total)},
                "hovertemplate": f"{escape(tier)} %{{y}} %{{x}}: %{{z:.3g}} %<extra></extra>",
            }
        )
    lead = (
        "Share of its capacity that every link carried from the first start to the last end: one map per "
        "tier, core above, hosts below; a row is a switch, a cell one of its links. Where there are more "
        "links than cells, a cell shows its busiest. White carried nothing."
    )
    return Section("heat", "Links", lead, {"data": data, "layout": layout})


def _series(series: pl.DataFrame) -> Section:
    """Bytes waiting at sampled links over time."""
    step = max(1, series.height // 2000)
    thin = series.gather_every(step)
    time = (thin["time"] * 1e6).to_list()
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escape(name),
            "x": time,
            "y": (thin[name] / 1024.0).to_list(),
            "line": {"color": PALETTE[k % len(PALETTE)], "width": 1.5},
            "hovertemplate": f"{escape(name)}: %{{y:.4g}} KiB at %{{x:.4g}} us<extra></extra>",
        }
        for k, name in enumerate(c for c in thin.columns if c != "time")
    ]
    layout = _layout(
        340,
        xaxis=_axis("time, us"),
        yaxis=_axis("bytes waiting, KiB", rangemode="tozero"),
        showlegend=True,
    )
    names = [name for name in thin.columns if name != "time"]
    which = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    lead = f"Bytes that wait to leave by {which}." + (f" Every {step}th sample is drawn." if step > 1 else "")
    return Section("series", "Queues over time", lead, {"data": data, "layout": layout})


def _queues(queues: pl.DataFrame, most: int = 20) -> Section:
    """The longest queues on average (most reach their limit once), with what limits and marks them."""
    top = queues.sort("mean_bytes", "max_bytes", descending=True, maintain_order=True).head(most)
    names = [escape(name) for name in top["name"].to_list()]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label,
            "y": names,
            "x": (top[column] / 1024.0).to_list(),
            "marker": {"color": colour},
            "customdata": [format_bytes(float(v)) for v in top[column].to_list()],
            "hovertemplate": f"%{{y}}: %{{customdata}} {label}<extra></extra>",
        }
        for column, label, colour in (
            ("max_bytes", "at most", "#c9d3e0"),
            ("mean_bytes", "on average over time", "#4477aa"),
        )
    ]
    for column, label, colour in (
        ("ecn_bytes", "marks begin", "#e8a33d"),
        ("limit_bytes", "most that fits", "#c8506b"),
    ):
        if column in top.columns and top[column].count():
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": label,
                    "y": names,
                    "x": (top[column] / 1024.0).to_list(),
                    "marker": {"symbol": "line-ns-open", "size": 14, "color": colour, "line": {"width": 2}},
                    "customdata": [
                        "" if v is None else format_bytes(float(v)) for v in top[column].to_list()
                    ],
                    "hovertemplate": f"%{{y}}: %{{customdata}} {label}<extra></extra>",
                }
            )
    layout = _layout(
        110 + 22 * len(names),
        barmode="overlay",
        xaxis=_axis("bytes waiting, KiB"),
        yaxis={"autorange": "reversed", "automargin": True, "fixedrange": True, "showgrid": False},
        bargap=0.3,
    )
    lead = (
        f"The {len(names)} longest on average over time of {queues.height:,} queues that carried anything, "
        "with what fits into one class of a queue and where its ECN marks begin."
    )
    return Section("queues", "Longest queues", lead, {"data": data, "layout": layout})


def _against(flows: pl.DataFrame, most: int = 4000) -> Section:
    """Completion of every flow: fluid over packet."""
    done = flows.drop_nulls(["fluid", "packet"])
    thin = done.gather_every(max(1, -(-done.height // most)))
    low = float(min(done["fluid"].to_numpy().min(), done["packet"].to_numpy().min()))
    high = float(max(done["fluid"].to_numpy().max(), done["packet"].to_numpy().max()))
    data: list[dict[str, Any]] = []
    for number, bucket in enumerate(_buckets(thin)):
        part = thin.filter(pl.col("bucket") == bucket)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(bucket),
                "x": part["packet"].to_list(),
                "y": part["fluid"].to_list(),
                "marker": {"color": PALETTE[number % len(PALETTE)], "size": 5, "opacity": 0.6},
                "customdata": part["flow"].to_list(),
                "hovertemplate": "flow %{customdata}: fluid %{y:.4g} s, packet %{x:.4g} s<extra></extra>",
            }
        )
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "equal",
            "x": [low, high],
            "y": [low, high],
            "line": {"color": "#94a0b0", "dash": "dot", "width": 1},
            "hoverinfo": "skip",
        }
    )
    layout = _layout(
        460,
        xaxis=_axis("packet engine, seconds", type="log", exponentformat="power"),
        yaxis=_axis("fluid engine, seconds", type="log", exponentformat="power"),
    )
    lead = "Completion time of every flow in both engines; below the line the fluid engine is faster."
    if thin.height < done.height:
        lead += f" {thin.height:,} of {done.height:,} flows are drawn."
    return Section("against", "Fluid against packet", lead, {"data": data, "layout": layout})
