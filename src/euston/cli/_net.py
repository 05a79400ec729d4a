"""`euston net run`, `compare`, `bench` and `export`: studies of the network by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euston.cli._net_text import comparison, summary
from euston.cli._out import CatalogDir, Json, Quiet, Seed, progress, put, put_json, say, use_catalog

if TYPE_CHECKING:
    from euston.result import Result
    from euston.scenario import Scenario

app = typer.Typer(
    help="Flows on a fabric: run them fluid or packet by packet, compare the two, hand them to others.",
    no_args_is_help=True,
)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A scenario (.yaml) of traffic jobs.", show_default=False)
]
Report = Annotated[
    list[Path] | None,
    typer.Option("--report", metavar="PATH", help="Write a report: .html or .json; may be given twice."),
]
Save = Annotated[Path | None, typer.Option("--save", metavar="DIR", help="Save the result in a folder.")]


class Network(StrEnum):
    """Engines."""

    fluid = "fluid"
    packet = "packet"
    decomposed = "decomposed"


ROWS = 20_000
"""Longer tables stay out of the JSON on stdout, which says so; `--save` and `--report` have them."""


@app.command()
def run(
    file: File,
    network: Annotated[
        Network | None, typer.Option("--network", help="Engine; wins over the file's run.network.")
    ] = None,
    report: Report = None,
    save: Save = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Run the flows of a scenario; print completion times, slowdowns, queues and the load of links."""

    def act(scenario: Scenario, tell: Callable[[str], None]) -> Result:
        from euston.runs.traffic import simulate_traffic

        chosen = None if network is None else network.value
        return simulate_traffic(scenario, network=chosen, seed=seed, progress=tell)

    _do(file, act, summary, report, save, catalog, json_, quiet)


@app.command()
def compare(
    file: File,
    report: Report = None,
    save: Save = None,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Run the flows of a scenario on both engines; print where they differ, and by how much."""

    def act(scenario: Scenario, tell: Callable[[str], None]) -> Result:
        from euston.runs.traffic import compare_traffic

        return compare_traffic(scenario, seed=seed, progress=tell)

    _do(file, act, comparison, report, save, catalog, json_, quiet)


def _do(
    file: Path,
    act: Callable[[Scenario, Callable[[str], None]], Result],
    show: Callable[[Result], None],
    report: list[Path] | None,
    save: Path | None,
    catalog: list[Path] | None,
    json_: bool,
    quiet: bool,
) -> None:
    from euston import scenario as scenarios
    from euston.errors import EustonError
    from euston.report import check_path, write

    use_catalog(catalog)
    for path in report or []:
        check_path(path)  # before the work, not after it
    with progress(quiet) as tell:
        tell(f"reading {file}")
        scenario = _traffic(file)
        try:
            result = act(scenario, tell)
        except EustonError as error:
            raise scenarios.with_place(scenario, error) from error
    if save is not None:
        result.save(save)
    for path in report or []:
        write(result, path)
    if json_:
        put_json(_document(result))
    elif not quiet:
        show(result)
        for path in report or []:
            say(f"report: {path}")
        if save is not None:
            say(f"saved: {save}")


def _traffic(file: Path) -> Scenario:
    """The scenario in ``file``, which must be about traffic."""
    from euston import scenario as scenarios
    from euston.errors import BadInput

    found = scenarios.load(file)
    if not found.is_traffic:
        raise BadInput(
            f"{file}: has jobs that are not traffic; `euston simulate {file}` runs them, and `euston net` "
            "takes jobs of kind: traffic"
        )
    return found


def _document(result: Result) -> dict[str, Any]:
    """The result as JSON, without tables too long for a terminal or a pipe."""
    from dataclasses import replace

    from euston.report.plain import document

    long = {name: table.height for name, table in result.tables.items() if table.height > ROWS}
    kept = {name: table for name, table in result.tables.items() if name not in long}
    found = document(replace(result, tables=kept), timeline=False)
    return {**found, "left_out": long} if long else found


@app.command()
def export(
    file: File,
    to: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="flows.csv, .jsonl, .parquet, an htsim connection matrix .cm, or a folder for SimGrid.",
            show_default=False,
        ),
    ],
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Write the flows of a scenario for other simulators, or to read them back with `flows: {file: ...}`.

    A path without a suffix is a folder for SimGrid: platform and deployment as XML, and the flows as CSV.
    There every pair of endpoints has one path, the first of the fabric.
    """
    from euston import scenario as scenarios
    from euston.errors import EustonError
    from euston.runs.traffic import prepare
    from euston.traffic.io import write_flows
    from euston.traffic.simgrid import write_simgrid

    use_catalog(catalog)
    scenario = _traffic(file)
    if seed is not None:
        scenario = scenario.model_copy(update={"run": scenario.run.model_copy(update={"seed": seed})})
    try:
        ready = prepare(scenario)
        flows = ready.flows.traffic.flows
        if to.suffix:
            options: dict[str, Any] = {"nodes": ready.fabric.endpoints} if to.suffix == ".cm" else {}
            write_flows(flows, to, **options)
        else:
            write_simgrid(flows, ready.fabric, to)
    except EustonError as error:
        raise scenarios.with_place(scenario, error) from error
    if json_:
        put_json({"version": 1, "path": str(to), "flows": len(flows), "endpoints": ready.fabric.endpoints})
    elif not quiet:
        say(f"{len(flows):,} flows: {to}")


@app.command()
def bench(
    full: Annotated[bool, typer.Option("--full", help="Also the sizes that take a minute.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Measure solver, event rate and packet engine on this machine; one JSON line per case."""
    from euston.traffic.bench import cases

    for name, case in cases(full).items():
        if not (quiet or json_):
            say(name)
        put(json.dumps({"case": name, **case(seed or 0)}))
