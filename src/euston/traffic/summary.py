"""Flows that ran, on a fabric, to a `Result`: headline numbers with units, tables, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from euston.errors import ConfigError
from euston.fabrics import Fabric, Network
from euston.network.flows import FlowResult
from euston.result import Result
from euston.statistics import jain, percentiles
from euston.traffic import metrics
from euston.traffic.bounds import bounds
from euston.traffic.ideal import ideal_completion, wire_bytes
from euston.traffic.traffic import Traffic

__all__ = ["flow_result_to_result"]


def flow_result_to_result(
    result: FlowResult,
    fabric: Fabric,
    *,
    traffic: Traffic | None = None,
    mtu: int | None = None,
    header: int | None = None,
    acknowledged: bool | None = None,
    sprayed: bool | None = None,
    network: Network = "auto",
    meta: dict[str, Any] | None = None,
) -> Result:
    """The metrics of one run as a `Result` of kind ``"traffic"``.

    Parameters
    ----------
    traffic : Traffic, optional
        What is known about the flows: collectives for their bandwidths, the load for the record.
    mtu, header, sprayed, network
        The path model of the ideal completion times, see `ideal_completion`; what the run's ``meta`` says
        about packets when left out. Any policy but ECMP counts as sprayed.
    acknowledged : bool, optional
        Whether an end is when the sender knows; by default so for packets and not for the fluid engine.
    meta : dict, optional
        Added to the result's.

    Raises
    ------
    ConfigError
        When ``traffic`` has other flows than ``result``.
    """
    flows = result.flows
    if traffic is not None and len(traffic) != len(flows):
        raise ConfigError(f"`traffic`: has {len(traffic)} flows, the result {len(flows)}")
    packet = result.meta.get("fidelity") == "packet"
    mtu, header = _framing(result.meta, mtu, header)
    if sprayed is None:
        sprayed = not str(result.meta.get("balancing", "")).startswith("ecmp")
    known = packet if acknowledged is None else acknowledged
    # a flow that ended without all of its bytes is measured by those that came
    done, arrived = result.finished, result.delivered
    asked = flows
    short = done & (arrived < flows.bytes)
    if short.any():
        came = np.where(short, np.maximum(np.rint(arrived), 1.0), flows.bytes).astype(np.int64)
        flows = replace(flows, bytes=came)
    ideal = ideal_completion(
        flows,
        fabric,
        mtu,
        header,
        model="packet" if packet else "fluid",
        acknowledged=known,
        sprayed=sprayed,
        network=network,
    )
    wire = wire_bytes(flows.bytes, mtu, header)
    limit = bounds(flows, fabric, ideal, wire=wire, network=network)
    table = metrics.flow_table(result, np.where(done & (arrived == 0), np.nan, ideal))
    tables = {
        "flows": table,
        "by_size": metrics.by_size(table),
        "links": metrics.link_table(result, fabric),
        "tiers": metrics.tier_table(result, fabric),
    }
    collectives = traffic.collectives if traffic is not None else ()
    grouped = metrics.collective_table(result, collectives)
    if grouped.height:
        tables["collectives"] = grouped
    tables |= {name: frame for name, frame in result.tables.items() if name not in tables}

    scalars: dict[str, float] = {
        "flows": float(len(flows)),
        "unfinished": float(len(flows) - int(done.sum())),
        "makespan": result.makespan if done.any() or not len(flows) else float("nan"),
    }
    units = {"flows": "", "unfinished": "", "makespan": "s"}

    def add(unit: str, **values: float) -> None:
        for name, value in values.items():
            scalars[name], units[name] = float(value), unit

    for what, unit in (("completion", "s"), ("slowdown", "1")):
        values = table[what].drop_nulls().to_numpy()
        found = percentiles(values, (*metrics.PERCENTS, 100.0))
        names = [*(metrics.percent_name(p) for p in metrics.PERCENTS), "max"]
        add(unit, **{f"{what}_{name}": value for name, value in zip(names, found, strict=True)})
        add(unit, **{f"{what}_mean": float(values.mean()) if values.size else float("nan")})
    add("B", delivered_bytes=float(arrived.sum()))
    if short.any():
        lost = float((asked.bytes - arrived)[short].sum())
        add("", incomplete=float(short.sum()))
        add("B", missing_bytes=lost)
        add("1", missing_share=lost / float(asked.bytes[done].sum()))
    add("B/s", goodput=metrics.goodput(result), steady_goodput=metrics.steady_goodput(result))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = arrived[done] / result.completion[done] / flows.weight[done]
    add("1", jain=jain(share[np.isfinite(share)]))
    add("s", host_bound=limit.host, cut_bound=limit.cut, chain_bound=limit.chain)
    whole = bool(done.all()) and result.makespan > 0
    for name, value in (("", limit.makespan), ("_host", limit.host), ("_cut", limit.cut)):
        add("1", **{f"efficiency{name}": value / result.makespan if whole else float("nan")})
    tiers = tables["tiers"]
    if tiers.height:
        add("1", link_utilisation_max=float(np.max(tiers["max"].to_numpy())))
        imbalance = tiers["imbalance"].drop_nulls().to_numpy()
        add("1", link_imbalance_max=float(imbalance.max()) if imbalance.size else float("nan"))
    if collectives:
        _collective_scalars(tables, add)
    add("B", **metrics.queue_summary(result))
    for name, value in result.stats.items():
        if name not in scalars:
            add("", **{name: value})
    about = {
        **result.meta,
        **({"traffic": traffic.about} if traffic is not None else {}),
        "percentiles": "nearest rank",
        "cut": limit.cut_name,
        "ideal": {
            "mtu": mtu,
            "header": header,
            "acknowledged": known,
            "model": "packet" if packet else "fluid",
            "sprayed": sprayed,
        },
        **(meta or {}),
    }
    return Result("traffic", scalars, units, tables, None, about)


def _framing(meta: dict[str, Any], mtu: int | None, header: int | None) -> tuple[int, int]:
    """Wire bytes of a full packet and its header: as given, as the run says, else payload only."""
    settings: Any = meta.get("settings")
    known: dict[str, Any] = settings if isinstance(settings, dict) else {}
    head = int(meta.get("header", known.get("header", 0))) if header is None else header
    if mtu is not None:
        return mtu, head
    # the fluid engine's settings count the payload of a packet
    full = meta["mtu"] if "mtu" in meta else int(known.get("mtu", 4096)) + head
    return int(full), head


def _collective_scalars(tables: dict[str, Any], add: Any) -> None:
    done = tables["collectives"].drop_nulls("time")
    if not done.height:
        return
    time: Sequence[float] = done["time"].to_list()
    p50, top = percentiles(time, (50.0, 100.0))
    add("s", collective_time_p50=p50, collective_time_max=top)
    add("B/s", algbw_p50=percentiles(done["algbw"].to_numpy(), (50.0,))[0])
    add("B/s", busbw_p50=percentiles(done["busbw"].to_numpy(), (50.0,))[0])
