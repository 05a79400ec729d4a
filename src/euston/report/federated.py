"""Charts of a federation: loss against tokens, serial steps and wall-clock time; hours against bandwidth."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.report.network import PALETTE, Section
from euston.result import Result

__all__ = ["KIND", "sections"]

KIND = "federated"
LINKS = ((12.5e6, "0.1 Gbit/s"), (125e6, "1 Gbit/s"), (1.25e9, "10 Gbit/s"), (12.5e9, "100 Gbit/s"))
LATENCY = 0.04
"""Seconds one way in the wall-clock chart: a continent."""


def sections(result: Result) -> list[Section]:
    """The charts that the rounds of a trained federation, or the topologies of a simulated one, allow."""
    if "topologies" in result.tables:
        return [_against_bandwidth(result.tables["topologies"])]
    rounds = result.tables.get("rounds")
    if rounds is None or "loss" not in rounds.columns or not rounds.height:
        return []
    found = []
    for column, title in (("tokens", "tokens over the whole federation"), ("server_steps", "serial steps")):
        lines = [_line(rounds[column].to_numpy(), rounds["loss"], "training", 0)]
        if "val_loss" in rounds.columns and rounds["val_loss"].count():
            lines.append(_line(rounds[column].to_numpy(), rounds["val_loss"], "held out", 1))
        found.append(
            Section(f"loss_{column}", f"Loss against {title}", "Nats per token.", _figure(lines, title))
        )
    if {"train_seconds", "bytes_up", "bytes_down", "bytes_peers", "participants"} <= set(rounds.columns):
        lead = (
            f"Measured training time of the slowest site, and each round's payload over each site's own link "
            f"at {LATENCY * 1000:g} ms one way, without overlap."
        )
        lines = [_line(_clock(rounds, rate), rounds["loss"], name, i) for i, (rate, name) in enumerate(LINKS)]
        found.append(Section("loss_clock", "Loss against wall-clock time", lead, _figure(lines, "seconds")))
    return found


def _against_bandwidth(table: pl.DataFrame) -> Section:
    lines = []
    for i, (name, rows) in enumerate(table.group_by("method", maintain_order=True)):
        lines.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": str(name[0]),
                "x": (rows["bandwidth"] * 8e-9).to_list(), "y": (rows["wall_time"] / 3600).to_list(),
                "line": {"color": PALETTE[i], "width": 2},
            }
        )  # fmt: skip
    figure = _figure(lines, "Gbit/s of every cable")
    for axis in ("xaxis", "yaxis"):
        figure["layout"][axis] |= {"type": "log"}
    figure["layout"]["yaxis"]["title"] = {"text": "hours"}
    lead = "The whole run by topology, if every cable had this bandwidth; both axes are logarithmic."
    return Section("hours_bandwidth", "Wall-clock time against bandwidth", lead, figure)


def _clock(rounds: pl.DataFrame, rate: float) -> NDArray[np.float64]:
    payload = (rounds["bytes_up"] + rounds["bytes_down"] + rounds["bytes_peers"]) / rounds["participants"]
    each = rounds["train_seconds"].to_numpy() + payload.to_numpy() / rate + 2 * LATENCY
    return np.cumsum(each)


def _line(x: NDArray[Any], y: pl.Series, name: str, colour: int) -> dict[str, Any]:
    there = y.is_not_null().to_numpy()
    values = y.to_numpy()
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": x[there].tolist(),
        "y": [float(v) for v in values[there]], "line": {"color": PALETTE[colour], "width": 2},
    }  # fmt: skip


def _figure(lines: list[dict[str, Any]], title: str) -> dict[str, Any]:
    def axis(text: str) -> dict[str, Any]:
        return {"title": {"text": text}, "automargin": True, "fixedrange": True, "zeroline": False}

    legend = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"}
    layout = {"height": 320, "margin": {"l": 8, "r": 16, "t": 8, "b": 40}, "legend": legend,
              "xaxis": axis(title), "yaxis": axis("nats per token")}  # fmt: skip
    return {"data": lines, "layout": layout}
