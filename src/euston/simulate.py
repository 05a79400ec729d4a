"""A scenario runs and comes back as a ``Result``."""

from __future__ import annotations

from pathlib import Path

from euston import scenario as scenarios
from euston.result import Result
from euston.runs import Progress, runner
from euston.scenario import Scenario

__all__ = ["simulate"]


def simulate(
    source: Scenario | str | Path, *, seed: int | None = None, progress: Progress | None = None
) -> Result:
    """Run a scenario.

    Parameters
    ----------
    source : Scenario, str or Path
        A scenario, or the path of its file.
    seed : int, optional
        Wins over ``run.seed``.
    progress : callable, optional
        Told in a few words what is going on.

    Returns
    -------
    Result
        Scalars (SI), tables and the timeline of the first job; see ``euston.result.Result``. Further jobs of
        the scenario run beside it and stand in the table ``jobs``.

    Raises
    ------
    EustonError
        ``BadInput`` for what the scenario gets wrong (nothing has run then), else what failed while running.

    Examples
    --------
    >>> import euston as eu
    >>> r = eu.simulate("examples/llama3-405b-16k.yaml")  # doctest: +SKIP
    """
    tell = progress or (lambda _: None)
    if isinstance(source, Scenario):
        s = source
        scenarios.check(s)
    else:
        s = scenarios.load(source)
    if seed is not None:
        s = s.model_copy(update={"run": s.run.model_copy(update={"seed": seed})})
    return runner(s).run(s, tell)
