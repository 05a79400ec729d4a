"""`euston campaign`: days and weeks of a training job on parts that fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from euston.cli._out import (
    CatalogDir,
    Json,
    Quiet,
    Seed,
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


def campaign(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A scenario (.yaml) with a campaign.", show_default=False)
    ],
    report: Annotated[
        list[Path] | None,
        typer.Option("--report", metavar="PATH", help="Write a report: .html or .json; may be given twice."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="DIR", help="Save the result in a folder.")
    ] = None,
    repeat: Annotated[
        int | None, typer.Option("--repeat", min=1, help="Independent runs; wins over the file's.")
    ] = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Run weeks of training with failures; print ETTR, goodput, where the time went, what it cost."""
    from euston import scenario as scenarios
    from euston.errors import EustonError
    from euston.report import check_path, write

    use_catalog(catalog)
    for path in report or []:
        check_path(path)  # before the work, not after it
    with progress(quiet) as tell:
        tell(f"reading {file}")
        scenario = scenarios.load(file)
        from euston.runs.campaign import simulate_campaign

        try:
            result = simulate_campaign(scenario, seed=seed, repeat=repeat, progress=tell)
        except EustonError as error:
            raise scenarios.with_place(scenario, error) from error
    if save is not None:
        result.save(save)
    for path in report or []:
        write(result, path)
    if json_:
        from euston.report.plain import document

        put_json(document(result, timeline=False))
    elif not quiet:
        _summary(result)
        for path in report or []:
            say(f"report: {path}")
        if save is not None:
            say(f"saved: {save}")
    if "interrupted" in result.meta:
        done = int(result.scalars["repeats"])
        say(f"interrupted {result.meta['interrupted']}; --repeat {done} gives these again")
        raise typer.Exit(INTERRUPTED)


_HEADLINES = (
    "ettr", "goodput_tokens", "tokens", "wall_time", "interruptions", "interruptions_expected", "mttf",
    "lost_per_interruption", "healthy_step_time", "checkpoint_interval", "checkpoint_stall", "restart_time",
    "cost", "cost_per_trillion_tokens", "facility_energy",
)  # fmt: skip


def _summary(result: Result) -> None:
    from euston.report import kind_label, percent, scalar_name, scalar_text
    from euston.units import format_seconds

    out = console()
    title = result.meta.get("title") or result.meta.get("name")
    if title:
        out.print(clean(str(title)), style="bold")
    lines = [
        [scalar_name(name), scalar_text(name, result.scalars[name], result.units)]
        for name in _HEADLINES
        if name in result.scalars
    ]
    if "ettr_low" in result.scalars:
        low, high = (percent(result.scalars[f"ettr_{end}"]) for end in ("low", "high"))
        lines[0][1] += f" [{low} .. {high}]"
    table(["", ""], lines, right=(1,))
    out.print()
    rows = [row for row in result.tables["waterfall"].to_dicts() if row["seconds"] > 0]
    table(
        ["where the time goes", "", ""],
        [[kind_label(r["kind"]), format_seconds(r["seconds"], 3), percent(r["share"])] for r in rows],
        right=(1, 2),
    )
    causes = result.tables["causes"].to_dicts()
    if causes:
        out.print()
        table(
            ["cause", "effect", "events", "lost work", "down"],
            [
                [
                    r["component"], r["effect"], str(r["events"]),
                    format_seconds(r["lost_seconds"], 3), format_seconds(r["down_seconds"], 3),
                ]
                for r in causes
            ],
            right=(2, 3, 4),
        )  # fmt: skip
    count = len(result.meta.get("assumptions") or [])
    if count:
        out.print()
        out.print(f"{count} inputs are assumed, defaulted or transferred; the report lists them.")
