"""`reproduce network`: runs of a public packet simulator beside our packet engine, one row per line of data.

Published is the maximum completion time over all flows, the median of ten seeds of htsim_uec; ours is the
median of as many seeds of the packet engine with the same transport (NSCC, trimming, its defaults). Nothing
is fitted to these rows: the engine follows the code and the specification. The fluid engine's answer stands
beside it in ``extra``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from euston.errors import SimulationError
from euston.network.transport.nscc import Nscc
from euston.traffic.packet_paths import on_packet_paths
from euston.traffic.run import framing, run_flows

from ._facts import DATA
from ._study import Study
from ._uec import LAYOUT, Case, case
from .score import Row, report, summarise
from .table import Line, read, read_all

__all__ = ["STUDY", "run"]

QUANTITY = "maximum completion time, us"
SEEDS = 10


def run(
    data: Path | None = None, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run every line of the packaged reference, or of ``data`` in its place.

    Parameters
    ----------
    data : Path, optional
        A CSV with the columns of the packaged one, or a directory of such; flow lists lie beside it, or in
        ``network_sim_htsim_flows/`` or ``network_uec_flows/`` there.
    seed : int
        Of the first run of a line; the others follow.
    progress : callable
        Told which line is at work.

    Raises
    ------
    ConfigError
        An unknown header, a malformed value, a flow list that is missing or cannot be read.
    """
    lines, folder = _lines(data)
    cases = [case(line, folder) for line in lines]  # all input is checked before anything runs
    published = [line.number_in("fct_max_us") for line in lines]
    rows: list[Row] = []
    for line, made, figure in zip(lines, cases, published, strict=True):

        def tell(text: str, number: int = len(rows) + 1) -> None:
            progress(f"line {number} of {len(lines)}: {text}")

        rows.append(_row(line, made, figure, seed, tell))
    found = report(rows)
    found["summary"]["by"]["congestion"] = {
        name: summarise([row for row in rows if row.extra.get("congested") is flag])
        for name, flag in (("uncongested", False), ("congested", True))
    }
    found["summary"]["within_bounds"] = _within(rows)
    found["summary"]["order"] = _order(lines, rows)
    return found


STUDY = Study(
    "network",
    "maximum completion times of htsim_uec, the Ultra Ethernet packet simulator (NSCC), on the packet engine",
    run,
)


def _lines(data: Path | None) -> tuple[list[Line], Path]:
    if data is None:
        return read(DATA / LAYOUT.name, (LAYOUT,)), DATA
    if not data.is_dir():
        return read(data, (LAYOUT,)), data.parent
    files = [path for path in sorted(data.glob("*.csv")) if not _is_flow_list(path)]
    if not files:
        return read_all(data, (LAYOUT,)), data
    return [line for path in files for line in read(path, (LAYOUT,))], data


def _is_flow_list(path: Path) -> bool:
    """Whether the header is one of flows: a directory may hold both."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header = next((text for text in file if text.strip() and not text.startswith("#")), "")
    return {"src", "dst"} <= {cell.strip() for cell in header.split(",")}


def _row(line: Line, made: Case | str, figure: float | None, seed: int, tell: Callable[[str], None]) -> Row:
    extra: dict[str, Any] = {"case": line.text("case")}
    low, high = line.number_in("fct_max_us_lowest"), line.number_in("fct_max_us_highest")
    if low is not None and high is not None:
        extra["published_range"] = [low, high]
    again = line.text("retransmitted")
    if again:
        extra["congested"] = _positive(line, again)
    ours, reason = None, ""
    if isinstance(made, str):
        reason = made
    else:
        count = line.whole("seeds") or SEEDS
        try:
            found = _times(made, range(seed, seed + count), lambda k: tell(f"{line.text('case')}, seed {k}"))
            ours, reason = median(found), made.note
            fluid = _fluid(made, range(seed, seed + count))
            extra |= {"ours_range": [min(found), max(found)], "seeds": count, "fluid_us": fluid}
            if low is not None and high is not None:
                extra["inside_range"] = low <= float(f"{ours:.6g}") <= high  # printed with six digits
        except SimulationError as error:
            reason = str(error)
    return Row(
        id=f"{Path(line.file).stem}:{line.number}",
        quantity=QUANTITY,
        published=figure,
        ours=ours,
        source=line.text("source") or line.file,
        reason=reason,
        extra=extra,
    )


def _positive(line: Line, text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        raise line.error("retransmitted", f"{text!r} is not a number") from None


def _times(made: Case, seeds: Sequence[int], tell: Callable[[int], None]) -> list[float]:
    """Microseconds until the last sender knows that its flow arrived, one value per seed."""
    found = []
    for k in seeds:
        tell(k)
        result = run_flows(
            made.flows, made.fabric, network="packet", balancing=made.balancing, transport=Nscc(),
            faults=made.faults, seed=k,
        )  # fmt: skip
        found.append(result.makespan * 1e6)
    return found


def _fluid(made: Case, seeds: Sequence[int]) -> float:
    """Microseconds by the fluid engine; hashed flows are on the packet engine's paths."""
    single = made.balancing.packet.entropies == 1
    found = []
    for k in seeds if single else seeds[:1]:
        result = run_flows(
            made.flows,
            made.fabric,
            network="fluid",
            balancing=on_packet_paths(made.balancing, made.flows, k),
            settings=framing(Nscc()),
            faults=made.faults,
            seed=k,
        )
        found.append(result.makespan * 1e6)
    return median(found)


def _within(rows: Sequence[Row]) -> dict[str, int]:
    """Rows within 5 % (10 % when congested) of the median, or inside the published range."""
    scored = [row for row in rows if row.error is not None]
    good = 0
    for row in scored:
        allowed = 0.10 if row.extra.get("congested") else 0.05
        good += bool(row.extra.get("inside_range")) or abs(row.error or 0.0) <= allowed
    return {"rows": len(scored), "within": good}


def _order(lines: Sequence[Line], rows: Sequence[Row]) -> dict[str, Any]:
    """Whether schemes of the same flows on the same links come in the published order."""
    same = ("flows_file", "topology", "pod_hosts", "tor_down", "tor_up", "agg_down", "agg_up", "core_down",
            "hop_latency_ns", "link_gbps", "failed_links")  # fmt: skip
    groups: dict[tuple[str, ...], list[Row]] = {}
    for line, row in zip(lines, rows, strict=True):
        if row.published is not None and row.ours is not None:
            groups.setdefault(tuple(line.text(column) for column in same), []).append(row)
    pairs, wrong = 0, []
    for group in groups.values():
        ordered = sorted(group, key=lambda row: row.published or 0.0)
        for i, a in enumerate(ordered):
            for b in ordered[i + 1 :]:
                pairs += 1
                if np.sign((b.published or 0) - (a.published or 0)) * ((b.ours or 0) - (a.ours or 0)) < 0:
                    wrong.append([a.id, b.id])
    return {"pairs": pairs, "right": pairs - len(wrong), "wrong": wrong}
