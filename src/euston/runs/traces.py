"""Traces of a scenario's training job: the step is run and every rank's part of it written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from euston import scenario as scenarios
from euston.errors import ConfigError, EustonError, at
from euston.scenario import Scenario

if TYPE_CHECKING:
    from euston.training.chakra import Trace

__all__ = ["export_chakra", "replay_chakra"]

Progress = Callable[[str], None]


def export_chakra(
    s: Scenario, folder: Path, *, job: int = 0, ranks: Sequence[int] | None = None, progress: Progress
) -> tuple[list[Path], float]:
    """Run one step of a training job and write its Chakra traces.

    Returns
    -------
    files : list of Path
    step_time : float
        Seconds of the step.

    Raises
    ------
    BadInput
        No training job, a step in closed form, or more ranks than are written at once.
    """
    from euston.runs import training
    from euston.training.chakra import export

    if any(one.kind != "training" for one in s.jobs):
        raise ConfigError(at("jobs", "only training jobs have steps to write traces of"))
    if not 0 <= job < len(s.jobs):
        raise ConfigError(at("jobs", f"there is no job number {job}; there are {len(s.jobs)}"))
    if s.run.compute == "analytic":
        raise ConfigError(at("run.compute", "the closed form runs no operations; use des"))
    unfolded = s.model_copy(update={"run": s.run.model_copy(update={"folding": False})})
    unfolded._source, unfolded._document = s._source, s._document
    progress("building the site and its jobs")
    ready = training.prepare(unfolded)
    progress(f"executing {ready.jobs[job][0].name}")
    iteration = training.iterate(ready)
    progress(f"writing traces to {folder}")
    files = export(iteration, ready.jobs[job][1], folder, number=job, ranks=ranks)
    return files, iteration.jobs[job].step_time


def replay_chakra(
    traces: Sequence[Trace],
    groups: dict[str, list[int]],
    source: Scenario | Path,
    *,
    progress: Progress,
) -> float:
    """Seconds of traces on the first site of a scenario, rank after rank on its accelerators.

    Raises
    ------
    BadInput
        A scenario that cannot be read, more ranks than accelerators.
    """
    from euston.assemble import site
    from euston.training.chakra import replay_on

    s = source if isinstance(source, Scenario) else scenarios.load(source)
    try:
        here = site(s, s.sites[0])
        balancing = s.policies.balancing.make(s.run.seed)
        if hasattr(balancing, "check"):
            balancing.check(here.fabric, where="policies.balancing")
        progress(f"replaying {len(traces)} ranks on {here.name}")
        return replay_on(traces, groups, here, balancing)[0].makespan
    except EustonError as error:
        raise scenarios.with_place(s, error) from error
