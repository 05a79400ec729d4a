"""How each kind of job runs: one module per kind, with ``prepare(scenario)`` and ``run(scenario, tell)``.

``prepare`` builds and checks everything, so that nothing can be wrong any more; ``run`` gives a ``Result``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, cast

from euston.errors import ConfigError, at
from euston.result import Result
from euston.scenario import Scenario

__all__ = ["RUNS", "Progress", "Run", "runner"]

Progress = Callable[[str], None]

RUNS: dict[frozenset[str], str] = {
    frozenset({"training"}): "euston.runs.training",
    frozenset({"traffic"}): "euston.runs.traffic",
    frozenset({"federated"}): "euston.runs.federated",
    frozenset({"serving"}): "euston.runs.serving",
    frozenset({"post_training"}): "euston.runs.post_training",
    frozenset({"exchange"}): "euston.runs.exchange",
    frozenset({"training", "serving"}): "euston.runs.shared_site",
}
"""The module that runs a scenario, by the kinds of its jobs."""


class Run(Protocol):
    """What a module of this room offers."""

    def prepare(self, s: Scenario, /) -> Any:
        """Build and check; raises BadInput with the place in the scenario."""

    def run(self, s: Scenario, tell: Progress, /) -> Result:
        """Prepare and run; ``tell`` hears in a few words what is going on."""


def runner(s: Scenario) -> Run:
    """The module that runs a scenario.

    Raises
    ------
    ConfigError
        For kinds that cannot share a run.
    """
    kinds = frozenset(job.kind for job in s.jobs)
    if kinds not in RUNS:
        first = s.jobs[0].kind
        index = next(i for i, job in enumerate(s.jobs) if job.kind != first)
        raise ConfigError(
            at(f"jobs[{index}].kind", f"{s.jobs[index].kind} beside {first} in one run; use two files")
        )
    return cast(Run, import_module(RUNS[kinds]))
