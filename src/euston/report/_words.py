"""How a report says things: labels and colours of kinds, numbers with units, the sentence on certainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from euston.units import (
    format_bandwidth,
    format_bytes,
    format_energy,
    format_flops,
    format_power,
    format_seconds,
)

Row = Mapping[str, Any]

KINDS: dict[str, tuple[str, str]] = {
    "compute": ("Compute", "#4477aa"),
    "rollout": ("Rollouts", "#6ba3d6"),
    "update": ("Update", "#3767a0"),
    "forward": ("Forward", "#6ba3d6"),
    "backward": ("Backward", "#3767a0"),
    "recompute": ("Recompute", "#a9c8e6"),
    "communication": ("Exposed within passes", "#e8a33d"),
    "tensor": ("Exposed tensor parallel", "#e8a33d"),
    "context": ("Exposed context parallel", "#c9bb3a"),
    "expert": ("Exposed expert parallel", "#a3742c"),
    "pipeline": ("Exposed pipeline parallel", "#8a63b5"),
    "data": ("Exposed data parallel", "#2f9c8a"),
    "bubble": ("Pipeline bubble", "#b4bac4"),
    "optimizer": ("Optimiser step", "#c8506b"),
    "overhead": ("Overhead", "#7d6a5c"),
    "other": ("Other", "#7d6a5c"),
    "productive": ("Productive", "#4477aa"),
    "degraded": ("Degraded cluster", "#8a63b5"),
    "checkpoint": ("Checkpoints", "#2f9c8a"),
    "flap": ("Link flaps", "#c9bb3a"),
    "lost": ("Lost work", "#c8506b"),
    "detection": ("Detection", "#e8a33d"),
    "waiting": ("Waiting for a host", "#b4bac4"),
    "queue": ("Scheduler's queue", "#7d6a5c"),
    "restart": ("Restart", "#a3742c"),
    "parameters": ("Parameters", "#4477aa"),
    "gradients": ("Gradients", "#2f9c8a"),
    "activations": ("Activations", "#e8a33d"),
    "temporary": ("Temporary", "#8a63b5"),
    "allocator": ("Allocator", "#b4bac4"),
}
"""Label and colour of a kind; the same kind has the same colour in every chart."""

_ALIASES = {
    "tensor_parallel": "tensor",
    "pipeline_parallel": "pipeline",
    "data_parallel": "data",
    "optimiser": "optimizer",
    "idle": "bubble",
    "tp": "tensor",
    "pp": "pipeline",
    "dp": "data",
}
_SPARE = ("#5a9e6f", "#b0604a", "#5c7fa3", "#a05c9a", "#94a03c", "#6c6c9e")

CERTAINTY = {
    "measured": ("Measured", "#2f9c8a", "taken from a table of measurements"),
    "interpolated": ("Interpolated", "#7ab8ac", "between measured points"),
    "transferred": ("Transferred", "#e8a33d", "measured on another accelerator, scaled to this one"),
    "roofline": ("Roofline", "#c8506b", "from peak rates alone"),
}
"""Provenance of a price: label, colour, what it means; best first."""

HEADLINES = {
    "step_time": ("Step time", "s"),
    "trajectories_per_second": ("Trajectories per second", ""),
    "rollout_utilisation": ("Rollout pool at work", "share"),
    "training_utilisation": ("Training at work", "share"),
    "staleness_mean": ("Updates behind, mean", ""),
    "mfu": ("MFU", "share"),
    "tflops_per_accelerator": ("TFLOP/s per accelerator", ""),
    "tokens_per_second": ("Tokens per second", ""),
    "memory_peak": ("Peak memory", "B"),
    "bubble_fraction": ("Bubble", "share"),
    "hfu": ("HFU", "share"),
    "tokens_per_second_per_accelerator": ("Tokens/s per accelerator", ""),
    "energy": ("Energy per step", "J"),
    "makespan": ("Makespan", "s"),
    "completion_p50": ("Median completion", "s"),
    "completion_p99": ("99th percentile of completion", "s"),
    "slowdown_p99": ("99th percentile of slowdown", ""),
    "delivered_share": ("Gradients delivered", "share"),
    "nmse": ("Error of the mean (NMSE)", ""),
    "results_share": ("Results delivered", "share"),
    "completion_mean": ("Mean completion", "s"),
    "transfer_mean": ("Mean of the transfer alone", "s"),
    "gradient_bytes": ("Gradients and results, per exchange", "B"),
    "resent_bytes": ("Sent again, per exchange", "B"),
    "parity_bytes": ("Parity, per exchange", "B"),
    "t_b": ("Bound of a stage", "s"),
    "missing_share": ("Bytes that never came", "share"),
    "goodput": ("Goodput", "B/s"),
    "efficiency": ("Lower bound over makespan", "share"),
    "makespan_fluid": ("Makespan, fluid", "s"),
    "makespan_packet": ("Makespan, packet", "s"),
    "makespan_error": ("Makespan, fluid against packet", "error"),
    "goodput_error_mean": ("Goodput error of a flow, mean", "share"),
    "goodput_error_worst": ("Goodput error of a flow, worst", "share"),
    "goodput_bias": ("Goodput bias of fluid", "error"),
    "ettr": ("Effective training time (ETTR)", "share"),
    "goodput_tokens": ("Kept tokens per second", ""),
    "interruptions": ("Interruptions", ""),
    "lost_per_interruption": ("Lost work per interruption", "s"),
    "tokens": ("Tokens kept", ""),
    "cost": ("Cost", "USD"),
    "ettr_low": ("ETTR, low end of 95 %", "share"),
    "ettr_high": ("ETTR, high end of 95 %", "share"),
    "goodput_share": ("Goodput over that without failures", "share"),
    "interruptions_expected": ("Interruptions expected", ""),
    "mttf": ("Mean time to failure, seen", "s"),
    "mttf_expected": ("Mean time to failure, expected", "s"),
    "healthy_step_time": ("Step time, nothing failed", "s"),
    "wall_time": ("Wall-clock time", "s"),
    "bits_per_byte": ("Held-out bits per byte", ""),
    "perplexity": ("Perplexity per byte", ""),
    "utilisation": ("Sites at work", "share"),
    "round_time": ("Time of a round", "s"),
    "trained_tokens": ("Tokens trained on", ""),
    "payload_bytes": ("Updates and models moved", "B"),
    "wan_bytes": ("Bytes over the WAN", "B"),
    "initial_bytes": ("Of first models and catching up", "B"),
    "traffic_ratio": ("Times less than an exchange every step", ""),
    "slo_attainment": ("Requests that kept the SLO", "share"),
    "slo_goodput": ("Goodput under the SLO", "1/s"),
    "replicas_mean": ("Replicas, mean", ""),
    "step_time_alone": ("Step time without services", "s"),
    "step_slowdown": ("Step longer by", "error"),
    "steps": ("Steps of training", ""),
    "handover_mean": ("Hand-over of KV, mean", "s"),
    "handover_mean_alone": ("Hand-over without training", "s"),
    "handover_slowdown": ("Hand-over longer by", "error"),
    **{
        f"{metric}_{column}": (f"{metric.upper()}, {word}", "s")
        for metric in ("ttft", "itl", "tpot", "e2e")
        for column, word in (("p50", "median"), ("p99", "P99"), ("p90", "P90"), ("mean", "mean"))
    },
    "hit_share": ("Prompt tokens from the cache", "share"),
    "tier_hit_share": ("Of them from lower tiers", "share"),
    "kv_peak": ("KV cache, peak use", "share"),
    "busy_share": ("Replicas in steps", "share"),
    "handed_bytes": ("KV handed over", "B"),
    "max_rate": ("Largest rate that keeps the SLO", "1/s"),
    "rate_per_accelerator": ("Largest rate per accelerator", "1/s"),
    "max_rate_low": ("Kept for sure up to", "1/s"),
    "max_rate_high": ("Missed for sure from", "1/s"),
    "joules": ("Energy", "J"),
    "joules_per_token": ("Energy per output token", "J"),
    "cost_per_million_tokens": ("Cost of a million output tokens", "USD"),
}
"""Scalars shown first, with label and unit."""

SECONDS = {
    "lost_seconds", "down_seconds", "mtbf_of_a_unit", "mtbf_of_the_job", "wall_time",
    "seconds", "compute", "tensor", "pipeline", "data", "context", "expert", "bubble", "optimizer",
    "recompute",
    "step_time", "time", "overhead", "other", "start", "end", "completion", "ideal", "fluid", "packet",
    "alone", "together",
}  # fmt: skip
BYTES = {
    "parameters", "gradients", "activations", "temporary", "peak", "bytes", "memory_peak", "flow_bytes",
}  # fmt: skip
RATES = {"rate", "algbw", "busbw", "bandwidth"}
SHARES = {
    "share",
    "mfu",
    "hfu",
    "mean_utilisation",
    "max_utilisation",
    "utilisation",
    "bubble_fraction",
    "ettr",
}


def kind_of(name: str) -> str:
    """The canonical kind: ``tensor_parallel`` is ``tensor``."""
    return _ALIASES.get(name, name)


def label(name: str) -> str:
    """What a kind is called on the page."""
    known = KINDS.get(kind_of(name))
    return known[0] if known else name.replace("_", " ").capitalize()


def short_label(name: str) -> str:
    """`label` without the word exposed."""
    text = label(name).removeprefix("Exposed ")
    return text[:1].upper() + text[1:]


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for every name; unknown kinds get spare ones in the order they come."""
    spare = 0
    result = {}
    for name in names:
        if kind_of(name) in KINDS:
            result[name] = KINDS[kind_of(name)][1]
        else:
            result[name] = _SPARE[spare % len(_SPARE)]
            spare += 1
    return result


