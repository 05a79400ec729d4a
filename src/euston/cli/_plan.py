"""`euston plan`: every plan of a training job, the fastest that fit, and why the others do not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euston.cli._out import (
    CatalogDir,
    Json,
    Quiet,
    clean,
    console,
    progress,
    put_json,
    say,
    table,
    use_catalog,
)

if TYPE_CHECKING:
    from euston.result import Result

INTERRUPTED = 130


def plan(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A scenario (.yaml) with a training job.", show_default=False),
    ],
    report: Annotated[
        list[Path] | None,
        typer.Option("--report", metavar="PATH", help="Write a report: .html or .json; may be given twice."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="DIR", help="Save the result in a folder.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Plans to print.")] = 10,
    confirm: Annotated[
        int, typer.Option("--confirm", min=0, help="Execute the best of so many degrees on the fabric.")
    ] = 3,
    write_to: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write the scenario with the best plan (.yaml)."),
    ] = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at every plan of a training job; print the fastest that fit and why the others fall out."""
    from euston import scenario as scenarios
    from euston.errors import EustonError
    from euston.report import check_path, write

    use_catalog(catalog)
    for path in report or []:
        check_path(path)  # before the work, not after it
    if write_to is not None:
        _check_target(write_to, file)
    with progress(quiet) as tell:
        tell(f"reading {file}")
        scenario = scenarios.load(file)
        from euston.runs.plan import find_plans

        try:
            result = find_plans(scenario, confirm=confirm, progress=tell)
        except EustonError as error:
            raise scenarios.with_place(scenario, error) from error
    if save is not None:
        result.save(save)
    for path in report or []:
        write(result, path)
    if write_to is not None:
        from euston.runs.plan import with_best

        write_to.write_text(scenarios.dump(with_best(scenario, result), defaults=False), encoding="utf-8")
    if json_:
        from euston.report.plain import document

        found = document(result, timeline=False)
        found["tables"].pop("rejected", None)
        found["left_out"] = ["rejected"]
        put_json(found)
    elif not quiet:
        _summary(result, top)
        for path in report or []:
            say(f"report: {path}")
        if save is not None:
            say(f"saved: {save}")
        if write_to is not None:
            say(f"written: {write_to}")
    if "interrupted" in result.meta:
        say(f"interrupted {result.meta['interrupted']}; these are the best until then")
        raise typer.Exit(INTERRUPTED)


def _check_target(path: Path, file: Path) -> None:
    """Refuse a file that cannot take the scenario, or that is the one it was read from."""
    from euston.errors import ConfigError

    if path.is_dir() or path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path}: the scenario goes to a file that ends in .yaml")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist")
    if path.exists() and path.samefile(file):
        raise ConfigError(
            f"{path}: is the file that the plan is for; name another, its comments would be lost"
        )


def _summary(result: Result, top: int) -> None:
    from euston.units import format_bytes, format_seconds

    out = console()
    title = result.meta.get("title")
    if title:
        out.print(clean(str(title)), style="bold")
    s = result.scalars
    out.print(f"{s['looked_at']:,.0f} plans looked at, {s['fit']:,.0f} fit, {s['front']:,.0f} on the front")
    out.print("the best of every degree and micro-batch, with its place among all:")
    out.print()
    # plans that differ in chunks, recomputation or sharding alone stand together: the best of them is shown
    plans = result.tables["plans"].with_row_index("place", 1)
    alike = ("tensor", "context", "expert", "pipeline", "micro", "schedule_kind")
    plans = plans.with_columns(schedule_kind=plans["schedule"].replace("interleaved", "1f1b"))
    rows = plans.unique(alike, keep="first", maintain_order=True).head(top).to_dicts()
    paid = any(row["cost"] for row in rows)
    head = [
        "",
        "plan",
        "step",
        "executed",
        "memory",
        "bubble",
        "energy",
        *(["cost"] if paid else []),
        "front",
    ]
    lines = []
    for row in rows:
        lines.append(
            [
                str(row["place"]), _plan(row), format_seconds(row["step_time"], 4),
                "" if row["executed"] is None else format_seconds(row["executed"], 4),
                format_bytes(row["memory"]), f"{row['bubble']:.1%}", f"{row['energy'] / 1e6:.3g} MJ",
                *([f"{row['cost']:.4g} USD"] if paid else []), "*" if row["front"] else "",
            ]
        )  # fmt: skip
    table(head, lines, right=tuple(range(2, len(head) - 1)))
    out.print()
    table(
        ["others fall out for", "plans", "for example"],
        [[r["kind"], f"{r['plans']:,}", r["example"]] for r in result.tables["reasons"].to_dicts()],
        right=(1,),
    )


def _plan(row: dict[str, Any]) -> str:
    from euston.training.plan import Layout

    return Layout(**{name: row[name] for name in Layout._fields}).text()
