"""What the parts of the page say, taken from a result: headline cards, assumptions, certainty, provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from euston.report import _words as words
from euston.result import Result
from euston.scenario import yaml_text
from euston.units import format_bytes

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

KNOWN = (
    "breakdown", "stages", "memory", "links", "operators", "sweep", "reference", "assumptions",
    "unused_links",
)  # fmt: skip
"""Tables with a section of their own; all others are shown as they are."""

_HEADINGS = {
    "mean_utilisation": "Mean utilisation",
    "max_utilisation": "Busiest link",
    "tflops": "TFLOP/s",
    "tflops_per_accelerator": "TFLOP/s per accelerator",
    "parameters_per_rank": "Parameters",
    "memory_peak": "Peak memory",
    "mfu": "MFU",
    "hfu": "HFU",
    "step_time": "Step time",
    "kv_peak": "KV peak",
}
_METRICS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}


def heading(column: str) -> str:
    """A column's name as a heading."""
    metric, _, rest = column.partition("_")
    if metric in _METRICS:
        return f"{_METRICS[metric]} {rest.upper() if rest[:1] == 'p' else rest}".rstrip()
    return _HEADINGS.get(column, column.replace("_", " ").capitalize())


def _scenario(result: Result) -> Mapping[str, Any]:
    """The resolved scenario as a mapping, empty when it is kept as text."""
    scenario = result.meta.get("scenario")
    return scenario if isinstance(scenario, Mapping) else {}


def title(result: Result) -> str:
    """The page's title."""
    for source in (result.meta, _scenario(result)):
        for key in ("title", "name"):
            if isinstance(source.get(key), str) and source[key]:
                return str(source[key])
    return f"{result.kind.capitalize()} result"


def subtitle(result: Result) -> str:
    """One line on what was run, as far as the scenario says."""
    scenario = _scenario(result)
    parts = [str(result.kind)]
    for site in scenario.get("sites", []):
        count = int(site.get("hosts", 0)) * int(site.get("accelerators_per_host", 1))
        parts.append(f"{count:,} {site.get('accelerator', 'accelerators')}")
    for job in scenario.get("jobs", [])[:2]:
        if job.get("kind") == "traffic":
            flows = job.get("flows", {})
            what = next(
                (str(flows[key]) for key in ("pattern", "collective", "file") if key in flows), "flows"
            )
            parts.append(f"{job.get('name')}: {what}")
            continue
        if job.get("kind") == "exchange":
            codec = job.get("codec", {}).get("kind", "none")
            size = str(job.get("bytes", "")).replace(".0 B", " B")
            size = format_bytes(float(size[:-2])) if size[:-2].isdecimal() and size.endswith(" B") else size
            parts.append(f"{job.get('name')}: {size}" + (f", {codec}" if codec != "none" else ""))
            continue
        model = job.get("model")
        if isinstance(job.get("federation"), dict):
            model = job["federation"].get("model")
        elif "federation" in job:
            model = job["federation"]  # a file
        name = model if isinstance(model, str) else str((model or {}).get("name", "model"))
        p = job.get("parallel", {})
        degrees = [
            f"{short} {p[key]}"
            for short, key in (
                ("TP", "tensor"), ("CP", "context"), ("PP", "pipeline"), ("VP", "virtual"), ("DP", "data"),
            )
            if p.get(key, 1) != 1
        ]  # fmt: skip
        parts.append(" ".join([name, *degrees]))
    return " · ".join(parts)


def cards(result: Result, rows: Rows) -> list[dict[str, str]]:
    """Headline numbers, each with the published figure where there is one."""
    published = {str(row.get("quantity")): row for row in rows.get("reference", [])}
    chosen = [name for name in words.HEADLINES if name in result.scalars]
    with_figure = [name for name in chosen if name in published]
    rest = [name for name in chosen if name not in published]
    shown = [name for name in chosen if name in {*with_figure, *rest[: max(0, 6 - len(with_figure))]}]
    result_cards = []
    for name in shown:
        row = published.get(name)
        against = ""
        error = ""
        if row is not None and row.get("published") is not None:
            against = words.scalar(name, row["published"], result.units)
            if isinstance(row.get("error"), int | float) and math.isfinite(row["error"]):
                error = words.signed_percent(float(row["error"]))
        result_cards.append(
            {
                "label": words.HEADLINES[name][0],
                "value": words.scalar(name, result.scalars[name], result.units),
                "published": against,
                "error": error,
                "source": str((row or {}).get("source") or ""),
            }
        )
    return result_cards


def scalars(result: Result) -> list[tuple[str, str]]:
    """Every scalar with its value."""
    return [
        (
            words.scalar_name(name),
            words.scalar(name, value, result.units),
        )
        for name, value in result.scalars.items()
    ]


def assumptions(result: Result, rows: Rows) -> list[dict[str, str]]:
    """Every input that is defaulted, assumed, transferred or recalled; the author's assumptions first."""
    listed = rows.get("assumptions") or result.meta.get("assumptions") or []
    order = {"assumed": 0, "transferred": 1, "recalled": 2, "default": 3, "defaulted": 3}
    table = [
        {key: _text(row.get(key)) for key in ("where", "value", "why", "source", "kind")} for row in listed
    ]
    return sorted(table, key=lambda row: order.get(row["kind"], 4))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return words.number(value)
    return str(value)


def certainty(result: Result, rows: Rows) -> tuple[dict[str, float], str]:
    """Shares of the priced time by provenance, and the sentence about them."""
    shares = words.certainty(rows.get("operators", []))
    sentence = words.certainty_sentence(shares, len(assumptions(result, rows)))
    low, high = result.scalars.get("step_time_low"), result.scalars.get("step_time_high")
    if low is not None and high is not None:
        sentence = (
            f"With the range of the prices themselves the step takes {words.with_unit(low, 's')} to "
            f"{words.with_unit(high, 's')}. {sentence}"
        )
    return shares, sentence


def unused(rows: Rows) -> list[tuple[str, list[str]]]:
    """Tiers with the configured links that carried nothing."""
    result = []
    for row in rows.get("unused_links", []):
        names = row.get("links")
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",") if name.strip()]
        elif isinstance(names, int | float):
            names = [f"{int(names):,} links"]
        result.append((str(row.get("tier")), [str(name) for name in names or []]))
    return result


def resolved(result: Result) -> str:
    """The resolved scenario as text."""
    scenario = result.meta.get("scenario")
    if scenario is None:
        return ""
    return scenario if isinstance(scenario, str) else yaml_text(scenario)


def about(result: Result) -> list[tuple[str, str]]:
    """Versions, seed, fidelity and the rest of what makes the result repeatable."""
    lines = []
    for key, value in result.meta.items():
        if key in ("scenario", "assumptions", "title", "name", "warnings"):
            continue
        if isinstance(value, Mapping):
            text = ", ".join(f"{name} {_text(item)}" for name, item in value.items())
        elif isinstance(value, list | tuple):
            text = ", ".join(_text(item) for item in value)
        else:
            text = _text(value)
        if text:
            lines.append((heading(key), text))
    return lines
