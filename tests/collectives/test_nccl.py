"""NCCL's choice against published bus bandwidths (printed, not fitted) and against the executed plan."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from euston.catalog import accelerator
from euston.clock import ProgramBuilder
from euston.collectives import Hop, collective, group_of, write_collective
from euston.collectives.nccl import LINK_SHARE, choose, link_rate, options
from euston.collectives.network_rates import SCALE_OUT_EFFICIENCY

from .run import hosts_on_leaves, run

PUBLISHED = Path(__file__).with_name("nccl_busbw.csv")
DEVICES = {
    "A100-SXM-80GB": ("a100-sxm-80gb", "ampere"),
    "H200-SXM": ("h200-sxm", "hopper"),
    "B200-SXM": ("b200-sxm", "blackwell"),
}


def group(device: str, ranks: int, hosts: int):  # type: ignore[no-untyped-def]
    name, generation = DEVICES[device]
    return group_of(
        np.arange(ranks), np.arange(ranks) // (ranks // hosts),
        inside=Hop(0.0, link_rate(accelerator(name).scale_up_bandwidth, generation)),
        between=Hop(0.0, 50e9 * SCALE_OUT_EFFICIENCY),
    )  # fmt: skip


def rows() -> list[dict[str, str]]:
    with PUBLISHED.open(encoding="utf-8") as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def ours(row: dict[str, str]) -> float:
    """Bus bandwidth, GB/s."""
    device, n, hosts = row["accelerator"], int(row["ranks"]), int(row["hosts"])
    where = group(device, n, hosts)
    size = float(row["bytes"])
    found = options(row["collective"], where, size, DEVICES[device][1])
    wanted = row["algorithm"]
    choice = next(c for c in found if not wanted or c.algorithm == wanted)
    passes = 2 if row["collective"] == "all_reduce" else 1
    return passes * (n - 1) / n * size / choice.seconds / 1e9


def test_published_bus_bandwidth() -> None:
    """Every row printed (pytest -s); from 256 MiB on inside a host the median is within 10 %."""
    errors = []
    for row in rows():
        theirs, mine = float(row["busbw"]), ours(row)
        print(
            *(row[k] for k in ("accelerator", "ranks", "hosts", "algorithm", "bytes")), theirs, f"{mine:.1f}"
        )
        if int(row["bytes"]) >= 2**28 and row["hosts"] == "1":
            errors.append(mine / theirs - 1)
    assert len(errors) >= 40
    assert np.median(np.abs(errors)) < 0.10
    assert np.max(np.abs(errors)) < 0.3


@pytest.mark.parametrize(
    ("device", "ranks", "algorithm"),
    [
        ("H200-SXM", 4, "ring"), ("H200-SXM", 5, "in-network"), ("H200-SXM", 8, "in-network"),
        ("B200-SXM", 5, "ring"), ("B200-SXM", 6, "in-network"), ("B200-SXM", 8, "in-network"),
    ],
)  # fmt: skip
def test_what_nccl_picks_for_large_messages(device: str, ranks: int, algorithm: str) -> None:
    """stas00/ml-engineering: NVLS above 4 ranks on H200, above 5 on B200."""
    assert choose("all_reduce", group(device, ranks, 1), 2**33, DEVICES[device][1]).algorithm == algorithm


def test_small_messages_take_low_latency_protocols_and_trees_at_scale() -> None:
    where = group("H200-SXM", 1024, 128)
    assert choose("all_reduce", where, 1024).protocol == "LL"
    assert choose("all_reduce", where, 1024).algorithm == "tree"
    assert choose("all_reduce", group("A100-SXM-80GB", 8, 1), 2**33, "ampere").algorithm == "ring"
    assert set(LINK_SHARE) == {generation for _, generation in DEVICES.values()}


def test_an_automatic_plan_takes_the_time_the_model_says() -> None:
    """Executed on links that are no bottleneck, large and small."""
    fabric = hosts_on_leaves(4, 4, nic=1e12, scale_up=1e13)
    ranks = np.arange(16)
    where = group_of(ranks, ranks // 4, inside=Hop(0.0, 370e9), between=Hop(0.0, 40e9))
    for size in (2e4, 2e6, 1e9):
        planned = collective("all_reduce", where, size, "auto")
        assert planned.choice is not None
        builder, table = ProgramBuilder(), []
        end = write_collective(builder, table, planned)
        done, _ = run(builder, table, fabric)
        assert float(done.end[end]) == pytest.approx(planned.choice.seconds, rel=0.35)
