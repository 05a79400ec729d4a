"""`euston capacity`: the largest rate, or the fewest replicas, with which a service keeps its SLO."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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


class Find(StrEnum):
    """What to look for."""

    rate = "rate"
    replicas = "replicas"


def capacity(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A scenario (.yaml) with a serving job.", show_default=False),
    ],
    slo: Annotated[
        str | None,
        typer.Option(
            "--slo", metavar="LIMITS", help="E.g. ttft=1s,tpot=50ms,share=0.9; the file's unless said."
        ),
    ] = None,
    find: Annotated[
        Find, typer.Option("--find", help="The largest rate, or the fewest replicas.")
    ] = Find.rate,
    pool: Annotated[int, typer.Option("--pool", min=0, help="Whose replicas are counted.")] = 0,
    job: Annotated[str | None, typer.Option("--job", metavar="NAME", help="The first unless said.")] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.001, max=0.5, help="Of the rate, relative.")
    ] = 0.02,
    report: Annotated[
        list[Path] | None,
        typer.Option("--report", metavar="PATH", help="Write a report: .html or .json; may be given twice."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="DIR", help="Save the result in a folder.")
    ] = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the largest rate, or the fewest replicas, with which a service keeps its SLO."""
    from euston import scenario as scenarios
    from euston.errors import EustonError
    from euston.report import check_path, write

    use_catalog(catalog)
    for path in report or []:
        check_path(path)  # before the work, not after it
    with progress(quiet) as tell:
        tell(f"reading {file}")
        scenario = scenarios.load(file)
        from euston.runs.capacity import find_capacity

        try:
            result = find_capacity(
                scenario, find=find.value, job=job, pool=pool, slo=slo, tolerance=tolerance, progress=tell
            )
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
        say(f"interrupted {result.meta['interrupted']}; this is the best until then")
        raise typer.Exit(INTERRUPTED)


def _summary(result: Result) -> None:
    from euston.report import scalar_name, scalar_text

    out = console()
    if title := result.meta.get("title"):
        out.print(clean(str(title)), style="bold")
    table(
        ["", ""],
        [[scalar_name(k), scalar_text(k, v, result.units)] for k, v in result.scalars.items()],
        right=(1,),
    )
    out.print()
    rows = result.tables["points"].to_dicts()
    table(
        [result.meta["axis"], "kept the SLO", "95 % interval", "TTFT P90", "TPOT P90", "queue", ""],
        [
            [
                f"{row['value']:.4g}", f"{row['attainment']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}",
                scalar_text("ttft_p90", row["ttft_p90"], {}), scalar_text("tpot_p90", row["tpot_p90"], {}),
                "steady" if row["stable"] else "grows", "meets" if row["meets"] else "",
            ]
            for row in rows
        ],
        right=(0, 1, 2, 3, 4),
    )  # fmt: skip
    for note in result.meta["notes"]:
        out.print(clean(f"note: {note}"))
