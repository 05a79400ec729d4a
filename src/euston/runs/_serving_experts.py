"""What popular experts cost a service, and what their placement wins back, in a mean step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from euston.catalog import Accelerator
from euston.models import Balance, Transformer
from euston.scenario.serving import PoolSection, ServingSection
from euston.serving.providers import Layout, Prices, Shares, engine_software

__all__ = ["dealings", "expert_seconds", "experts"]


def dealings(pool: PoolSection) -> dict[str, Balance]:
    """Ways to deal the pool's tokens to experts: evenly, by popularity in order, and as the file has it."""
    given = pool.experts.make()
    found = {"even": Balance(), "as popular, in order": replace(given, balancer="static", redundant=0)}
    if given.balancer != "static":
        found[f"{given.balancer}, {given.redundant} copies"] = given
    return found


def expert_seconds(
    section: ServingSection,
    pool: PoolSection,
    model: Transformer,
    accelerator: Accelerator,
    balance: Balance,
    tokens: int,
) -> tuple[float, float]:
    """(seconds of the routed experts, of their exchanges) of a step of ``tokens`` tokens on every rank."""
    prices = Prices(
        model, accelerator, Layout(pool.tensor, pool.expert, pool.data), section.precision,
        software=engine_software(section.software), balance=balance, experts_apart=True,
    )  # fmt: skip
    if section.step_times == "roofline":
        prices.without_tables()
    halves = 2 if pool.experts.two_batch_overlap else 1
    knot = np.array([max(1, round(tokens / halves))])
    _, routed, _ = prices.compute(knot, Shares())
    travel = prices.exchanged(knot, pool.role == "decode", Shares())
    return halves * float(routed[0]), halves * float(travel[0])


def experts(
    section: ServingSection, model: Transformer, accelerator: Accelerator, counts: list[dict[str, int]]
) -> pl.DataFrame:
    """One row per pool and way of dealing.

    Parameters
    ----------
    counts : list of dict
        Per pool of the section: tokens, and steps of its ranks, idle ones of a group that steps counted.
    """
    rows: list[dict[str, Any]] = []
    for pool, count in zip(section.pools, counts, strict=True):
        tokens = count["tokens"]
        if model.moe is None or pool.expert == 1 or pool.experts.kind == "uniform" or not tokens:
            continue
        mean = max(1, round(tokens / max(count["steps"], 1)))
        sent = model.moe.top_k * mean * pool.data
        for name, balance in dealings(pool).items():
            if (model.moe.experts + balance.redundant) % pool.expert:
                continue  # more accelerators than experts: only copies fill them
            compute, travel = expert_seconds(section, pool, model, accelerator, balance, mean)
            rows.append(
                {
                    "role": pool.role, "experts": name, "tokens": mean,
                    "fullest_over_mean": balance.load(sent, model.moe.experts, pool.expert).rows
                    * pool.expert / sent,
                    "expert_time": compute, "exchange_time": travel,
                }
            )  # fmt: skip
    return pl.DataFrame(
        rows,
        schema={
            "role": pl.String, "experts": pl.String, "tokens": pl.Int64, "fullest_over_mean": pl.Float64,
            "expert_time": pl.Float64, "exchange_time": pl.Float64,
        },
    )  # fmt: skip
