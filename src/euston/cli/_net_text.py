"""What `euston net run` and `compare` print for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from euston.cli._out import clean, console, put, table

if TYPE_CHECKING:
    import polars as pl

    from euston.result import Result

_HEAD = (
    "flows", "unfinished", "incomplete", "missing_bytes", "missing_share", "makespan", "completion_p50",
    "completion_p99", "completion_max", "slowdown_p50", "slowdown_p99", "delivered_bytes", "goodput",
    "efficiency", "link_utilisation_max", "link_imbalance_max", "collective_time_p50", "busbw_p50", "events",
)  # fmt: skip
_PACKETS = ("data_packets", "retransmitted", "marks", "trims", "drops", "timeouts", "pauses", "queue_max")


def summary(result: Result) -> None:
    """Headline numbers, completion by size, load of tiers, collectives."""
    _title(result)
    names = [name for name in _HEAD if name in result.scalars]
    if result.meta.get("fidelity") == "packet":
        names += [name for name in _PACKETS if name in result.scalars]
    table(["", ""], [[_name(name), _scalar(result, name)] for name in names], right=(1,))
    _completions("size", result.tables["by_size"].rename({"bucket": "size"}))
    if "by_job" in result.tables:
        _completions("job", result.tables["by_job"])
    _tiers(result)
    _collectives(result)
    _warn(result.meta)


def _warn(meta: Mapping[str, Any]) -> None:
    for sentence in meta.get("warnings") or ():
        put(f"warning: {sentence}")


def _completions(what: str, rows: pl.DataFrame) -> None:
    console().print()
    table(
        [what, "flows", "finished", "median", "99th", "slowdown median", "99th"],
        [
            [
                str(row[what]), f"{row['flows']:,}", f"{row['finished']:,}",
                _seconds(row["completion_p50"]), _seconds(row["completion_p99"]),
                _plain(row["slowdown_p50"]), _plain(row["slowdown_p99"]),
            ]
            for row in rows.to_dicts()
        ],
        right=range(1, 7),
    )  # fmt: skip


def _tiers(result: Result) -> None:
    console().print()
    table(
        ["tier", "links", "idle", "mean load", "busiest", "imbalance"],
        [
            [
                str(row["tier"]), f"{row['links']:,}", f"{row['idle']:,}", _percent(row["mean"]),
                _percent(row["max"]), _plain(row["imbalance"]),
            ]
            for row in result.tables["tiers"].to_dicts()
        ],
        right=range(1, 6),
    )  # fmt: skip


def _collectives(result: Result, most: int = 10) -> None:
    if "collectives" not in result.tables or result.tables["collectives"]["kind"].null_count():
        return
    rows = result.tables["collectives"].to_dicts()
    console().print()
    table(
        ["collective", "algorithm", "ranks", "time", "algorithm bandwidth", "bus bandwidth"],
        [
            [
                str(row["tag"]), str(row["algorithm"]), f"{row['ranks']:,}", _seconds(row["time"]),
                _rate(row["algbw"]), _rate(row["busbw"]),
            ]
            for row in rows[:most]
        ],
        right=range(2, 6),
    )  # fmt: skip
    if len(rows) > most:
        put(f"and {len(rows) - most:,} more")


def comparison(result: Result) -> None:
    """Makespans, errors by size, worst flows, tiers."""
    _title(result)
    s = result.scalars
    table(
        ["", "fluid", "packet", "fluid against packet"],
        [
            [
                "makespan",
                _seconds(s["makespan_fluid"]),
                _seconds(s["makespan_packet"]),
                _signed(s["makespan_error"]),
            ],
            ["unfinished", f"{s['unfinished_fluid']:,.0f}", f"{s['unfinished_packet']:,.0f}", ""],
            ["computing time", _seconds(s["fluid_wall"]), _seconds(s["packet_wall"]), ""],
        ],
        right=(1, 2, 3),
    )
    put(
        f"goodput of a flow: error {_percent(s['goodput_error_mean'])} on average, "
        f"{_percent(s['goodput_error_p90'])} at the 90th percentile, {_percent(s['goodput_error_worst'])} at "
        f"worst; bias {_signed(s['goodput_bias'])} (plus: fluid is faster)"
    )
    put(
        "a flow ends here when its last byte has arrived; in `net run` of packets, and in the makespan "
        "above, when its sender knows"
    )
    for engine in ("fluid", "packet"):
        _warn(result.meta[engine])
    console().print()
    heads = ["size", "flows", "fluid median", "packet", "", "fluid 99th", "packet", "", "mean error", "worst"]
    table(
        heads,
        [
            [
                str(row["bucket"]), f"{row['flows']:,}",
                _seconds(row["fluid_p50"]), _seconds(row["packet_p50"]), _signed(row["error_p50"]),
                _seconds(row["fluid_p99"]), _seconds(row["packet_p99"]), _signed(row["error_p99"]),
                _percent(row["goodput_error_mean"]), _percent(row["goodput_error_worst"]),
            ]
            for row in result.tables["by_size"].to_dicts()
        ],
        right=range(1, 10),
    )  # fmt: skip
    console().print()
    table(
        ["worst flows", "", "", "bytes", "fluid", "packet", "goodput error"],
        [
            [
                str(row["flow"]), str(row["src"]), str(row["dst"]), f"{row['bytes']:,}",
                _seconds(row["fluid"]), _seconds(row["packet"]), _signed(row["goodput_error"]),
            ]
            for row in result.tables["worst_flows"].to_dicts()
        ],
        right=range(3, 7),
    )  # fmt: skip
    console().print()
    table(
        ["tier", "links", "fluid bytes", "packet bytes", "", "fluid busiest", "packet busiest"],
        [
            [
                str(row["tier"]), f"{row['links']:,}", _bytes(row["fluid_wire_bytes"]),
                _bytes(row["packet_wire_bytes"]), _signed(row["error"]), _percent(row["fluid_busiest"]),
                _percent(row["packet_busiest"]),
            ]
            for row in result.tables["tiers"].to_dicts()
        ],
        right=range(1, 7),
    )  # fmt: skip


def _title(result: Result) -> None:
    title = result.meta.get("title") or result.meta.get("name")
    engine = result.meta.get("fidelity")
    parts = [str(part) for part in (title, engine, result.meta.get("fabric")) if part]
    console().print(clean(" · ".join(parts)), style="bold")


def _name(name: str) -> str:
    from euston.report import scalar_name

    return scalar_name(name)


def _scalar(result: Result, name: str) -> str:
    value = result.scalars[name]
    if result.units.get(name, "") == "":
        return f"{value:,.0f}"
    from euston.report import scalar_text

    return scalar_text(name, value, result.units)


def _missing(value: Any) -> bool:
    return not isinstance(value, int | float) or value != value


def _seconds(value: Any) -> str:
    from euston.units import format_seconds

    return "" if _missing(value) else format_seconds(value, 4)


def _bytes(value: Any) -> str:
    from euston.units import format_bytes

    return "" if _missing(value) else format_bytes(value, 4)


def _rate(value: Any) -> str:
    from euston.units import format_bandwidth

    return "" if _missing(value) else format_bandwidth(value, 4)


def _percent(value: Any) -> str:
    return "" if _missing(value) else f"{value * 100:.1f} %"


def _signed(value: Any) -> str:
    return "" if _missing(value) else f"{value * 100:+.1f} %"


def _plain(value: Any) -> str:
    return "" if _missing(value) else f"{value:.3g}"
