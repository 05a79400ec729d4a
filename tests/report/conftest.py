"""A hand-made training result: a small 1F1B pipeline with round numbers, no simulation behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from euston.result import TIMELINE, Result

STAGES, MICRO_BATCHES = 4, 8
FORWARD, BACKWARD, HOP = 0.010, 0.020, 0.001


def one_f_one_b() -> pl.DataFrame:
    """1F1B on four stages: passes as early as their inputs and the stage allow."""
    orders = []
    for stage in range(STAGES):
        ahead = min(STAGES - stage - 1, MICRO_BATCHES)
        order = [("forward", m) for m in range(ahead)]
        for m in range(MICRO_BATCHES - ahead):
            order += [("forward", ahead + m), ("backward", m)]
        order += [("backward", m) for m in range(MICRO_BATCHES - ahead, MICRO_BATCHES)]
        orders.append(order)
    done: dict[tuple[str, int, int], float] = {}
    free = [0.0] * STAGES
    rows: list[dict[str, Any]] = []
    while any(orders):
        for stage in range(STAGES):
            while orders[stage]:
                kind, m = orders[stage][0]
                if kind == "forward":
                    need = None if stage == 0 else ("forward", stage - 1, m)
                else:
                    need = ("forward", stage, m) if stage == STAGES - 1 else ("backward", stage + 1, m)
                if need is not None and need not in done:
                    break
                orders[stage].pop(0)
                ready = 0.0 if need is None else done[need] + (HOP if need[1] != stage else 0.0)
                start = max(free[stage], ready)
                end = start + (FORWARD if kind == "forward" else BACKWARD)
                free[stage] = done[kind, stage, m] = end
                common = {"actor": f"stage {stage}", "micro_batch": m, "chunk": 0, "count": 16}
                name = f"{kind[0].upper()} {m}"
                rows.append(
                    {
                        **common,
                        "stream": "compute",
                        "name": name,
                        "kind": kind,
                        "start": start,
                        "end": end,
                        "bytes": 0.0,
                    }
                )
                rows.append(
                    {
                        **common,
                        "stream": "pipeline",
                        "name": f"send {name}",
                        "kind": "pipeline",
                        "start": end,
                        "end": end + HOP,
                        "bytes": 2.0**24,
                    }
                )
    return pl.DataFrame(rows, schema=TIMELINE)


def make_result(name: str = "small-pipeline") -> Result:
    """A complete training result whose user-given names contain `name`."""
    parts = {
        "compute": 0.24, "tensor": 0.02, "pipeline": 0.01, "data": 0.005, "bubble": 0.06, "optimizer": 0.012,
    }  # fmt: skip
    step = sum(parts.values())
    gib = float(2**30)
    tables = {
        "breakdown": pl.DataFrame(
            [{"kind": kind, "seconds": seconds, "share": seconds / step} for kind, seconds in parts.items()]
        ),
        "stages": pl.DataFrame(
            [{"stage": s, "layers": 8 - (s in (0, 3)), "chunks": 1, **parts} for s in range(STAGES)]
        ),
        "memory": pl.DataFrame(
            [
                {
                    "stage": s,
                    "parameters": 6 * gib,
                    "gradients": 12 * gib,
                    "optimizer": 9 * gib,
                    "activations": (STAGES - s) * 7 * gib,
                    "temporary": 2 * gib,
                    "peak": (29 + (STAGES - s) * 7) * gib,
                    "capacity": 80 * gib,
                }
                for s in range(STAGES)
            ]
        ),
        "links": pl.DataFrame(
            {
                "tier": ["scale-up out", "NIC up", "ToR up", f"tier {name}"],
                "links": [128, 128, 64, 32],
                "capacity": [4.5e11, 5e10, 5e10, 5e10],
                "bytes": [9.1e12, 4.2e11, 3.9e11, 1.0e10],
                "mean_utilisation": [0.41, 0.17, 0.16, 0.02],
                "max_utilisation": [0.42, 0.29, 0.31, 0.11],
            }
        ),
        "operators": pl.DataFrame(
            {
                "name": ["qkv", "attention", "mlp up", f"op {name}"],
                "phase": ["forward", "forward", "backward", "step"],
                "calls": [256, 256, 512, 1],
                "seconds": [0.05, 0.06, 0.10, 0.03],
                "share": [0.2083, 0.25, 0.4167, 0.125],
                "provenance": ["measured", "interpolated", "interpolated", "roofline"],
            }
        ),
        "sweep": pl.DataFrame(
            {
                "virtual": [1, 2, 4, 8],
                "step_time": [0.42, 0.38, 0.36, 0.347],
                "tflops": [340.0, 375.0, 395.0, 410.0],
                "mfu": [0.34, 0.38, 0.40, 0.415],
                "fits": [True, True, True, False],
            }
        ),
        "reference": pl.DataFrame(
            {
                "quantity": ["tflops_per_accelerator", "mfu"],
                "published": [400.0, 0.41],
                "ours": [410.0, 0.415],
                "error": [0.025, 0.0122],
                "source": [f"Table 4 of {name}", "Table 4"],
            }
        ),
        "assumptions": pl.DataFrame(
            {
                "where": ["jobs[0].batch.micro", "devices.clock"],
                "value": ["1", "1.0"],
                "why": [f"not published, says {name}", "no measurement of the sustained clock"],
                "source": ["the scenario", ""],
                "kind": ["assumed", "default"],
            }
        ),
        "unused_links": pl.DataFrame(
            {"tier": ["agg up"], "links": [[f"agg_up/p0/a0/c0 {name}", "agg_up/p0/a0/c1"]]}
        ),
        "extra": pl.DataFrame({"what": [name], "seconds": [0.5]}),
    }  # fmt: skip
    return Result(
        kind="training",
        scalars={
            "step_time": step,
            "mfu": 0.415,
            "tflops_per_accelerator": 410.0,
            "tokens_per_second": 1.234e6,
            "memory_peak": 57 * gib,
            "bubble_fraction": 0.06 / step,
        },
        units={"step_time": "s", "mfu": "1", "memory_peak": "B"},
        tables=tables,
        timeline=one_f_one_b(),
        meta={
            "scenario": {
                "name": name,
                "sites": [{"accelerator": "h100-sxm", "hosts": 16, "accelerators_per_host": 8}],
                "jobs": [{"model": "llama3-8b", "parallel": {"tensor": 8, "pipeline": 4, "data": 4}}],
            },
            "package_version": "0.1.0",
            "seed": 0,
            "fidelity": {"compute": "des", "network": "fluid"},
            "folding": True,
        },
    )  # fmt: skip


@pytest.fixture
def result() -> Result:
    return make_result()


@pytest.fixture
def make() -> Callable[[str], Result]:
    return make_result
