"""`euston catalog list`, `show` and `check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from euston.cli._out import (
    CatalogDir,
    Json,
    Quiet,
    Seed,
    clean,
    console,
    put,
    put_json,
    say,
    table,
    use_catalog,
)

if TYPE_CHECKING:
    from euston.catalog import Entry

app = typer.Typer(
    help="Accelerators, models, fabrics, software, prices and power, with their sources.",
    no_args_is_help=True,
)


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="accelerators, models, ...; all unless said.")
    ] = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """List the entries there are."""
    from euston import catalog as catalogue

    use_catalog(catalog)
    kinds = catalogue.kinds() if kind is None else [_kind(kind)]
    names = {name: [(entry.name, list(entry.aliases)) for entry in catalogue.entries(name)] for name in kinds}
    if json_:
        put_json(
            {
                "version": 1,
                "catalog": {
                    name: [{"name": entry, "aliases": aliases} for entry, aliases in entries]
                    for name, entries in names.items()
                },
            }
        )
    elif not quiet:
        for name, entries in names.items():
            console().print(name, style="bold")
            for entry, aliases in entries:
                put(f"  {entry}" + (f"  ({', '.join(aliases)})" if aliases else ""))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="[KIND] NAME", help="An entry.", show_default=False)],
    second: Annotated[str | None, typer.Argument(hidden=True)] = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Show an entry: every value with its source."""
    use_catalog(catalog)
    entries = _find(name) if second is None else [_entry(_kind(name), second)]
    if json_:
        put_json({"version": 1, "entries": [_plain(entry) for entry in entries]})
    elif not quiet:
        for entry in entries:
            _print(entry)


@app.command()
def check(catalog: CatalogDir = None, json_: Json = False, quiet: Quiet = False, seed: Seed = None) -> None:
    """Look for numbers without a source and for contradictions; exit code 2 when there are any."""
    from euston import catalog as catalogue
    from euston import models

    use_catalog(catalog)
    problems = [*catalogue.check(), *models.check()]
    if json_:
        put_json({"version": 1, "problems": problems})
    else:
        for problem in problems:
            say(f"error: {problem}")
        if not problems and not quiet:
            count = sum(len(catalogue.names(kind)) for kind in catalogue.kinds())
            put(f"{count} entries, every number with its source")
    if problems:
        raise typer.Exit(2)


def _kind(word: str) -> str:
    """The kind meant: singular and plural are the same."""
    from euston import catalog as catalogue
    from euston.errors import CatalogError, unknown

    kinds = catalogue.kinds()
    for kind in kinds:
        if word.casefold() in (kind, kind.removesuffix("s")):
            return kind
    raise CatalogError(unknown("kind of catalogue entry", word, kinds))


def _entry(kind: str, name: str) -> Entry:
    from euston import catalog as catalogue

    return catalogue.entry(kind, name)


def _find(name: str) -> list[Entry]:
    """Entries of any kind with this name or alias."""
    from euston import catalog as catalogue
    from euston.errors import CatalogError, unknown

    wanted = name.casefold()
    every = [entry for kind in catalogue.kinds() for entry in catalogue.entries(kind)]
    found = [e for e in every if wanted in (e.name.casefold(), *(alias.casefold() for alias in e.aliases))]
    if not found:
        raise CatalogError(unknown("catalogue entry", name, [entry.name for entry in every]))
    return found


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        **entry.as_dict(),
        "aliases": list(entry.aliases),
        "status": dict(entry.status),
        "notes": dict(entry.notes),
    }


def _print(entry: Entry) -> None:
    out = console()
    out.print(clean(f"{entry.name}  ({entry.kind}, {entry.file})"), style="bold")
    if entry.aliases:
        put(f"also called {', '.join(entry.aliases)}")
    sources: dict[str, int] = {}
    lines = []
    for row in entry.rows():
        mark = ""
        if row["source"]:
            mark = f"[{sources.setdefault(row['source'], len(sources) + 1)}]"
        status = "" if row["status"] == "sourced" else row["status"]
        lines.append(
            [row["field"], row["value"], mark, ", ".join(part for part in (status, row["note"]) if part)]
        )
    table(["field", "value", "source", ""], lines)
    for source, number in sources.items():
        put(f"[{number}] {source}")
