"""`euston reproduce`: published figures beside ours, study by study."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from euston.cli._out import (
    CatalogDir,
    Json,
    Quiet,
    Seed,
    clean,
    console,
    progress,
    put,
    put_json,
    say,
    table,
    use_catalog,
)
from euston.errors import BadInput, unknown


def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A study, see --list.", show_default=False)
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the studies.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="CSV|DIR", help="Your own measurements in place of the packaged ones."
        ),
    ] = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Compare with published figures: one row per figure and a summary."""
    studies = import_module("euston.studies")  # on use: it imports the simulator
    names: list[str] = list(studies.names())
    if list_:
        if json_:
            put_json({"version": 1, "studies": names})
        elif not quiet:
            for known in names:
                put(known)
        return
    if name is None:
        raise BadInput(f"which study? give its name, one of {', '.join(names)}")
    if name not in names:
        raise BadInput(unknown("study", name, names))
    if data is not None and not data.exists():
        raise BadInput(f"{data}: no such file or folder")
    use_catalog(catalog)
    say(f"running {name}", quiet=quiet or json_)
    with progress(quiet) as tell:
        outcome: dict[str, Any] = studies.run(name, data=data, seed=seed or 0, progress=tell)
    if json_:
        put_json(outcome)
    elif not quiet:
        _print(outcome)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _percent(value: Any) -> str:
    return f"{value * 100:.1f} %" if isinstance(value, int | float) else ""


def _print(outcome: dict[str, Any]) -> None:
    lines = []
    bands = any((row.get("extra") or {}).get("band") for row in outcome["rows"])
    for row in outcome["rows"]:
        error = row.get("error")
        role = row.get("role") or ""
        case = (row.get("extra") or {}).get("case")
        remark = "; ".join(str(part) for part in (case, role, row.get("reason")) if part)
        band = (row.get("extra") or {}).get("band")
        lines.append(
            [
                str(row["id"]),
                str(row["quantity"]),
                _number(row.get("published")),
                _number(row.get("ours")),
                *([" to ".join(map(_number, band)) if band else ""] if bands else []),
                f"{error * 100:+.1f} %" if isinstance(error, int | float) else "",
                _listed(row.get("guessed")),
                remark,
            ]
        )
    between = ["our band"] if bands else []  # the model's own uncertainty
    heads = ["id", "quantity", "published", "ours", *between, "error", "guessed", ""]
    table(heads, lines, right=tuple(range(2, 5 + bands)))
    summary = outcome["summary"]
    console().print()
    overall = [["all", *_scores(summary)]]
    for dimension, groups in (summary.get("by") or {}).items():
        for group, scores in groups.items():
            inner = scores.get("by") or {}
            if not inner:
                overall.append([f"{dimension}: {group}", *_scores(scores)])
            overall += [[f"{dimension}: {group}, {part}", *_scores(found)] for part, found in inner.items()]
    heads = ["", "rows", "covered", "MAPE", "median", "90th", "bias"]
    table(heads, overall, right=tuple(range(1, len(heads))))
    for remark in summary.get("remarks") or ():
        console().print(clean(str(remark)))


def _scores(scores: dict[str, Any]) -> list[str]:
    bias = scores.get("bias")
    return [
        str(scores.get("n", "")),
        _percent(scores.get("coverage")),
        *(_percent(scores.get(key)) for key in ("mape", "median", "p90")),
        f"{bias * 100:+.1f} %" if isinstance(bias, int | float) else "",
    ]


def _listed(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value or "")