def number(value: float, digits: int = 4) -> str:
    """A plain number: thousands separated, no false precision."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1e6:
        power = min(int(math.log10(abs(value)) // 3), 6)
        return f"{value / 1e3**power:.{digits}g} {' kMGTPE'[power]}"
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(value: float) -> str:
    """A share as per cent with three digits."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0 %"
    percentage = value * 100
    if abs(percentage) < 0.01:
        return "< 0.01 %" if value > 0 else "> -0.01 %"
    decimals = 1 if abs(percentage) >= 10 else 2
    return f"{percentage:.{decimals}f} %"


def signed_percent(value: float) -> str:
    """An error against a published figure, ``+3.1 %``."""
    return f"{value * 100:+.1f} %" if math.isfinite(value) else "–"


def with_unit(value: Any, unit: str) -> str:
    """A value in SI as short text for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "–"
    match unit:
        case "s":
            return format_seconds(value)
        case "B":
            return format_bytes(value)
        case "B/s":
            return format_bandwidth(value)
        case "FLOP/s":
            return format_flops(value)
        case "J":
            return format_energy(value)
        case "W":
            return format_power(value)
        case "share" | "fraction":
            return percent(value)
        case "error":
            return signed_percent(value)
        case "" | "1":
            return number(value)
        case _:
            return f"{number(value)} {unit}"


def scalar_name(name: str) -> str:
    """What a scalar is called."""
    return HEADLINES[name][0] if name in HEADLINES else name.replace("_", " ").capitalize()


def scalar(name: str, value: Any, units: Mapping[str, str]) -> str:
    """A result's scalar as text, by its headline unit or the unit the result names."""
    if name.endswith("_fits") and value in (0, 1):
        return "yes" if value else "no"
    if name.endswith("_fraction"):
        return percent(float(value))
    unit = HEADLINES[name][1] if name in HEADLINES else units.get(name, "")
    return with_unit(value, unit)


