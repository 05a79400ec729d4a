"""`euston import`: Megatron-LM arguments and torchtitan files as scenarios."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from euston.cli._out import Json, Quiet, put, put_json, say

if TYPE_CHECKING:
    from euston.scenario.importers import Imported

app = typer.Typer(
    help="Turn another tool's training settings into a scenario.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Where to write the scenario (.yaml); else stdout."),
]
Accelerator = Annotated[str, typer.Option("--accelerator", help="An accelerator of the catalogue.")]
Fabric = Annotated[str, typer.Option("--fabric", help="A fabric of the catalogue.")]
Accelerators = Annotated[
    int | None, typer.Option("--accelerators", min=1, help="Ranks of the job, where the settings have none.")
]
PerHost = Annotated[int | None, typer.Option("--per-host", min=1, help="Accelerators of a host.")]


@app.command("megatron", context_settings={"ignore_unknown_options": True})
def megatron(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|ARGUMENTS...",
            help="A file of Megatron-LM arguments, a launch script, or the arguments themselves.",
            show_default=False,
        ),
    ],
    output: Output = None,
    accelerator: Accelerator = "h100-sxm",
    fabric: Fabric = "generic-400g-rail",
    accelerators: Accelerators = None,
    per_host: PerHost = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import Megatron-LM arguments. Nothing of a script is executed."""
    from euston.scenario.importers import Machines, from_megatron

    inline = len(arguments) > 1 or arguments[0].lstrip().startswith("-")
    text = arguments[0] if len(arguments) == 1 else shlex.join(arguments)
    machines = Machines(accelerator, fabric, per_host, accelerators)
    _finish(from_megatron(text if inline else Path(text), machines), output, json_, quiet)


@app.command("torchtitan")
def torchtitan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A torchtitan TOML file.", show_default=False)],
    output: Output = None,
    accelerator: Accelerator = "h100-sxm",
    fabric: Fabric = "generic-400g-rail",
    accelerators: Accelerators = None,
    per_host: PerHost = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import a torchtitan configuration."""
    from euston.scenario.importers import Machines, from_torchtitan

    _finish(
        from_torchtitan(file, Machines(accelerator, fabric, per_host, accelerators)), output, json_, quiet
    )


def _finish(found: Imported, output: Path | None, json_: bool, quiet: bool) -> None:
    from euston.cli._out_file import write_whole
    from euston.errors import BadInput
    from euston.runs import runner

    scenario = found.scenario()
    try:
        runner(scenario).prepare(scenario)
    except BadInput as error:
        raise found.said(error) from None
    for warning in found.warnings:
        say(f"warning: {warning}", quiet=quiet)
    if output is not None:
        write_whole(output, found.text().encode())
        say(f"written: {output}", quiet=quiet)
    if json_:
        put_json(
            {
                "version": 1,
                "scenario": found.data,
                "written": None if output is None else str(output),
                "warnings": found.warnings,
                "ignored": found.ignored,
            }
        )
    elif output is None:
        put(found.text().rstrip("\n"))
