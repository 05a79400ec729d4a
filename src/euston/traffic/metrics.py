"""The metrics of flows that ran: slowdown by size, goodput, fairness, load of links and tiers, queues.

An unfinished flow has no completion time anywhere; it is counted. Percentiles are nearest-rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.fabrics import Fabric
from euston.network.flows import FlowResult
from euston.statistics import jain, percentiles
from euston.traffic.traffic import Collective

__all__ = [
    "PERCENTS",
    "SIZE_BUCKETS",
    "by_size",
    "collective_table",
    "flow_table",
    "goodput",
    "link_table",
    "queue_summary",
    "steady_goodput",
    "tier_table",
]

SIZE_BUCKETS = (10e3, 100e3, 1e6, 10e6)
"""Upper ends of the size buckets in bytes; the last bucket is open."""

BUCKET_NAMES = ("<= 10 kB", "<= 100 kB", "<= 1 MB", "<= 10 MB", "> 10 MB")

PERCENTS = (50.0, 90.0, 99.0, 99.9)


def flow_table(result: FlowResult, ideal: NDArray[np.float64]) -> pl.DataFrame:
    """One line per flow: ends, bytes, start and end in s, completion, ideal completion and slowdown.

    Parameters
    ----------
    ideal : float64[F]
        From `ideal_completion`.

    Returns
    -------
    polars.DataFrame
        ``flow, src, dst, bytes, delivered, bucket, start, end, completion, ideal, slowdown, rate, tag`` and
        what the engine counted per flow; null where a flow did not end (or start). ``delivered`` are the
        bytes that arrived, ``rate`` is theirs.
    """
    flows = result.flows
    done = result.finished
    completion = np.where(done, result.completion, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        slowdown, rate = completion / ideal, result.delivered / completion
    tags = np.array([*flows.tags, ""], dtype=object)[flows.group]
    table = pl.DataFrame(
        {
            "flow": np.arange(len(flows)),
            "src": flows.src,
            "dst": flows.dst,
            "bytes": flows.bytes,
            "delivered": np.rint(result.delivered).astype(np.int64),
            "bucket": _bucket(flows.bytes),
            "start": result.start,
            "end": np.where(done, result.end, np.nan),
            "completion": completion,
            "ideal": ideal,
            "slowdown": slowdown,
            "rate": rate,
            "tag": pl.Series(tags.tolist(), dtype=pl.String),
        }
    ).with_columns(pl.col("start", "end", "completion", "slowdown", "rate").fill_nan(None))
    counted = result.tables.get("flows")
    if counted is not None and "flow" in counted.columns:
        more = [c for c in counted.columns if c == "flow" or c not in table.columns]
        table = table.join(counted.select(more), on="flow", how="left", maintain_order="left")
    return table


def _bucket(size: NDArray[np.int64]) -> pl.Series:
    codes = np.searchsorted(np.array(SIZE_BUCKETS), size, side="left")
    return pl.Series(np.array(BUCKET_NAMES)[codes], dtype=pl.String)


def by_size(flows: pl.DataFrame) -> pl.DataFrame:
    """Slowdown and completion by size bucket, from `flow_table`; the last line is all flows.

    Returns
    -------
    polars.DataFrame
        ``bucket, flows, finished, bytes, slowdown_mean, slowdown_p50, ..., completion_p50, ...``; null where
        no flow of the bucket finished.
    """
    rows: list[dict[str, Any]] = []
    for name in (*BUCKET_NAMES, "all"):
        part = flows if name == "all" else flows.filter(pl.col("bucket") == name)
        if not part.height:
            continue
        row: dict[str, Any] = {
            "bucket": name,
            "flows": part.height,
            "finished": int(part["completion"].count()),
            "bytes": int(part["bytes"].sum()),
            "slowdown_mean": part["slowdown"].mean(),
        }
        for what in ("slowdown", "completion"):
            values = percentiles(part[what].drop_nulls().to_numpy(), PERCENTS)
            row |= {f"{what}_{percent_name(p)}": v for p, v in zip(PERCENTS, values, strict=True)}
        rows.append(row)
    numbers = [c for c in rows[0] if c not in ("bucket", "flows", "finished", "bytes")] if rows else []
    table = pl.DataFrame(rows, infer_schema_length=None)
    return table.with_columns(pl.col(numbers).cast(pl.Float64).fill_nan(None)) if rows else table


def percent_name(percent: float) -> str:
    """``p50``, ``p999``: how a percentile is called in columns."""
    return f"p{percent:g}".replace(".", "")


def collective_table(result: FlowResult, collectives: Sequence[Collective] = ()) -> pl.DataFrame:
    """One line per group of flows: when it ran, its algorithm and bus bandwidth.

    Algorithm bandwidth is M/t, bus bandwidth that times 2(n-1)/n for an all-reduce and (n-1)/n for the others
    (nccl-tests, PERFORMANCE.md); t is from the first start of its flows to their last end.

    Parameters
    ----------
    collectives
        What the groups are; without them a line has only bytes and times.

    Returns
    -------
    polars.DataFrame
        ``group, tag, kind, algorithm, ranks, bytes, flows, finished, flow_bytes, start, end, time, algbw,
        busbw``; times and bandwidths are null while a flow of the group is unfinished.
    """
    flows = result.flows
    groups = np.unique(flows.group[flows.group >= 0])
    rows = []
    order = np.argsort(flows.group, kind="stable")
    first = np.searchsorted(flows.group[order], groups)
    last = np.searchsorted(flows.group[order], groups, side="right")
    for g, a, b in zip(groups.tolist(), first.tolist(), last.tolist(), strict=True):
        members = order[a:b]
        done = result.finished[members]
        about = collectives[g] if g < len(collectives) else None
        whole = bool(done.all())
        start = float(np.min(result.start[members])) if whole else None
        end = float(np.max(result.end[members])) if whole else None
        time = end - start if start is not None and end is not None else None
        algbw = about.bytes / time if about is not None and time else None
        rows.append(
            {
                "group": g,
                "tag": flows.tags[g],
                "kind": about.kind if about else None,
                "algorithm": about.algorithm if about else None,
                "ranks": about.ranks if about else None,
                "bytes": about.bytes if about else None,
                "flows": int(members.size),
                "finished": int(done.sum()),
                "flow_bytes": int(flows.bytes[members].sum()),
                "start": start,
                "end": end,
                "time": time,
                "algbw": algbw,
                "busbw": algbw * about.bus_factor if algbw is not None and about is not None else None,
            }
        )
    text, count, number = pl.String, pl.Int64, pl.Float64
    schema = {
        "group": count, "tag": text, "kind": text, "algorithm": text, "ranks": count, "bytes": count,
        "flows": count, "finished": count, "flow_bytes": count, "start": number, "end": number,
        "time": number, "algbw": number, "busbw": number,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def _window(result: FlowResult) -> float:
    """Seconds from the first start to the last end; to ``meta["until"]`` where a run was cut off there."""
    begin = float(np.nanmin(result.start)) if np.isfinite(result.start).any() else 0.0
    until: Any = result.meta.get("until")
    if isinstance(until, int | float) and np.isfinite(until) and not result.finished.all():
        return max(0.0, float(until) - begin)
    return max(0.0, result.makespan - begin)


def link_table(result: FlowResult, fabric: Fabric, *, idle: bool = False) -> pl.DataFrame:
    """Load of links: wire bytes and the share of capacity used from the first start to the last end.

    ``idle``: also links that carried nothing. Columns ``link, name, tier, capacity, wire_bytes,
    utilisation``.
    """
    window = _window(result)
    links = np.arange(fabric.links) if idle else np.flatnonzero(result.link_bytes > 0)
    load = result.link_bytes[links]
    used = load / (fabric.capacity[links] * window) if window > 0 else np.zeros(links.size)
    tiers = {int(kind): fabric.tier(int(np.argmax(fabric.kind == kind))) for kind in np.unique(fabric.kind)}
    return pl.DataFrame(
        {
            "link": links,
            "name": pl.Series([fabric.link_name(int(k)) for k in links.tolist()], dtype=pl.String),
            "tier": pl.Series([tiers[k] for k in fabric.kind[links].tolist()], dtype=pl.String),
            "capacity": fabric.capacity[links],
            "wire_bytes": load,
            "utilisation": used,
        }
    )


def tier_table(result: FlowResult, fabric: Fabric) -> pl.DataFrame:
    """Links by tier: mean and largest utilisation, imbalance and fairness between them.

    ``imbalance`` is the largest over the mean utilisation: 1 when a tier is evenly used, more where hashed
    paths collide. Columns ``tier, links, idle, wire_bytes, mean, max, imbalance, jain``.
    """
    window = _window(result)
    rows = []
    for tier, links in fabric.tier_links().items():
        load = result.link_bytes[links]
        used = load / (fabric.capacity[links] * window) if window > 0 else np.zeros(links.size)
        mean = float(used.mean())
        rows.append(
            {
                "tier": tier,
                "links": int(links.size),
                "idle": int((load == 0).sum()),
                "wire_bytes": float(load.sum()),
                "mean": mean,
                "max": float(used.max()),
                "imbalance": float(used.max()) / mean if mean > 0 else None,
                "jain": jain(used) if mean > 0 else None,
            }
        )
    numbers = dict.fromkeys(("wire_bytes", "mean", "max", "imbalance", "jain"), pl.Float64)
    return pl.DataFrame(rows, schema={"tier": pl.String, "links": pl.Int64, "idle": pl.Int64, **numbers})


def goodput(result: FlowResult) -> float:
    """Payload that arrived over the time from first start to last end (or cut), bytes/s; NaN for none."""
    arrived, window = float(result.delivered.sum()), _window(result)
    return arrived / window if arrived > 0 and window > 0 else float("nan")


def steady_goodput(result: FlowResult, low: float = 0.1, high: float = 0.9) -> float:
    """Goodput while the middle of the bytes is delivered, bytes/s: without ramp-up and without the tail.

    The window is from when a share ``low`` of all bytes was delivered until ``high`` was, each flow
    delivering evenly between its start and end. NaN when nothing finished.
    """
    done = result.finished
    begin, end = result.start[done], result.end[done]
    size = result.delivered[done]
    moving = end > begin
    if not moving.any():
        return float("nan")
    begin, end, size = begin[moving], end[moving], size[moving]
    rate = size / (end - begin)
    when = np.concatenate((begin, end))
    order = np.argsort(when, kind="stable")
    when = when[order]
    slope = np.cumsum(np.concatenate((rate, -rate))[order])
    delivered = np.concatenate(([0.0], np.cumsum(np.maximum(slope[:-1], 0.0) * np.diff(when))))
    total = delivered[-1]
    first, last = np.interp([low * total, high * total], delivered, when)
    return float((high - low) * total / (last - first)) if last > first else float("nan")


def queue_summary(result: FlowResult) -> dict[str, float]:
    """Longest queue and percentiles over links of the longest and mean queue, bytes; empty without queues."""
    queues = result.tables.get("queues")
    if queues is None or not queues.height or not {"max_bytes", "mean_bytes"} <= set(queues.columns):
        return {}
    most, mean = queues["max_bytes"].to_numpy(), queues["mean_bytes"].to_numpy()
    p50, p99, top = percentiles(most, (50.0, 99.0, 100.0))
    return {
        "queue_max": top,
        "queue_max_p99": p99,
        "queue_max_p50": p50,
        "queue_mean_max": percentiles(mean, (100.0,))[0],
    }