POST_TRAINING = {
    "trajectories_per_second": "1/s", "sampled_tokens_per_second": "1/s", "rollout_utilisation": "share",
    "training_utilisation": "share", "push_time": "s", "step_time": "s", "begin": "s", "ready": "s",
    "train": "s", "end": "s",
}  # fmt: skip
"""Units of the tables of post-training."""

SERVING = {
    "hit_share": "share", "kv_peak": "share", "busy": "share", "slo_attainment": "share",
    "slo_goodput": "1/s", "ttft_p90": "s", "tpot_p90": "s", "joules": "J",
    "expert_time": "s", "exchange_time": "s", "queue_mean": "s", "queue_p99": "s", "ttft_mean": "s",
    "ttft_p99": "s", "tpot_mean": "s", "e2e_mean": "s", "on_time": "share",
}  # fmt: skip
"""Units of the tables of pools, of experts, of classes and of several services."""

PLANS = {
    "step_time": "s", "executed": "s", "memory": "B", "energy": "J", "bubble": "share",
    "communication": "share",
}  # fmt: skip
"""Units of the table of a search for plans, whose degrees are named like categories elsewhere."""


def column_unit(table: str, column: str) -> str:
    """Unit of a table's column, by its name: tables hold SI."""
    if table == "latency" and column != "metric":
        return "s"
    if table in ("split", "steps") and column in POST_TRAINING:
        return POST_TRAINING[column]
    if table in ("pools", "jobs", "experts", "classes") and column in SERVING:
        return SERVING[column]
    if table == "plans":
        return PLANS.get(column, "")
    if column in SHARES:
        return "share"
    if column == "error" or "_error" in column or column.startswith("error_"):
        return "error"
    if column in RATES:
        return "B/s"
    if column.endswith("_bytes"):
        return "B"
    if column.startswith(("completion_", "fluid_p", "packet_p")):
        return "s"
    if table == "tiers" and column in ("mean", "max", "fluid_busiest", "packet_busiest"):
        return "share"
    if column == "capacity":
        return "B/s" if table == "links" else "B"
    if table == "memory" and column not in ("stage", "chunk", "layers", "in_flight", "fits"):
        return "B"
    if column in SECONDS:
        return "s"
    return "B" if column in BYTES else ""


