"""`euston validate` and `euston schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from euston.cli._out import CatalogDir, Json, Quiet, Seed, put, put_json, use_catalog


def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Scenarios (.yaml).", show_default=False)
    ],
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Check scenarios without running them; every problem comes with its line."""
    from euston import scenario as scenarios
    from euston.cli._app import report
    from euston.errors import BadInput
    from euston.runs import runner

    use_catalog(catalog)
    found: dict[str, list[str]] = {}
    for file in files:
        found[str(file)] = []
        try:
            scenario = scenarios.load(file)
        except scenarios.ScenarioError as error:
            found[str(file)] = list(error.problems)
            report(error)
            continue
        try:
            runner(scenario).prepare(scenario)
        except BadInput as error:
            placed = scenarios.with_place(scenario, error)
            found[str(file)] = [str(placed)]
            report(placed)
            continue
        if not (quiet or json_):
            accelerators = sum(site.accelerators for site in scenario.sites)
            jobs, sites = _count(len(scenario.jobs), "job"), _count(len(scenario.sites), "site")
            put(f"{file}: valid; {jobs} on {sites} of {accelerators:,} accelerators")
    if json_:
        put_json(
            {
                "version": 1,
                "files": [
                    {"file": file, "valid": not problems, "problems": problems}
                    for file, problems in found.items()
                ],
            }
        )
    if any(found.values()):
        raise typer.Exit(2)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def schema(json_: Json = False, quiet: Quiet = False, seed: Seed = None) -> None:
    """Print the JSON Schema of scenario files, for editors and checkers."""
    from euston import scenario as scenarios

    if not quiet or json_:
        put_json(scenarios.schema())
