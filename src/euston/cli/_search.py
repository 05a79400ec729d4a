"""`euston search`: deployments of a service within a budget of accelerators, and whether to disaggregate."""

from __future__ import annotations

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


def search(
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
    accelerators: Annotated[
        int | None, typer.Option("--accelerators", min=1, help="The budget; all of the site unless said.")
    ] = None,
    tensor: Annotated[
        list[int] | None,
        typer.Option("--tensor", min=1, help="A tensor-parallel degree; may be given twice."),
    ] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option("--tokens", min=1, help="A batch budget in tokens; may be given twice."),
    ] = None,
    disaggregate: Annotated[
        bool, typer.Option("--disaggregate/--together", help="Try prefill and decode pools too.")
    ] = True,
    top: Annotated[int, typer.Option("--top", min=1, help="Deployments to print.")] = 12,
    job: Annotated[str | None, typer.Option("--job", metavar="NAME", help="The first unless said.")] = None,
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
    """Find the deployment that serves most per accelerator within the SLO, disaggregated or not."""
    from euston import scenario as scenarios
    from euston.errors import EustonError
    from euston.report import check_path, write

    use_catalog(catalog)
    for path in report or []:
        check_path(path)  # before the work, not after it
    with progress(quiet) as tell:
        tell(f"reading {file}")
        scenario = scenarios.load(file)
        from euston.runs.serving_search import Choices, find_deployments

        choices = Choices(
            accelerators or 0, tuple(tensor or ()), tuple(tokens or Choices.tokens), disaggregate
        )
        try:
            result = find_deployments(scenario, choices, job=job, slo=slo, progress=tell)
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
        _summary(result, top)
        for path in report or []:
            say(f"report: {path}")
        if save is not None:
            say(f"saved: {save}")
    if "interrupted" in result.meta:
        say(f"interrupted {result.meta['interrupted']}; these are the best until then")
        raise typer.Exit(INTERRUPTED)


def _summary(result: Result, top: int) -> None:
    from euston.report import scalar_text

    out = console()
    if title := result.meta.get("title"):
        out.print(clean(str(title)), style="bold")
    rows = result.tables["candidates"].to_dicts()
    out.print(f"{result.scalars['looked_at']:,.0f} deployments looked at, {len(rows):,} run")
    out.print()
    lines = [
        [
            row["deployment"], str(row["accelerators"]),
            "" if row["max_rate"] is None else f"{row['max_rate']:.4g}/s",
            "" if row["max_rate"] is None else f"{row['rate_per_accelerator']:.3g}/s",
            f"{row['attainment']:.1%}", scalar_text("ttft_p90", row["ttft_p90"], {}),
            scalar_text("tpot_p90", row["tpot_p90"], {}), "*" if row["front"] else "",
        ]
        for row in rows[:top]
    ]  # fmt: skip
    head = ["deployment", "accelerators", "largest rate", "per accelerator", "kept", "TTFT P90", "TPOT P90"]
    table([*head, "front"], lines, right=tuple(range(1, 7)))
    out.print()
    out.print(clean(result.meta["verdict"]))
    for reason in result.meta["left_out"]:
        out.print(clean(f"left out: {reason}"))
