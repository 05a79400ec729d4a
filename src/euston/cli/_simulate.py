"""`euston simulate` and `euston compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A scenario (.yaml).", show_default=False)],
    report: Annotated[
        list[Path] | None,
        typer.Option(
            "--report",
            metavar="PATH",
            help="Write a report: .html, .perfetto.json.gz or .json; may be given twice.",
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="DIR", help="Save the result in a folder.")
    ] = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Simulate a scenario; print step time, MFU and where the time goes."""
    from euston.report import check_path, write

    use_catalog(catalog)
    for path in report or []:
        check_path(path)  # before the work, not after it
    result = _run(file, seed, quiet)
    if save is not None:
        result.save(save)
    for path in report or []:
        write(result, path)
    if json_:
        put_json(_document(result))
    elif not quiet:
        _summary(result)
        for path in report or []:
            say(f"report: {path}")
        if save is not None:
            say(f"saved: {save}")


def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="A scenario (.yaml) or a saved result.", show_default=False)
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.", show_default=False)],
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Put two scenarios or saved results side by side."""
    use_catalog(catalog)
    first, second = (_load_or_run(path, seed, quiet) for path in (a, b))
    rows = first.compare(second).to_dicts()
    if json_:
        put_json({"version": 1, "a": str(a), "b": str(b), "rows": rows})
    elif not quiet:
        from euston.report import scalar_name, scalar_text

        units = {**second.units, **first.units}
        lines = [
            [
                scalar_name(row["name"]),
                *(scalar_text(row["name"], row[side], units) for side in ("a", "b")),
                "" if row["ratio"] is None else f"{(row['ratio'] - 1) * 100:+.1f} %",
            ]
            for row in rows
        ]
        table(["", _short(a, b), _short(b, a), "b against a"], lines, right=(1, 2, 3))


def _short(path: Path, other: Path) -> str:
    """The file's name, or as much of its path as tells it from the other."""
    return path.stem if path.stem != other.stem else str(path)


def _run(file: Path, seed: int | None, quiet: bool) -> Result:
    from euston import scenario as scenarios
    from euston.errors import EustonError

    with progress(quiet) as tell:
        tell(f"reading {file}")
        scenario = scenarios.load(file)
        from euston.simulate import simulate as run

        try:
            return run(scenario, seed=seed, progress=tell)
        except EustonError as error:
            raise scenarios.with_place(scenario, error) from error


def _load_or_run(path: Path, seed: int | None, quiet: bool) -> Result:
    if path.is_dir():
        from euston.result import Result

        return Result.load(path)
    return _run(path, seed, quiet)


def _document(result: Result) -> dict[str, Any]:
    """The result without its timeline, which is for `--save` and `--report`."""
    from euston.report.plain import document

    return document(result, timeline=False)


_TABLES = {
    "federated": ("sites", "topologies"),
    "serving": ("latency", "classes", "pools", "experts"),
    "post_training": ("pools", "staleness", "split"),
    "shared": ("contention",),
}
"""Tables printed whole after the headline numbers, by kind of result."""

_HEADLINES = ("step_time", "mfu", "tflops_per_accelerator", "tokens_per_second", "memory_peak")


def _summary(result: Result) -> None:
    from euston.report import scalar_name, scalar_text

    out = console()
    title = result.meta.get("title") or result.meta.get("name")
    if title:
        out.print(clean(str(title)), style="bold")
    published = {row["quantity"]: row for row in _rows(result, "reference")}
    names = [name for name in _HEADLINES if name in result.scalars]
    if not names or result.kind in ("post_training", "shared"):
        names = list(result.scalars)
    if "latency" in result.tables:  # printed whole
        metrics = set(result.tables["latency"]["metric"])
        names = [name for name in names if name.partition("_")[0] not in metrics]
    names += [name for name in published if name in result.scalars and name not in names]
    lines = []
    for name in names:
        row = published.get(name)
        figure = "" if row is None else scalar_text(name, row["published"], result.units)
        error = "" if row is None or row["error"] is None else f"{row['error'] * 100:+.1f} %"
        lines.append(
            [scalar_name(name), scalar_text(name, result.scalars[name], result.units), figure, error]
        )
    if published:
        table(["", "ours", "published", "difference"], lines, right=(1, 2, 3))
    else:
        table(["", ""], [line[:2] for line in lines], right=(1,))
    _breakdown(result)
    _sweep(result)
    jobs = _rows(result, "jobs")
    if len(jobs) > 1:
        out.print()
        table(
            ["job", *(scalar_name(key) for key in jobs[0] if key != "job")],
            [[scalar_text(key, value, result.units) for key, value in row.items()] for row in jobs],
            right=range(1, len(jobs[0])),
        )
    for name in _TABLES.get(result.kind, ()):
        _whole(result, name)
    if result.meta.get("warnings"):
        out.print()
    for sentence in result.meta.get("warnings") or ():
        out.print(f"warning: {clean(str(sentence))}")
    count = len(_rows(result, "assumptions") or result.meta.get("assumptions") or [])
    if count:
        own = sum(
            row.get("kind") == "assumed" and str(row.get("where")).startswith("jobs[")
            for row in _rows(result, "assumptions")
        )
        out.print()
        inputs, them = ("1 input is", "it") if count == 1 else (f"{count} inputs are", "them")
        by_file = f", {own} of them by the scenario itself" if own else ""
        out.print(f"{inputs} assumed, defaulted, transferred or recalled{by_file}; the report lists {them}.")


def _whole(result: Result, name: str) -> None:
    from euston.report import cell

    rows = _rows(result, name)
    if rows:
        lines = [[cell(name, key, value) for key, value in row.items()] for row in rows]
        console().print()
        table([key.replace("_", " ") for key in rows[0]], lines, right=range(1, len(rows[0])))


def _rows(result: Result, name: str) -> list[dict[str, Any]]:
    return result.tables[name].to_dicts() if name in result.tables else []


def _breakdown(result: Result) -> None:
    from euston.report import kind_label, percent
    from euston.units import format_seconds

    rows = [row for row in _rows(result, "breakdown") if row["seconds"] > 0]
    if not rows:
        return
    out = console()
    out.print()
    longest = max(row["share"] for row in rows)
    lines = [
        [
            kind_label(row["kind"]),
            format_seconds(row["seconds"], 3),
            percent(row["share"]),
            bar(row["share"] / longest),
        ]
        for row in rows
    ]
    table(["where the step goes", "", "", ""], lines, right=(1, 2))


def bar(share: float, width: int = 30) -> str:
    """A bar of `width` characters for 1, to an eighth of a character."""
    eighths = max(1, round(8 * width * share))
    rest = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"[eighths % 8].strip()
    return "\N{FULL BLOCK}" * (eighths // 8) + rest


def _sweep(result: Result) -> None:
    from euston.report import percent
    from euston.units import format_seconds

    rows = _rows(result, "sweep")
    if not rows:
        return
    console().print()
    lines = [
        [
            str(row["virtual"]),
            format_seconds(row["step_time"]),
            percent(row["mfu"]),
            f"{row.get('tflops_per_accelerator', row.get('tflops', 0.0)):.0f}",
            "" if row.get("fits", True) else "does not fit",
        ]
        for row in rows
    ]
    table(["virtual stages", "step time", "MFU", "TFLOP/s", ""], lines, right=(0, 1, 2, 3))
