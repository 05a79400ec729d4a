"""The page of a network result: curves that are the data, links on their tiers, long tables cut."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import polars as pl
import pytest

from euston.report import network
from euston.report.html import render
from euston.result import Result
from euston.traffic.metrics import BUCKET_NAMES

FLOWS = 1000
BUCKETS = pl.Enum(BUCKET_NAMES)


def traffic(evil: str = "<script>alert(1)</script>") -> Result:
    size = np.where(np.arange(FLOWS) % 2 == 0, 5_000, 500_000)
    completion = size * 1e-9 * (1 + np.arange(FLOWS) / FLOWS)
    flows = pl.DataFrame(
        {
            "flow": np.arange(FLOWS),
            "bytes": size,
            "bucket": pl.Series(np.where(size < 1e4, "<= 10 kB", "<= 1 MB").tolist(), dtype=BUCKETS),
            "completion": completion,
            "slowdown": 1 + np.arange(FLOWS) / FLOWS,
        }
    )
    names = [f"tor_up/p0/t{t}/a{a}" for t in range(3) for a in range(2)]
    names += [f"nic_up/h{h}/n0" for h in range(200)]
    links = pl.DataFrame(
        {
            "link": np.arange(len(names)),
            "name": names,
            "tier": ["ToR up"] * 6 + ["NIC up"] * 200,
            "utilisation": np.linspace(0.01, 1, len(names)),
        }
    )
    queues = pl.DataFrame({"name": names, "max_bytes": np.arange(206), "mean_bytes": np.arange(206) / 2})
    series = pl.DataFrame({"time": np.arange(5000) * 1e-6, evil: np.arange(5000)})
    tables = {"flows": flows, "links": links, "queues": queues, "series": series}
    tables["tiers"] = pl.DataFrame({"tier": ["NIC up", "ToR up"], "mean": [0.1, 0.2], "max": [0.3, 0.4]})
    return Result("traffic", {"makespan": 1e-3}, {"makespan": "s"}, tables, None, {"name": evil})


def charts(result: Result) -> dict[str, Any]:
    return {section.name: section.figure for section in network.sections(result)}


def test_curves_hold_the_distribution_by_size() -> None:
    result = traffic()
    curves = charts(result)["completion"]["data"]
    assert [curve["name"] for curve in curves] == ["&lt;= 10 kB (500 flows)", "&lt;= 1 MB (500 flows)"]
    for curve, low in zip(curves, (5_000, 500_000), strict=True):
        values = np.sort(result.tables["flows"].filter(pl.col("bytes") == low)["completion"].to_numpy())
        x, y = np.array(curve["x"]) / 1e6, np.array(curve["y"])  # the axis counts us
        assert len(x) <= 400
        assert (x[0], x[-1]) == pytest.approx((values[0], values[-1]), rel=1e-15)
        assert y[-1] == 100.0
        # a point (x, y) says that y per cent took x or less
        assert np.allclose(y, 100 * np.searchsorted(values, x * (1 + 1e-12), side="right") / values.size)


def test_every_link_is_a_cell_of_its_tier_and_crowded_tiers_show_their_busiest() -> None:
    result = traffic()
    maps = charts(result)["heat"]["data"]
    assert len(maps) == 2
    top, bottom = maps  # the core above, hosts below
    assert top["y"] == ["p0/t0", "p0/t1", "p0/t2"]
    assert top["x"] == ["a0", "a1"]
    load = result.tables["links"]["utilisation"].to_numpy()
    assert np.allclose(np.array(top["z"]).ravel(), 100 * load[:6])
    cells = [v for row in bottom["z"] for v in row if v is not None]
    assert np.allclose(sorted(cells), 100 * load[6:])


def test_thousands_of_links_fit_the_page() -> None:
    names = [f"tor_up/p{p}/t{t}/a{a}" for p in range(20) for t in range(16) for a in range(100)]
    load = np.random.default_rng(0).random(len(names))
    rows, columns, cells = network._grid(names, load.tolist())
    assert len(rows) <= network.CELLS[0]
    assert len(columns) <= network.CELLS[1]
    assert max(v for row in cells for v in row if v is not None) == pytest.approx(100 * load.max())


def test_the_page_escapes_names_and_says_what_it_cut() -> None:
    page = render(traffic()).decode()
    assert "<script>alert" not in page
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert set(figures) == {"completion", "slowdown", "heat", "series", "queues"}
    assert "30 of 1000 rows" in page
    assert "20 of 206 rows" in page
    assert figures["series"]["data"][0]["name"].startswith("&lt;script")


def test_a_comparison_has_its_scatter_on_both_sides_of_equal() -> None:
    flows = pl.DataFrame(
        {
            "flow": [0, 1, 2],
            "bytes": [10, 10, 10],
            "bucket": pl.Series(["<= 10 kB"] * 3, dtype=BUCKETS),
            "fluid": [1.0, 2.0, None],
            "packet": [2.0, 1.0, 3.0],
        }
    )
    found = charts(Result("comparison", {}, {}, {"flows": flows}))
    points, line = found["against"]["data"]
    assert (points["x"], points["y"]) == ([2.0, 1.0], [1.0, 2.0])
    assert line["x"] == line["y"] == [1.0, 2.0]


def test_unfinished_flows_leave_no_curve() -> None:
    flows = pl.DataFrame(
        {"flow": [0], "bytes": [1], "bucket": ["<= 10 kB"], "completion": [None], "slowdown": [None]},
        schema_overrides={"completion": pl.Float64, "slowdown": pl.Float64},
    )
    assert charts(Result("traffic", {}, {}, {"flows": flows})) == {}
