"""The same flows by two engines, beside each other: where the fluid and the packet engine differ."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.fabrics import Fabric, Network
from euston.network.flows import FlowResult
from euston.result import Result
from euston.statistics import nearest_rank
from euston.traffic.metrics import BUCKET_NAMES, flow_table, tier_table

__all__ = ["answer_time", "compare_networks"]

WORST = 10
"""Flows that are named."""


def answer_time(
    result: FlowResult, fabric: Fabric, header: int, network: Network = "auto"
) -> NDArray[np.float64]:
    """Seconds that an answer of ``header`` bytes to each flow takes on an idle network, float64[F]."""
    f = result.flows
    back = fabric.route(f.dst, f.src, np.zeros(len(f), np.uint64), network=network)
    send = np.where(back >= 0, header / fabric.capacity[back], 0.0).sum(axis=1)
    return np.asarray(fabric.path_latency(back) + send, np.float64)


def compare_networks(fluid: FlowResult, packet: FlowResult, fabric: Fabric, *, header: int = 64) -> Result:
    """Differences of a fluid and a packet run of the same flows, as a `Result` of kind ``"comparison"``.

    A flow's completion is until its last byte has arrived in both: the packet engine's ends are when the
    sender knows, so the way back of the last answer on an idle network is taken off. Errors are
    ``fluid / packet - 1``; of a flow's goodput, bytes that arrived over completion, plus means that fluid is
    faster.

    Parameters
    ----------
    header : int
        Wire bytes of an answer.

    Returns
    -------
    Result
        Scalars ``makespan_fluid``, ``makespan_packet``, ``makespan_error``, ``goodput_error_mean`` and
        ``goodput_error_worst`` (of the absolute error), ``goodput_error_p90``, ``goodput_bias``,
        ``unfinished_fluid`` ...; tables ``by_size``, ``worst_flows``, ``tiers``, ``flows``. Flows that one of
        the runs did not finish count nowhere but in ``unfinished_...``.

    Raises
    ------
    ConfigError
        When the two ran different flows.
    """
    f = fluid.flows
    same = len(f) == len(packet.flows) and all(
        np.array_equal(getattr(f, name), getattr(packet.flows, name)) for name in ("src", "dst", "bytes")
    )
    if not same:
        raise ConfigError("`compare`: the two runs have different flows")
    both = fluid.finished & packet.finished
    a = np.where(both, fluid.completion, np.nan)
    b = np.where(both, packet.completion - answer_time(packet, fabric, header), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # bounded loss delivers a part only
        part = fluid.delivered / packet.delivered
    table = (
        flow_table(fluid, np.ones(len(f)))
        .select("flow", "src", "dst", "bytes", "bucket", "tag")
        .with_columns(
            fluid=pl.Series(a),
            packet=pl.Series(b),
            completion_error=pl.Series(a / b - 1.0),
            goodput_error=pl.Series(part * b / a - 1.0),
        )
        .with_columns(pl.col(pl.Float64).fill_nan(None))
    )
    error = (part * b / a - 1.0)[both]
    scalars = {
        "flows": float(len(f)),
        "unfinished_fluid": float((~fluid.finished).sum()),
        "unfinished_packet": float((~packet.finished).sum()),
        "makespan_fluid": fluid.makespan,
        "makespan_packet": packet.makespan,
        "makespan_error": fluid.makespan / packet.makespan - 1.0 if packet.makespan else float("nan"),
        "goodput_error_mean": float(np.abs(error).mean()) if error.size else float("nan"),
        "goodput_error_p90": nearest_rank(np.abs(error).tolist(), 90),
        "goodput_error_worst": float(np.abs(error).max(initial=0.0)) if error.size else float("nan"),
        "goodput_bias": float(error.mean()) if error.size else float("nan"),
        "fluid_wall": float(fluid.meta.get("wall_s", float("nan"))),
        "packet_wall": float(packet.meta.get("wall_s", float("nan"))),
    }
    units = dict.fromkeys(scalars, "1") | {
        name: "s" for name in scalars if name.startswith("makespan_") or name.endswith("_wall")
    }
    units |= {"makespan_error": "1", "flows": "", "unfinished_fluid": "", "unfinished_packet": ""}
    worst = (
        table.drop_nulls("goodput_error")
        .sort(pl.col("goodput_error").abs(), descending=True, maintain_order=True)
        .head(WORST)
    )
    name = {e: fabric.endpoint_name(e) for e in {*worst["src"].to_list(), *worst["dst"].to_list()}}
    worst = worst.with_columns(
        pl.col("src", "dst").map_elements(lambda e: name[e], return_dtype=pl.String)
    ).drop("bucket", "tag")
    tables = {
        "by_size": _by_size(table),
        "worst_flows": worst,
        "tiers": _tiers(fluid, packet, fabric),
        "flows": table,
    }
    meta = {
        "ends": "the last byte has arrived; for packets the end less an answer's way back on an idle network",
        "errors": "fluid / packet - 1",
        "fluid": fluid.meta,
        "packet": packet.meta,
        "packet_counters": packet.stats,
    }
    return Result("comparison", scalars, units, tables, None, meta)


def _by_size(table: pl.DataFrame) -> pl.DataFrame:
    """Completion by size bucket from both runs; the last line is all flows."""
    rows = []
    there = set(table["bucket"].unique().to_list())
    for bucket in [*(name for name in BUCKET_NAMES if name in there), "all"]:
        part = table if bucket == "all" else table.filter(pl.col("bucket") == bucket)
        done = part.drop_nulls("fluid")
        row: dict[str, object] = {"bucket": bucket, "flows": part.height, "compared": done.height}
        for percent in (50, 99):
            a, b = (nearest_rank(done[who].to_list(), percent) for who in ("fluid", "packet"))
            row |= {f"fluid_p{percent}": a, f"packet_p{percent}": b, f"error_p{percent}": a / b - 1.0}
        error = done["goodput_error"].to_numpy()
        row["goodput_error_mean"] = float(np.abs(error).mean()) if error.size else None
        row["goodput_error_worst"] = float(np.abs(error).max()) if error.size else None
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col(pl.Float64).fill_nan(None))


def _tiers(fluid: FlowResult, packet: FlowResult, fabric: Fabric) -> pl.DataFrame:
    """Wire bytes and the busiest link of every tier in both runs."""
    a, b = (
        tier_table(result, fabric).select("tier", "links", "wire_bytes", "max", "imbalance")
        for result in (fluid, packet)
    )
    joined = a.join(b, on=["tier", "links"], how="left", suffix="_packet", maintain_order="left")
    return joined.select(
        "tier",
        "links",
        pl.col("wire_bytes").alias("fluid_wire_bytes"),
        pl.col("wire_bytes_packet").alias("packet_wire_bytes"),
        pl.when(pl.col("wire_bytes_packet") > 0)
        .then(pl.col("wire_bytes") / pl.col("wire_bytes_packet") - 1.0)
        .alias("error"),
        pl.col("max").alias("fluid_busiest"),
        pl.col("max_packet").alias("packet_busiest"),
    )