def cell(table: str, column: str, value: Any) -> str:
    """One cell as text."""
    unit = column_unit(table, column)
    if unit == "error":
        return signed_percent(value) if isinstance(value, int | float) else "–"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return with_unit(value, unit)


def certainty(operators: Iterable[Row]) -> dict[str, float]:
    """Share of the priced seconds by provenance, best first; empty where nothing was priced."""
    seconds: dict[str, float] = {}
    for row in operators:
        provenance = str(row.get("provenance") or "unknown")
        seconds[provenance] = seconds.get(provenance, 0.0) + float(row.get("seconds") or 0.0)
    total = sum(seconds.values())
    if total <= 0:
        return {}
    order = [
        *(name for name in CERTAINTY if name in seconds),
        *(n for n in sorted(seconds) if n not in CERTAINTY),
    ]
    return {name: seconds[name] / total for name in order}


def certainty_sentence(shares: Mapping[str, float], guesses: int) -> str:
    """How sure the number is, in one or two sentences."""
    parts = []
    if shares:
        firm = sum(shares.get(name, 0.0) for name in ("measured", "interpolated"))
        if firm >= 0.995:
            parts.append("All computing time is priced from measurements on this accelerator.")
        else:
            rest = ", ".join(
                f"{percent(share)} {CERTAINTY.get(name, (name, '', ''))[0].lower()}"
                for name, share in shares.items()
                if name not in ("measured", "interpolated")
            )
            parts.append(
                f"{percent(firm)} of the computing time is priced from measurements on this accelerator; "
                f"{rest}."
            )
    if guesses:
        word = "input is" if guesses == 1 else "inputs are"
        parts.append(f"{guesses} {word} defaulted, assumed, transferred or recalled; they are listed below.")
    return " ".join(parts)
