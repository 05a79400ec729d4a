"""The application: its commands, and how errors become exit codes (0 done, 1 failed, 2 bad input)."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from euston import __version__
from euston.cli import (
    _campaign,
    _capacity,
    _catalog,
    _doctor,
    _files,
    _import,
    _net,
    _photon,
    _plan,
    _reproduce,
    _search,
    _simulate,
    _trace,
    _transport,
)
from euston.cli._out import clean, say
from euston.errors import EustonError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it: 128 + SIGINT."""


class _Group(TyperGroup):
    """Turns the house's errors into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EustonError as error:
            report(error)
            raise typer.Exit(error.exit_code) from None
        except MemoryError as error:
            what = f" ({error})" if str(error) else ""
            say(f"error: not enough memory{what}; describe less, or use a machine with more")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("interrupted; nothing was written")
            raise typer.Exit(INTERRUPTED) from None


def report(error: EustonError) -> None:
    """Print one line ``error: ...`` on stderr, red on a terminal; further problems follow, one line each."""
    problems = getattr(error, "problems", None) or (str(error),)
    for problem in problems:
        typer.echo(
            f"{typer.style('error:', fg='red', bold=True)} {clean(problem)}", err=True
        )  # plain in a pipe


app = typer.Typer(
    cls=_Group,
    name="euston",
    help="A wind tunnel for AI data centres: describe sites, fabrics and jobs once, then simulate them.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("simulate")(_simulate.simulate)
app.command("compare")(_simulate.compare)
app.command("plan")(_plan.plan)
app.command("capacity")(_capacity.capacity)
app.command("search")(_search.search)
app.command("campaign")(_campaign.campaign)
app.command("validate")(_files.validate)
app.command("schema")(_files.schema)
app.add_typer(_net.app, name="net")
app.add_typer(_transport.app, name="transport")
app.add_typer(_import.app, name="import")
app.add_typer(_trace.app, name="trace")
app.add_typer(_catalog.app, name="catalog")
app.command("doctor")(_doctor.doctor)
app.add_typer(_photon.app, name="photon")
app.command("reproduce")(_reproduce.reproduce)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"euston {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `euston` command."""
    app()
