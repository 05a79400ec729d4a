"""Which inputs of a prediction are defaults, recalled, assumed or transferred, for the reader of a report."""

from __future__ import annotations

from dataclasses import fields

from euston.catalog import entry
from euston.cluster import Site
from euston.collectives.network_rates import P2P_LATENCY, SCALE_OUT_EFFICIENCY, SCALE_OUT_STEP_LATENCY
from euston.training.job import TrainingJob
from euston.training.skew import SPEED_SPREAD, SPEED_SPREAD_RANGE, slowest

__all__ = ["assumptions"]

_UNUSED = ("idle_power", "scale_up_domain", "price")  # say nothing about a step


def _row(where: str, value: object, why: str, source: str, kind: str) -> dict[str, str]:
    return {"where": where, "value": str(value), "why": why, "source": source, "kind": kind}


def assumptions(job: TrainingJob, site: Site, speed_spread: float) -> list[dict[str, str]]:
    """Rows ``where, value, why, source, kind`` (default, recalled, assumed, transferred)."""
    accelerator = site.accelerator
    found = [
        row
        for row in entry("accelerators", accelerator.name).assumptions()
        if not row["where"].endswith(_UNUSED)
    ]
    if accelerator.clock_derate == 1.0:
        found.append(
            _row(
                f"accelerators.{accelerator.name}.clock_derate",
                1.0,
                "no cited measurement of clocks under load beyond the sustained GEMM rate",
                accelerator.clock_derate_source,
                "assumed",
            )
        )
    for dtype, (value, low, high) in accelerator.sustained.items():
        if dtype == job.precision:
            found.append(
                _row(
                    f"accelerators.{accelerator.name}.sustained.{dtype}",
                    f"{value / 1e12:.0f} [{low / 1e12:.0f} .. {high / 1e12:.0f}] TFLOP/s",
                    "GEMM rate under the power limit; published figures range this far",
                    accelerator.sources.get(f"sustained.{dtype}", "the catalogue"),
                    "default",
                )
            )
    if job.software.name != "default":
        known = {item.name for item in fields(job.software)}
        found += [
            row
            for row in entry("software", job.software.name).assumptions()
            if row["where"].rpartition(".")[2] in known
        ]
    found += [
        _row(
            "network.scale_out_efficiency",
            SCALE_OUT_EFFICIENCY,
            "bus bandwidth over NIC bandwidth at large messages",
            "stas00/ml-engineering network README: 0.76 to 0.85",
            "default",
        ),
        _row(
            "network.step_latency",
            f"{SCALE_OUT_STEP_LATENCY * 1e6:g} us",
            "one step of a ring over the network",
            "NCCL tuning.cc",
            "default",
        ),
        _row(
            "network.p2p_latency",
            f"{P2P_LATENCY * 1e6:g} us",
            "send and receive between stages",
            "NCCL tuning.cc",
            "default",
        ),
    ]
    low, high = SPEED_SPREAD_RANGE
    world = job.parallel.world
    found.append(
        _row(
            "sites.speed_spread",
            f"{speed_spread:.1%} [{low:.1%} .. {high:.1%}]",
            f"equal accelerators differ in sustained clock; the slowest of {world:,} is "
            f"{slowest(world, speed_spread) - 1:.1%} slower than the median one",
            "Sinha et al., SC'22 (arXiv:2208.11035), V100 and MI60 clusters",
            "transferred" if speed_spread == SPEED_SPREAD else "assumed",
        )
    )
    return found
