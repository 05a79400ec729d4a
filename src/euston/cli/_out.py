"""What commands share: options, text for people and JSON on stdout, messages on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no summary, only errors.")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of everything random; wins over the file's.")
]
CatalogDir = Annotated[
    list[Path] | None,
    typer.Option(
        "--catalog", metavar="DIR", help="A folder of your own catalogue files; may be given twice."
    ),
]


def clean(text: str) -> str:
    """Text without the control characters by which a name in a file could steer the terminal."""
    return "".join(
        c if c in "\n\t" or (c.isprintable() or c == " ") else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def put(text: str) -> None:
    """Text on stdout."""
    typer.echo(clean(text))


def say(message: str, *, quiet: bool = False) -> None:
    """One line on stderr."""
    if not quiet:
        typer.echo(clean(message), err=True)


def put_json(data: Any) -> None:
    """One JSON document on stdout; numbers that are not finite are null."""
    from euston.report.plain import plain

    typer.echo(json.dumps(plain(data), indent=1, ensure_ascii=False, allow_nan=False))


def console() -> Console:
    """A console for stdout that takes text as it is: no markup, no guessed colours."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a plain table: bold headings, no frame; `right` are the columns of numbers."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_header=any(columns)
    )
    for index, name in enumerate(columns):
        grid.add_column(name, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(clean(cell)) for cell in row))
    out = console()
    if not sys.stdout.isatty():  # a pipe has no width: print every column whole
        out.width = 10_000
        out.width = max(80, out.measure(grid).maximum)
    out.print(grid)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function told what is going on; on a terminal it moves a spinner on stderr."""
    if quiet or not sys.stderr.isatty():
        yield lambda message: None
        return
    from rich.console import Console

    screen = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with screen.status("starting") as status:
        yield lambda message: status.update(clean(message))


def use_catalog(folders: Sequence[Path] | None) -> None:
    """Put the user's catalogue folders in front of ours; the one given last wins."""
    if folders:
        from euston import catalog

        for folder in folders:
            catalog.add_directory(folder)
